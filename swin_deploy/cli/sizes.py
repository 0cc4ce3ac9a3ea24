"""One model at several image sizes, in the commands that take its manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exporters.artifact import read_manifest
from swin_deploy.artifacts.newest import ENGINES
from swin_deploy.artifacts.outputs import is_sizes, sizes_output
from swin_deploy.cli.console import (
    Console,
    announce,
    say_calibration,
    say_norms,
    show_json,
    show_line,
    show_result,
)
from swin_deploy.cli.engine_options import engine_words, require_delivered, show_targets
from swin_deploy.cli.options import ModelRequest, calibration, require_converted
from swin_deploy.cli.outputs import SIZES_FILE, claim_outputs, require_ending
from swin_deploy.config import Size

if TYPE_CHECKING:
    from exporters.spec import BatchProfile, EngineOptions, Precision
    from swin_deploy.api.models import ExportOptions, Model
    from swin_deploy.artifacts.sizes_file import SizesFile
    from swin_deploy.checkpoints.load import LoadedModel

T = TypeVar("T")


def say_pixels(console: Console, loaded: LoadedModel, batch: int | None) -> None:
    """Say which pixels a file takes that normalises them itself."""
    (rows, columns), channels = loaded.config.image, loaded.config.in_channels
    shape = f"[{batch or 'batch'}, {rows}, {columns}, {channels}]"
    order = f"{loaded.preprocessing.channel_order.upper()} " if channels == 3 else ""
    console.note(f"  takes {order}pixels {shape}, uint8, after")
    steps = loaded.preprocessing
    mean = ", pad below and on the right with the levels nearest to the mean"
    console.note(f"  {steps.to_pixels}{mean if steps.pads_zeros else ''}")


def export_sizes(
    console: Console,
    asked: tuple[ModelRequest, ...],
    output: Path | None,
    *,
    choices: ExportOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Export one ONNX file a size, which share their weights, and show them."""
    if output:
        require_ending(output, SIZES_FILE)
        claim_outputs([sizes_output(output)], inputs=asked[0].inputs(), force=force)
    with console.loading("Loading PyTorch and the model"):
        from swin_deploy.api.sizes import export_sizes as export
        from swin_deploy.artifacts.onnx_file import onnx_name
        from swin_deploy.artifacts.sizes_file import read_sizes, sizes_name

        loaded = [asked[0].load()]
    announce(console, loaded[0])
    precision, opset, pixels = choices["precision"], choices["opset"], choices["pixels"]
    runtime = choices["runtime"]
    named = onnx_name(loaded[0].name, precision, opset, pixels=pixels, runtime=runtime)
    name = Path(named).stem
    path = output or ENGINES / sizes_name(name)
    with contextlib.closing(_models(console, asked, loaded, choices)) as models:
        artifact = export(models, path, force=force, **choices)
    if as_json:
        show_json(artifact.manifest | {"path": str(path)})
    else:
        _show(read_sizes(path))
    if precision != "fp32":
        _say_made(console, read_sizes(path))
    if runtime == "cpu":
        console.next_step("parity", *asked[0].words(), "--onnx", path, why="is it equal")
        return
    flag = "fp16" if precision == "fp32" else precision
    console.next_step("build-trt", path, f"--{flag}", why="an engine a size, precision proved")


def _models(
    console: Console,
    asked: tuple[ModelRequest, ...],
    loaded: list[Model],
    choices: ExportOptions,
) -> Generator[Model]:
    """Yield the model at each size; one at a time is in memory.

    Args:
        console: Console that shows the steps.
        asked: The requests, one for each size.
        loaded: The model of the first one, which was announced; it is taken from the list.
        choices: Options of the export.
    """
    said: set[str] = set(loaded[0].notes)
    for request in asked:
        model = loaded.pop() if loaded else request.load()
        for note in (one for one in model.notes if one not in said):
            console.note(f"  {model.config.image_text}: {note}")
        said |= set(model.notes)
        if choices["pixels"]:
            say_pixels(console, model, choices["batch"])
        with console.step(f"Exporting {model.config.image_text}"):  # ends when the next is drawn
            yield model


def _show(sizes: SizesFile) -> None:
    """Print a line for each size, and for the weights."""
    folder = sizes.path.parent
    for one in sizes.sizes:
        files = [folder / named.file for named in (one.onnx, one.engine) if named]
        texts = [f"{file}, {file.stat().st_size / 1e6:.1f} MB" for file in files]
        show_line(f"{one.size} px: {'; '.join(texts)}")
    weights = folder / sizes.weights.file
    show_line(
        f"{weights}: {weights.stat().st_size / 1e6:.1f} MB of weights, stored once; "
        f"{sizes.saved_bytes / 1e6:.1f} MB saved"
    )
    show_line(f"{sizes.path}: {sizes.precision}, sizes {sizes.names}")


def _say_made(console: Console, sizes: SizesFile) -> None:
    """Say what half-precision files have in common: norms that are folded, and layers in FP8."""
    facts = read_manifest(sizes.onnx(sizes.sizes[0]))
    say_norms(console, facts["folded_norms"], facts["norms_apart"])
    if "calibration" in facts:
        say_calibration(console, facts["calibration"])


def build_sizes(
    console: Console,
    path: Path,
    images: Path | None,
    *,
    precision: Precision | None,
    profile: BatchProfile | None,
    options: EngineOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Build an engine for each size of a manifest, and show them."""
    from swin_deploy.artifacts import sizes_build as builds
    from swin_deploy.artifacts.engine_file import Listener
    from swin_deploy.artifacts.sizes_file import read_sizes, to_dict
    from swin_deploy.runners.engine_manifest import read_engine_manifest

    source = read_sizes(path)
    plan = builds.plan_sizes_build(source, precision)
    require_converted(plan.converts, images)
    plan.claim(force=force)
    if precision is None and source.precision == "fp32":
        console.note(f"  {path.name} is float32, and so are its engines; --fp16 builds in float16")
    with console.step(f"Building {len(source.sizes)} engines with {options.flavor}") as step:
        listener = Listener(step.update, step.warn)
        built = builds.build_sizes(
            plan,
            profile=profile,
            options=options,
            listener=listener,
            told=calibration(plan.converts, images),
            force=force,
        )
    sizes = require_delivered(built)
    engines = [read_engine_manifest(sizes.engine(one)) for one in sizes.sizes]
    if source.precision != sizes.precision:
        _say_made(console, sizes)
    show_targets(console, engines[0])
    if as_json:
        show_json(to_dict(sizes) | {"path": str(sizes.path)})
    else:
        for one, engine in zip(sizes.sizes, engines, strict=True):
            show_line(f"{one.size} px: {engine.path}: {engine_words(engine)}")
        show_line(f"{sizes.path}: {sizes.precision}, sizes {sizes.names}")
    console.next_step("plan", sizes.path, why="where the bytes of each size go")


@dataclass(frozen=True)
class SizedRun:
    """A model request at one image size, and the files of that size.

    Attributes:
        asked: The request.
        onnx: ONNX files.
        engines: Engines.
        size: The size in words; empty if no manifest of sizes was given.
    """

    asked: ModelRequest
    onnx: tuple[Path, ...]
    engines: tuple[Path, ...]
    size: str = ""

    @property
    def at(self) -> str:
        """The size at the end of a step's title; empty if no manifest of sizes was given."""
        return f" at {self.size} px" if self.size else ""


def runs_by_size(
    asked: ModelRequest, onnx: tuple[Path, ...], engines: tuple[Path, ...]
) -> list[SizedRun]:
    """Return a run for each size of the manifests of sizes among the files; else one run.

    Args:
        asked: The request; its image size, if it has one, picks one of the sizes.
        onnx: ONNX files and manifests of sizes, of which the ONNX files are taken.
        engines: Engines and manifests of sizes, of which the engines are taken.

    Raises:
        ConfigError: If a manifest does not have a size.
        FileError: If a manifest or a file that it names cannot be used.
        UsageError: If a file of one size is to be run at several.
    """
    from swin_deploy.artifacts.sizes_file import read_sizes

    found = {path: read_sizes(path) for path in (*onnx, *engines) if is_sizes(path)}
    if not found:
        return [SizedRun(asked, onnx, engines)]
    first = next(iter(found.values()))
    picked = [one.size for one in first.sizes] if asked.image_size is None else [asked.image_size]
    single = [path for path in (*onnx, *engines) if path not in found]
    if single and len(picked) > 1:
        raise click.UsageError(
            f"{single[0]} is of one size, {first.path.name} of {first.names}: add --image-size"
        )
    return [
        SizedRun(
            replace(asked, image_size=Size.of(size).plain),
            tuple(found[p].onnx(found[p].at(size)) if p in found else p for p in onnx),
            tuple(found[p].engine(found[p].at(size)) if p in found else p for p in engines),
            str(Size.of(size)),
        )
        for size in picked
    ]


def require_one_size(runs: Sequence[SizedRun], option: str) -> None:
    """Refuse an option whose file is of one size; raises ``UsageError``."""
    if len(runs) > 1:
        sizes = ", ".join(run.size for run in runs)
        raise click.UsageError(f"{option} is of one size, and there are {sizes}: add --image-size")


def show_sizes(
    results: Sequence[tuple[SizedRun, T]], render: Callable[[T], Any], *, as_json: bool
) -> None:
    """Show the result of each size; as JSON by size, if there are several."""
    from swin_deploy.report.to_json import to_json

    if as_json and len(results) > 1:
        show_json({"sizes": {run.size: to_json(result) for run, result in results}})
        return
    for run, result in results:
        if run.size and not as_json:
            show_line(f"{run.size} px")
        show_result(result, render, as_json=as_json)


def one_file(path: Path, image_size: int | Size | None, *, half: bool = False) -> Path:
    """Return the file of one size; raises ``UsageError`` for several, and as ``files_of``.

    Args:
        path: A manifest of sizes; any other file is returned as it is.
        image_size: The size to take.
        half: True for the ONNX file, as in ``files_of``.
    """
    files = files_of(path, image_size, half=half)
    if len(files) > 1:
        raise click.UsageError(
            f"{path.name} has the sizes {', '.join(files)}, and one is needed here: add "
            "--image-size"
        )
    return next(iter(files.values()))


def files_of(path: Path, image_size: int | Size | None, *, half: bool = False) -> dict[str, Path]:
    """Return the files of a manifest of sizes by size: engines where they are built, else ONNX.

    Args:
        path: The manifest; any other file is returned as it is, without a size.
        image_size: The size to take; None for all.
        half: True for ONNX files, which are planned in float16, also where engines are built.

    Raises:
        ConfigError: If the manifest does not have the size.
        FileError: If a file is missing or has changed.
    """
    if not is_sizes(path):
        return {"": path}
    from swin_deploy.artifacts.sizes_file import read_sizes

    sizes = read_sizes(path)
    chosen = sizes.sizes if image_size is None else (sizes.at(image_size),)
    return {
        str(one.size): sizes.engine(one) if one.engine and not half else sizes.onnx(one)
        for one in chosen
    }
