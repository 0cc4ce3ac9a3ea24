"""From a model name or a checkpoint file to a reference model with its weights."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from exporters.artifact import sha256_of
from exporters.errors import ConfigError
from swin_deploy.checkpoints.files import read_tensors
from swin_deploy.checkpoints.notebook import check_state, infer_config
from swin_deploy.config import (
    BUNDLED_WEIGHTS,
    DEFAULT_MODEL,
    VARIANTS,
    Preprocessing,
    SwinConfig,
    variant,
)
from swin_deploy.reference.notebook import NotebookSwin

RANDOM_SEED = 0


@dataclass(frozen=True)
class LoadedModel:
    """A reference model, and where its weights come from.

    Attributes:
        name: A variant, or the checkpoint's file name.
        config: Its sizes.
        reference: The model, float32, in evaluation mode, on the CPU.
        checkpoint: The weights file, or None for random weights.
        sha256: Of the weights file, or an empty string.
    """

    name: str
    config: SwinConfig
    reference: NotebookSwin
    checkpoint: Path | None
    sha256: str

    @property
    def weights(self) -> str:
        """The weights in words: a file and its SHA-256, or random and their seed."""
        if self.checkpoint is None:
            return f"random weights (seed {RANDOM_SEED}): no trained model"
        return f"{self.checkpoint.name} (SHA-256 {self.sha256[:16]}...)"


def load_model(
    name: str | None = None, checkpoint: Path | None = None, *, img_size: int | None = None
) -> LoadedModel:
    """Load a reference model.

    Args:
        name: A variant; with a checkpoint, the sizes of both must agree.
        checkpoint: Weights file; without one the variant's bundled weights are taken, or random
            ones, seeded.
        img_size: Image side in pixels, instead of the checkpoint's or variant's.

    Raises:
        CheckpointError: If the file cannot be read or does not fit.
        ConfigError: If the variant is unknown, or windows cannot tile the image size.
    """
    wanted = variant(name) if name is not None else None
    if checkpoint is None and name in BUNDLED_WEIGHTS:
        checkpoint = BUNDLED_WEIGHTS[name]
    if checkpoint is None:
        name = name or DEFAULT_MODEL
        return _random_model(name, _resized(variant(name), img_size))
    tensors, metadata = read_tensors(checkpoint)
    config = infer_config(tensors, metadata, img_size=img_size)
    check_state(tensors, config)
    if wanted is not None:
        _check_agreement(name or "", wanted, config)
    with torch.device("meta"):
        reference = NotebookSwin(config)
    reference.load_state_dict(tensors, assign=True)
    known = name or _variant_of(config) or checkpoint.stem
    return LoadedModel(known, config, reference.eval(), checkpoint, sha256_of(checkpoint))


def _random_model(name: str, config: SwinConfig) -> LoadedModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)  # torch.manual_seed would seed GPUs too
        reference = NotebookSwin(config)
    return LoadedModel(name, config, reference.eval(), None, "")


def _resized(config: SwinConfig, img_size: int | None) -> SwinConfig:
    return config if img_size is None else replace(config, img_size=img_size)


def _sizes(config: SwinConfig) -> SwinConfig:
    """The config without what does not show in the weights."""
    return replace(config, img_size=config.legal_img_sizes(1)[0], preprocessing=Preprocessing())


def _check_agreement(name: str, wanted: SwinConfig, found: SwinConfig) -> None:
    if _sizes(wanted) == _sizes(found):
        return
    differences = [
        f"{field.name} {getattr(found, field.name)} instead of {getattr(wanted, field.name)}"
        for field in fields(SwinConfig)
        if getattr(_sizes(found), field.name) != getattr(_sizes(wanted), field.name)
        and field.name != "img_size"
    ]
    raise ConfigError(
        f"the checkpoint is no {name}: it has {', '.join(differences)}; leave --model out"
    )


def _variant_of(config: SwinConfig) -> str | None:
    matches = [name for name, known in VARIANTS.items() if _sizes(known) == _sizes(config)]
    return matches[0] if matches else None
