"""Which runtime and arithmetic is the fastest of those that are right."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from swin_deploy.bench import BenchReport, BenchResult
from swin_deploy.parity import Hop, ParityReport


@dataclass(frozen=True)
class Choice:
    """The fastest way to run a file that is within tolerance, and the others.

    Attributes:
        chosen: The hop of that way; None if none is right, or nothing was timed.
        timing: Its timing; None if nothing was timed.
        slower: Hops that are right, with their timings; None for one that was not timed.
        refused: Reason why each of the others is not chosen, by its name.
    """

    chosen: Hop | None
    timing: BenchResult | None
    slower: tuple[tuple[Hop, BenchResult | None], ...]
    refused: dict[str, str]

    @property
    def undecided(self) -> tuple[str, ...]:
        """Names of slower ways whose 95 % interval of speed overlaps with that of the chosen."""
        if self.timing is None:
            return ()
        low = self.timing.ratio_low
        timed = [(hop.name, row) for hop, row in self.slower if row is not None]
        return tuple(name for name, row in timed if not (low and low > row.ratio_high > 0))

    @property
    def is_right(self) -> bool:
        """True if at least one way is right, timed or not."""
        return self.chosen is not None or bool(self.slower)


def choose_fastest(parity: ParityReport, bench: BenchReport | None, *, batch: int) -> Choice:
    """Choose among the ONNX files' runtimes.

    Args:
        parity: Hops against the reference; those of ONNX files are chosen from.
        bench: Timings of the same runners; None if nothing was timed.
        batch: Number of images in a call that decides.
    """
    hops = [hop for hop in parity.hops if hop.stage == "onnx"]
    rows = {row.name: row for row in bench.results if row.batch == batch} if bench else {}
    refused = {hop.name: _refusal(hop, rows.get(hop.name)) for hop in hops}
    refused = {name: why for name, why in refused.items() if why}
    right = [(hop, rows.get(hop.name)) for hop in hops if hop.name not in refused]
    timed = [(hop, row) for hop, row in right if row is not None]
    if not timed:
        return Choice(None, None, tuple(right), refused)
    best = max(timed, key=lambda pair: pair[1].images_per_s)
    return Choice(*best, tuple(pair for pair in right if pair[0] is not best[0]), refused)


def _refusal(hop: Hop, row: BenchResult | None) -> str:
    """Return the reason why a hop cannot be chosen; empty if it can."""
    if hop.not_run:
        return hop.not_run
    if not hop.passed:
        worst = hop.worst
        return f"out of tolerance: {worst.reason}" if worst else "it gave no result"
    return (row.failed or row.not_run) if row else ""


def without_refused(parity: ParityReport, choice: Choice) -> ParityReport:
    """Return the report without the ways that are out of tolerance, if another one is right.

    Args:
        parity: The report that was chosen from.
        choice: The choice.
    """
    if not choice.is_right:
        return parity

    kept = tuple(hop for hop in parity.hops if hop.stage != "onnx" or hop.passed is not False)
    return dataclasses.replace(parity, hops=kept)
