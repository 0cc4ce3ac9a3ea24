"""All results of one run on one model, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from exporters.plan import KernelPlan
from exporters.spec import Count
from swin_deploy.bench import BenchReport
from swin_deploy.config.assumptions import Assumption
from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.parity import ParityReport

SCHEMA: Literal[4] = 4


@dataclass(frozen=True)
class Artifact:
    """One file that the run made.

    Attributes:
        kind: Kind of file, such as ``onnx`` or ``engine``.
        file: File name.
        bytes: Size, in bytes.
        sha256: SHA-256 of its content, in hexadecimal.
    """

    kind: str
    file: str
    bytes: Count
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Report:
    """All results of one run on one model.

    Attributes:
        model: Model name.
        created: Time in UTC and ISO 8601.
        parity: Hops against the reference; None if they were not compared.
        bench: Throughput; None if it was not measured.
        plan: Kernels of the engine; None if none was built.
        artifacts: Files made, in the order of the line.
        conditions: Conditions that the results hold for, by name: machine, versions, options.
        made_from: Facts about the model: weights, source, image size, preprocessing, classes.
        assumptions: Settings that no source gave and that had to be chosen.
        next_command: Command to run next, as a shell takes it; empty if there is none.
        evaluation: Accuracy on labelled images; None if it was not evaluated.
    """

    model: str
    created: str
    parity: ParityReport | None
    bench: BenchReport | None
    plan: KernelPlan | None
    artifacts: tuple[Artifact, ...]
    conditions: dict[str, str]
    made_from: dict[str, str] = field(default_factory=dict)
    assumptions: tuple[Assumption, ...] = ()
    next_command: str = ""
    evaluation: Evaluation | None = None

    @property
    def schema(self) -> Literal[4]:
        """Version of the form of ``report.json``."""
        return SCHEMA

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive", "not judged"]:
        """Verdict of the comparison; ``not judged`` if nothing was compared."""
        return "not judged" if self.parity is None else self.parity.verdict
