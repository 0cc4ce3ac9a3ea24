"""Files for CPU runtimes: what export writes, and what the other commands make of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command, listing
from exported import run_onnx
from onnx import numpy_helper

import swin_deploy
from exporters.artifact import read_manifest
from exporters.errors import ConfigError, ExportError

STEM = "notebook-digits-fp32-opset17-cpu"
REFUSED = "is laid out for CPUs, not for TensorRT; export the model again without --for cpu"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("for-cpu") / f"{STEM}.onnx"
    swin_deploy.load("notebook-digits").export(path, runtime="cpu")
    return path


def test_export_for_cpu_says_so_and_keeps_its_own_name(swin: Command, tmp_path: Path) -> None:
    outcome = swin("export", "--model", "notebook-digits", "--for", "cpu", "--json").assert_done()
    assert outcome.json["for"] == "cpu"
    assert list(listing(tmp_path)) == [f"engines/{STEM}.onnx", f"engines/{STEM}.onnx.json"]
    operators = {node.op_type for node in onnx.load(f"engines/{STEM}.onnx").graph.node}
    assert "Einsum" not in operators
    swin("build-trt").assert_error("no exported ONNX file in engines")


def test_export_by_default_is_for_tensorrt(full: Path) -> None:
    assert read_manifest(full)["for"] == "tensorrt"


def test_files_for_both_runtimes_give_the_same(made: Path, full: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 56, 56)).astype(np.float32)
    (ours,), (theirs,) = (run_onnx(onnx.load(path), images) for path in (made, full))
    assert np.abs(ours - theirs).max() < 1e-5 * np.sqrt(np.mean(theirs**2))


def test_parity_proves_a_file_for_cpu(swin: Command, made: Path) -> None:
    outcome = swin("parity", "--model", "notebook-digits", "--onnx", made).assert_done()
    assert "Parity: ONNX verified" in outcome.out


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("layers.1/Add", "layers.1 (stage 1, block 2), attention"),
        ("layers.1/Gather", "layers.1 (stage 1, block 2), token order"),
    ],
)
def test_parity_says_where_a_file_for_cpu_goes_wrong(
    swin: Command, made: Path, tmp_path: Path, path: str, where: str
) -> None:
    graph = onnx.load(made)
    module, kind = path.split("/")
    node = next(
        one for one in graph.graph.node if one.name.startswith(module) and one.op_type == kind
    )
    wrong = next(one for one in graph.graph.initializer if one.name in node.input)
    values = numpy_helper.to_array(wrong)
    changed = values[::-1].copy() if kind == "Gather" else values + np.arange(values.shape[-1])
    wrong.CopyFrom(numpy_helper.from_array(changed.astype(values.dtype), wrong.name))
    onnx.save(graph, tmp_path / "wrong.onnx")
    outcome = swin("parity", "--model", "notebook-digits", "--onnx", "wrong.onnx", "--json")
    assert outcome.status == 1
    assert where in outcome.err + outcome.out or where in json.dumps(outcome.json)


@pytest.mark.parametrize("command", [("build-trt", "--fp16"), ("build-trt",), ("plan",)])
def test_tensorrt_commands_refuse_a_file_for_cpu(
    swin: Command, made: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the commands load TensorRT first")
    name, *rest = command
    swin(name, made, *rest).assert_error(REFUSED)
    assert not list(tmp_path.rglob("*.engine"))


def test_build_in_python_refuses_a_file_for_cpu(made: Path) -> None:
    with pytest.raises(ExportError, match="laid out for CPUs"):
        swin_deploy.build(made)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_export_for_cpu_in_half_precision_is_refused(
    swin: Command, tmp_path: Path, precision: str
) -> None:
    outcome = swin("export", "--for", "cpu", "--precision", precision)
    assert outcome.status == 2
    assert f"no --precision {precision} with --for cpu: files for CPUs are float32" in outcome.err
    assert not listing(tmp_path)


def test_export_in_python_refuses_half_precision_and_unknown_runtimes(tmp_path: Path) -> None:
    model = swin_deploy.load("notebook-digits")
    with pytest.raises(ConfigError, match="no precision fp16 for CPUs"):
        model.export(tmp_path / "x.onnx", runtime="cpu", precision="fp16")
    with pytest.raises(ConfigError, match="runtime 'gpu' is not known; use one of tensorrt, cpu"):
        model.export(tmp_path / "x.onnx", runtime="gpu")  # type: ignore[arg-type]


def test_pixels_a_fixed_batch_and_the_last_opset_for_cpu(swin: Command, made: Path) -> None:
    swin(
        "export", "--model", "notebook-digits", "--for", "cpu", "--bake-preprocessing",
        "--batch", "2", "--opset", "23", "--output", "pixels.onnx",
    ).assert_done()  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), dtype=np.uint8)
    images = ((pixels / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32)
    (ours,), (theirs,) = (
        run_onnx(onnx.load("pixels.onnx"), pixels),
        run_onnx(onnx.load(made), images),
    )
    assert np.abs(ours - theirs).max() < 1e-4 * np.sqrt(np.mean(theirs**2))


def test_several_sizes_for_cpu_share_weights_and_build_no_engine(swin: Command) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the command loads TensorRT first")
    swin(
        "export", "--model", "notebook-digits", "--for", "cpu",
        "--image-size", "112", "--image-size", "56",
    ).assert_done()  # fmt: skip
    manifest = Path("engines") / f"{STEM}-sizes.json"
    assert read_manifest(Path("engines") / f"{STEM}-112.onnx")["for"] == "cpu"
    swin("build-trt", manifest, "--fp16").assert_error(REFUSED)
    parity = swin("parity", "--model", "notebook-digits", "--onnx", manifest)
    assert parity.out.count("ONNX verified") == 2  # the digits are no test of accuracy at 112 px
