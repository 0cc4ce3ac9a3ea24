"""The model of timm or torchvision of given sizes, without weights.

The libraries are imported here by name, when they are asked for: nothing else needs them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from exporters.backends import import_package
from exporters.errors import ComparisonError
from swin_deploy.checkpoints.variants import SETTINGS, effective_windows
from swin_deploy.config import Size, SwinConfig

# Libraries round hidden channels down; a ratio found from weights may miss by a rounding error.
_UP = 1 + 1e-9


def import_library(module: str, library: str) -> Any:  # noqa: ANN401 - untyped libraries
    """Import a module of a library.

    Args:
        module: Full name of the module.
        library: Name of the library's package, for messages.

    Raises:
        MissingBackendError: If the library is not installed, or does not load for any reason.
    """
    return import_package(module, name=library, install=f"pip install {library}")


def timm_model(config: SwinConfig) -> nn.Module:
    """Build timm's model of these sizes.

    Raises:
        MissingBackendError: If timm is not installed, or does not load.
    """
    suffix, kind = ("", "") if config.family == "swin" else ("_v2", "V2")
    module = import_library(f"timm.models.swin_transformer{suffix}", "timm")
    fields = _sizes(config) | {
        "img_size": config.img_size,
        "patch_size": config.patch_size,
        "in_chans": config.in_channels,
    }
    if config.pretrained_window_sizes:
        fields["pretrained_window_sizes"] = config.pretrained_window_sizes
    if config.window_rule == "always":
        fields["always_partition"] = True
    fields |= timm_settings(config)
    model: nn.Module = getattr(module, f"SwinTransformer{kind}")(
        window_size=timm_windows(config), num_classes=config.num_classes, **fields
    )
    return model


def timm_windows(config: SwinConfig) -> int | Size | tuple[Size, ...]:
    """Return the windows as timm takes them: two numbers alone would be one rectangular window."""
    windows = config.window_sizes
    return windows[0].plain if len(set(windows)) == 1 else windows


def require_usual(config: SwinConfig, library: str, *fields: str) -> None:
    """Refuse a model that differs from the papers' by what a library's model does not have.

    Args:
        config: Config of the model.
        library: Name of the library's model, for the message.
        fields: Fields of ``SwinConfig`` that the library does not have.

    Raises:
        ComparisonError: If one of the fields has not its default.
    """
    for field in fields:
        usual = getattr(SwinConfig(), field)
        if getattr(config, field) != usual:
            raise ComparisonError(
                f"{library} has {field} {usual}, and this model {getattr(config, field)}"
            )


def timm_settings(config: SwinConfig) -> dict[str, Any]:
    """Return the arguments of timm's model that are not of sizes.

    Raises:
        ComparisonError: If timm's model cannot have them.
    """
    require_usual(config, "timm's model", "patch_norm", "absolute_positions", "layer_norm_eps")
    if config.family == "swin":
        require_usual(config, "timm's Swin V1", "activation")
    if isinstance(config.mlp_ratio, tuple) and config.family != "swin":
        raise ComparisonError("timm's Swin V2 has one mlp_ratio for all stages")
    settings = {"act_layer": config.activation} if config.activation != "gelu" else {}
    return settings | ({"global_pool": config.pool} if config.pool != "avg" else {})


def transformers_settings(config: SwinConfig) -> dict[str, Any]:
    """Return the fields of transformers' config that are not sizes.

    Raises:
        ComparisonError: If transformers cannot have them.
    """
    require_usual(config, "transformers' model", "patch_norm", "pool")
    if config.activation in ("elu", "selu", "hard_sigmoid"):
        raise ComparisonError(f"transformers has no activation {config.activation}")
    others = {"gelu_tanh": "gelu_pytorch_tanh", "hard_swish": "hardswish"}
    return {
        "hidden_act": others.get(config.activation, config.activation),
        "layer_norm_eps": config.layer_norm_eps,
        "use_absolute_embeddings": config.absolute_positions,
    }


def library_ratio(config: SwinConfig) -> float | tuple[float, ...]:
    """Return the ratio of an MLP's channels so that rounding down gives ours."""
    ratios = tuple(ratio * _UP for ratio in config.mlp_ratios)
    return ratios if isinstance(config.mlp_ratio, tuple) else ratios[0]


def torchvision_model(config: SwinConfig) -> nn.Module:
    """Build torchvision's model of these sizes; without classes its head is the identity.

    Raises:
        ComparisonError: If torchvision has no such model.
        MissingBackendError: If torchvision is not installed, or does not load.
    """
    require_usual(config, "torchvision's model", *SETTINGS)
    if isinstance(config.mlp_ratio, tuple):
        raise ComparisonError("torchvision's model has one mlp_ratio for all stages")
    module = import_library("torchvision.models.swin_transformer", "torchvision")
    fields = _sizes(config) | {"depths": list(config.depths), "num_heads": list(config.num_heads)}
    if config.family == "swinv2":
        fields["block"] = module.SwinTransformerBlockV2
        fields["downsample_layer"] = module.PatchMergingV2
    patch, window = [config.patch_size] * 2, list(one_window(config, "torchvision"))
    model: nn.Module = module.SwinTransformer(
        patch, window_size=window, num_classes=config.num_classes or 1, **fields
    )
    if not config.num_classes:
        model.head = nn.Identity()
    if config.in_channels != 3:  # torchvision's users replace its first layer by hand
        side = config.patch_size
        layer = nn.Conv2d(config.in_channels, config.embed_dim, kernel_size=side, stride=side)
        model.get_submodule("features.0").register_module("0", layer)
    return model


def has_other_windows(config: SwinConfig, saved: SwinConfig) -> bool:
    """Tell whether windows differ from the saved ones: V1's as built, V2's as configured."""
    if config.family == "swin":
        return effective_windows(config) != effective_windows(saved)
    return config.window_sizes != saved.window_sizes


def one_window(config: SwinConfig, library: str) -> Size:
    """Return the window of all stages.

    Raises:
        ComparisonError: If stages differ, which the library's model does not support.
    """
    windows = set(config.window_sizes)
    if len(windows) > 1:
        raise ComparisonError(f"{library}'s model has one window size, not {config.window_size}")
    return windows.pop()


def _sizes(config: SwinConfig) -> dict[str, Any]:
    return {
        "embed_dim": config.embed_dim,
        "depths": config.depths,
        "num_heads": config.num_heads,
        "mlp_ratio": library_ratio(config),
    }
