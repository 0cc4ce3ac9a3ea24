"""ONNX files in OpenVINO: what the runner takes and gives, what it refuses, and its arithmetic."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import build_reference
from exported import make_graph, write_doubler
from families import trained_like
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from exporters.backends import load_openvino, openvino_cpu, openvino_version
from exporters.errors import ComparisonError, ExportError, FileError, MissingBackendError
from exporters.spec import ExportSpec, Precision, Runtime
from exporters.to_onnx import export_onnx
from swin_deploy.config import Family, SwinConfig, notebook_config
from swin_deploy.deploy.cpu_model import CpuSplitHeads
from swin_deploy.deploy.fold import fold
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.parity import TOLERANCES, Case, compare
from swin_deploy.runners import OpenvinoRunner, OpenvinoWay, TorchRunner, openvino
from swin_deploy.runners.base import run_images

try:
    RUNTIME = load_openvino()
except MissingBackendError as err:
    pytest.skip(str(err), allow_module_level=True)
ABILITIES = openvino_cpu(RUNTIME.Core()).abilities
needs_bf16 = pytest.mark.skipif("BF16" not in ABILITIES, reason="this CPU has no bfloat16")
CONFIG = notebook_config(img_size=56, embed_dim=32, depths=(2, 2))
IMAGES = np.random.default_rng(0).standard_normal((3, 3, 56, 56), dtype=np.float32)
SMALL = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)


def passes(actual: np.ndarray, reference: np.ndarray, precision: Precision) -> bool:
    return compare(actual, reference, TOLERANCES["onnx", precision], Case("", 1)).passed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A small export with trained-like weights, and the reference's output for ``IMAGES``."""
    reference = build_reference(CONFIG)
    path = tmp_path_factory.mktemp("openvino") / "m.onnx"
    onnx.save(export_onnx(fold(reference), ExportSpec((3, 56, 56), ("tokens",)), metadata={}), path)
    with TorchRunner("reference", reference) as runner:
        return path, runner.run(IMAGES)[0]


def test_float32_is_the_reference_and_the_backend_names_all(
    model: tuple[Path, np.ndarray],
) -> None:
    path, expected = model
    with OpenvinoRunner(path, "fp32") as runner:
        assert (runner.name, runner.precision) == ("OpenVINO fp32", "fp32")
        assert (runner.min_batch, runner.max_batch) == (1, None)
        version = openvino_version(RUNTIME)
        assert runner.backend.startswith(f"OpenVINO {version}, ")
        assert runner.backend.endswith("computes in float32")
        assert all(one in runner.backend for one in ABILITIES)
        (actual,) = runner.run(IMAGES)
    assert passes(actual, expected, "fp32")


@needs_bf16
def test_bfloat16_is_within_its_tolerance_and_is_not_float32(
    model: tuple[Path, np.ndarray],
) -> None:
    path, expected = model
    with OpenvinoRunner(path, "fp32", way="openvino-bf16") as runner:
        assert (runner.name, runner.precision) == ("OpenVINO bf16", "bf16")
        assert runner.backend.endswith("computes in bfloat16")
        (actual,) = runner.run(IMAGES)
    assert passes(actual, expected, "bf16")
    assert not passes(actual, expected, "fp32")


# As many heads as tokens in a window: OpenVINO 2026.4.1 loses the transposition of the two.
EQUAL = SwinConfig(
    family="swin", img_size=16, window_size=2, embed_dim=16, depths=(2,), num_heads=(4,),
    num_classes=5,
)  # fmt: skip


def write_equal(path: Path, config: SwinConfig, runtime: Runtime = "cpu") -> np.ndarray:
    """Write such a model, and return the reference's output for three images."""
    reference = trained_like(config)
    spec = ExportSpec((3, *config.image), config.output_names)
    onnx.save(export_onnx(fold(reference, runtime), spec, metadata={}), path)
    with TorchRunner("reference", reference) as runner:
        return runner.run(IMAGES[..., : config.image.rows, : config.image.columns])[0]


def run_equal(path: Path) -> np.ndarray:
    side = EQUAL.image.rows
    with OpenvinoRunner(path, "fp32") as runner:
        return runner.run(IMAGES[..., :side, :side])[0]


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@pytest.mark.parametrize("runtime", ["tensorrt", "cpu"])
def test_as_many_heads_as_tokens_is_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family, runtime: Runtime
) -> None:
    """Twice: the file is right by itself, and the runner does not make it wrong."""
    expected = write_equal(tmp_path / "m.onnx", dataclasses.replace(EQUAL, family=family), runtime)
    assert passes(run_equal(tmp_path / "m.onnx"), expected, "fp32")
    monkeypatch.setattr(openvino, "_keep_transpositions", lambda *_: None)
    assert passes(run_equal(tmp_path / "m.onnx"), expected, "fp32")


def test_transposition_that_openvino_loses_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that transposes q, k and v with an axis for windows, and their mixture without."""

    def by_window(self: CpuSplitHeads, *qkv: Tensor) -> tuple[Tensor, ...]:
        split, one = (-1, self.windows[0], *self.qkv_shape[1:]), self.qkv_shape  # n is h here
        # three of [B, N, C] -> [B, nW, n, h, d] -> [B, nW, h, n, d] -> [B * nW, h, n, d]
        return tuple(part.reshape(split).transpose(2, 3).reshape(one) for part in qkv)

    monkeypatch.setattr(CpuSplitHeads, "forward", by_window)
    expected = write_equal(tmp_path / "m.onnx", EQUAL)
    assert passes(run_equal(tmp_path / "m.onnx"), expected, "fp32")
    monkeypatch.setattr(openvino, "_keep_transpositions", lambda *_: None)
    if openvino_version(RUNTIME).startswith("2026.4"):
        assert not passes(run_equal(tmp_path / "m.onnx"), expected, "fp32")


def stand_in(can: list[str], hint: str = "f32") -> types.SimpleNamespace:
    """An OpenVINO on a CPU with these abilities, that computes in ``hint`` whatever is asked."""

    class Core:
        def get_property(self, _: str, name: str) -> Any:  # noqa: ANN401
            return {"OPTIMIZATION_CAPABILITIES": can, "FULL_DEVICE_NAME": "Old CPU"}[name]

        def compile_model(self, *_: object) -> types.SimpleNamespace:
            taken = types.SimpleNamespace(get_type_name=lambda: hint)
            return types.SimpleNamespace(get_property=lambda _: taken)

    return types.SimpleNamespace(
        __version__="2025.2-1", Core=Core, frontend=RUNTIME.frontend, Tensor=RUNTIME.Tensor
    )


def test_bfloat16_on_a_cpu_without_it_is_one_line(
    model: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "load_openvino", lambda: stand_in(["FP32", "INT8"]))
    runner = OpenvinoRunner(model[0], "fp32", way="openvino-bf16")
    with pytest.raises(MissingBackendError) as caught, runner:
        pass
    assert str(caught.value) == (
        "OpenVINO 2025.2, Old CPU has no bfloat16 instructions, it has FP32, INT8; use --runner "
        "openvino, which computes in float32"
    )
    with OpenvinoRunner(model[0], "fp32") as runner:
        assert "Old CPU" in runner.backend


def test_other_arithmetic_than_asked_for_is_an_error(
    model: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "load_openvino", lambda: stand_in(["FP32", "BF16"], "bf16"))
    with (
        OpenvinoRunner(model[0], "fp32") as runner,
        pytest.raises(MissingBackendError, match=r"asked to compute in f32 and would .* bf16"),
    ):
        runner.run(IMAGES)


@pytest.mark.parametrize(
    ("of_file", "way", "expected"),
    [
        ("fp32", "openvino", "fp32"),
        ("fp16", "openvino", "fp16"),
        ("fp32", "openvino-bf16", "bf16"),
        ("fp16", "openvino-bf16", "bf16"),
        ("bf16", "openvino", "bf16"),
    ],
)
def test_precision_is_the_coarser_of_file_and_arithmetic(
    of_file: Any,  # noqa: ANN401 - a precision
    way: OpenvinoWay,
    expected: str,
) -> None:
    assert openvino.openvino_precision(of_file, way) == expected


@pytest.mark.parametrize("of_file", ["fp32", "fp16", "bf16", "int8"])
def test_each_arithmetic_of_a_file_has_its_own_name(
    of_file: Any,  # noqa: ANN401 - a precision
) -> None:
    names = {OpenvinoRunner(Path("m"), of_file, way=way).name for way in openvino.OPENVINO_WAYS}
    assert len(names) == 2
    assert f"OpenVINO {of_file}" in names


def test_fp8_is_not_run_in_bfloat16(tmp_path: Path) -> None:
    """Its limits are those of float16 beside FP8, which bfloat16 exceeds in the first layer."""
    path = write_doubler(tmp_path / "m.onnx")
    runner = OpenvinoRunner(path, "fp8", way="openvino-bf16")
    with pytest.raises(MissingBackendError, match="bfloat16 loses more"), runner:
        pass
    with OpenvinoRunner(path, "fp8") as runner:
        np.testing.assert_array_equal(runner.run(SMALL)[0], 2 * SMALL)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16], ids=["fp32", "fp16"])
def test_takes_and_gives_float32(tmp_path: Path, dtype: int) -> None:
    with OpenvinoRunner(write_doubler(tmp_path / "m.onnx", dtype=dtype), "fp32") as runner:
        (actual,) = runner.run(SMALL)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, 2 * SMALL)


def test_pixels_are_taken_as_they_are_or_from_normalised_images(tmp_path: Path) -> None:
    shape: list[str | int | None] = ["batch", 2, 2, 3]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.FLOAT)],
        "pixels",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    steps = Preprocessing(2, 2, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = np.moveaxis(pixels / np.float32(127.5) - 1, -1, 1).astype(np.float32)
    with OpenvinoRunner(path, "fp32", steps=steps) as runner:
        assert runner.backend.endswith("takes pixels")
        np.testing.assert_array_equal(runner.run(pixels)[0], pixels)
        np.testing.assert_array_equal(runner.run(images)[0], pixels)


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.BFLOAT16], ids=["f64", "bf16"])
def test_input_of_another_type_is_an_error(tmp_path: Path, dtype: int) -> None:
    path = write_doubler(tmp_path / "m.onnx", dtype=dtype)
    with pytest.raises(ExportError, match="float32 or float16"), OpenvinoRunner(path, "fp32"):
        pass


def test_outputs_stay_when_the_next_call_runs(tmp_path: Path) -> None:
    with OpenvinoRunner(write_doubler(tmp_path / "m.onnx"), "fp32") as runner:
        (first,) = runner.run(SMALL)
        runner.run(-SMALL)
        np.testing.assert_array_equal(first, 2 * SMALL)


def test_arrays_of_any_layout_are_read_row_by_row(tmp_path: Path) -> None:
    turned = np.moveaxis(np.ascontiguousarray(np.moveaxis(SMALL, 1, -1)), -1, 1)
    backwards = SMALL[::-1, :, ::-1].astype(">f4")
    with OpenvinoRunner(write_doubler(tmp_path / "m.onnx"), "fp32") as runner:
        for images in (turned, backwards, SMALL.astype(np.float64)):
            np.testing.assert_array_equal(runner.run(images)[0], 2 * images)


def test_free_batch_takes_one_batch_after_another(tmp_path: Path) -> None:
    images = np.concatenate([SMALL] * 4)
    with OpenvinoRunner(write_doubler(tmp_path / "m.onnx"), "fp32") as runner:
        for count in (1, 8, 3, 1):
            np.testing.assert_array_equal(runner.run(images[:count])[0], 2 * images[:count])


def test_fixed_batch_is_its_range(tmp_path: Path) -> None:
    with OpenvinoRunner(write_doubler(tmp_path / "m.onnx", batch=2), "fp32") as runner:
        assert (runner.min_batch, runner.max_batch) == (2, 2)
        np.testing.assert_array_equal(runner.run(SMALL)[0], 2 * SMALL)
        np.testing.assert_array_equal(run_images(runner, SMALL[:1])[0], 2 * SMALL[:1])
        with pytest.raises(ComparisonError, match=r"\[2, 3, 2, 2\], not \[1, 3, 2, 2\]"):
            runner.run(SMALL[:1])


def test_fixed_batch_beyond_memory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swin_deploy.runners.base.available_bytes", lambda: 1)
    path = write_doubler(tmp_path / "m.onnx", batch=2)
    with pytest.raises(ExportError, match="smaller batch"), OpenvinoRunner(path, "fp32"):
        pass


@pytest.mark.parametrize(
    "images", [IMAGES, SMALL[0], SMALL[:, :1], SMALL[:0]], ids=["size", "rank", "gray", "none"]
)
def test_other_images_are_an_error(tmp_path: Path, images: np.ndarray) -> None:
    with (
        OpenvinoRunner(write_doubler(tmp_path / "m.onnx"), "fp32") as runner,
        pytest.raises(ComparisonError, match="takes images of shape"),
    ):
        runner.run(images)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\x00\x3a"])
def test_corrupt_file_is_one_line(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises((ExportError, MissingBackendError)) as caught, OpenvinoRunner(path, "fp32"):
        pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "src/" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match="does not exist"),
        OpenvinoRunner(tmp_path / "m.onnx", "fp32"),
    ):
        pass


def test_operator_that_it_lacks_is_named(tmp_path: Path) -> None:
    graph = make_graph(
        helper.make_node("Twist", ["images"], ["y"], domain="of.mine"), domains=["of.mine"]
    )
    onnx.save(graph, tmp_path / "m.onnx")
    with (
        pytest.raises(MissingBackendError, match=r"cannot load .*of\.mine\.Twist"),
        OpenvinoRunner(tmp_path / "m.onnx", "fp32"),
    ):
        pass


def test_batch_that_the_graph_does_not_take_is_one_line(tmp_path: Path) -> None:
    shape = np.array([2, 3, 8, 8], np.int64)
    graph = make_graph(
        helper.make_node("Reshape", ["images", "shape"], ["y"]), weights={"shape": shape}
    )
    onnx.save(graph, tmp_path / "m.onnx")
    images = np.ones((3, 3, 8, 8), np.float32)
    with OpenvinoRunner(tmp_path / "m.onnx", "fp32") as runner:
        with pytest.raises(MissingBackendError, match="OpenVINO cannot") as caught:
            runner.run(images)
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(runner.run(images[:2])[0], images[:2])


def test_every_output_is_given_and_none_is_an_error(tmp_path: Path) -> None:
    with OpenvinoRunner(write_doubler(tmp_path / "m.onnx", outputs=2), "fp32") as runner:
        assert len(runner.run(SMALL)) == 2
    path = write_doubler(tmp_path / "none.onnx", outputs=0)
    with pytest.raises(ExportError, match="0 outputs"), OpenvinoRunner(path, "fp32"):
        pass


def test_weights_beside_the_file_are_found_and_missing_ones_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)
    graph = make_graph(helper.make_node("Add", ["images", "w"], ["y"]), weights={"w": weight})
    (tmp_path / "at").mkdir()
    path = tmp_path / "at" / "m.onnx"
    onnx.save(graph, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    images = np.ones((1, 3, 8, 8), np.float32)
    for named in (path, Path("at/m.onnx")):
        with OpenvinoRunner(named, "fp32") as runner:
            np.testing.assert_array_equal(runner.run(images)[0], images + weight)
    (tmp_path / "at" / "w.bin").unlink()
    with pytest.raises(MissingBackendError) as caught, OpenvinoRunner(path, "fp32") as runner:
        runner.run(images)
    assert "\n" not in str(caught.value)


def test_quantised_file_runs_as_it_is(tmp_path: Path) -> None:
    """Rounding to eighths and clamping to 127 of them, as the graph says."""
    graph = make_graph(
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        weights={"s": np.float32(0.125), "z": np.int8(0)},  # type: ignore[dict-item] # 0 axes
    )
    onnx.save(graph, tmp_path / "m.onnx")
    images = np.linspace(-30, 30, 3 * 64, dtype=np.float32).reshape(1, 3, 8, 8)
    expected = np.clip(np.round(images * 8), -128, 127) / 8
    with OpenvinoRunner(tmp_path / "m.onnx", "fp32") as runner:
        np.testing.assert_allclose(runner.run(images)[0], expected, atol=1e-6)


def test_lets_go_of_its_model(tmp_path: Path) -> None:
    runner = OpenvinoRunner(write_doubler(tmp_path / "m.onnx"), "fp32")
    with runner:
        runner.run(SMALL)
    assert not [one for one in vars(runner).values() if "openvino._" in type(one).__module__]


def test_nothing_is_written_and_no_telemetry_is_loaded(tmp_path: Path) -> None:
    """In a process of its own: importing OpenVINO by itself does both."""
    path = write_doubler(tmp_path / "m.onnx")
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from swin_deploy.runners import OpenvinoRunner\n"
        "with OpenvinoRunner(Path(sys.argv[1]), 'fp32') as runner:\n"
        "    runner.run(np.ones((1, 3, 2, 2), np.float32))\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=os.environ | {"HOME": str(home)}, cwd=home, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
    assert list(home.iterdir()) == []


def test_float16_weights_are_computed_with_in_float32(tmp_path: Path) -> None:
    """Two to the power of minus 20 would be lost next to 1 in float16."""
    weight = np.full((1, 1, 1), 0.1, np.float16)
    graph = make_graph(
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["images", "wide"], ["y"]),
    )
    graph.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(graph, tmp_path / "m.onnx")
    images = np.full((1, 3, 8, 8), 1 + 2**-20, np.float32)
    with OpenvinoRunner(tmp_path / "m.onnx", "fp16") as runner:
        assert runner.name == "OpenVINO fp16"
        np.testing.assert_array_equal(runner.run(images)[0], images * np.float32(weight))
