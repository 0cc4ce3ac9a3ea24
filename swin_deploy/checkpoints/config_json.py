"""The fields of other libraries' ``config.json`` that change what a model computes, typed.

Every field may be missing or null, as it is in files that libraries write. ``config_fields`` has
the effect of each, and of the fields that are not here.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

LARGEST = 1 << 20  # most pixels, channels, tokens or classes in a config
Side = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
Sides = Annotated[list[Side], msgspec.Meta(min_length=1, max_length=64)]
Window = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Windows = Annotated[list[Window], msgspec.Meta(max_length=64)]
PairedWindows = Annotated[list[Window | list[Window]], msgspec.Meta(max_length=64)]
Depths = Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=1000)]], msgspec.Meta(max_length=64)]
Classes = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Ratio = Annotated[float, msgspec.Meta(gt=0, le=1000)]
Indices = Annotated[list[int], msgspec.Meta(max_length=64)]
Names = Annotated[list[str], msgspec.Meta(max_length=64)]


class HuggingFaceModel(msgspec.Struct, frozen=True):
    """Fields of transformers' ``config.json`` that are about the whole model."""

    architectures: Names | None = None
    id2label: dict[str, Any] | None = None
    num_labels: Classes | None = None
    pruned_heads: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None


class HuggingFaceSwin(msgspec.Struct, frozen=True):
    """Fields of its Swin encoder: of SwinConfig, Swinv2Config, DonutSwinConfig and the others."""

    model_type: str | None = None
    image_size: Side | Sides | None = None
    patch_size: Side | Sides | None = None
    num_channels: Side | None = None
    embed_dim: Side | None = None
    depths: Depths | None = None
    num_heads: Sides | None = None
    num_attention_heads: Sides | None = None
    window_size: Side | None = None
    pretrained_window_sizes: Windows | None = None
    mlp_ratio: Ratio | None = None
    qkv_bias: bool | None = None
    hidden_act: str | None = None
    use_absolute_embeddings: bool | None = None
    layer_norm_eps: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    out_features: Names | None = None
    out_indices: Indices | None = None


class TimmArguments(msgspec.Struct, frozen=True):
    """The arguments of timm's model that differ from its variant's."""

    img_size: Side | Sides | None = None
    patch_size: Side | Sides | None = None
    in_chans: Side | None = None
    num_classes: Classes | None = None
    global_pool: str | None = None
    embed_dim: Side | None = None
    depths: Depths | None = None
    num_heads: Sides | None = None
    head_dim: Side | Sides | None = None
    window_size: Side | Annotated[list[Side | Sides], msgspec.Meta(min_length=1)] | None = None
    pretrained_window_sizes: PairedWindows | None = None
    always_partition: bool | None = None
    dynamic_img_size: bool | None = None
    mlp_ratio: Ratio | Annotated[list[Ratio], msgspec.Meta(max_length=64)] | None = None
    qkv_bias: bool | None = None
    act_layer: Any = None
    norm_layer: Any = None
    embed_layer: Any = None
    features_only: bool | None = None
    out_indices: Annotated[int, msgspec.Meta(ge=1, le=64)] | Indices | None = None


class TimmWeights(msgspec.Struct, frozen=True):
    """Fields of ``pretrained_cfg``, or of the whole file in the old form."""

    input_size: Sides | None = None
    global_pool: str | None = None
    num_classes: Classes | None = None
    label_offset: int | None = None
    custom_load: bool | str | None = None


class TimmModel(msgspec.Struct, frozen=True):
    """Fields of timm's ``config.json``."""

    architecture: str | None = None
    architectures: Names | None = None
    num_classes: Classes | None = None
    global_pool: str | None = None
    model_args: TimmArguments | None = None
    pretrained_cfg: dict[str, Any] | None = None
