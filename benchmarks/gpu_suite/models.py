"""Models and sizes of the suite; small ones for a dry run."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import BUNDLED_WEIGHTS, SwinConfig, variant
from swin_deploy.reference import build_reference

NOTEBOOK, TINY = "notebook-swin-t", "swin_tiny_patch4_window7_224"
BASE, TINY_V2 = "swin_base_patch4_window7_224", "swinv2_tiny_window8_256"
TRAINED = "notebook-digits"
MODELS = (TINY, NOTEBOOK, TINY_V2, BASE)
DRY_MODELS = (TINY, NOTEBOOK)
KEPT = "logit_scale"  # temperatures of V2: trained ones stay near their start


@dataclass(frozen=True)
class Setup:
    """Settings of one run of the suite.

    Attributes:
        artifacts: Folder of ONNX files and engines, which are taken from there or made there.
        dry: True for small models and batches, to see that everything runs; the figures mean
            nothing.
        scale: Factor on the time for compiling.
    """

    artifacts: Path
    dry: bool = False
    scale: float = 1.0

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes, in images a call, the most important first: time may end before the last."""
        return (2, 1) if self.dry else (128, 1, 32, 8)

    @property
    def max_batch(self) -> int:
        """The largest batch size."""
        return max(self.batches)

    @property
    def timing_seconds(self) -> float:
        """Seconds for the timed calls of one model at one batch."""
        return 0.3 if self.dry else 8.0

    @property
    def min_rounds(self) -> int:
        """Minimum number of timed rounds at every batch."""
        return 3 if self.dry else 20


def suite_model(name: str, setup: Setup) -> LoadedModel:
    """Load or make a model of the suite, with random weights unless it is the trained one.

    It is small in a dry run. The weights' digest takes the place of a checkpoint's, so that a file
    made from other weights is noticed.

    Args:
        name: Name of the model.
        setup: Settings of the suite.
    """
    if name in BUNDLED_WEIGHTS:
        return load_model(name)
    config = shrunk(variant(name)) if setup.dry else variant(name)
    reference = build_reference(config).eval()
    draw_weights(reference)
    steps = library_steps(config)
    return LoadedModel(name, config, reference, None, weights_digest(reference), steps)


def draw_weights(module: nn.Module, *, seed: int = 0) -> None:
    """Draw weights like trained ones, in place: norms and biases, too, and scaled products.

    NumPy's ``RandomState`` gives the same numbers in every release; PyTorch's generator does not,
    and a file made on one machine would not have the weights drawn on another.

    Args:
        module: The module.
        seed: Seed of the numbers.
    """
    draws = np.random.RandomState(seed)
    norms = {
        f"{path}.weight"
        for path, one in module.named_modules()
        if isinstance(one, nn.LayerNorm | nn.GroupNorm)
    }
    for name, value in module.named_parameters():
        if name.endswith(KEPT):
            continue
        numbers = draws.standard_normal(tuple(value.shape)).astype(np.float32)
        if name in norms:
            numbers = 1 + 0.2 * numbers
        elif value.ndim == 1:
            numbers *= 0.1
        else:
            numbers /= math.sqrt(value[0].numel())
        with torch.no_grad():
            value.copy_(torch.from_numpy(numbers))


def shrunk(config: SwinConfig) -> SwinConfig:
    """Return the same kind of model, small enough for a CPU: two stages, one of them shifted."""
    side = max(config.window_sizes[0]) * config.patch_size * 2
    return dataclasses.replace(
        config,
        img_size=side,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(1, 2),
        num_classes=min(config.num_classes, 10),
    )


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of the parameters, in order."""
    digest = hashlib.sha256()
    for _, value in module.named_parameters():
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
