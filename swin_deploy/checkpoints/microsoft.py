"""Checkpoints of the authors' code (microsoft/Swin-Transformer): our names are theirs.

Source of the steps: their ``data/build.py`` with the settings of their published configs.
"""

from __future__ import annotations

from swin_deploy.checkpoints import timm
from swin_deploy.checkpoints.detectors import detector_rule
from swin_deploy.checkpoints.dialect import Dialect
from swin_deploy.config import SwinConfig
from swin_deploy.images.preprocessing import (
    Preprocessing,
)
from swin_deploy.images.rules import Rule

# Decoder of Swin-UNet, among the names of its encoder.
SWIN_UNET_DECODER = ("layers_up.", "concat_back_dim.", "norm_up.", "up.", "output.")
# Training without labels: SimMIM's token of masked patches (microsoft/SimMIM, models/simmim.py)
# and EsViT's heads, which are DINO's (microsoft/esvit, models/vision_transformer.py).
SELF_SUPERVISED = ("mask_token", "head.mlp.", "head.last_layer.", "head_dense.")
SMALLEST_RESIZED = 32  # pixels: up to here the authors' code does not resize


def _steps(side: int) -> Preprocessing:
    """Return the steps of the authors' ``build_transform`` for an image side, in pixels."""
    origin = "the authors' data/build.py"
    if side == timm.UNCROPPED:
        return Preprocessing(crop=side, resize=side, resize_mode="squash", origin=origin)
    if side <= SMALLEST_RESIZED:
        return Preprocessing(crop=side, resize=side, resize_mode="none", origin=origin)
    return Preprocessing(crop=side, resize=int((256 / 224) * side), origin=origin)


def _library_rule(config: SwinConfig, name: str) -> Rule:
    return detector_rule() if config.stage_norms else Rule(_steps)


DIALECT = Dialect(
    "microsoft",
    "layers.0.blocks.0.attn.",
    lambda ours: (ours,),
    _library_rule,
    summary="the authors' .pth, V1 and V2; backbones of Detectron2, GroundingDINO, BiRefNet",
    fits=lambda names, config_json: timm.merges_first(names, config_json) is not True,
    told_by=timm.DIALECT.told_by,
    aside=SWIN_UNET_DECODER,
    unused=SELF_SUPERVISED,
    usual_weights=timm.usual_weights,
    window_rules=("authors", "authors"),
    bare_patches=True,
    library="timm",  # their code is not a package; timm loads their files by its own code
)
