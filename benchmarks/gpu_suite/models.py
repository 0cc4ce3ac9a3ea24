"""Which models the suite measures, at which sizes."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import BUNDLED_WEIGHTS, SwinConfig, variant
from swin_deploy.reference import build_reference

NOTEBOOK, TINY = "notebook-swin-t", "swin_tiny_patch4_window7_224"
BASE, TINY_V2 = "swin_base_patch4_window7_224", "swinv2_tiny_window8_256"
TRAINED = "notebook-digits"
MODELS = (NOTEBOOK, TINY, BASE, TINY_V2)
DRY_MODELS = (NOTEBOOK, TINY)


@dataclass(frozen=True)
class Setup:
    """How one run of the suite goes about it.

    Attributes:
        artifacts: Folder of ONNX files and engines: taken from there, or made there.
        dry: Small models and batches, to see that everything runs; no figure means anything.
        scale: What the time for compiling is multiplied by.
    """

    artifacts: Path
    dry: bool = False
    scale: float = 1.0

    @property
    def batches(self) -> tuple[int, ...]:
        """Images a call, the most important first: the time may end before the last."""
        return (2, 1) if self.dry else (128, 1, 8, 32)

    @property
    def max_batch(self) -> int:
        """The largest of them."""
        return max(self.batches)

    @property
    def timing_seconds(self) -> float:
        """For the timed calls of one model at one batch."""
        return 0.3 if self.dry else 4.0


def suite_model(name: str, setup: Setup) -> LoadedModel:
    """A model of the suite: random weights but for the trained one, and small in a dry run.

    The weights' digest stands for a checkpoint's, so that a file made from other random weights,
    by another version of PyTorch say, is noticed.
    """
    if name in BUNDLED_WEIGHTS:
        return load_model(name)
    config = shrunk(variant(name)) if setup.dry else variant(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        reference = build_reference(config).eval()
    steps = library_steps(config)
    return LoadedModel(name, config, reference, None, weights_digest(reference), steps)


def shrunk(config: SwinConfig) -> SwinConfig:
    """The same kind of model, small enough for a CPU: two stages, one of them shifted."""
    side = config.window_sizes[0] * config.patch_size * 2
    return dataclasses.replace(
        config,
        img_size=side,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(1, 2),
        num_classes=min(config.num_classes, 10),
    )


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of the parameters, in order."""
    digest = hashlib.sha256()
    for _, value in module.named_parameters():
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
