"""The questions that the suite is for, answered from its document."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from swin_deploy.suite.document import DRY_RUN, Document
from swin_deploy.suite.models import MODELS, NOTEBOOK, TINY

Row = dict[str, Any]
GOAL_BATCH = 128
GOAL_IMAGES_PER_S = 10_000.0
GOAL_COMPILED, GOAL_EAGER = 1.5, 3.0
SHIPPED = ("deploy", "onnx", "engine")


@dataclass(frozen=True)
class Goal:
    """A figure to reach.

    Attributes:
        text: What is asked for.
        measured: What was found, in words.
        verdict: ``met``, ``missed``, ``not measured``, or that this is a dry run.
    """

    text: str
    measured: str
    verdict: str


def rows_of(document: Document, part: str, batch: int | None = None) -> list[Row]:
    """The timed rows of a part at a batch; by default at the largest there is."""
    data = (document["parts"].get(part) or {}).get("data") or {}
    batches: dict[str, Any] = data.get("batches") or {}
    if not batches:
        return []
    chosen = str(max(map(int, batches)) if batch is None else batch)
    results = batches.get(chosen, {}).get("results", [])
    return [row for row in results if not row["not_run"] and not row["failed"]]


def fastest(rows: Iterable[Row], wanted: Callable[[Row], bool]) -> Row | None:
    """The fastest of the rows that are wanted."""
    found = [row for row in rows if wanted(row)]
    return max(found, key=lambda row: float(row["images_per_s"]), default=None)


def goals(document: Document) -> list[Goal]:
    """Each goal beside what was measured."""
    dry = document["title"] == DRY_RUN
    batch = None if dry else GOAL_BATCH
    tiny = rows_of(document, f"throughput-{TINY}", batch)
    tiny += rows_of(document, f"autotune-{TINY}", batch)
    notebook = rows_of(document, f"throughput-{NOTEBOOK}", batch)
    ours = fastest(tiny, _is_shipped)
    best = fastest([*tiny, *notebook], lambda row: _is_shipped(row) and row["precision"] == "fp16")
    compiled = fastest(tiny, lambda row: _is_timm(row) and row["mode"] == "compile")
    eager = fastest(
        tiny, lambda row: _is_timm(row) and row["mode"] == "eager" and row["precision"] == "fp32"
    )
    return [
        _speed_goal(best, dry=dry),
        _ratio_goal(ours, compiled, GOAL_COMPILED, "torch.compile of timm's model", dry=dry),
        _ratio_goal(ours, eager, GOAL_EAGER, "timm's model, eager FP32", dry=dry),
    ]


def engine_answers(document: Document) -> list[str]:
    """Whether the engines of each flavour run on this GPU, and are equal, and how fast."""
    found = []
    for name, part in document["parts"].items():
        if not name.startswith("engine-"):
            continue
        flavor = "tensorrt-rtx" if name.startswith("engine-tensorrt-rtx-") else "tensorrt"
        model = name.removeprefix(f"engine-{flavor}-")
        if part["status"] != "done":
            found.append(f"{flavor}, {model}: {part['status']} ({part['reason']})")
            continue
        verdict = "within tolerance" if part["data"]["passed"] else "OUT OF TOLERANCE"
        cosine = min(case["cosine"] for case in part["data"]["cases"])
        rows = rows_of(document, f"throughput-{model}")
        speed = fastest(rows, lambda row, start=flavor: str(row["name"]).startswith(f"{start} "))  # type: ignore[misc] # a default
        found.append(
            f"{flavor}, {model}: runs, {verdict}, smallest cosine {cosine:.7f}"
            + (
                f", {speed['images_per_s']:,.0f} images/s at batch {speed['batch']}"
                if speed
                else ""
            )
        )
    return found


def same_way_table(document: Document) -> list[list[str]]:
    """Images/s of the deploy model and of others, run the same way, at the largest batch."""
    table = []
    for model in MODELS:
        rows = rows_of(document, f"throughput-{model}")
        ways = dict.fromkeys(
            (row["mode"], row["precision"], _how(row)) for row in rows if row["mode"] != "file"
        )
        names = dict.fromkeys(
            str(row["name"]).partition(",")[0] for row in rows if row["mode"] != "file"
        )
        for mode, precision, how in ways:
            speeds = {
                str(row["name"]).partition(",")[0]: row["images_per_s"]
                for row in rows
                if (row["mode"], row["precision"], _how(row)) == (mode, precision, how)
            }
            cells = [f"{name} {speeds[name]:,.0f}" for name in names if name in speeds]
            table.append([model, f"{how or 'eager'} {precision}", "; ".join(cells)])
    return table


def peer_answers(document: Document) -> list[str]:
    """ONNX Runtime on our export beside a peer's, at each batch."""
    part = document["parts"].get("peer-export")
    if part is None or part["status"] != "done":
        reason = "not asked for" if part is None else f"{part['status']} ({part['reason']})"
        return [f"ONNX Runtime on our export beside timm's: {reason}"]
    found = []
    for batch in part["data"]["batches"]:
        rows = rows_of(document, "peer-export", int(batch))
        for precision in ("fp32", "fp16"):
            pair = [row for row in rows if row["precision"] == precision]
            if len(pair) == 2:
                ratio = pair[1]["images_per_s"] / pair[0]["images_per_s"]
                found.append(
                    f"batch {batch}, {precision}: ours {pair[1]['images_per_s']:,.0f} images/s, "
                    f"timm's {pair[0]['images_per_s']:,.0f}: {ratio:.2f}x ({pair[0]['backend']})"
                )
    return found


def _how(row: Row) -> str:
    return str(row["name"]).partition(", ")[2]


def _is_shipped(row: Row) -> bool:
    return row["kind"] in SHIPPED


def _is_timm(row: Row) -> bool:
    return row["kind"] == "original" and str(row["name"]).startswith("timm")


def _title(row: Row) -> str:
    return f"{row['name']}, {row['precision']}"


def _speed_goal(best: Row | None, *, dry: bool) -> Goal:
    text = f"Swin-T 224, float16, batch {GOAL_BATCH}: at least {GOAL_IMAGES_PER_S:,.0f} images/s"
    if best is None:
        return Goal(text, "-", "not measured")
    measured = f"{best['images_per_s']:,.0f} images/s ({_title(best)})"
    return Goal(text, measured, _verdict(best["images_per_s"] >= GOAL_IMAGES_PER_S, dry=dry))


def _ratio_goal(ours: Row | None, theirs: Row | None, goal: float, bar: str, *, dry: bool) -> Goal:
    text = f"{TINY}, batch {GOAL_BATCH}: at least {goal:g}x {bar}"
    if ours is None or theirs is None:
        return Goal(text, "-", "not measured")
    ratio = ours["images_per_s"] / theirs["images_per_s"]
    measured = f"{ratio:.2f}x ({_title(ours)} against {_title(theirs)})"
    return Goal(text, measured, _verdict(ratio >= goal, dry=dry))


def _verdict(met: bool, *, dry: bool) -> str:
    if dry:
        return DRY_RUN
    return "met" if met else "missed"


def found_faults(document: Document) -> list[str]:
    """Parts that failed, and hops out of tolerance; what could not run here is no fault."""
    faults = []
    for name, part in document["parts"].items():
        if part["status"] == "failed":
            faults.append(f"{name} failed: {part['reason']}")
        data = part["data"] or {}
        hops = data if name.startswith("parity-") else {name: data}
        for hop, found in hops.items():
            if not isinstance(found, dict):
                continue
            if found.get("passed") is False:
                faults.append(f"{name}, {hop}: out of tolerance")
            if "failed" in found:
                faults.append(f"{name}, {hop} failed: {found['failed']}")
    return faults
