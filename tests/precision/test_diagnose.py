"""Ranges, noise and advice on models that were built to overflow."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import Command
from conftest import TINY, build_reference, rms_error, seeded_images
from overflowing import attention, attention_and_offset, mlp, write_checkpoint

from exporters.errors import ConfigError
from exporters.precisions import PRECISIONS
from exporters.progress import silent
from exporters.spec import Precision
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import BUNDLED_IMAGES
from swin_deploy.deploy.fold import fold
from swin_deploy.images.sets import ImageSet, load_images
from swin_deploy.parity import Tolerance
from swin_deploy.precision import diagnose as diagnosing
from swin_deploy.precision.diagnose import Diagnosis, diagnose
from swin_deploy.precision.ranges import keepable_paths, measure_ranges, parts_of
from swin_deploy.runners.emulated import Emulated, EmulatedRunner, watch_operations

MODEL = "notebook-digits"


def change_nothing(_: object) -> None:
    """The trained model."""


CHANGES = {one.__name__: one for one in (change_nothing, mlp, attention, attention_and_offset)}


@functools.cache
def digits() -> LoadedModel:
    return load_model(MODEL)


@functools.cache
def calibration() -> ImageSet:
    return load_images(BUNDLED_IMAGES[MODEL], digits().preprocessing, limit=8)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Diagnosis]:
    """The diagnosis of each model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    quiet: dict[str, Any] = {"noise_precision": "fp16", "progress": silent}
    return {
        name: diagnose(load_model(MODEL, write_checkpoint(folder, change)), calibration(), **quiet)
        for name, change in CHANGES.items()
    }


@pytest.mark.parametrize(
    ("model", "precision", "keep", "at_risk", "advice"),
    [
        ("change_nothing", "fp16", (), (), "fp16 is safe"),
        ("mlp", "fp16", ("layers.3.mlp",), ("layers.3.mlp",), "keep layers.3.mlp in float32"),
        ("attention", "bf16", (), ("layers.3.attention",), "use bf16: in float16, layers.3.att"),
        ("attention_and_offset", "fp32", (), ("layers.3.attention",), "use fp32: neither"),
    ],
)
def test_advice_names_the_part_and_the_precision(
    model: str,
    precision: str,
    keep: tuple[str, ...],
    at_risk: tuple[str, ...],
    advice: str,
    found: dict[str, Diagnosis],
) -> None:
    diagnosis = found[model]
    assert (diagnosis.precision, diagnosis.keep, diagnosis.at_risk) == (precision, keep, at_risk)
    assert diagnosis.advice.startswith(advice)
    assert [trial.result.passed for trial in diagnosis.trials].count(True) == (precision != "fp32")


def test_noise_is_infinite_only_where_a_part_overflows(found: dict[str, Diagnosis]) -> None:
    for diagnosis in found.values():
        for part in diagnosis.parts:
            assert part.noise is not None
            assert math.isinf(part.noise) == (part.max_abs > PRECISIONS["fp16"].largest)
    share = found["change_nothing"].fair_share
    assert all(0 < (part.noise or 0) < share for part in found["change_nothing"].parts)
    assert "layers.3.residual" in found["attention_and_offset"].noisy


def test_layers_to_keep_follow_from_the_noise_in_float16_whatever_noise_is_shown(
    found: dict[str, Diagnosis], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = found["change_nothing"].parts
    middle = sorted(part.noise or 0.0 for part in parts)[len(parts) // 2]
    narrow = Tolerance(middle * math.sqrt(len(parts)), 0.0, None, "half of the parts are beyond it")
    monkeypatch.setattr(diagnosing, "_tolerance", lambda *_: narrow)
    shown = [
        diagnose(digits(), calibration(), noise_precision=one, progress=silent)
        for one in ("fp16", "bf16")
    ]
    kept = [one.float32_layers.keep for one in shown]
    assert kept[0] == kept[1]
    assert 0 < len(kept[0]) < len([part for part in parts if part.keepable])
    assert len(shown[1].noisy) > len(shown[0].noisy)


def test_the_changed_models_compute_what_the_trained_one_does(tmp_path: Path) -> None:
    images = torch.from_numpy(calibration().images)
    with torch.inference_mode():
        trained = digits().reference(images)
        for change, most in ((attention, 1e-5), (attention_and_offset, 1e-4), (mlp, 0.1)):
            changed = load_model(MODEL, write_checkpoint(tmp_path, change)).reference(images)
            assert rms_error(changed, trained) < most
            assert torch.equal(changed.argmax(1), trained.argmax(1))


def test_ranges_are_those_of_every_operation() -> None:
    model = fold(build_reference(TINY))
    images = seeded_images(TINY, batch=10)  # two calls
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(path: str, op: str, args: tuple[Any, ...], call: Callable[..., Any]) -> object:
        result = call(*args)
        seen.setdefault(f"{path}/{op}", []).append(result)
        return result

    with torch.inference_mode(), watch_operations(model, keep):
        model(images)
    parts = {part.name: part for part in measure_ranges(model, images.numpy())}
    found = {one.name: one for part in parts.values() for one in part.activations}
    assert set(parts) == set(parts_of(model))
    for name in ("layers.1.mlp.1/gelu", "layers.0.attention.qkv/linear", "layers.3/add"):
        values = seen[name][0]
        assert found[name].max_abs == pytest.approx(float(values.abs().max()), rel=1e-5)
        assert found[name].rms == pytest.approx(float(values.square().mean().sqrt()), rel=1e-4)
    # Scores, softmax, both sums of a block, and both of its products; masked scores are no scores.
    assert {"layers.0.attention/einsum", "layers.0.attention/einsum_2"} <= set(found)
    assert {"layers.0.attention/softmax", "layers.0/add", "layers.0/add_2"} <= set(found)
    assert all(part.max_abs < 1e4 for part in parts.values())
    largest = max(float(v.abs().max()) for n, many in seen.items() if "bias" in n for v in many)
    assert largest > 1e4  # the mask that was left aside


def test_tiny_share_counts_what_float16_holds_badly() -> None:
    model = fold(build_reference(TINY))
    embed: Any = model.embed[0]
    with torch.no_grad():
        embed.linear.weight.mul_(1e-6)
        embed.linear.bias.zero_()
    parts = measure_ranges(model, seeded_images(TINY).numpy())
    assert parts[0].activations[0].name == "embed.0.linear/linear"
    assert parts[0].activations[0].tiny_share > 0.99


@pytest.mark.parametrize(("precision", "worst"), [("fp16", 2e-2), ("bf16", 2e-1)])
def test_emulated_half_is_as_far_off_as_the_half_module(precision: Precision, worst: float) -> None:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    model = fold(digits().reference)
    images = torch.from_numpy(calibration().images)
    with torch.inference_mode():
        single = model(images)
        emulated = rms_error(Emulated(model, precision)(images), single)
        assert torch.equal(Emulated(model, precision, half=())(images), single)
        real = rms_error(model.to(dtype)(images.to(dtype)).float(), single)
    assert 0.3 * real < emulated < 3 * real < worst


def test_emulated_runner_keeps_what_it_is_told_to() -> None:
    model = fold(digits().reference)
    everything = tuple(path for paths in parts_of(model).values() for path in paths)
    images = calibration().images
    with EmulatedRunner("kept", model, "bf16", keep=(*everything, "")) as runner:
        (kept,) = runner.run(images)
        assert (runner.precision, "bfloat16 emulated" in runner.backend) == ("bf16", True)
    with torch.inference_mode():
        assert np.array_equal(kept, model(torch.from_numpy(images)).numpy())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers.0.attention", "attention is fused in half precision only"),
        ("layers.0.attention.qkv", "attention is fused in half precision only"),
        ("layers.9.mlp", "is no part of this model; it has embed, layers.0"),
        ("layers.0", "is no part of this model"),
    ],
)
def test_parts_that_cannot_stay_float32_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        keepable_paths(digits(), (name,), precision="fp16")


def test_precision_command(swin: Command, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, mlp)
    asked = ("--model", MODEL, "--checkpoint", path, "--images", BUNDLED_IMAGES[MODEL])
    outcome = swin("precision", *asked, "--limit", "8", "--all").assert_done()
    assert outcome.out.startswith("Advice: keep layers.3.mlp in float32, the rest in fp16")
    for text in ("overflow", "layers.3.mlp.1/gelu", "8 of 360 image files", "emulated"):
        assert text in outcome.out
    export = f"swin-deploy export --model {MODEL} --checkpoint {path}"
    assert f"{export} --precision fp16 --keep-float32 layers.3.mlp" in outcome.err
    values = swin("precision", *asked, "--limit", "8", "--noise", "bf16", "--json").json
    assert (values["precision"], values["keep_float32"]) == ("fp16", ["layers.3.mlp"])
    assert values["at_risk"] == ["layers.3.mlp"]
    by_name = {part["name"]: part for part in values["parts"]}
    assert by_name["layers.3.mlp"]["headroom"] < 1 < by_name["layers.3.attention"]["headroom"]
    assert by_name["layers.3.mlp"]["noise"] < 0.1  # bfloat16 has the range
    assert len(by_name["layers.3.attention"]["activations"]) >= 6


def test_precision_command_without_images_says_what_it_calibrates_on(swin: Command) -> None:
    outcome = swin("precision", "--model", MODEL, "--limit", "4").assert_done()
    assert "no --images: calibrating on 4 of 360 image files" in outcome.err
    assert outcome.out.startswith("Advice: fp16 is safe")


def test_export_keeps_a_part_in_float32(swin: Command, tmp_path: Path) -> None:
    swin(
        "export", "--model", MODEL, "--precision", "bf16", "--keep-float32", "layers.3.mlp",
        "--output", "m.onnx",
    ).assert_done()  # fmt: skip
    graph = onnx.load(tmp_path / "m.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    weights = {
        node.name: kinds[node.input[1]] for node in graph.graph.node if node.op_type == "MatMul"
        if node.input[1] in kinds
    }  # fmt: skip
    kept = {name for name, kind in weights.items() if kind == onnx.TensorProto.FLOAT}
    assert kept == {"layers.3.mlp.0/MatMul", "layers.3.mlp.2/MatMul"}
    assert weights["layers.4.mlp.0/MatMul"] == onnx.TensorProto.BFLOAT16
    usage = swin("export", "--model", MODEL, "--keep-float32", "layers.3.mlp")
    assert (usage.status, "needs --precision fp16 or bf16" in usage.err) == (2, True)
