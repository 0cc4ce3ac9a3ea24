"""FP8 through the commands: exported, built, planned, compared and refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import overflowing
import pytest
from command_line import IMAGES, Command
from onnx import numpy_helper

from exporters.quantisation import CALIBRATION, calibration_of, fp8_scale, quantised_scales
from swin_deploy.artifacts.onnx_file import read_onnx

MODEL = ("--model", "notebook-digits")
FP8 = ("--precision", "fp8", "--images", IMAGES)
rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed"
)


@pytest.fixture
def stored(swin: Command, tmp_path: Path) -> Path:
    path = tmp_path / "fp8.onnx"
    swin("export", *MODEL, *FP8, "--output", path).assert_done()
    return path


def test_export_in_fp8_says_and_writes_what_its_scales_follow_from(
    swin: Command, tmp_path: Path
) -> None:
    path = tmp_path / "fp8.onnx"
    done = swin("export", *MODEL, *FP8, "--output", path, "--json").assert_done()
    assert "opset 19, not 17: fp8 needs it" in done.err
    assert "9 linear layers read it; scales by maximum over 64 of 360 images" in done.err
    manifest = done.json
    assert (manifest["precision"], manifest["opset"]) == ("fp8", 19)
    record = manifest["calibration"]
    assert (record["method"], record["images"], len(record["sha256"])) == ("maximum", 64, 64)
    assert record["scales"] == quantised_scales(onnx.load(path))
    kinds = {"attention.qkv": 4, "mlp.2": 4, "linear": 1}
    found = {kind: sum(one.endswith(f".{kind}") for one in record["scales"]) for kind in kinds}
    assert found == kinds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "fp8"), "fp8 needs --images DIR, 32 images at least"),
        (("--images", IMAGES), "--images needs --precision"),
        ((*FP8, "--opset", "17"), "--opset 17 has no QuantizeLinear with half scales"),
        ((*FP8, "--io-precision", "bf16"), "bf16"),
    ],
    ids=["no images", "images for nothing", "opset", "edges"],
)
def test_export_in_fp8_refuses_what_it_cannot_do(
    arguments: tuple[object, ...], message: str, swin: Command, tmp_path: Path
) -> None:
    outcome = swin("export", *MODEL, *arguments, "--output", tmp_path / "x.onnx")
    assert outcome.status == 2
    assert message in outcome.err
    assert not (tmp_path / "x.onnx").exists()


def test_export_in_fp8_refuses_few_images_in_one_line(swin: Command, tmp_path: Path) -> None:
    few = sorted(IMAGES.rglob("*.png"))[:31]
    rows = "\n".join(f"{path},0" for path in few)
    (tmp_path / "few.csv").write_text(rows)
    asked = ("--precision", "fp8", "--images", tmp_path / "few.csv")
    swin("export", *MODEL, *asked, "--output", tmp_path / "x.onnx").assert_error(
        "has 31 images, and a calibration needs 32 at least"
    )


@pytest.mark.parametrize(
    ("change", "precision", "message"),
    [
        (overflowing.mlp, "fp8", "layers.3.mlp.2 reads values of up to "),
        (overflowing.attention, "fp8-weights", "layers.3.attention.proj reads values of up to "),
    ],
    ids=["mlp", "attention"],
)
def test_export_in_fp8_of_values_beyond_float16_is_refused(
    change: Callable[[overflowing.State], None],
    precision: str,
    message: str,
    swin: Command,
    tmp_path: Path,
) -> None:
    """What the file brings back to float16 would be infinite on the device."""
    checkpoint, path = overflowing.write_checkpoint(tmp_path, change), tmp_path / "x.onnx"
    asked = ("--model", "notebook-digits", "--checkpoint", checkpoint, "--images", IMAGES)
    words = ("export", *asked, "--precision", precision, "--output", path)
    swin(*words).assert_error(message)
    assert not path.exists()
    done = swin(*words, "--keep-float32", "layers.3.mlp")
    if change is overflowing.attention:
        done.assert_error("for these images, beyond float16's 65504; export it with --precision bf")
    else:
        done.assert_done()
        assert "layers.3.mlp.2" not in quantised_scales(onnx.load(path))


@rtx
@pytest.mark.parametrize("flag", ["--fp8", "--fp8-weights"])
def test_build_trt_of_a_float32_file_calibrates_and_proves_fp8(
    flag: str, swin: Command, tmp_path: Path
) -> None:
    full = tmp_path / "model-fp32.onnx"
    swin("export", *MODEL, "--opset", "19", "--output", full).assert_done()
    refused = swin("build-trt", full, flag)
    assert refused.status == 2
    assert f"{flag.removeprefix('--')} needs --images DIR" in refused.err
    done = swin("build-trt", full, flag, "--images", IMAGES, "--json").assert_done()
    built, plan = done.json, done.json["plan"]
    told = built["calibration"]
    assert f"scales by maximum over {told['images']} of {told['found']} images" in done.err
    assert built["precision"] == flag.removeprefix("--")
    assert built["targets"]["minimum"] == "8.9"
    assert plan["lost_fp8"] == []
    reading = [one for one in plan["kernels"] if one["kind"] == "gemm" and one["fp8_inputs"]]
    assert len(reading) == len(told["scales"])


@rtx
@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.6,8.9"])
def test_build_trt_in_fp8_refuses_gpus_without_it(
    capability: str, stored: Path, swin: Command
) -> None:
    swin("build-trt", stored, "--fp8", "--compute-capability", capability).assert_error(
        f"FP8 needs GPUs of compute capability 8.9 (Ada, Hopper) or later, and the engine is to be "
        f"for {capability.split(',')[0]}"
    )


@rtx
def test_build_trt_in_fp8_that_is_not_delivered_says_what_may_help(
    stored: Path, swin: Command, tmp_path: Path
) -> None:
    """At one image TensorRT-RTX 1.7.1 brings qkv of 32 channels back to float16 too early."""
    done = swin("build-trt", stored, "--batch", "1", "--output", tmp_path / "x.engine")
    assert (done.status, done.out) == (1, "")
    lost = "2 products that read FP8 in the graph would not in the engine ("
    assert f"{lost}layers.0.attention.qkv, layers.1.attention.qkv)" in done.err
    assert "Give another --batch" in done.err
    assert not (tmp_path / "x.engine").exists()
    swin("build-trt", stored, "--batch", "8", "--output", tmp_path / "x.engine").assert_done()


def rescaled(path: Path, factor: float, *, places: str) -> None:
    """Change scales, and their record with them, as a calibration on other images would."""
    graph = onnx.load(path)
    record = calibration_of(graph)
    assert record is not None
    for name in record["largest"]:
        if name.endswith(places):
            record["largest"][name] *= factor
    del record["scales"]
    for node in graph.graph.node:
        module = node.name.rpartition("/")[0]
        if node.op_type == "QuantizeLinear" and module.endswith(places):
            value = np.float16(fp8_scale(record["largest"][module]))
            tensor = next(one for one in graph.graph.initializer if one.name == node.input[1])
            tensor.CopyFrom(numpy_helper.from_array(np.array(value), tensor.name))
    entry = next(one for one in graph.metadata_props if one.key == CALIBRATION)
    entry.value = json.dumps(record)
    onnx.save(graph, path)


SMALL = (*MODEL, "--limit", "8", "--batches", "1,3", "--images", IMAGES)


def test_parity_of_fp8_passes_by_the_file_and_emulated(stored: Path, swin: Command) -> None:
    hops = swin("parity", *SMALL, "--onnx", stored, "--json").assert_done().json["hops"]
    names = [hop["name"] for hop in hops if hop["precision"] == "fp8"]
    assert names == ["deploy model fp8, emulated", "ONNX fp8"]


def test_parity_of_scales_for_other_images_fails_with_the_share_that_saturates(
    stored: Path, swin: Command
) -> None:
    rescaled(stored, 0.05, places="mlp.2")
    outcome = swin("parity", *SMALL, "--onnx", stored, "--json")
    assert outcome.status == 1
    hops = {hop["name"]: hop for hop in outcome.json["hops"]}
    assert " % of the FP8 values saturated" in hops["deploy model fp8, emulated"]["backend"]
    for name in ("deploy model fp8, emulated", "ONNX fp8"):
        assert not all(one["passed"] for one in hops[name]["results"])


def test_parity_of_a_scale_that_is_not_the_calibration_s_is_refused(
    stored: Path, swin: Command
) -> None:
    graph = onnx.load(stored)
    scale = next(one for one in graph.graph.initializer if one.name.endswith("/fp8_scale"))
    value = numpy_helper.to_array(scale) * np.float16(10)
    scale.CopyFrom(numpy_helper.from_array(value.astype(np.float16), scale.name))
    onnx.save(graph, stored)
    parity = ("parity", *SMALL, "--onnx", stored)
    for command in (parity, ("build-trt", stored), ("plan", stored)):
        swin(*command).assert_error("the FP8 scale of layers.0.attention.qkv is")


def test_convert_to_fp8_says_what_cannot_come_back(stored: Path, swin: Command) -> None:
    assert read_onnx(stored).precision == "fp8"
    swin("build-trt", stored, "--fp16").assert_error("float16 with inputs of linear layers in flo")


@pytest.mark.parametrize(("factor", "status"), [(4.0, 0), (2.0**14, 1)], ids=["4", "2**14"])
def test_parity_of_scales_that_are_too_large_fails_once_digits_are_lost(
    factor: float, status: int, stored: Path, swin: Command
) -> None:
    """FP8 has 18 powers of two of range: two of them are spare, fourteen are not."""
    rescaled(stored, factor, places="mlp.2")
    outcome = swin("parity", *SMALL, "--onnx", stored, "--json")
    assert outcome.status == status
    hops = {hop["name"]: hop for hop in outcome.json["hops"]}
    for name in ("deploy model fp8, emulated", "ONNX fp8"):
        assert hops[name]["passed"] is (status == 0)
