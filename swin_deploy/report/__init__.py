"""Results as text: terminal tables, JSON, Markdown and one self-contained HTML file.

Values in, text out: nothing here runs a model or reads a file.

===============  ====================================================
``numbers``      numbers and foreign text, as every report prints them
``words``        the verdict in words, and what each metric means
``tables``       results as tables of text, for the three renderers
``accuracy``     the same of an evaluation, with its words
``terminal``     those tables for standard output
``markdown``     those tables for a pull request comment
``html``         those tables as one file, with ``style``, charts and sample images
``to_json``      the same results as plain JSON values; ``from_json`` reads them
``schema``       the form of those values, and the check against it
``compare``      two reports: what got worse
===============  ====================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from exporters.artifact import write_together
from exporters.plan import KernelPlan
from swin_deploy.assumptions import Assumption
from swin_deploy.bench import BenchReport
from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.parity import ParityReport


@dataclass(frozen=True)
class Artifact:
    """One file that the run made.

    Attributes:
        kind: What it is, such as ``onnx`` or ``engine``.
        file: File name.
        bytes: Size.
        sha256: SHA-256 of its content, in hexadecimal.
    """

    kind: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Report:
    """Everything that one run found out about one model.

    Attributes:
        model: Model name.
        created: When, in UTC and ISO 8601.
        parity: Hops against the reference; None when they were not compared.
        bench: Throughput; None when it was not measured.
        plan: Kernels of the engine; None when none was built.
        artifacts: The files made, in the order of the line.
        conditions: What the results hold for: machine, versions, options.
        assumptions: What nothing said and had to be chosen.
        evaluation: Accuracy on labelled images; None when it was not evaluated.
    """

    model: str
    created: str
    parity: ParityReport | None
    bench: BenchReport | None
    plan: KernelPlan | None
    artifacts: tuple[Artifact, ...]
    conditions: dict[str, str]
    evaluation: Evaluation | None = None
    assumptions: tuple[Assumption, ...] = ()

    @property
    def verdict(self) -> str:
        """``pass``, ``fail``, ``inconclusive``, or ``not judged`` when nothing was compared."""
        return "not judged" if self.parity is None else self.parity.verdict


def write_report(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write ``report.json``, ``report.md`` and ``report.html``: all of them, or none.

    Args:
        report: What to write.
        folder: Folder for the three files; made if it is missing.

    Returns:
        Paths of the three files, in that order.

    Raises:
        FileError: If a file cannot be written.
    """
    # Here, not above: these modules take their types from this one.
    from swin_deploy.report.html import render_html
    from swin_deploy.report.markdown import render_markdown
    from swin_deploy.report.to_json import report_to_dict

    texts = {
        "report.json": json.dumps(report_to_dict(report), indent=2, allow_nan=False) + "\n",
        "report.md": render_markdown(report),
        "report.html": render_html(report),
    }
    files = {folder / name: text.encode() for name, text in texts.items()}
    write_together(files)
    return tuple(files)
