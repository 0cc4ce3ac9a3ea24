"""torchvision's own model with the weights of the user's file."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from exporters.errors import ComparisonError
from swin_deploy.checkpoints.read import Reading
from swin_deploy.config import SwinConfig
from swin_deploy.original.construct import has_other_windows, torchvision_model
from swin_deploy.original.outputs import OriginalModel, channels_first, tokens_of
from swin_deploy.original.stored import library_state, load_strictly, read_state, under_prefix


def torchvision_original(config: SwinConfig, reading: Reading) -> nn.Module:
    """Build torchvision's model: its constructor, the sizes that were read, ``load_state_dict``.

    Raises:
        ComparisonError: If torchvision has no such model, or cannot load it.
        MissingBackendError: If torchvision is not installed, or does not load.
    """
    if has_other_windows(config, reading.saved):
        raise ComparisonError("torchvision has no way to other windows than the checkpoint's")
    model = torchvision_model(config)
    state = library_state(read_state(reading.weights_path, reading.encoder.key), reading.beside)
    load_strictly(model, under_prefix(state, reading.encoder.prefix), "torchvision")
    return OriginalModel(model, config, _outputs)


def _outputs(model: Any, images: Tensor, config: SwinConfig) -> tuple[Tensor, ...]:  # noqa: ANN401
    output = config.output_name
    if output == "logits":
        return (model(images),)
    if output == "stages":
        maps = _stage_maps(model, images)
        return tuple(channels_first(maps[index]) for index in config.shown_stages)
    features = model.norm(model.features(images))  # [B, H, W, C]
    if output == "tokens":
        return (tokens_of(features),)
    return (model.flatten(model.avgpool(model.permute(features))),)


def _stage_maps(model: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401 - torchvision's
    """Compute the map of each stage: ``features`` is the stem, then stages and merges in turn."""
    maps = []
    tokens = images
    for index, part in enumerate(model.features):
        tokens = part(tokens)
        if index % 2:
            maps.append(tokens)
    return maps
