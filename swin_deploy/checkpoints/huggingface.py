"""Checkpoints of Hugging Face transformers: names on disk and in memory, and ``config.json``."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.dialect import BLOCK_NAME, MERGE_NAME, Dialect, Facts
from swin_deploy.checkpoints.timm import square

FAMILIES = {"swin": "swin", "swinv2": "swinv2", "donut-swin": "swin"}
LAYER_NORM_EPS = 1e-5  # of the norms that config.json has no say in
STAGE_NORM = re.compile(r"norm(\d+)\.(.*)")
WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:swin|swinv2)\.$")
OUTER = ("classifier.", "hidden_states_norms.")

STEM = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "patch_embed.norm.": "embeddings.norm.",
    "norm.": "layernorm.",
    "head.": "classifier.",
}
# As files have them, whatever the version, and V2 in memory too.
ON_DISK = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.output.dense.",
    "attn.q_bias": "attention.self.query.bias",
    "attn.k_bias": "attention.self.key.bias",
    "attn.v_bias": "attention.self.value.bias",
    "attn.cpb_mlp.": "attention.self.continuous_position_bias_mlp.",
    "attn.": "attention.self.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
# As transformers 5 has V1 in memory.
IN_MEMORY = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.o_proj.",
    "attn.relative_position_": "attention.relative_position_bias.relative_position_",
}


def _rename(ours: str, in_block: dict[str, str], parts: tuple[str, str, str]) -> tuple[str, ...]:
    block = BLOCK_NAME.fullmatch(ours)
    if block:
        start, rest = f"encoder.layers.{block[1]}.blocks.{block[2]}.", block[3]
        if rest.startswith("attn.qkv."):
            return tuple(f"{start}{part}.{rest.removeprefix('attn.qkv.')}" for part in parts)
        return (start + _respelt(rest, in_block),)
    merge = MERGE_NAME.fullmatch(ours)
    if merge:
        return (f"encoder.layers.{merge[1]}.downsample.{merge[2]}",)
    stage_norm = STAGE_NORM.fullmatch(ours)
    if stage_norm:
        return (f"hidden_states_norms.stage{int(stage_norm[1]) + 1}.{stage_norm[2]}",)
    return (_respelt(ours, STEM),)


def _respelt(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _on_disk(ours: str) -> tuple[str, ...]:
    parts = ("attention.self.query", "attention.self.key", "attention.self.value")
    return _rename(ours, ON_DISK, parts)


def _in_memory(ours: str) -> tuple[str, ...]:
    return _rename(ours, IN_MEMORY, ("attention.q_proj", "attention.k_proj", "attention.v_proj"))


def _prepare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the final norm in its place: files of backbones have it under another name."""
    return {
        name.removeprefix("swin.") if name.startswith("swin.layernorm.") else name: tensor
        for name, tensor in tensors.items()
    }


def _dialect(evidence: str, memory: bool) -> Dialect:
    return Dialect(
        source="huggingface",
        evidence=f"encoder.layers.0.blocks.0.attention.{evidence}",
        foreign=_in_memory if memory else _on_disk,
        pads=(True, False),
        prepare=_prepare,
        outer=OUTER,
        wrapper=WRAPPER,
        unused=("embeddings.mask_token",),
    )


DIALECTS = (_dialect("self.", memory=False), _dialect("q_proj.", memory=True))


def facts(config_json: dict[str, Any]) -> Facts:
    """What ``config.json`` says.

    Raises:
        CheckpointError: If they ask for what is not supported.
    """
    if not config_json:
        return Facts()
    encoder = encoder_config(config_json)
    _check_supported(encoder)
    sizes: dict[str, Any] = {
        field: tuple(encoder[field]) if isinstance(encoder[field], list) else encoder[field]
        for field in ("embed_dim", "depths", "num_heads", "mlp_ratio")
        if field in encoder
    }
    if "family" not in sizes and encoder.get("model_type") in FAMILIES:
        sizes["family"] = FAMILIES[encoder["model_type"]]
    if _is(config_json, "ForImageClassification") and "id2label" in config_json:
        sizes["num_classes"] = len(config_json["id2label"])
    pretrained = encoder.get("pretrained_window_sizes")
    return Facts(
        origin="config.json",
        window_size=encoder.get("window_size"),
        pretrained_window_sizes=tuple(pretrained) if pretrained else None,
        sizes=sizes,
        output="stages" if _is(config_json, "Backbone") else "",
    )


def encoder_config(config_json: dict[str, Any]) -> dict[str, Any]:
    """The part of ``config.json`` that is about the Swin encoder."""
    for key in ("encoder", "backbone_config", "vision_config"):
        inner = config_json.get(key)
        if isinstance(inner, dict) and inner.get("model_type") in FAMILIES:
            return inner
    return config_json


def image_side(config_json: dict[str, Any]) -> int | None:
    """The image side of ``config.json``.

    Raises:
        CheckpointError: If the images are no squares.
    """
    return square(encoder_config(config_json).get("image_size"), "image_size of config.json")


def _is(config_json: dict[str, Any], kind: str) -> bool:
    """Whether the saved model was of a kind, such as ``ForImageClassification``."""
    return any(str(name).endswith(kind) for name in config_json.get("architectures") or [])


def _check_supported(encoder: dict[str, Any]) -> None:
    if encoder.get("use_absolute_embeddings"):
        raise CheckpointError(
            "config.json asks for use_absolute_embeddings, which is not supported: "
            "no published Swin has absolute position embeddings"
        )
    activation = encoder.get("hidden_act", "gelu")
    if activation != "gelu":
        raise CheckpointError(f"config.json asks for hidden_act {activation}; supported is gelu")
    eps = encoder.get("layer_norm_eps", LAYER_NORM_EPS)
    if eps != LAYER_NORM_EPS:
        raise CheckpointError(
            f"config.json asks for layer_norm_eps {eps}, which transformers uses in some norms "
            f"only; supported is {LAYER_NORM_EPS}"
        )
