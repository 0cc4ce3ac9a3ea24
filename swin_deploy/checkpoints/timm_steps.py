"""The steps from a picture to an input in timm's ``config.json``.

Source: timm 1.0.31, ``data/config.py`` and ``data/transforms_factory.py``.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from exporters.errors import CheckpointError
from exporters.text_files import typed
from swin_deploy.checkpoints.backbone_config import timm_part
from swin_deploy.checkpoints.dialect import SideFiles
from swin_deploy.checkpoints.image_processors import huggingface_rule
from swin_deploy.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    by_channel,
)
from swin_deploy.images.rules import Rule, centre_crop_rule


class _TimmSteps(msgspec.Struct, kw_only=True):
    """The fields of timm's ``pretrained_cfg`` that change pixels, every one optional."""

    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    interpolation: str | None = None
    crop_pct: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    crop_mode: str | None = None
    pretrained_cfg: dict[str, Any] | None = None


TIMM_CROP_PCT = 0.875  # for a pretrained_cfg without one
TIMM_MODES = ("center", "squash", "border")


def timm_rule(values: dict[str, Any], *, where: str) -> Rule:
    """Read the steps of a timm ``config.json``, as ``resolve_data_config`` does.

    Args:
        values: Content of the file.
        where: Name of the file, for messages.

    Raises:
        FileError: If a value is of another type or range.
        CheckpointError: If the file asks for something that is not supported.
    """
    inner = values.get("pretrained_cfg")
    read = typed({**values, **(inner if isinstance(inner, dict) else {})}, _TimmSteps, where=where)
    interpolation = read.interpolation or "bicubic"
    mode = read.crop_mode or "center"
    for name, value, known in (
        ("interpolation", interpolation, INTERPOLATIONS),
        ("crop_mode", mode, TIMM_MODES),
    ):
        if value not in known:
            raise CheckpointError(
                f"{where} asks for {name} {value}; supported are {', '.join(known)}"
            )
    fixed: dict[str, Any] = {
        **by_channel(read.mean or IMAGENET_MEAN, read.std or IMAGENET_STD),
        "interpolation": interpolation,
        "origin": where,
    }
    if mode != "center":
        fixed["resize_mode"] = {"squash": "squash", "border": "pad"}[mode]
    return centre_crop_rule(read.crop_pct or TIMM_CROP_PCT, **fixed)


STEPS_FIELDS = {"crop_pct", "crop_mode", "interpolation", "input_size"}  # in timm's files alone


def steps_rule(values: dict[str, Any], where: str) -> Rule | None:
    """Read the steps from any JSON file of timm; None if it is not timm's. Raise as ``timm_rule``.

    Args:
        values: Content of the file.
        where: Name of the file, for messages.
    """
    known = isinstance(values.get("pretrained_cfg"), dict) or values.keys() & STEPS_FIELDS
    return timm_rule(values, where=where) if known else None


def file_rule(files: SideFiles) -> Rule | None:
    """Read the steps next to the weights; None if nothing says them. Raise as ``timm_rule``.

    1. A ``config.json`` of timm, or of transformers' TimmWrapper around one.
    2. An image processor of transformers, around whose models' backbones timm says nothing.

    Args:
        files: The files next to the weights.
    """
    if files.config_json and timm_part(files.config_json) is files.config_json:  # 1
        return timm_rule(files.config_json, where="config.json")
    if files.preprocessor:  # 2
        return huggingface_rule(files.preprocessor, where="preprocessor_config.json")
    return None
