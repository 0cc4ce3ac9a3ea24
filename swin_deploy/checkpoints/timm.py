"""Checkpoints of timm: the merge stands before its stage, the classifier is ``head.fc``."""

from __future__ import annotations

from typing import Any

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.dialect import MERGE_NAME, Dialect, Facts
from swin_deploy.config import VARIANTS, SwinConfig

# Arguments of timm's models that shapes do not show, and the one value that is supported.
FIXED_ARGUMENTS = {"act_layer": "gelu", "norm_layer": "layernorm", "global_pool": "avg"}


def _foreign(ours: str) -> tuple[str, ...]:
    merge = MERGE_NAME.fullmatch(ours)
    if merge:
        return (f"layers.{int(merge[1]) + 1}.downsample.{merge[2]}",)
    if ours.startswith("head."):
        return (f"head.fc.{ours.removeprefix('head.')}",)
    return (ours,)


DIALECT = Dialect("timm", "layers.0.blocks.0.attn.", _foreign)


def facts(config_json: dict[str, Any]) -> Facts:
    """What a timm ``config.json`` says: architecture and arguments.

    Raises:
        CheckpointError: If it asks for what is not supported.
    """
    if not config_json:
        return Facts()
    arguments = dict(config_json.get("model_args") or {})
    _check_arguments(arguments)
    pretrained = {**config_json, **(config_json.get("pretrained_cfg") or {})}
    name = str(config_json.get("architecture", "")).partition(".")[0]
    sizes = _variant_sizes(VARIANTS.get(name))
    sizes |= {key: _value(arguments[key]) for key in _SIZES if key in arguments}
    if "num_classes" in config_json:
        sizes["num_classes"] = int(config_json["num_classes"])
    input_size = pretrained.get("input_size")
    given = arguments.get("img_size", input_size[-2:] if input_size else None)
    pretrained_windows = sizes.pop("pretrained_window_sizes", None)
    return Facts(
        origin="config.json",
        img_size=square(given, "img_size of config.json"),
        window_size=sizes.pop("window_size", None),
        pretrained_window_sizes=pretrained_windows,
        always_shift=bool(arguments.get("always_partition")),
        sizes=sizes,
    )


_SIZES = (
    "embed_dim",
    "depths",
    "num_heads",
    "mlp_ratio",
    "window_size",
    "pretrained_window_sizes",
)


def square(size: Any, what: str) -> int | None:  # noqa: ANN401 - a JSON value of any type
    """The side of a square image size, whether it is written as one number or two.

    Raises:
        CheckpointError: If it is a rectangle.
    """
    if size is None or isinstance(size, int):
        return size
    sides = [int(side) for side in size]
    if len(set(sides)) != 1:
        raise CheckpointError(
            f"{what} is {' x '.join(map(str, sides))}, and only square images are supported; "
            "give one with --image-size"
        )
    return sides[0]


def _variant_sizes(known: SwinConfig | None) -> dict[str, Any]:
    if known is None:
        return {}
    return {field: getattr(known, field) for field in _SIZES}


def _value(value: Any) -> Any:  # noqa: ANN401 - a JSON value of any type
    if not isinstance(value, list):
        return value
    return tuple(square(entry, "a window size of config.json") for entry in value)


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name, supported in FIXED_ARGUMENTS.items():
        value = arguments.get(name)
        if value is not None and str(value).lower() != supported:
            raise CheckpointError(f"config.json asks for {name} {value}; supported is {supported}")
