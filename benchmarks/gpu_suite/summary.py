"""The questions that the suite is for, answered from its document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_suite.document import DRY_RUN, Document
from benchmarks.gpu_suite.models import MODELS, NOTEBOOK, TINY
from swin_deploy.bench import SHIPPED
from swin_deploy.bench.contenders import WRONG

Row = dict[str, Any]
GOAL_BATCH = 128
GOAL_IMAGES_PER_S = 10_000.0
GOAL_COMPILED, GOAL_EAGER = 1.5, 3.0
# Parts that time our runners and PyTorch in the same rounds; the first with both is used.
RACES = ("throughput", "pytorch")


@dataclass(frozen=True)
class Goal:
    """A figure to reach.

    Attributes:
        text: Description of the goal.
        measured: Measured figure, in words.
        verdict: One of ``met``, ``missed``, ``not measured``, or the note that this is a dry run.
    """

    text: str
    measured: str
    verdict: str


def rows_of(document: Document, part: str, batch: int | None = None) -> list[Row]:
    """Return the rows of a part at one batch that were timed and compared with the reference.

    Args:
        document: The document.
        part: Name of the part.
        batch: Batch size; None for the largest.
    """
    batches = _batches(document, part)
    if not batches:
        return []
    chosen = str(max(map(int, batches)) if batch is None else batch)
    rows = _timed(batches.get(chosen, {}).get("results", ()))
    return [row for row in rows if row["relative_l2"] is not None]


def _batches(document: Document, part: str) -> dict[str, Any]:
    """Return the finished batches of a part; ``under way`` has the one that was cut short."""
    data = (document["parts"].get(part) or {}).get("data") or {}
    return data.get("batches") or {}


def _timed(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row["not_run"] and not row["failed"]]


def fastest(rows: Iterable[Row], wanted: Callable[[Row], bool]) -> Row | None:
    """Return the fastest of the rows for which ``wanted`` is true; None if there is none."""
    found = [row for row in rows if wanted(row)]
    return max(found, key=lambda row: float(row["images_per_s"]), default=None)


def goals(document: Document) -> list[Goal]:
    """Compare each goal with the measured figure; a ratio is of two rows of the same rounds."""
    dry = document["title"] == DRY_RUN
    batch = None if dry else GOAL_BATCH
    rows = [
        row
        for model in (TINY, NOTEBOOK)
        for part in RACES
        for row in rows_of(document, f"{part}-{model}", batch)
    ]
    best = fastest(rows, lambda row: is_shipped(row) and row["precision"] == "fp16")
    return [
        _speed_goal(best, dry=dry),
        _compiled_goal(document, batch, dry=dry),
        _eager_goal(document, batch, dry=dry),
    ]


def race(
    document: Document, model: str, batch: int | None, theirs: Callable[[Row], bool]
) -> tuple[Row, Row] | None:
    """Return our fastest row and the fastest baseline of the same rounds.

    Args:
        document: The document.
        model: Name of the model.
        batch: Batch size; None for the largest.
        theirs: Function that is true for rows of the baseline.

    Returns:
        Our row and the baseline's; None if no part has both.
    """
    for part in RACES:
        rows = rows_of(document, f"{part}-{model}", batch)
        pair = fastest(rows, is_shipped), fastest(rows, theirs)
        if pair[0] is not None and pair[1] is not None:
            return pair[0], pair[1]
    return None


def speed_table(document: Document) -> list[list[str]]:
    """Return our fastest runner against torch.compile of the baseline, by model and batch."""
    table = []
    for model in MODELS:
        found = {int(b) for part in RACES for b in _batches(document, f"{part}-{model}")}
        for batch in sorted(found, reverse=True):
            pair = race(document, model, batch, is_compiled_bar)
            if pair is None:
                continue
            ours, theirs = pair
            ratio = ours["images_per_s"] / theirs["images_per_s"]
            cells = (_speed(row) for row in pair)
            table.append([model, str(batch), *cells, f"{ratio:.2f}x"])
    return table


def cut_short(document: Document) -> list[list[str]]:
    """Return the rows of batches that were cut short before their rounds.

    They have a few calls of each runner on its own.
    """
    return [
        [name, batch, _title(row), f"{row['images_per_s']:,.0f}", str(row["iterations"])]
        for name, part in document["parts"].items()
        for batch, values in ((part["data"] or {}).get("under way") or {}).items()
        for row in _timed(values["results"])
        if row["iterations"]
    ]


def engine_answers(document: Document) -> list[str]:
    """Say of each engine if it runs on this GPU, if it is within tolerance, and its images/s."""
    return [
        _engine_answer(document, flavor, name.removeprefix(f"engine-{flavor}-"), part)
        for name, part in document["parts"].items()
        for flavor in ("tensorrt-rtx", "tensorrt")
        if name.startswith(f"engine-{flavor}-")
        and not (flavor == "tensorrt" and name.startswith("engine-tensorrt-rtx-"))
    ]


def _engine_answer(document: Document, flavor: str, model: str, part: Row) -> str:
    title = f"{flavor}, {model}"
    if part["status"] != "done":
        runs = ((part["data"] or {}).get("runs") or {}).items()
        ran = "; ".join(
            f"batch {batch} ran, relative L2 {run['relative l2']:.2g}" for batch, run in runs
        )
        return f"{title}: {part['status']} ({part['reason']})" + (f"; {ran}" if ran else "")
    rows = rows_of(document, f"throughput-{model}")
    speed = fastest(rows, lambda row: row["model"] == f"{flavor} fp16")
    timed = f", {speed['images_per_s']:,.0f} images/s at batch {speed['batch']}" if speed else ""
    target = part["data"]["target"]
    return f"{title}: runs (target {target}), {_judgement(part['data'])}{timed}"


def _judgement(data: Row) -> str:
    """Return the verdict on an engine's outputs, with the reason if they were not judged."""
    wrong = [words for words, _ in _wrong_calls(data)]
    if wrong:
        return f"WRONG {', '.join(wrong)}"
    hops = data["parity"]["hops"] if data["parity"] else []
    if any(hop["passed"] is False for hop in hops):
        verdict = "OUT OF TOLERANCE"
    elif hops and all(hop["passed"] for hop in hops):
        verdict = "within tolerance"
    else:
        reasons = [*data.get("failed", {}).values(), *data.get("not run", {}).values()]
        return f"NOT JUDGED ({'; '.join(reasons) or 'no step'})"
    cosine = min((result["cosine"] for hop in hops for result in hop["results"]), default=0.0)
    return f"{verdict}, smallest cosine {cosine:.7f}"


def _wrong_calls(data: Row) -> Iterator[tuple[str, float]]:
    """Yield batch and relative L2 of each first call whose output is wrong, not just rounded."""
    for how, found in (("", data), (" as a CUDA graph", data.get("as a CUDA graph") or {})):
        for batch, run in (found.get("runs") or {}).items():
            if not (run["finite"] and run["relative l2"] <= WRONG):
                yield f"at batch {batch}{how}", run["relative l2"]


def same_way_table(document: Document) -> list[list[str]]:
    """Return images/s of the deploy model and of others, run the same way, at the largest batch."""
    table = []
    for part in ("pytorch", "float32", "autotune"):
        for model in MODELS:
            rows = [r for r in rows_of(document, f"{part}-{model}") if r["mode"] != "file"]
            names = dict.fromkeys(row["model"] for row in rows)
            for precision, how in dict.fromkeys((row["precision"], row["way"]) for row in rows):
                speeds = {
                    row["model"]: row["images_per_s"]
                    for row in rows
                    if (row["precision"], row["way"]) == (precision, how)
                }
                cells = [f"{name} {speeds[name]:,.0f}" for name in names if name in speeds]
                table.append([model, part, f"{how or 'eager'} {precision}", "; ".join(cells)])
    return table


def peer_answers(document: Document) -> list[str]:
    """Compare ONNX Runtime on our export and on timm's, at each batch, in words."""
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


def is_shipped(row: Row) -> bool:
    """Return True if a row is of a model or file that this project makes."""
    return row["kind"] in SHIPPED


def is_compiled_bar(row: Row) -> bool:
    """Return True if a row is torch.compile of a model that this project does not make."""
    return row["mode"] == "compile" and not is_shipped(row)


def _is_timm(row: Row) -> bool:
    return row["kind"] == "original" and row["model"] == "timm's model"


def _title(row: Row) -> str:
    return f"{row['name']}, {row['precision']}"


def _speed(row: Row) -> str:
    return f"{row['images_per_s']:,.0f} ({_title(row)})"


def _speed_goal(best: Row | None, *, dry: bool) -> Goal:
    text = f"Swin-T 224, float16, batch {GOAL_BATCH}: at least {GOAL_IMAGES_PER_S:,.0f} images/s"
    if best is None:
        return Goal(text, "-", "not measured")
    measured = f"{best['images_per_s']:,.0f} images/s ({_title(best)})"
    return Goal(text, measured, _verdict(best["images_per_s"] >= GOAL_IMAGES_PER_S, dry=dry))


def _compiled_goal(document: Document, batch: int | None, *, dry: bool) -> Goal:
    bar = "torch.compile of timm's model, with or without a CUDA graph"
    text = f"{TINY}, batch {GOAL_BATCH}: at least {GOAL_COMPILED:g}x {bar}"
    pair = race(document, TINY, batch, is_compiled_bar)
    return _ratio_goal(text, pair, GOAL_COMPILED, dry=dry)


def _eager_goal(document: Document, batch: int | None, *, dry: bool) -> Goal:
    text = f"{TINY}, batch {GOAL_BATCH}: at least {GOAL_EAGER:g}x timm's model, eager FP32"
    rows = rows_of(document, f"float32-{TINY}", batch)
    theirs = fastest(
        rows, lambda row: _is_timm(row) and (row["mode"], row["precision"]) == ("eager", "fp32")
    )
    ours = fastest(rows, is_shipped)
    goal = _ratio_goal(text, (ours, theirs) if ours and theirs else None, GOAL_EAGER, dry=dry)
    alike = race(
        document, TINY, batch, lambda row: _is_timm(row) and row["mode"] in ("eager", "graph")
    )
    if alike is None or goal.measured == "-":
        return goal
    ratio = alike[0]["images_per_s"] / alike[1]["images_per_s"]
    same = f"; in the same arithmetic {ratio:.2f}x ({_title(alike[0])} against {_title(alike[1])})"
    return Goal(goal.text, goal.measured + same, goal.verdict)


def _ratio_goal(text: str, pair: tuple[Row, Row] | None, goal: float, *, dry: bool) -> Goal:
    if pair is None:
        return Goal(text, "-", "not measured")
    ours, theirs = pair
    ratio = ours["images_per_s"] / theirs["images_per_s"]
    measured = f"{ratio:.2f}x ({_title(ours)} against {_title(theirs)})"
    return Goal(text, measured, _verdict(ratio >= goal, dry=dry))


def _verdict(met: bool, *, dry: bool) -> str:
    if dry:
        return DRY_RUN
    return "met" if met else "missed"


def found_faults(document: Document) -> list[str]:
    """List the parts that failed, wrong outputs, and steps out of tolerance.

    A step that could not run here is not a fault.
    """
    return [fault for name, part in document["parts"].items() for fault in _faults(name, part)]


def _faults(name: str, part: Row) -> Iterator[str]:
    if part["status"] == "failed":
        yield f"{name} failed: {part['reason']}"
    data = part["data"] or {}
    for step, reason in (data.get("failed") or {}).items():
        yield f"{name}, {step} failed: {reason}"
    for words, error in _wrong_calls(data):
        yield f"{name}, wrong output {words}: relative L2 {error:.2g}, {WRONG:g} allowed"
    for hop in (data.get("parity") or {}).get("hops", ()):
        if hop["passed"] is False:
            where = f" ({hop['located']})" if hop["located"] else ""
            yield f"{name}, {hop['name']}: out of tolerance{where}"
