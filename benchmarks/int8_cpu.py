"""Judge our int8 files for CPUs beside what other tools make of the same model.

    python -m benchmarks.int8_cpu [--rounds N] [--variant NAME] [--output FILE]

Errors are those of the bundled digits model on its 360 held-out images. Every tool calibrates on
the same training images, none of which is judged, and gets two float32 files: ours, whose qkv has
its bias in a column of weights, and PyTorch's own export of the reference. Times are of a Swin-T
with trained-like random weights at batch 1 and 8: processor time of one thread, the files in turn
in one process, medians of the ratios to the float32 file in the same round. The result is JSON.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.exports.models import Model, trained_like
from exporters.artifact import write_atomic
from exporters.backends import load_onnxruntime, load_openvino
from exporters.errors import DeployError, ExportError, MissingBackendError
from swin_deploy.api.models import load
from swin_deploy.artifacts.onnx_file import Calibrated, export_spec, write_onnx
from swin_deploy.calibration.pictures import CalibrationImages, calibration_images
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config import BUNDLED_IMAGES, variant
from swin_deploy.images.sets import ImageSet, load_images

MODEL = "notebook-digits"
EVERY = 7  # of the training images one is calibrated on, 206 in all; tools take 64 of them
NNCF = "pip install --target DIR --no-deps nncf==3.4.0 natsort tabulate psutil pydot pyparsing"
# Method of calibration, and whether what products read is symmetric (signed integers).
STATIC = (("MinMax", True), ("Entropy", True), ("Percentile", True), ("MinMax", False))
BATCHES = (1, 8)
Images = NDArray[np.float32]
Call = Callable[[Images], NDArray[np.float32]]


def on_onnxruntime(path: Path) -> Call:
    """Open a file with ONNX Runtime's CPU provider, on one thread."""
    library = load_onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def on_openvino(path: Path) -> Call:
    """Open a file with OpenVINO's CPU plugin, on one thread, without bfloat16."""
    library = load_openvino()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = library.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda images: request.infer([images])[compiled.output(0)]


def runtimes() -> dict[str, Callable[[Path], Call]]:
    """Return the runtimes that are installed, by name."""
    found: dict[str, Callable[[Path], Call]] = {"ONNX Runtime": on_onnxruntime}
    if importlib.util.find_spec("openvino"):
        found["OpenVINO"] = on_openvino
    return found


def training_images(folder: Path) -> CalibrationImages:
    """Write training images of the digits model, none of them held out, and choose from them."""
    if not importlib.util.find_spec("sklearn"):
        raise MissingBackendError("scikit-learn is not installed; pip install scikit-learn")
    from sklearn.datasets import load_digits

    held_out = {int(path.stem) for path in BUNDLED_IMAGES[MODEL].rglob("*.png")}
    digits = load_digits()
    trained_on = [index for index in range(len(digits.images)) if index not in held_out]
    for index in trained_on[::EVERY]:
        path = folder / str(digits.target[index]) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(digits.images[index] * 255 / 16).astype(np.uint8)).save(path)
    return calibration_images(folder)


def noise_images(folder: Path, loaded: LoadedModel) -> CalibrationImages:
    """Write noise as pictures: times do not depend on what the scales are."""
    drawn = np.random.default_rng(0)
    for index in range(32):
        levels = drawn.integers(0, 256, (*loaded.config.image, 3), np.uint8)
        Image.fromarray(levels).save(folder / f"{index:02d}.png")
    return calibration_images(folder)


def ours(loaded: LoadedModel, images: CalibrationImages, path: Path) -> Path:
    """Export a model for CPUs in int8."""
    spec = export_spec(loaded, precision="int8", runtime="cpu")
    return write_onnx(loaded, spec, path, told=Calibrated(images)).path


def exported_by_pytorch(loaded: LoadedModel, path: Path) -> Path:
    """Export the reference by PyTorch's exporter, for any batch."""
    images = torch.zeros(2, loaded.config.in_channels, *loaded.config.image)
    program = torch.onnx.export(
        loaded.reference,
        (images,),
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ExportError("PyTorch's exporter gave nothing; use another version of PyTorch")
    graph = program.model_proto
    del graph.graph.value_info[:]  # shapes in it are wrong after its own optimisation
    onnx.save(graph, path)
    return path


def quantised_statically(
    full: Path, batches: Sequence[Images], path: Path, *, method: str, symmetric: bool
) -> Path:
    """Quantise products with weights of a float32 file with ONNX Runtime."""
    from onnxruntime import quantization as tools

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Images] = iter(batches)

        def get_next(self) -> dict[str, Images] | None:
            images = next(self.left, None)
            return None if images is None else {"images": images}

    tools.quantize_static(
        str(full),
        str(path),
        Reader(),
        quant_format=tools.QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        activation_type=tools.QuantType.QInt8 if symmetric else tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        calibrate_method=tools.CalibrationMethod[method],
        extra_options={
            "QuantizeBias": False,
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
        },
    )
    return path


def quantised_dynamically(full: Path, path: Path) -> Path:
    """Quantise a float32 file with ONNX Runtime, its scales computed at every call."""
    from onnxruntime import quantization as tools

    tools.quantize_dynamic(str(full), str(path), per_channel=True)
    return path


def quantised_by_nncf(full: Path, batches: Sequence[Images], path: Path) -> Path:
    """Quantise a float32 file with NNCF's defaults."""
    if not importlib.util.find_spec("nncf"):
        raise MissingBackendError(f"nncf is not installed; {NNCF}, then PYTHONPATH=DIR")
    nncf: Any = importlib.import_module("nncf")
    data = nncf.Dataset(list(batches), lambda images: {"images": images})
    onnx.save(nncf.quantize(onnx.load(full), data), path)
    return path


def digits_files(
    loaded: LoadedModel, images: CalibrationImages, folder: Path
) -> Mapping[tuple[str, str], Callable[[], Path]]:
    """Return what makes each file of the digits model, by the float32 file and the tool."""
    batches = list(images.batches(loaded.preprocessing, batch=1))
    full = folder / "fp32.onnx"
    write_onnx(loaded, export_spec(loaded, runtime="cpu"), full)
    sources = {"ours": full, "PyTorch's": exported_by_pytorch(loaded, folder / "pytorch.onnx")}
    made: dict[tuple[str, str], Callable[[], Path]] = {
        ("ours", "none"): lambda: full,
        ("ours", "swin-deploy"): lambda: ours(loaded, images, folder / "ours.onnx"),
    }
    path = folder / "quantised.onnx"
    for title, source in sources.items():
        for method, symmetric in STATIC:
            kind = "symmetric" if symmetric else "asymmetric"
            made[title, f"ONNX Runtime static, {method}, {kind}"] = functools.partial(
                quantised_statically, source, batches, path, method=method, symmetric=symmetric
            )
        made[title, "ONNX Runtime dynamic"] = functools.partial(quantised_dynamically, source, path)
        made[title, "NNCF"] = functools.partial(quantised_by_nncf, source, batches, path)
    return made


def judged(logits: Images, expected: Images, images: ImageSet) -> dict[str, float]:
    """Return relative L2, and top-1 and agreement in percent, of logits, [n, classes]."""
    answers, right = logits.argmax(axis=1), expected.argmax(axis=1)
    return {
        "relative_l2": float(np.linalg.norm(logits - expected) / np.linalg.norm(expected)),
        "top1": float(100 * np.mean(answers == images.labels)),
        "agreement": float(100 * np.mean(answers == right)),
    }


def accuracy_rows(folder: Path) -> list[dict[str, Any]]:
    """Judge every tool's file of the digits model on the held-out images, in every runtime."""
    loaded = load(MODEL)
    images = load_images(
        BUNDLED_IMAGES[MODEL],
        loaded.preprocessing,
        num_classes=loaded.config.num_classes,
        known=loaded.class_names,
        limit=360,
    )
    with torch.inference_mode():
        expected = loaded.reference(torch.from_numpy(images.images)).numpy()
    rows: list[dict[str, Any]] = []
    made = digits_files(loaded, training_images(folder / "images"), folder)
    for (source, tool), make in made.items():
        row = {"float32_file": source, "quantised_by": tool}
        try:
            path = make()
        except MissingBackendError as err:
            rows.append(row | {"not_run": str(err)})
            continue
        for name, opened in runtimes().items():
            logits = opened(path)(images.images)
            rows.append(row | {"runtime": name} | judged(logits, expected, images))
            sys.stderr.write(f"{rows[-1]}\n")
    return rows


def time_rows(name: str, folder: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Time a large model's files in turn, at each batch."""
    loaded = trained_like(Model(name, variant(name), BATCHES))
    full = write_onnx(loaded, export_spec(loaded, runtime="cpu"), folder / "fp32.onnx").path
    pictures = folder / "images"
    pictures.mkdir()
    integers = ours(loaded, noise_images(pictures, loaded), folder / "int8.onnx")
    dynamic = quantised_dynamically(full, folder / "dynamic.onnx")
    calls = {
        ("float32", "ONNX Runtime"): on_onnxruntime(full),
        ("ours", "ONNX Runtime"): on_onnxruntime(integers),
        ("ONNX Runtime dynamic", "ONNX Runtime"): on_onnxruntime(dynamic),
    }
    if importlib.util.find_spec("openvino"):
        calls |= {("float32", "OpenVINO"): on_openvino(full)}
        calls |= {("ours", "OpenVINO"): on_openvino(integers)}
    rows = []
    for batch in BATCHES:
        shape = (batch, loaded.config.in_channels, *loaded.config.image)
        images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        rows += [
            {"file": file, "runtime": runtime, "batch": batch} | row
            for (file, runtime), row in timed(calls, images, rounds=rounds).items()
        ]
    return rows


def timed(
    calls: Mapping[tuple[str, str], Call], images: Images, *, rounds: int
) -> dict[tuple[str, str], dict[str, float]]:
    """Time calls in an order drawn anew each round; ratios are to the first."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    drawn = random.Random(0)
    for number in range(rounds + 1):
        for key in drawn.sample(list(calls), len(calls)):
            start = time.process_time()
            calls[key](images)
            if number:  # the first round warms up
                seconds[key].append(time.process_time() - start)
    base = np.array(next(iter(seconds.values())))
    found = {}
    for key, values in seconds.items():
        low, middle, high = np.percentile(np.array(values) / base, [25, 50, 75])
        found[key] = {"ratio": float(middle), "low": float(low), "high": float(high)}
    return found


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="benchmarks.int8_cpu", description="Judge int8 files.")
    parser.add_argument("--variant", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--rounds", type=int, default=8, help="0 times nothing")
    parser.add_argument("--output", type=Path, help="file for the JSON, which is printed, too")
    asked = parser.parse_args(arguments)
    if asked.rounds < 0:
        parser.error("--rounds is 0 or more")
    return asked


def main(arguments: Sequence[str]) -> int:
    """Print the result; 3 where something that it needs is missing."""
    asked = parse(arguments)
    torch.set_num_threads(1)
    packages = ("onnxruntime", "openvino", "nncf", "torch")
    found = {one: metadata.version(one) for one in packages if importlib.util.find_spec(one)}
    result: dict[str, Any] = {"versions": found, "threads": 1}
    try:
        with tempfile.TemporaryDirectory() as folder:
            result["accuracy"] = accuracy_rows(Path(folder))
        if asked.rounds:
            with tempfile.TemporaryDirectory() as folder:
                rows = time_rows(asked.variant, Path(folder), rounds=asked.rounds)
            result["times"] = {"variant": asked.variant, "rounds": asked.rounds, "rows": rows}
    except DeployError as err:
        sys.stderr.write(f"error: {err}\n")
        return 3
    text = json.dumps(result, indent=1) + "\n"
    if asked.output:
        write_atomic(asked.output, text.encode())
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
