import dataclasses
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from exporters.errors import ConfigError, ExportError
from swin_deploy.config import VARIANTS, Family, SwinConfig
from swin_deploy.config import memory as memory_limits
from swin_deploy.config.memory import available_bytes, needed_bytes, require_memory
from swin_deploy.reference import build_reference
from swin_deploy.runners import OrtRunner

DIGITS = VARIANTS["notebook-digits"]


def test_available_bytes_are_some_and_less_than_there_are() -> None:
    found = available_bytes()
    assert found is None or 0 < found < 1 << 50


def padded_config(family: Family) -> SwinConfig:
    """One window of 24 x 24 tokens on maps of 5 x 7 and 3 x 4: most places are pads."""
    return SwinConfig(
        family,
        img_size=(20, 28),
        window_size=24,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(1, 2),
        window_rule="torchvision",
        pads="pad-then-roll",
    )


CONFIGS = {
    name: VARIANTS[name]
    for name in ("notebook-digits", "notebook-swin-t", "swinv2_tiny_window8_256")
} | {f"padded-{family}": padded_config(family) for family in get_args(Family)[1:]}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("batch", [1, 4])
def test_needed_bytes_are_fewer_than_a_call_takes(name: str, batch: int) -> None:
    """A lower bound: what it refuses cannot run. Counted from the tensors that a call makes."""
    config = CONFIGS[name]
    model = build_reference(config).eval()
    buffers = sum(one.numel() * one.element_size() for one in model.buffers())
    largest = 0

    def watch(module: torch.nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        tensors = [one for one in (*inputs, output) if isinstance(one, torch.Tensor)]  # type: ignore[misc]
        largest = max(largest, sum(one.numel() * one.element_size() for one in tensors))

    for module in model.modules():
        module.register_forward_hook(watch)
    images = torch.zeros(batch, 3, *config.image)
    with torch.inference_mode():
        model(images)
    if name.startswith("padded"):  # scores are no output of a module
        stage = config.stages[0]
        scores = batch * stage.padded.area * stage.window_area * 4
        assert needed_bytes(config, batch) > scores
        largest = max(largest, scores)
    assert needed_bytes(config, batch) < buffers + 4 * largest
    assert needed_bytes(config, batch) > largest / 4  # and no empty promise


def test_needed_bytes_grow_with_batch_and_image() -> None:
    more = dataclasses.replace(DIGITS, img_size=560)
    assert needed_bytes(more) > 50 * needed_bytes(DIGITS)
    assert needed_bytes(DIGITS, 64) > 30 * needed_bytes(DIGITS)
    many = SwinConfig(family="swin", in_channels=1024)  # more than the attention takes
    images = 1024 * 224 * 224 * 4
    assert needed_bytes(many, 9) - needed_bytes(many, 1) == 8 * 2 * images


def test_require_memory_refuses_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    require_memory(DIGITS)
    monkeypatch.setattr(memory_limits, "available_bytes", lambda: needed_bytes(DIGITS) - 1)
    with pytest.raises(ConfigError, match=r"image size 56, windows of 7 and batch 1 need .* GB"):
        build_reference(DIGITS)
    monkeypatch.setattr(memory_limits, "available_bytes", lambda: None)
    build_reference(DIGITS)


def test_require_memory_leaves_the_batch_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limits, "available_bytes", lambda: 2 * needed_bytes(DIGITS))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    require_memory(DIGITS, batch=1000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="batch 1000"):
        require_memory(DIGITS, batch=1000)


def test_sizes_that_no_machine_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="GB of memory at least"):
        build_reference(SwinConfig(family="swin", img_size=1 << 16, num_classes=3, window_size=8))


def test_ort_runner_refuses_a_batch_that_does_not_fit(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    graph = onnx.load(full)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4000
    onnx.save(graph, tmp_path / "many.onnx")
    with OrtRunner(full, "fp32") as runner:
        assert runner.run(np.zeros((1, 3, 56, 56), np.float32))[0].shape == (1, 10)
    monkeypatch.setattr("swin_deploy.runners.base.available_bytes", lambda: 1 << 20)
    with pytest.raises(ExportError, match=r"many\.onnx takes 0\.2 GB of images, here are 0\.0 GB"):
        OrtRunner(tmp_path / "many.onnx", "fp32").__enter__()
