"""The results of ``scripts/compare_exports`` as the tables of ``docs/exports.md``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Steps = Mapping[str, Mapping[str, Any]]
FILES = {"nodes": "{:,}", "mb": "{:.1f}", "error": "{:.1e}"}
PLANS = {"kernels": "{}", "fused": "{}", "megabytes": "{:,.1f}", "engine_mb": "{:.1f}"}
FILE_HEAD = (
    "file", "nodes", "file MB", "relative error", "kernels", "attention fused", "MB moved",
    "engine MB",
)  # fmt: skip
RIGHT = "---:"
START, END = "<!-- measured -->", "<!-- end of what was measured -->"


def tables(document: Mapping[str, Any]) -> dict[str, str]:
    """Return a Markdown table of files and plans of each model, and one of each model's times.

    Args:
        document: Results, as ``scripts/compare_exports`` writes them.

    Returns:
        Text of each table, by ``MODEL / files`` and ``MODEL / times``.
    """
    steps: Steps = document["steps"]
    found = {}
    for model in dict.fromkeys(name.split(" / ")[0] for name in steps):
        found[f"{model} / files"] = _files(model, steps)
        if any(name.startswith(f"{model} / times / ") for name in steps):
            found[f"{model} / times"] = _times(model, steps)
    return found


def measured(document: Mapping[str, Any]) -> str:
    """Return the conditions of the results, the load of the machine, and all tables."""
    loads = [step["load"] for step in document["steps"].values()]
    held = document["conditions"] | {
        "load of the machine": f"{min(loads):.1f} to {max(loads):.1f} (one minute's average)"
    }
    lines = "\n".join(f"- {name}: {value}" for name, value in held.items())
    return "\n\n".join((lines, *tables(document).values()))


def filled(page: str, document: Mapping[str, Any]) -> str:
    """Return a page with what was measured between its two marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{measured(document)}\n\n{END}{after}"


def _files(model: str, steps: Steps) -> str:
    """Return a line for each file; kernels are of float16 where the file is another library's."""
    lines = []
    for title in _last(steps, f"{model} / file / "):
        file = steps[f"{model} / file / {title}"]
        plan = steps.get(f"{model} / plan / {title}", {})
        cells = [_cell(file, key, form) for key, form in FILES.items()]
        lines.append([title, *cells, *(_cell(plan, key, form) for key, form in PLANS.items())])
    return _table((f"{model}: {FILE_HEAD[0]}", *FILE_HEAD[1:]), lines)


def _times(model: str, steps: Steps) -> str:
    """Return a line for each contender, with a column for each batch and number of threads."""
    columns = _last(steps, f"{model} / times / ")
    times = {one: steps[f"{model} / times / {one}"]["times"] for one in columns}
    lines = []
    for contender in dict.fromkeys(name for one in times.values() for name in one):
        found = [times[one].get(contender) for one in columns]
        error = max(one["error"] for one in found if one)
        lines.append([*contender.split(" / "), f"{error:.1e}", *map(_ratio, found)])
    return _table((f"{model}: file", "runtime", "error to the first", *columns), lines)


def _last(steps: Steps, start: str) -> list[str]:
    return [name.removeprefix(start) for name in steps if name.startswith(start)]


def _cell(values: Mapping[str, Any], key: str, form: str) -> str:
    return form.format(values[key]) if key in values else "-"


def _ratio(figures: Mapping[str, Any] | None) -> str:
    """Return a median with its quartiles."""
    if figures is None:
        return "-"
    return "{:.3f} ({:.3f} to {:.3f})".format(figures["ratio"], *figures["quartiles"])


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    rows = [columns, ["---", *[RIGHT] * (len(columns) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
