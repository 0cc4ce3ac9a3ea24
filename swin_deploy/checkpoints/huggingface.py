"""Checkpoints of Hugging Face transformers: names on disk and in memory, and ``config.json``."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import msgspec

from exporters.errors import CheckpointError
from exporters.text_files import listed, shortened, typed
from swin_deploy.checkpoints.backbone_config import (
    FAMILIES,
    MASKFORMER,
    NAMED,
    is_kind,
    swin_part,
    swin_parts,
)
from swin_deploy.checkpoints.config_fields import HUGGINGFACE, unknown_note
from swin_deploy.checkpoints.config_json import HuggingFaceModel, HuggingFaceSwin
from swin_deploy.checkpoints.dialect import (
    BLOCK_NAME,
    MERGE_NAME,
    CheckpointHints,
    Dialect,
    SideFiles,
    respelt,
)
from swin_deploy.checkpoints.image_processors import huggingface_rule, steps_rule
from swin_deploy.checkpoints.settings import read_activation
from swin_deploy.checkpoints.timm import image_size, square
from swin_deploy.config import SwinConfig
from swin_deploy.images.rules import Rule, squash_rule

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_STAGES = 4
NORMS = "hidden_states_norms."
STAGE_NORM = re.compile(r"norm(\d+)\.(.*)")
WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:swin|swinv2|donut)\.$")
DONUT = re.compile(r"(?:(?<=\.)|^)donut\.$")  # its classifier has no norm before the head
OUTER = ("classifier.", NORMS)
MASKFORMER_WRAPPER = re.compile(r"(?:(?<=\.)|^)model\.$")

STEM = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "patch_embed.norm.": "embeddings.norm.",
    "absolute_pos_embed": "embeddings.position_embeddings",
    "norm.": "layernorm.",
    "head.": "classifier.",
}
# Names in files, whatever the version, and names of V2 in memory.
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
# Names of V1 in memory in transformers 5.
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
        return (start + respelt(rest, in_block),)
    merge = MERGE_NAME.fullmatch(ours)
    if merge:
        return (f"encoder.layers.{merge[1]}.downsample.{merge[2]}",)
    stage_norm = STAGE_NORM.fullmatch(ours)
    if stage_norm:
        return (f"{NORMS}stage{int(stage_norm[1]) + 1}.{stage_norm[2]}",)
    return (respelt(ours, STEM),)


def _on_disk(ours: str) -> tuple[str, ...]:
    parts = ("attention.self.query", "attention.self.key", "attention.self.value")
    return _rename(ours, ON_DISK, parts)


def _in_memory(ours: str) -> tuple[str, ...]:
    return _rename(ours, IN_MEMORY, ("attention.q_proj", "attention.k_proj", "attention.v_proj"))


def _prepare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the final norm of backbones, whose files have it under ``swin.``."""
    return {
        name.removeprefix("swin.") if name.startswith("swin.layernorm.") else name: tensor
        for name, tensor in tensors.items()
    }


def _maskformer(ours: str) -> tuple[str, ...]:
    """Return MaskFormer's names: it numbers norms from 0; the other backbones name the stages."""
    norm = STAGE_NORM.fullmatch(ours)
    return (f"{NORMS}{int(norm[1])}.{norm[2]}",) if norm else _on_disk(ours)


def facts(config_json: dict[str, Any], *, where: str) -> CheckpointHints:
    """Read the facts in a transformers ``config.json``.

    Args:
        config_json: Content of the file, or an empty dict.
        where: Name of the file, for messages.

    Raises:
        CheckpointError: If the file asks for something that is not supported.
        FileError: If a value is of another type than the library's, or out of range.
    """
    if not config_json:
        return CheckpointHints()
    key, encoder = swin_part(config_json)
    if not _known(encoder):
        return CheckpointHints(remarks=(_unread(config_json),))
    model = typed(config_json, HuggingFaceModel, where=where)
    swin = _swin(encoder, f"{where}, {key}" if key else where)
    if config_json.get("model_type") == "maskformer" and swin.model_type == "swin":
        swin = _as_maskformers(swin)
    _check_supported(model, swin)
    part = key.rpartition(".")[2]
    backbone = part in ("backbone_config", NAMED) or _is(model, "Backbone")
    return CheckpointHints(
        origin="config.json",
        img_size=image_size(swin.image_size),
        built_size=image_size(swin.image_size) if swin.model_type == "swinv2" else None,
        window_size=swin.window_size,
        pretrained_window_sizes=tuple(swin.pretrained_window_sizes or ()) or None,
        sizes=_sizes(model, swin),
        qkv_bias=swin.qkv_bias,
        settings=_settings(swin),
        always_shift=True if swin.model_type == MASKFORMER else None,
        out_stages=_out_stages(swin) if backbone and not _norms_tell(part, swin) else (),
        # Decoders of text look at every token of the encoder.
        output="stages" if backbone else "tokens" if part == "encoder" else "",
        remarks=unknown_note(encoder, HUGGINGFACE),
    )


def _known(encoder: dict[str, Any]) -> bool:
    """Tell whether a config is a Swin's; one that tells no model type counts as one."""
    untold = encoder.get("model_type") is None and not swin_parts(encoder)
    return untold or is_kind(encoder, FAMILIES)


def _unread(config_json: dict[str, Any]) -> str:
    """Say why a config tells no sizes."""
    several = list(swin_parts(config_json))
    if several:
        return f"config.json has several Swins, {listed(several)}: the weights tell the sizes"
    kind = shortened(config_json["model_type"])
    return f"config.json is of {kind}: the weights tell the sizes"


def _norms_tell(part: str, swin: HuggingFaceSwin) -> bool:
    """Tell whether a backbone that a text names has its stages from its norms alone."""
    chosen = (swin.out_features, swin.out_indices)
    return part == NAMED and swin.model_type == "swin" and chosen == (None, None)


def _as_maskformers(swin: HuggingFaceSwin) -> HuggingFaceSwin:
    """Return the config that MaskFormer makes of a SwinConfig: its own kind, with every stage.

    Source: MaskFormerPixelLevelModule of transformers/models/maskformer/modeling_maskformer.py.
    """
    every = [f"stage{number}" for number in range(1, _depth(swin) + 1)]
    return msgspec.structs.replace(swin, model_type=MASKFORMER, out_features=every)


def _depth(swin: HuggingFaceSwin) -> int:
    return DEFAULT_STAGES if swin.depths is None else len(swin.depths)


def _swin(encoder: dict[str, Any], where: str) -> HuggingFaceSwin:
    return typed(encoder, HuggingFaceSwin, where=where)


def _is(model: HuggingFaceModel, kind: str) -> bool:
    """Tell whether the saved model was of a kind, such as ``ForImageClassification``."""
    return any(name.endswith(kind) for name in model.architectures or ())


def _sizes(model: HuggingFaceModel, swin: HuggingFaceSwin) -> dict[str, Any]:
    """Return the sizes that the weights must show, too."""
    heads = swin.num_heads if swin.num_attention_heads is None else swin.num_attention_heads
    sizes: dict[str, Any] = {
        "family": FAMILIES.get(swin.model_type or ""),
        "embed_dim": swin.embed_dim,
        "in_channels": swin.num_channels,
        "depths": tuple(swin.depths) if swin.depths is not None else None,
        "num_heads": tuple(heads) if heads is not None else None,
        "mlp_ratio": swin.mlp_ratio,
        "patch_size": square(swin.patch_size, "patch_size of config.json"),
        "absolute_positions": bool(swin.use_absolute_embeddings),
    }
    if _is(model, "ForImageClassification"):
        classes = model.num_labels if model.id2label is None else len(model.id2label)
        sizes["num_classes"] = classes
    return {name: value for name, value in sizes.items() if value is not None}


def _settings(swin: HuggingFaceSwin) -> dict[str, Any]:
    """Return the fields of ``SwinConfig`` that no tensor shows."""
    settings: dict[str, Any] = {}
    if swin.hidden_act is not None:
        settings["activation"] = read_activation(swin.hidden_act, "hidden_act")
    if swin.layer_norm_eps is not None:
        settings["layer_norm_eps"] = swin.layer_norm_eps
    return settings


def _out_stages(swin: HuggingFaceSwin) -> tuple[int, ...]:
    """Return the stages, from 1, whose maps a backbone gives; by default the library's, the last.

    Raises:
        CheckpointError: If the config asks for anything else.
    """
    names = ["stem", *(f"stage{number}" for number in range(1, _depth(swin) + 1))]
    wanted = swin.out_features
    if wanted is None and swin.out_indices is not None:
        inside = [index for index in swin.out_indices if -len(names) <= index < len(names)]
        outside = [str(index) for index in swin.out_indices if index not in inside]
        wanted = [names[index] for index in inside] + outside
    wanted = names[-1:] if wanted is None else wanted
    odd = [name for name in wanted if name not in names[1:]]
    if odd or not wanted:
        raise CheckpointError(
            f"config.json asks for out_features {listed(odd) or 'none'}; supported are "
            f"{', '.join(names[1:])}"
        )
    return tuple(sorted({names.index(name) for name in wanted}))


def _check_supported(model: HuggingFaceModel, swin: HuggingFaceSwin) -> None:
    asks = "config.json asks for"
    if swin.use_absolute_embeddings and swin.model_type not in (None, "swin"):
        raise CheckpointError(
            f"{asks} use_absolute_embeddings, with which transformers' {swin.model_type} cannot "
            "run: it has one place more than patches"
        )
    for field in ("pruned_heads", "quantization_config"):
        if getattr(model, field):
            raise CheckpointError(
                f"{asks} {field}, which is not supported; save the whole model in float"
            )


def _library_rule(config: SwinConfig, name: str) -> Rule:
    return squash_rule(crop_rounding="huggingface", turn=True, origin=f"Hugging Face's {name}")


def _file_rule(files: SideFiles) -> Rule | None:
    if not files.preprocessor:
        return None
    return huggingface_rule(files.preprocessor, where="preprocessor_config.json")


def _dialect(key_prefix: str, memory: bool) -> Dialect:
    return Dialect(
        source="huggingface",
        key_prefix=f"encoder.layers.0.blocks.0.attention.{key_prefix}",
        source_keys=_in_memory if memory else _on_disk,
        library_rule=_library_rule,
        summary="Swin and Swinv2 folders or files; the encoder inside Donut and others",
        prepare=_prepare,
        wrapper_pattern=WRAPPER,
        sibling_prefixes=OUTER,
        normless=DONUT,
        unused=("embeddings.mask_token",),
        hints=facts,
        window_rules=("huggingface", "huggingface-v2"),
        pads=("pad-then-roll", "pad-then-roll"),
        remainder="pad",
        library="transformers",
        file_rule=_file_rule,
        steps_rule=steps_rule,
    )


# Source: transformers/models/maskformer/modeling_maskformer_swin.py.
MASKFORMER_DIALECT = dataclasses.replace(
    _dialect("self.", memory=False),
    source_keys=_maskformer,
    sibling_prefixes=(NORMS,),
    wrapper_pattern=MASKFORMER_WRAPPER,
    beside=f"{NORMS}0.weight",
)
DIALECTS = (MASKFORMER_DIALECT, _dialect("self.", memory=False), _dialect("q_proj.", memory=True))
