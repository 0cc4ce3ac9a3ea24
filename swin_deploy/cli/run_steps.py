"""Steps that ``run`` has for every runtime: the proof and the times, and the report at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swin_deploy.cli.console import Console, show_result

if TYPE_CHECKING:
    from swin_deploy.bench import BenchReport
    from swin_deploy.candidates import Made
    from swin_deploy.checkpoints.load import LoadedModel
    from swin_deploy.images.sets import ImageSet
    from swin_deploy.parity import ParityReport
    from swin_deploy.report.results import Report

QUICK_IMAGES, QUICK_BATCHES = 8, (4,)
QUICK = "8 images at most, one batch size (4), no throughput: a first look, not the whole proof"


def prove_and_time(
    console: Console,
    loaded: LoadedModel,
    made: Made,
    sets: Sequence[ImageSet],
    *,
    original: str,
    batch: int,
    seconds: float | None,
) -> tuple[ParityReport, BenchReport | None]:
    """Compare every step with the reference, and time it unless a first look is enough.

    Args:
        console: The console.
        loaded: The model.
        made: Its files, and the ways to run them.
        sets: Images to compare on.
        original: The library whose own model is compared with the reference first.
        batch: Number of images in a call that is timed, besides one.
        seconds: Time to spend on throughput; None for a first look, which times nothing.
    """
    from swin_deploy.bench import Effort
    from swin_deploy.bench.throughput import measure_throughput
    from swin_deploy.parity.run import BATCHES, prove_parity

    batches = QUICK_BATCHES if seconds is None else BATCHES
    with console.step("Comparing every step with the reference") as step:
        parity = prove_parity(
            loaded, made, images=sets, batches=batches, progress=step.update, original=original
        )
    if seconds is None:
        return parity, None
    with console.step("Measuring throughput") as step:
        effort = Effort(seconds=seconds)
        bench = measure_throughput(
            loaded, made, batches=(1, batch), effort=effort, progress=step.update
        )
    return parity, bench


def conclude(console: Console, result: Report, folder: Path, *, force: bool, as_json: bool) -> None:
    """Write the report, and show its summary or its JSON."""
    from swin_deploy.report.terminal import render_summary
    from swin_deploy.report.write import write_report

    written = write_report(result, folder, force=force)
    show_result(result, render_summary, as_json=as_json)
    console.note(f"  wrote {', '.join(map(str, written))}")
