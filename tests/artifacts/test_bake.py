"""ONNX files and engines that take pixels and normalise them inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import onnx
import pytest
import torch
from command_line import IMAGES, Command, call_main
from onnx import TensorProto, numpy_helper
from pad_faults import SUBJECTS, padded_model
from photographs import write_photographs

from exporters.artifact import read_manifest
from exporters.errors import ComparisonError, ConfigError
from exporters.half_precision import to_half
from exporters.spec import Runtime
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_pixels import taking_pixels
from swin_deploy.deploy.model import PixelPatchEmbed
from swin_deploy.images.decode import denormalise, load_pixels, normalise
from swin_deploy.images.labelled import find_images
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.sets import extreme_images, load_images, seeded_images, to_pixel_values
from swin_deploy.predict.predictor import Predictor
from swin_deploy.runners import OrtRunner

ODD: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "std": (0.31, 0.17, 0.29)}
STEPS = [
    Preprocessing(56, 64),
    Preprocessing(56, 56, resize_mode="squash", **ODD),
    Preprocessing(56, 64, mean=(0.0,) * 3, std=(1.0,) * 3, rescale=1.0),
    Preprocessing(56, 64, mean=(123.675, 116.28, 103.53), std=(58.4, 57.1, 57.4), rescale=1.0),
]
PIXELS = "notebook-digits-pixels-fp32-opset17.onnx"


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model as a file that takes pixels."""
    path = tmp_path_factory.mktemp("baked") / PIXELS
    command = ("export", "--model", "notebook-digits", "--bake-preprocessing", "--output", path)
    assert call_main(command) == 0
    return path


@pytest.mark.parametrize("steps", STEPS, ids=["imagenet", "odd", "raw", "of-255"])
def test_denormalise_gives_the_pixels_back(steps: Preprocessing) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), np.uint8)
    pixels[0, :, :, 0].flat[:2] = 0, 255
    assert np.array_equal(denormalise(normalise(pixels, steps), steps), pixels)


def test_denormalise_cuts_off_what_no_pixel_has() -> None:
    far = np.array([-9.0, 9.0], np.float32).reshape(1, 1, 2).repeat(3, axis=0)
    assert denormalise(far, STEPS[0])[0].tolist() == [[0] * 3, [255] * 3]


def test_to_pixel_values_moves_noise_and_leaves_pictures(tmp_path: Path) -> None:
    write_photographs(tmp_path)
    steps = Preprocessing(56, 64)
    pictures = load_images(tmp_path, steps)
    assert to_pixel_values(pictures, steps) is pictures
    config = families.CONFIGS["swin"]
    for images in (seeded_images(config, count=2), extreme_images(steps)):
        snapped = to_pixel_values(images, steps)
        assert not np.array_equal(snapped.images, images.images)
        again = to_pixel_values(snapped, steps)
        assert np.array_equal(again.images, snapped.images)
        assert np.abs(snapped.images).max() < 3  # white, after ImageNet's mean and deviation


@pytest.mark.parametrize("family", families.CONFIGS)
@pytest.mark.parametrize("steps", STEPS, ids=["imagenet", "odd", "raw", "of-255"])
def test_taking_pixels_equals_the_model_on_normalised_images(
    family: str, steps: Preprocessing
) -> None:
    loaded = families.loaded(family)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *loaded.config.image, 3), np.uint8)
    deploy = fold(loaded.reference)
    with torch.no_grad():
        wanted = deploy(torch.from_numpy(normalise(pixels, steps)))
        found = taking_pixels(deploy, steps)(torch.from_numpy(pixels))
        turned = taking_pixels(deploy, steps)(torch.from_numpy(pixels[..., ::-1].copy()))
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (turned - wanted).abs().max() > 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("runtime", ["tensorrt", "cpu"])
def test_taking_pixels_of_padded_maps_equals_the_model(name: str, runtime: Runtime) -> None:
    model, steps = padded_model(name), STEPS[1]
    pixels = np.random.default_rng(1).integers(0, 256, (2, *model.config.image, 3), np.uint8)
    deploy = fold(model.reference, runtime)
    with torch.no_grad():
        wanted = deploy(torch.from_numpy(normalise(pixels, steps)))
        found = taking_pixels(deploy, steps)(torch.from_numpy(pixels))
        turned = taking_pixels(deploy, steps)(torch.from_numpy(pixels[:, ::-1].copy()))
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (turned - wanted).abs().max() > 1e-3 * wanted.abs().max()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Preprocessing(56, 64, refusal="nobody knows"), "nobody knows"),
        (Preprocessing(56, 64, mean=(0.5,), std=(0.5,)), "has 1 values, pixels have 3"),
    ],
    ids=["refused", "grey"],
)
def test_taking_pixels_refuses_steps_that_are_not_known(steps: Preprocessing, message: str) -> None:
    deploy = fold(families.loaded("notebook").reference)
    with pytest.raises(ConfigError, match=message):
        taking_pixels(deploy, steps)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_to_half_leaves_pixels_and_their_normalisation(precision: str, baked: Path) -> None:
    half = to_half(onnx.load(baked), io_precision="fp32", precision=precision)  # type: ignore[arg-type]
    onnx.checker.check_model(half, full_check=True)
    (taken,) = half.graph.input
    assert taken.type.tensor_type.elem_type == TensorProto.UINT8
    readers = [node for node in half.graph.node if "pixels" in node.input]
    assert [node.op_type for node in readers] == ["Cast"]
    assert readers[0].attribute[0].i == TensorProto.FLOAT
    inside = [node for node in half.graph.node if node.name.startswith("embed.0.normalize/")]
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    weights = {kinds[name] for node in inside for name in node.input if name in kinds}
    assert weights == {TensorProto.FLOAT}


@pytest.mark.parametrize("steps", STEPS, ids=["imagenet", "odd", "raw", "of-255"])
def test_pixels_are_normalised_to_the_bit_as_outside(steps: Preprocessing) -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    deploy = taking_pixels(fold(families.loaded("notebook").reference), steps)
    embed = deploy.embed[0]
    assert isinstance(embed, PixelPatchEmbed)
    found = embed.normalize(torch.from_numpy(levels)).permute(0, 3, 1, 2)
    assert np.array_equal(found.numpy(), normalise(levels, steps))


def test_plain_onnxruntime_gives_the_references_logits(baked: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(baked, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == (
        "pixels",
        "tensor(uint8)",
        ["batch", 56, 56, 3],
    )
    names = find_images(IMAGES)[::40]
    with Predictor("notebook-digits") as predict:
        wanted = np.stack([one.outputs["logits"] for one in predict([IMAGES / n for n in names])])
        steps = predict.facts.preprocessing
    pixels = np.stack([load_pixels(IMAGES / name, steps) for name in names])
    (found,) = session.run(None, {"pixels": pixels})
    assert np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("outputs", ["logits", "features", "stages", "tokens"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_files_that_take_pixels_pass_parity(outputs: str, precision: str, swin: Command) -> None:
    model = ("--model", "notebook-digits", "--outputs", outputs)
    export = ("export", *model, "--bake-preprocessing", "--precision", precision)
    outcome = swin(*export, "--output", "p.onnx").assert_done()
    assert "takes RGB pixels [batch, 56, 56, 3], uint8" in outcome.err
    manifest = read_manifest(Path("p.onnx"))
    assert (manifest["input"], manifest["input_type"]) == ("pixels", "uint8")
    small = ("--limit", "4", "--batches", "1,2", "--json")
    report = swin("parity", *model, "--onnx", "p.onnx", *small).assert_done().json
    judged = {hop["stage"]: hop for hop in report["hops"]}
    assert judged["onnx"]["passed"]
    assert "takes pixels" in judged["onnx"]["backend"]
    assert "as pixels" in report["inputs"]["seeded"]


def test_parity_fails_where_the_file_normalises_otherwise(swin: Command, baked: Path) -> None:
    graph = onnx.load(baked)
    names = ("normalize.std", "normalize.mean")  # equal tensors are stored once
    std = next(one for one in graph.graph.initializer if one.name.endswith(names))
    values = numpy_helper.to_array(std)
    std.CopyFrom(numpy_helper.from_array(values * np.float32(1.01), std.name))
    onnx.save(graph, "wrong.onnx")
    command = ("parity", "--model", "notebook-digits", "--limit", "4", "--batches", "1")
    assert swin(*command, "--onnx", "wrong.onnx").status == 1
    assert swin(*command, "--onnx", baked).status == 0


def test_every_command_takes_a_file_that_takes_pixels(swin: Command, baked: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    swin("build-trt", baked, "--fp16", "--output", "p.engine").assert_done()
    assert read_manifest(Path("p.engine"))["input_type"] == "uint8"
    model = ("--model", "notebook-digits")
    onnx_files = ("--onnx", baked)
    plan = swin("plan", "p.engine", "--json").assert_done().json
    assert plan["fused_attention"] == plan["attention_blocks"] == 4
    evaluation = swin("evaluate", *model, *onnx_files, "--limit", "20", "--json").assert_done().json
    assert [one["top1"]["right"] for one in evaluation["candidates"]] == [
        evaluation["reference"]["top1"]["right"]
    ] * 2
    swin("bench", *model, *onnx_files, "--batches", "1", "--seconds", "1").assert_done()
    both = [
        json.loads(swin("predict", one, IMAGES / "3", "--json").assert_done().out.splitlines()[0])
        for one in (baked, "notebook-digits")
    ]
    for found, wanted in zip(both[0]["top"], both[1]["top"], strict=True):
        assert found["class"] == wanted["class"]
        assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-5)


def test_runner_of_pixels_says_what_it_lacks(baked: Path) -> None:
    images = np.zeros((1, 3, 56, 56), np.float32)
    with (
        OrtRunner(baked, "fp32") as runner,
        pytest.raises(ComparisonError, match="nothing says how these images were normalised"),
    ):
        runner.run(images)
    with OrtRunner(baked, "fp32") as runner:
        (logits,) = runner.run(np.zeros((2, 56, 56, 3), np.uint8))
        assert logits.shape == (2, 10)
        with pytest.raises(ComparisonError, match=r"of shape \['batch', 56, 56, 3\]"):
            runner.run(np.zeros((2, 3, 56, 56), np.uint8))


def test_export_with_a_fixed_batch_takes_pixels(swin: Command) -> None:
    command = ("export", "--model", "notebook-digits", "--bake-preprocessing", "--batch", "2")
    swin(*command, "--precision", "fp16", "--io-precision", "fp16").assert_done()
    path = Path("engines/notebook-digits-pixels-fp16-opset17.onnx")
    taken, given = onnx.load(path).graph.input[0], onnx.load(path).graph.output[0]
    assert [one.dim_value for one in taken.type.tensor_type.shape.dim] == [2, 56, 56, 3]
    assert given.type.tensor_type.elem_type == TensorProto.FLOAT16
