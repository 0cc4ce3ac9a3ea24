"""Kernel plans and files of two reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from exporters.plan import KernelPlan
from swin_deploy.report.compare.changes import Change, Limits, judged, missing, paired
from swin_deploy.report.numbers import megabytes_text, percent_text
from swin_deploy.report.results import Artifact


def compare_plan(before: KernelPlan, now: KernelPlan, limits: Limits) -> Iterator[Change]:
    """Compare the kernel plans of two engines from the same builder at the same batch.

    Plans of different releases of the builder are compared, to show if a newer one fuses less.
    """
    made = f"{before.flavor} {before.version}", f"{now.flavor} {now.version}"
    if before.flavor != now.flavor or before.batch != now.batch:
        first, second = f"{made[0]}, batch {before.batch}", f"{made[1]}, batch {now.batch}"
        yield Change("Kernel plan", first, second, "not comparable", "other builder or batch")
        return
    if made[0] != made[1]:
        yield Change("Planned by", *made, "same", "another release of the builder")
    fused = f"{before.fused_attention} of {before.attention_blocks}"
    gain = now.fused_attention - before.fused_attention
    later = f"{now.fused_attention} of {now.attention_blocks}"
    yield Change("Fused attention", fused, later, judged(gain, 0))
    kernels = limits.kernels * before.kernel_count
    moved = limits.bytes_moved * before.bytes_moved_per_image
    figures: tuple[tuple[str, Callable[[KernelPlan], float], Callable[[float], str], float], ...]
    figures = (
        ("Kernels", lambda plan: plan.kernel_count, str, kernels),
        ("MB moved per image", lambda plan: plan.bytes_moved_per_image, megabytes_text, moved),
        ("GEMM, attention in float32", lambda plan: len(plan.float32_compute), str, 0),
        ("Modules not kept in float32", lambda plan: len(plan.lost_float32), str, 0),
    )
    for what, figure, text, margin in figures:
        pair = figure(before), figure(now)
        yield Change(what, text(pair[0]), text(pair[1]), judged(pair[0] - pair[1], margin))
    shares = before.half_byte_share, now.half_byte_share
    verdict = judged(shares[1] - shares[0], limits.half_share)
    yield Change("Bytes in half", percent_text(shares[0]), percent_text(shares[1]), verdict)


def compare_files(
    before: tuple[Artifact, ...], now: tuple[Artifact, ...], limits: Limits
) -> Iterator[Change]:
    """Compare the sizes of the files, by name."""
    for name, one, later in paired(before, now, lambda one: one.file):
        first, second = (f"{megabytes_text(one.bytes)} MB" if one else "-" for one in (one, later))
        if one is None:
            yield Change(name, first, second, "new")
        elif later is None:
            yield missing(name, first)
        else:
            verdict = judged(one.bytes - later.bytes, limits.file_bytes * one.bytes)
            yield Change(name, first, second, verdict)
