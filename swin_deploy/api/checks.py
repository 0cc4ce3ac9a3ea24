"""From a model and the files made from it to a parity report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.errors import ComparisonError, ConfigError
from exporters.progress import Progress, silent
from swin_deploy.api.border import StrPath, derived, path_of, require_known, require_whole
from swin_deploy.artifacts.sizes_file import read_sizes
from swin_deploy.candidates import Made, read_made
from swin_deploy.checkpoints.known import ORIGINAL_CHOICES
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.original.build import original_library
from swin_deploy.parity.run import BATCHES, image_sets, prove_parity
from swin_deploy.predict.forms import form_of
from swin_deploy.report import results
from swin_deploy.report.make import make_report
from swin_deploy.report.to_json import to_json
from swin_deploy.report.write import write_report
from swin_deploy.runners import WAYS, Way


@dataclass(frozen=True, repr=False)
class Report(results.Report):
    """The result of ``check``.

    Attributes:
        parity: Every stage against the reference: ``hops`` with ``name``, ``passed`` (None if it
            could not run here) and ``not_run`` (the reason).
        plan: Kernels of the last engine; None without one.
        artifacts: The files, with their SHA-256.
        conditions: Machine and versions.
        made_from: Weights, source, image size, preprocessing, classes.
        assumptions: Choices that neither the checkpoint nor the caller decided.

    Example:
        >>> model = swin_deploy.load("notebook-digits")
        >>> report = swin_deploy.check(model, limit=8, batches=(1, 2))
        >>> [path.name for path in report.write("report")]
        ['report.json', 'report.md', 'report.html']
        >>> report.to_dict()["parity"]["hops"][0]["name"]
        'deploy model'
    """

    def __repr__(self) -> str:
        hops = () if self.parity is None else self.parity.hops
        ran = ", ".join(hop.name for hop in hops if hop.passed is not None)
        missing = ", ".join(hop.name for hop in hops if hop.passed is None)
        unseen = f"; not run: {missing}" if missing else ""
        return f"Report({self.model!r}, {self.verdict}: {ran}{unseen})"

    @property
    def passed(self) -> bool:
        """Whether the verdict is ``pass``; a stage that could not run does not count."""
        return self.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, as in ``report.json``."""
        values: dict[str, Any] = to_json(self)
        return values

    def write(self, folder: StrPath, *, force: bool = False) -> tuple[Path, ...]:
        """Write ``report.json``, ``report.md`` and ``report.html``: all of them, or none.

        Args:
            folder: Folder for the files; made if it is missing.
            force: True to replace files that swin-deploy did not make.

        Returns:
            Paths of the three files, in that order.

        Raises:
            FileError: If a file cannot be written, or must not be replaced.
        """
        return write_report(self, path_of(folder), force=force)


def check(  # noqa: PLR0913 - what may be asked of it, by name
    model: LoadedModel,
    *files: StrPath,
    images: StrPath | None = None,
    limit: int = 64,
    batches: int | Sequence[int] = BATCHES,
    original: str = "auto",
    runner: Way | Sequence[Way] | None = None,
    progress: Progress = silent,
) -> Report:
    """Compare the deploy model and each file made from it with the reference.

    Args:
        model: The reference, from ``load``.
        files: ONNX files and engines made from it; of a manifest of sizes, those of its size.
        images: Folder of real images, in class folders or not; by default those that come with the
            model, if any. Seeded noise and extreme inputs are always compared.
        limit: Maximum number of real images, spread evenly over the folder.
        batches: Batch size or sizes; the batch must not change a row.
        original: Library whose own model of the checkpoint is compared with the reference, ``auto``
            for the one it comes from, or ``none``.
        runner: Further way or ways to run what is compared: ``torch`` or ``torch-max-autotune``
            for the deploy model compiled by PyTorch, see docs/pytorch.md; ``openvino`` or
            ``openvino-bf16`` for the ONNX files in OpenVINO, see docs/cpu.md. None for no other.
        progress: Function that is told each step before it runs.

    Returns:
        The report; ``passed`` is False if something is out of tolerance, which raises nothing.

    Raises:
        ComparisonError: If a file was not made from this model, or cannot be compared.
        ConfigError: If an option is unknown, or the preprocessing of images is not known.
        FileError: If a file or an image cannot be read.

    Example:
        >>> model = swin_deploy.load("notebook-digits")
        >>> onnx = model.export("digits.onnx")
        >>> report = swin_deploy.check(model, onnx.path, limit=8, batches=(1, 2))
        >>> report.passed, report.verdict
        (True, 'pass')
        >>> [(hop.name, hop.passed) for hop in report.parity.hops]
        [('deploy model', True), ('ONNX fp32', True)]
    """
    require_known("original", original, ORIGINAL_CHOICES)
    ways = () if runner is None else (runner,) if isinstance(runner, str) else tuple(runner)
    for way in ways:
        require_known("runner", way, WAYS)
    require_whole("limit", limit)
    batches = (batches,) if isinstance(batches, int) else tuple(batches)
    for batch in batches or (0,):
        require_whole("batches", batch)
    if not isinstance(model, LoadedModel):
        raise ConfigError(f"{model!r} is not a model; check takes what load returns")
    folder = None if images is None else path_of(images)
    made = _made(files, ways, model)
    original_library(model, original)  # a wrong choice fails before the work
    sets = image_sets(model, folder, limit=limit)
    parity = prove_parity(
        model, made, images=sets, batches=batches, progress=progress, original=original
    )
    found = make_report(model, made, parity=parity, bench=None, images=sets)
    return derived(Report, found)


def _made(files: Sequence[StrPath], ways: Sequence[Way], model: LoadedModel) -> Made:
    """Sort the files by their kind; of a manifest of sizes, those of the model's size are taken.

    Raises:
        ComparisonError: If one is neither an ONNX file nor an engine.
        ConfigError: If a manifest of sizes does not have the model's size.
    """
    found: dict[str, list[Path]] = {"onnx": [], "engine": [], "checkpoint": []}
    for path in map(path_of, files):
        form = form_of(path)
        if form == "sizes":
            sizes = read_sizes(path)
            one = sizes.at(model.config.image)
            found["onnx"].append(sizes.onnx(one))
            found["engine"] += [sizes.engine(one)] if one.engine else []
        else:
            found[form].append(path)
    if found["checkpoint"]:
        raise ComparisonError(
            f"{found['checkpoint'][0]} is neither an ONNX file nor an engine; name what was made "
            "from the model"
        )
    return read_made(found["onnx"], found["engine"], ways)
