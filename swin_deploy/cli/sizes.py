"""One model at several image sizes, in the commands that take its manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from swin_deploy.artifacts.newest import ENGINES
from swin_deploy.artifacts.outputs import sizes_output
from swin_deploy.cli.console import Console, announce, show_json, show_line
from swin_deploy.cli.engine_options import engine_words, require_delivered, show_targets
from swin_deploy.cli.options import ModelRequest
from swin_deploy.cli.outputs import SIZES_FILE, claim_outputs, require_ending

if TYPE_CHECKING:
    from exporters.spec import BatchProfile, EngineOptions, Precision
    from swin_deploy.api.models import ExportOptions, Model
    from swin_deploy.artifacts.sizes_file import SizesFile
    from swin_deploy.checkpoints.load import LoadedModel


def say_pixels(console: Console, loaded: LoadedModel, batch: int | None) -> None:
    """Say which pixels a file takes that normalises them itself."""
    (rows, columns), channels = loaded.config.image, loaded.config.in_channels
    shape = f"[{batch or 'batch'}, {rows}, {columns}, {channels}]"
    order = f"{loaded.preprocessing.channel_order.upper()} " if channels == 3 else ""
    console.note(f"  takes {order}pixels {shape}, uint8, after")
    console.note(f"  {loaded.preprocessing.to_pixels}")


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
    name = Path(onnx_name(loaded[0].name, precision, opset, pixels=pixels)).stem
    path = output or ENGINES / sizes_name(name)
    with contextlib.closing(_models(console, asked, loaded, choices)) as models:
        artifact = export(models, path, force=force, **choices)
    if as_json:
        show_json(artifact.manifest | {"path": str(path)})
    else:
        _show(read_sizes(path))
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


def build_sizes(
    console: Console,
    path: Path,
    precision: Precision | None,
    *,
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
    plan.claim(force=force)
    if precision is None and source.precision == "fp32":
        console.note(f"  {path.name} is float32, and so are its engines; --fp16 builds in float16")
    with console.step(f"Building {len(source.sizes)} engines with {options.flavor}") as step:
        listener = Listener(step.update, step.warn)
        built = builds.build_sizes(
            plan, profile=profile, options=options, listener=listener, force=force
        )
    sizes = require_delivered(built)
    engines = [read_engine_manifest(sizes.engine(one)) for one in sizes.sizes]
    show_targets(console, engines[0])
    if as_json:
        show_json(to_dict(sizes) | {"path": str(sizes.path)})
    else:
        for one, engine in zip(sizes.sizes, engines, strict=True):
            show_line(f"{one.size} px: {engine.path}: {engine_words(engine)}")
        show_line(f"{sizes.path}: {sizes.precision}, sizes {sizes.names}")
    console.next_step("plan", sizes.path, why="where the bytes of each size go")
