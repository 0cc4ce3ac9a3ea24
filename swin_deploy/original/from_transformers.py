"""transformers' own model from the user's folder, by ``from_pretrained``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.errors import ComparisonError
from exporters.text_files import listed
from swin_deploy.checkpoints.backbone_config import swin_part
from swin_deploy.checkpoints.read import Reading
from swin_deploy.checkpoints.weights_file import WEIGHTS
from swin_deploy.config import SwinConfig
from swin_deploy.config.activations import find_activation
from swin_deploy.original.construct import (
    has_other_windows,
    import_library,
    require_usual,
    transformers_settings,
)
from swin_deploy.original.outputs import OriginalModel

BACKBONES = ("SwinBackbone", "Swinv2Backbone", "MaskFormerSwinBackbone")
ENCODERS = ("SwinModel", "Swinv2Model", "DonutSwinModel", "MaskFormerSwinModel")


def transformers_original(config: SwinConfig, reading: Reading) -> nn.Module:
    """Build transformers' model of the class that ``config.json`` names, or the Swin inside it.

    Raises:
        ComparisonError: If transformers has no such model, or the file lacks weights of it.
        MissingBackendError: If transformers is not installed, or does not load.
    """
    if reading.config_path is None:
        raise ComparisonError(
            f"transformers builds its model from a folder with a config.json, and "
            f"{reading.path.name} is a file alone"
        )
    require_usual(config, "transformers' model", "patch_norm", "pool")
    if reading.key or has_other_windows(config, reading.saved):
        what = f"the key {reading.key}" if reading.key else "other windows than the checkpoint's"
        raise ComparisonError(f"transformers has no way to {what}")
    if reading.weights_path.name not in WEIGHTS:
        raise ComparisonError(
            f"transformers reads {' or '.join(WEIGHTS[::2])} in a folder, not "
            f"{reading.weights_path.name}"
        )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the library must not download anything
    library = import_library("transformers", "transformers")
    with without_progress(library):
        model, absent = _from_pretrained(library, config, reading, reading.config_path.parent)
    path, part = _swin_in(model, config)
    _check_absent(absent, path if part is not model else "")
    return OriginalModel(part, config, _outputs)


def _from_pretrained(
    library: Any,  # noqa: ANN401 - transformers
    config: SwinConfig,
    reading: Reading,
    folder: Path,
) -> tuple[Any, list[str]]:
    """Load the model; return it, and the names that the file lacks or has in other shapes."""
    local = {"local_files_only": True}
    settings = library.AutoConfig.from_pretrained(folder, **local)
    name = (getattr(settings, "architectures", None) or [""])[0]
    kind: Any = getattr(library, str(name), None)
    known = isinstance(kind, type) and issubclass(kind, library.PreTrainedModel)
    if not known:
        raise ComparisonError(f"transformers has no model {name or 'for it'}: see architectures")
    if config.img_size != reading.saved.img_size and not config.built_size:
        if config.absolute_positions:
            raise ComparisonError(
                "transformers' model does not run at another image size by itself: it has "
                "absolute positions"
            )
        _swin_settings(settings).image_size = config.img_size
    swin = _swin_settings(settings)
    if find_activation(str(swin.hidden_act)) != config.activation:
        swin.hidden_act = transformers_settings(config)["hidden_act"]
    if reading.path.is_file():
        local["use_safetensors"] = "safetensors" in reading.path.name
    model, info = kind.from_pretrained(
        folder, config=settings, dtype=torch.float32, output_loading_info=True, **local
    )
    wrong = [*info["missing_keys"], *(str(one) for one in info.get("mismatched_keys", ()))]
    return model, sorted(wrong)


def _swin_settings(settings: Any) -> Any:  # noqa: ANN401 - a config of transformers
    """Return the part of a config that is the Swin encoder's."""
    key, _ = swin_part(settings.to_dict())
    for name in filter(None, key.split(".")):
        settings = getattr(settings, name)
    return settings


def _swin_in(model: nn.Module, config: SwinConfig) -> tuple[str, nn.Module]:
    """Find the path and the module that give the outputs asked for.

    Raises:
        ComparisonError: If there is none, or there are several.
    """
    if config.output_name == "logits":
        return "", model
    backbones = [(n, m) for n, m in model.named_modules() if type(m).__name__ in BACKBONES]
    if backbones and config.output_name != "stages":
        raise ComparisonError(f"transformers' backbone gives stage maps, not {config.output_name}")
    found = backbones or [(n, m) for n, m in model.named_modules() if type(m).__name__ in ENCODERS]
    if len(found) != 1:
        raise ComparisonError(
            f"transformers' {type(model).__name__} has {len(found)} Swin encoders"
        )
    return found[0]


def _check_absent(absent: list[str], path: str) -> None:
    """Refuse a model if the part that is used got random weights."""
    used = [name for name in absent if not path or name.startswith(f"{path}.")]
    if used:
        raise ComparisonError(f"transformers misses {listed(used)} in the file")


def _outputs(part: Any, images: Tensor, config: SwinConfig) -> tuple[Tensor, ...]:  # noqa: ANN401
    output = config.output_name
    if output == "stages":
        return _stage_maps(part, images, config)
    result = part(images)
    if output == "logits":
        return (result.logits,)
    tokens = result.last_hidden_state  # [B, N, C]
    if output == "tokens":
        return (tokens,)
    pooled = getattr(result, "pooler_output", None)
    return (tokens.mean(dim=1) if pooled is None else pooled,)


def _stage_maps(part: Any, images: Tensor, config: SwinConfig) -> tuple[Tensor, ...]:  # noqa: ANN401
    """Compute a backbone's own maps, or the outputs of the last block of an encoder's stages."""
    if type(part).__name__ in BACKBONES:
        return tuple(part(images).feature_maps)
    last = [stage.blocks[-1] for stage in part.encoder.layers]
    found: dict[int, Tensor] = {}

    def keep(index: int, output: Tensor | tuple[Tensor, ...]) -> None:
        found[index] = output[0] if isinstance(output, tuple) else output

    with contextlib.ExitStack() as stack:
        for index in config.shown_stages:
            hook = last[index].register_forward_hook(lambda *a, index=index: keep(index, a[2]))
            stack.enter_context(hook)
        part(images)
    return tuple(
        _as_map(found[index], config.stages[index].resolution.rows) for index in config.shown_stages
    )


def _as_map(tokens: Tensor, rows: int) -> Tensor:
    """Tokens [B, N, C] of a map of so many rows as [B, C, H, W]."""
    batch, count, _ = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, -1, rows, count // rows)


@contextlib.contextmanager
def without_progress(library: Any) -> Iterator[None]:  # noqa: ANN401 - transformers
    """Hide the library's progress bars."""
    words = library.utils.logging
    shown = words.is_progress_bar_enabled()
    words.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            words.enable_progress_bar()
