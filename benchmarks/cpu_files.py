"""Time float32 files on CPU runtimes: our two layouts beside other libraries' own exports.

    python -m benchmarks.cpu_files [--variant NAME] [--batch N] [--rounds N] [--threads N]

Each file runs on ONNX Runtime's CPU provider and, where it is installed, on OpenVINO in float32.
All take turns in one process, in an order drawn anew each round. With one thread the time is that
of the processor, which other work on the machine changes least; with more it is the wall's. A row
is the median of the ratios to our plain export on ONNX Runtime in the same round, with quartiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import random
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from exporters.backends import load_onnxruntime
from exporters.errors import DeployError
from exporters.spec import ExportSpec, Runtime
from exporters.to_onnx import export_onnx
from swin_deploy.deploy.fold import fold

COMPARE = Path(__file__).resolve().parents[1] / "scripts" / "compare_exports"
# Library, exporter and attention of the fastest route of each, by scripts/compare_exports.
PEERS = (
    ("timm", "TorchScript", ""),
    ("transformers", "TorchScript", "eager"),
    ("torchvision", "TorchScript", ""),
)
OURS: dict[str, Runtime] = {"plain": "tensorrt", "for cpu": "cpu"}
Images = NDArray[np.float32]
Call = Callable[[Images], NDArray[np.float32]]


def on_onnxruntime(path: Path, threads: int) -> Call:
    """Open a file with ONNX Runtime's CPU provider."""
    library = load_onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def on_openvino(path: Path, threads: int) -> Call:
    """Open a file with OpenVINO's CPU plugin, in float32 also where the CPU has bfloat16."""
    openvino = importlib.import_module("openvino")
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda images: request.infer([images])[compiled.output(0)]


def runtimes() -> dict[str, Callable[[Path, int], Call]]:
    """Return the runtimes that are installed, by name."""
    found: dict[str, Callable[[Path, int], Call]] = {"ONNX Runtime": on_onnxruntime}
    if importlib.util.find_spec("openvino"):
        found["OpenVINO"] = on_openvino
    return found


def write_files(variant: str, folder: Path) -> tuple[dict[str, Path], tuple[int, ...]]:
    """Export our files and the other libraries', with the same trained-like weights.

    Args:
        variant: Name of a variant of V1 or V2, or ``tiny``.
        folder: Folder of the files.

    Returns:
        Path of each file that could be made, by its title; and the shape of an image.
    """
    compare = runpy.run_path(str(COMPARE))
    loaded = compare["trained_like"](variant)
    shape = (loaded.config.in_channels, *loaded.config.image)
    graphs: dict[str, onnx.ModelProto] = {}
    for title, runtime in OURS.items():
        graphs[f"ours, {title}"] = ours(loaded, shape, runtime)
    for library, exporter, attention in PEERS:
        route = compare["Route"](library, exporter, attention)
        row: dict[str, Any] = {"notes": []}
        with compare["noted"](row, route.title):
            graphs[f"{route.title}, {exporter}"] = compare["export"](loaded, route, dynamic=True)[0]
        for note in row["notes"]:
            sys.stderr.write(f"left out: {note}\n")
    paths = {title: folder / f"{number}.onnx" for number, title in enumerate(graphs)}
    for title, path in paths.items():
        onnx.save(graphs[title], path)
    return paths, shape


def ours(loaded: Any, shape: tuple[int, ...], runtime: Runtime) -> onnx.ModelProto:  # noqa: ANN401 - a LoadedModel
    """Return our graph in a layout."""
    channels, rows, columns = shape
    spec = ExportSpec((channels, rows, columns), loaded.config.output_names, runtime=runtime)
    return export_onnx(fold(loaded.reference, runtime), spec, metadata={})


@dataclasses.dataclass(frozen=True)
class Timed:
    """A file on a runtime: seconds of each round, and its error."""

    title: str
    runtime: str
    seconds: tuple[float, ...]
    error: float


def time_files(paths: dict[str, Path], images: Images, *, rounds: int, threads: int) -> list[Timed]:
    """Time every file on every runtime, in turn."""
    opens = runtimes()
    calls = {
        (title, name): opens[name](path, threads) for name in opens for title, path in paths.items()
    }
    found = {key: call(images) for key, call in calls.items()}  # also the warm-up
    wanted = next(iter(found.values()))
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    drawn = random.Random(0)
    for _ in range(rounds):
        for key in drawn.sample(list(calls), len(calls)):
            start = clock()
            calls[key](images)
            seconds[key].append(clock() - start)
    scale = np.sqrt(np.mean(np.square(wanted)))
    return [
        Timed(*key, tuple(seconds[key]), float(np.abs(found[key] - wanted).max() / scale))
        for key in calls
    ]


def markdown(timed: Sequence[Timed]) -> str:
    """Return the table: medians and quartiles of the ratios to the first row."""
    lines = ["| file | runtime | time | quartiles | least, ms | error |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    base = np.array(timed[0].seconds)
    for one in timed:
        low, middle, high = np.percentile(np.array(one.seconds) / base, [25, 50, 75])
        lines.append(
            f"| {one.title} | {one.runtime} | {middle:.3f} | {low:.3f} to {high:.3f} | "
            f"{1e3 * min(one.seconds):.1f} | {one.error:.1e} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="benchmarks.cpu_files", description="Time CPU files.")
    parser.add_argument("--variant", default="swin_tiny_patch4_window7_224")
    for name, value in (("batch", 1), ("rounds", 30), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args(arguments)
    if min(asked.batch, asked.rounds, asked.threads) < 1:
        parser.error("--batch, --rounds and --threads are 1 or more")
    return asked


def main(arguments: Sequence[str]) -> int:
    """Print the table; 3 where something that it needs is missing."""
    asked = parse(arguments)
    torch.set_grad_enabled(False)
    torch.set_num_threads(asked.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths, shape = write_files(asked.variant, Path(folder))
            drawn = np.random.default_rng(0).standard_normal((asked.batch, *shape))
            images = drawn.astype(np.float32)
            timed = time_files(paths, images, rounds=asked.rounds, threads=asked.threads)
    except DeployError as err:
        sys.stderr.write(f"error: {err}\n")
        return 3
    held = f"{asked.variant}, batch {asked.batch}, threads {asked.threads}, {asked.rounds} rounds"
    sys.stdout.write(f"{held}\n\n{markdown(timed)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
