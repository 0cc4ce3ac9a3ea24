"""From a model name or a checkpoint to a reference model with its weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swin_deploy.checkpoints.assemble import derived_buffers
from swin_deploy.checkpoints.sizes import variant_of
from swin_deploy.checkpoints.sources import load_checkpoint
from swin_deploy.config import BUNDLED_WEIGHTS, DEFAULT_MODEL, Output, SwinConfig, variant
from swin_deploy.fold import fold
from swin_deploy.model import DeployModel
from swin_deploy.reference import Reference, build_reference

RANDOM_SEED = 0


@dataclass(frozen=True)
class LoadedModel:
    """A reference model, and where its weights come from.

    Attributes:
        name: A variant, or the name of the checkpoint's file or folder.
        config: Its sizes.
        reference: The model, float32, in evaluation mode, on the CPU.
        checkpoint: The weights file or folder, or None for random weights.
        sha256: Of the weights, or an empty string.
        source: The library that the checkpoint comes from, or an empty string.
        notes: What was found, assumed, left aside or changed while loading.
    """

    name: str
    config: SwinConfig
    reference: Reference
    checkpoint: Path | None
    sha256: str
    source: str = ""
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def deploy(self) -> DeployModel:
        """The deploy model, folded once, for whoever runs it and leaves it as it is."""
        return fold(self.reference)

    @property
    def weights(self) -> str:
        """The weights in words: a file and its SHA-256, or random and their seed."""
        if self.checkpoint is None:
            return f"random weights (seed {RANDOM_SEED}): no trained model"
        return f"{self.checkpoint.name} (SHA-256 {self.sha256[:16]}...)"


def load_model(
    name: str | None = None,
    checkpoint: Path | None = None,
    *,
    img_size: int | None = None,
    window_size: int | None = None,
    source: str | None = None,
    output: Output | None = None,
) -> LoadedModel:
    """Load a reference model.

    Args:
        name: A variant; with a checkpoint, the sizes of both must agree.
        checkpoint: Weights file or folder; without one the variant's bundled weights are taken,
            or random ones, seeded.
        img_size: Image side in pixels, instead of the checkpoint's or variant's.
        window_size: Window side in tokens, instead of the checkpoint's or variant's.
        source: Where the checkpoint comes from; by default found from its keys.
        output: What the model shall give; by default what it is made for.

    Raises:
        CheckpointError: If the file cannot be read or does not fit.
        ConfigError: If the variant is unknown, or windows cannot tile the image size.
    """
    if checkpoint is None and name in BUNDLED_WEIGHTS:
        checkpoint = BUNDLED_WEIGHTS[name]
    asked = {"img_size": img_size, "window_size": window_size, "output": output}
    if checkpoint is None:
        name = DEFAULT_MODEL if name is None else name
        return _random_model(name, _replaced(variant(name), asked))
    loaded = load_checkpoint(
        checkpoint, source=source, name=name, img_size=img_size, window_size=window_size
    )
    config = _replaced(loaded.config, {"output": output})
    reference = _with_weights(config, loaded.state_dict)
    known = name or variant_of(loaded.config) or checkpoint.stem
    return LoadedModel(
        name=known,
        config=config,
        reference=reference.eval(),
        checkpoint=checkpoint,
        sha256=loaded.sha256,
        source=loaded.source,
        notes=loaded.notes,
    )


def _with_weights(config: SwinConfig, state: dict[str, Tensor]) -> Reference:
    """The reference around given weights; initialising large ones would take seconds."""
    with torch.device("meta"):
        reference = build_reference(config)
    reference.load_state_dict(state, assign=True)
    if config.family != "notebook":
        for name, value in derived_buffers(config):
            module, _, leaf = name.rpartition(".")
            setattr(reference.get_submodule(module), leaf, value)
    return reference


def _random_model(name: str, config: SwinConfig) -> LoadedModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)  # torch.manual_seed would seed GPUs too
        reference = build_reference(config)
    return LoadedModel(name, config, reference.eval(), None, "")


def _replaced(config: SwinConfig, asked: dict[str, Any]) -> SwinConfig:
    """The config with the fields that are asked for."""
    return replace(config, **{field: value for field, value in asked.items() if value is not None})
