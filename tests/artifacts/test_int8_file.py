"""Int8 files for CPUs: calibrated, judged like others, their faults found, what lacks refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import IMAGES, Command
from conftest import seeded_images
from families import CONFIGS, trained_like
from onnx import numpy_helper

from exporters.half_precision import precision_of
from exporters.int8 import quantised_products
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.scale_migration import migrate_scales

DIGITS = ("--model", "notebook-digits")
INT8 = ("--for", "cpu", "--precision", "int8", "--images", IMAGES)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from swin_deploy.api.models import load

    path = tmp_path_factory.mktemp("int8") / "digits.onnx"
    load("notebook-digits").export(path, precision="int8", runtime="cpu", images=IMAGES)
    return path


def fused(path: Path, folder: Path) -> list[str]:
    """The operators of the graph that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_migrate_scales_changes_no_bit_of_the_outputs(name: str) -> None:
    plain = fold(trained_like(CONFIGS[name]))
    before = {path: value.clone() for path, value in plain.state_dict().items()}
    moved = migrate_scales(plain)
    images = seeded_images(CONFIGS[name], batch=2)
    torch.testing.assert_close(moved(images), plain(images), rtol=0, atol=0)
    assert all(torch.equal(value, before[path]) for path, value in plain.state_dict().items())
    changed = [path for path, value in moved.state_dict().items() if not value.equal(before[path])]
    wanted = ("norm_before_attention", "attention.qkv")
    assert all(any(word in path for word in wanted) for path in changed)
    assert bool(changed) == (name != "swinv2")


def test_export_int8_writes_scales_counts_and_digest(swin: Command, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    swin("export", *DIGITS, *INT8, "--keep-float32", "layers.0.mlp", "--output", path).assert_done()
    manifest = json.loads(path.with_name("x.onnx.json").read_text())
    seen = manifest["calibration"]
    assert (manifest["precision"], manifest["for"]) == ("int8", "cpu")
    assert (seen["images"], seen["found"], len(seen["sha256"])) == (64, 360, 64)
    graph = onnx.load(path)
    assert {name: (one.scale, one.zero_point) for name, one in quantised_products(graph).items()} \
        == {name: tuple(one) for name, one in seen["scales"].items()}  # fmt: skip
    query, key, value = (
        seen["scales"][f"layers.0.attention.qkv.{part}"] for part in ("query", "key", "value")
    )
    assert query == key == value  # all three read the same tokens
    assert not [name for name in seen["scales"] if name.startswith("layers.0.mlp")]
    assert precision_of(graph) == "int8"


def test_export_int8_keeps_attention_in_float32_where_asked(swin: Command, tmp_path: Path) -> None:
    """Its parts are named as in half precision, where attention cannot stay float32."""
    path, part = tmp_path / "x.onnx", "layers.0.attention"
    swin("export", *DIGITS, *INT8, "--keep-float32", part, "--output", path).assert_done()
    products = set(quantised_products(onnx.load(path)))
    assert {name for name in products if name.startswith("layers.0.")} == {
        "layers.0.mlp.0", "layers.0.mlp.2",
    }  # fmt: skip
    assert "layers.1.attention.qkv.key" in products
    told = swin("export", *DIGITS, *INT8, "--keep-float32", f"{part}.qkv", "--output", path)
    told.assert_error(
        f"{part}.qkv is no part of this model; it has embed, layers.0.residual, {part}"
    )


@pytest.mark.parametrize("weight_type", ["QInt8", "QUInt8"])
def test_files_quantised_by_onnx_runtime_are_int8(
    swin: Command, tmp_path: Path, weight_type: str
) -> None:
    """Its dynamic form multiplies integers as they are, in float32's layout for TensorRT, too."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    plain, path = tmp_path / "plain.onnx", tmp_path / "dynamic.onnx"
    swin("export", *DIGITS, "--output", plain).assert_done()
    of_type = getattr(quantization.QuantType, weight_type)
    quantization.quantize_dynamic(plain, path, weight_type=of_type)
    assert precision_of(onnx.load(plain)) == "fp32"
    assert precision_of(onnx.load(path)) == "int8"
    few = ("--limit", 8, "--batches", "1,3", "--json")
    told = swin("parity", *DIGITS, "--onnx", path, *few).assert_done()
    assert [hop["name"] for hop in told.json["hops"]] == ["deploy model", "ONNX int8"]
    for command in ("plan", "build-trt"):
        swin(command, path).assert_error("int8 is for CPUs")


def test_int8_products_are_integers_in_onnx_runtime(digits: Path, tmp_path: Path) -> None:
    ops = fused(digits, tmp_path)
    products = quantised_products(onnx.load(digits))
    assert ops.count("MatMulIntegerToFloat") == len(products) == 25
    assert "DequantizeLinear" not in ops


def test_int8_file_passes_parity_and_loses_no_accuracy(swin: Command, digits: Path) -> None:
    told = swin("parity", *DIGITS, "--onnx", digits, "--images", IMAGES, "--json").assert_done()
    results = told.json["hops"][-1]["results"]
    cases = [(one["case"], one["relative_l2"]) for one in results]
    logits = [l2 for case, l2 in cases if case["image_set"] == "images" and not case["place"]]
    assert 0.004 < max(logits) < 0.010
    swin("evaluate", *DIGITS, "--onnx", digits).assert_done()


def broken(path: Path, target: Path, fault: str) -> Path:
    """A copy of an int8 file with one wrong constant."""
    graph = onnx.load(path)
    tensors = {one.name: one for one in graph.graph.initializer}
    nodes = [one for one in graph.graph.node if one.op_type == "QuantizeLinear"]
    first = next(one for one in nodes if "layers.1.mlp.2" in one.name)
    other = next(one for one in nodes if "layers.1.attention.proj" in one.name)
    scale, zero = (tensors[name] for name in first.input[1:3])

    def put(tensor: onnx.TensorProto, values: np.ndarray) -> None:
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    if fault == "small scale":
        put(scale, numpy_helper.to_array(scale) / np.float32(6))
    elif fault == "zero point":
        put(zero, np.array(128, np.uint8))
    elif fault == "another module's scale":
        for index in (1, 2):
            first_name, second = first.input[index], other.input[index]
            for node in graph.graph.node:
                renamed = {first_name: second, second: first_name}
                node.input[:] = [renamed.get(name, name) for name in node.input]
    elif fault == "a weight's scale":
        name = next(one for one in tensors if one.endswith("/int8_scale") and tensors[one].dims)
        values = numpy_helper.to_array(tensors[name]).copy()
        values[0] *= 8
        put(tensors[name], values)
    onnx.save(graph, target)
    return target


@pytest.mark.parametrize(
    "fault", ["small scale", "zero point", "another module's scale", "a weight's scale"]
)
def test_parity_of_a_wrong_constant_fails(
    swin: Command, digits: Path, tmp_path: Path, fault: str
) -> None:
    path = broken(digits, tmp_path / "broken.onnx", fault)
    told = swin("parity", *DIGITS, "--onnx", path, "--images", IMAGES, "--limit", "16")
    assert told.status == 1, told.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "int8", "--images", IMAGES), "give --for cpu"),
        (("--precision", "int8", "--for", "cpu"), "int8 needs --images DIR, 32 images at least"),
        (("--images", IMAGES), "--images needs --precision"),
        ((*INT8, "--image-size", "112", "--image-size", "56"), "int8 takes one --image-size"),
        ((*INT8, "--io-precision", "fp16"), "--io-precision fp16 needs"),
    ],
    ids=lambda one: "" if isinstance(one, tuple) else one,
)
def test_export_int8_refuses_what_it_cannot_have(
    swin: Command, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    told = swin("export", *DIGITS, *arguments, "--output", tmp_path / "x.onnx")
    assert told.status == 2
    assert message in told.err
    assert not list(tmp_path.iterdir())


def test_export_int8_with_few_images_is_refused(swin: Command, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for image in sorted((IMAGES / "0").iterdir())[:31]:
        (few / image.name).write_bytes(image.read_bytes())
    told = swin("export", *DIGITS, *INT8[:-1], few, "--output", tmp_path / "x.onnx")
    told.assert_error("has 31 images, and a calibration needs 32 at least")
    assert list(tmp_path.iterdir()) == [few]


@pytest.mark.parametrize("command", ["build-trt", "plan"])
def test_int8_file_is_refused_for_tensorrt(swin: Command, digits: Path, command: str) -> None:
    swin(command, digits).assert_error("int8 is for CPUs")


def test_run_int8_without_for_cpu_is_refused(swin: Command) -> None:
    told = swin("run", *DIGITS, "--int8")
    assert told.status == 2
    assert "saves 6 % of the bytes at best (docs/tuning.md, section J)" in told.err
    assert "--for cpu --int8" in told.err
