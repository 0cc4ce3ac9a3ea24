"""Facts that a module in memory tells by itself, where a file would have a ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from torch import nn

from swin_deploy.checkpoints.dialect import CheckpointHints, SideFiles
from swin_deploy.config.activations import Activation, find_activation
from swin_deploy.config.sizes import Size
from swin_deploy.reference.activations import MODULES

ORIGIN = "the module"
# Names of libraries' classes that are not those of activations.
OF_CLASSES: dict[str, Activation] = {
    "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "QuickGELUActivation": "quick_gelu",
}


def of_transformers(module: Any) -> SideFiles:  # noqa: ANN401 - a class that is not imported
    """Return the config of a module of transformers, as in its ``config.json``."""
    values = json.loads(module.config.to_json_string(use_diff=False))
    names = [one.__name__ for one in type(module).__mro__]
    library = next(name for name in names if name.endswith(("Backbone", "Model")))
    return SideFiles(config_json=values | {"architectures": [library]})


def of_timm(module: Any) -> SideFiles:  # noqa: ANN401 - as above
    """Return the facts of timm's model, or of its feature extractor."""
    embed = module.patch_embed
    side = None if embed.img_size is None else Size.of(tuple(embed.img_size)).plain
    info = getattr(module, "feature_info", None)
    indices = getattr(info, "out_indices", None)
    given = tuple(sorted(index + 1 for index in indices)) if indices is not None else ()
    blocks = first_blocks(module)
    second = hasattr(blocks[0].attn, "logit_scale")
    windows = tuple(Size.of(tuple(block.window_size)) for block in blocks)
    trained = [getattr(block.attn, "pretrained_window_size", (0, 0)) for block in blocks]
    facts = CheckpointHints(
        origin=ORIGIN,
        img_size=side,
        built_size=None if embed.strict_img_size else side,
        window_size=windows,
        pretrained_window_sizes=tuple(Size.of(tuple(one)).plain for one in trained)
        if second
        else None,
        always_shift=bool(getattr(blocks[0], "always_partition", False)) or None,
        out_stages=given,
        settings=_settings(blocks[0]),
    )
    return SideFiles(facts=facts)


def of_blocks(module: Any) -> SideFiles:  # noqa: ANN401 - as above
    """Return the facts that any library's blocks tell: windows, activation, epsilon."""
    blocks = first_blocks(module)
    attention = [_with_window(block)[0] for block in blocks]
    windows = tuple(Size.of(_pair(one.window_size)) for one in attention)
    facts = CheckpointHints(
        origin=ORIGIN,
        window_size=windows,
        # MMPretrain's shift a map of one window only if they may pad it.
        always_shift=getattr(blocks[0].attn, "pad_small_map", None),
        settings=_settings(blocks[0]),
    )
    return SideFiles(facts=facts)


def first_blocks(module: nn.Module) -> list[Any]:
    """Return the first block of each stage, in order."""
    first: dict[str, nn.Module] = {}
    for name, one in module.named_modules():
        if hasattr(one, "attn") and any(True for _ in _mlps(one)):
            first.setdefault(name.rpartition(".")[0], one)
    return list(first.values())


def has_windows(block: Any) -> bool:  # noqa: ANN401 - a block of any library
    """Tell whether a block is of a Swin: a part of it knows its window."""
    return bool(_with_window(block))


def _with_window(block: Any) -> list[Any]:  # noqa: ANN401 - as above
    """Return the parts of a block that know its window, the innermost first."""
    inner = getattr(block.attn, "w_msa", block.attn)
    return [one for one in (inner, block.attn, block) if hasattr(one, "window_size")]


def _mlps(block: nn.Module) -> Iterator[nn.Module]:
    yield from (getattr(block, name) for name in ("mlp", "ffn") if hasattr(block, name))


def _pair(window: Any) -> tuple[int, int]:  # noqa: ANN401 - a side, or two
    sides = [window, window] if isinstance(window, int) else list(window)
    return int(sides[0]), int(sides[-1])


def _settings(block: nn.Module) -> dict[str, Any]:
    """Return the fields of ``SwinConfig`` that no tensor shows."""
    (mlp, *_) = _mlps(block)
    settings: dict[str, Any] = {}
    known = [name for one in mlp.modules() if (name := _activation(one))]
    if known:
        settings["activation"] = known[0]
    epsilon = getattr(getattr(block, "norm1", None), "eps", None)
    if isinstance(epsilon, float):
        settings["layer_norm_eps"] = epsilon
    return settings


def _activation(module: nn.Module) -> Activation | None:
    """Return the activation that a module is; None if it is none that is known."""
    if getattr(module, "approximate", "none") == "tanh":
        return "gelu_tanh"
    plain = [name for name, make in MODULES.items() if type(module) is make]
    words = type(module).__name__
    return plain[0] if plain else OF_CLASSES.get(words) or find_activation(words)
