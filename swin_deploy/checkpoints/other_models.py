"""Weights that are not a plain Swin's, told by names: other models, adapters, quantisation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from exporters.errors import CheckpointError
from exporters.text_files import shortened
from swin_deploy.checkpoints.dialect import Dialect, encoder_modules


@dataclass(frozen=True)
class Sign:
    """Names by which weights of a kind are told.

    Attributes:
        what: The kind, after "these are the weights of".
        patterns: Patterns; each must fit a name, from its start or after a dot.
        remedy: The next step; empty if there is none here.
    """

    what: str
    patterns: tuple[str, ...]
    remedy: str = ""


CONVOLUTIONS = "a Swin whose patch embedding is a stack of convolutions"
PARAMETRIZE = 'torch.nn.utils.parametrize.remove_parametrizations(module, "weight")'
LORA = r"lora_(?:A|B|E|embedding_A|embedding_B|magnitude)"
BEFORE = "save the model as it was before"
# Changes that any model may have, the first that fits is told.
CHANGED = (
    Sign(
        "a model with LoRA layers that are not merged",
        (LORA, r"(?:patch_embed|patch_embeddings|features\.0\.0|base_layer)\."),
        "save what model.merge_and_unload() of peft gives (loralib: after model.eval(), without "
        "the lora_ tensors)",
    ),
    Sign(
        "an adapter (LoRA), without the model that it adapts",
        (LORA,),
        "load it onto its model, and save what PeftModel.from_pretrained(model, FOLDER)"
        ".merge_and_unload() gives",
    ),
    Sign(
        "a model wrapped by peft",
        (r"(?:base_layer|original_module|modules_to_save)\.",),
        "save what model.merge_and_unload() gives",
    ),
    Sign(
        "a model quantised by bitsandbytes",
        (r"(?:SCB|weight_format|weight\.absmax|weight\.quant_map|weight\.quant_state)(?:\..*)?$",),
        BEFORE,
    ),
    Sign(
        "a quantised model",
        (r"(?:qweight|qzeros|_packed_params.*|weight\._data|weight_scale|zero_point)$",),
        BEFORE,
    ),
    Sign(
        "a model with fake quantisers",
        (r"\w*(?:_quantizer\._|_fake_quant\.|activation_post_process|fake_quant_enabled)",),
        "save it without them; precisions are chosen when the engine is built",
    ),
    Sign(
        "a part of a model that FSDP has flattened",
        (r"_?flat_param(?:_[0-9]+)?$",),
        "gather it (StateDictType.FULL_STATE_DICT), and save model.state_dict()",
    ),
)
# Changes of single layers; a classifier with one is named, and left aside.
NORMED = (
    Sign(
        "a model with parametrized weights (weight or spectral norm)",
        (r"parametrizations\.\w+\.",),
        f"call {PARAMETRIZE} for each, and save it",
    ),
    Sign(
        "a model with weight norm",
        (r"weight_g$", r"weight_v$"),
        "call torch.nn.utils.remove_weight_norm(module) for each, and save it",
    ),
    Sign(
        "a model with spectral norm",
        (r"weight_orig$", r"weight_u$"),
        "call torch.nn.utils.remove_spectral_norm(module) for each, and save it",
    ),
)
# Changes of the encoder itself.
CHANGED_SWIN = (
    *NORMED,
    Sign(CONVOLUTIONS, (r"patch_embed\.(?:proj|stem|conv\w*)\.[0-9]+\.",)),
    Sign(CONVOLUTIONS, (r"patch_embed\.(?:stem|conv)\w*\.(?:conv|weight)",)),
)
# Other models, the most particular first.
OTHERS = (
    Sign("SwinV2-CR of timm", (r"stages\.0\.blocks\.0\.attn\.meta_mlp\.",)),
    Sign("a Swin for restoration (SwinIR, Swin2SR, HAT)", (r"residual_group\.",)),
    Sign("Swin2SR of transformers, which enlarges pictures", (r"swin2sr\.",)),
    Sign("Swin2SR of transformers, which enlarges pictures",
         (r"encoder\.stages\.0\.layers\.0\.attention\.self\.",)),
    Sign("a Swin of MONAI, for volumes", (r"layers1\.0\.blocks\.0\.attn\.qkv\.",)),
    Sign("a Swin for video, of torchvision", (r"features\.0\.0\.attn\.relative_position_bias",)),
    Sign("CLAP, whose Swin reads sounds", (r"audio_encoder\.layers\.0\.blocks\.0\.",)),
    Sign("Swin-MLP", (r"layers\.0\.blocks\.0\.spatial_mlp\.",)),
    Sign("CSWin", (r"stage1\.0\.attns\.0\.get_v\.",)),
    Sign("FocalNet", (r"layers\.0\.blocks\.0\.modulation\.",)),
    Sign("a neighbourhood attention model (NAT, DiNAT)", (r"levels\.0\.blocks\.0\.attn\.rpb",)),
    Sign("GCViT", (r"stages\.0\.global_block\.",)),
    Sign("FasterViT", (r"levels\.0\.blocks\.0\.", r"patch_embed\.conv_down\.")),
    Sign("MaxViT", (r"(?:attn_block|attn_grid|grid_attention|window_attention)\.",)),
    Sign("EfficientFormer", (r"token_mixer\.attention_bias",)),
    Sign("ConvNeXt", (r"stages\.0\..*\b(?:dwconv|conv_dw|depthwise_conv)\.",)),
    Sign("ConvNeXt of torchvision", (r"features\.1\.0\.layer_scale$",)),
    Sign("a ViT, DeiT or BEiT", (r"blocks\.0\.attn\.(?:qkv|q|proj)\.", r"cls_token$")),
    Sign("a ViT", (r"blocks\.0\.attn\.qkv\.", r"pos_embed$")),
    Sign("a ViT, DeiT, BEiT or DINO of transformers",
         (r"encoder\.layer\.0\.(?:attention|norm1)\.", r"embeddings\.cls_token$")),
    Sign("a ViT of torchvision", (r"encoder_layer_0\.self_attention\.",)),
    Sign("a CLIP or SigLIP model", (r"(?:visual\.transformer|vision_model\.encoder)\.",)),
    Sign("a ResNet", (r"layer1\.0\.conv1\.", r"layer2\.0\.conv1\.")),
    Sign("a ResNet of transformers", (r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution",)),
    Sign("an EfficientNet or MobileNet", (r"_?conv_stem\.",)),
)  # fmt: skip
VIDEO = "a Swin for video or volumes: its patches have {} dimensions"
EMBEDDINGS = re.compile(r"(?:.*\.)?(?:patch_embed\.proj|patch_embeddings\.projection)\.weight")


def other_model(names: Collection[str]) -> str:
    """Say which other model names belong to; empty if none is known."""
    return _told(names, (*CHANGED, *NORMED, *OTHERS))


def refuse_changed(tensors: Mapping[str, Tensor], dialect: Dialect, prefix: str) -> None:
    """Refuse an encoder that is not a plain Swin.

    Args:
        tensors: Tensors by name.
        dialect: A dialect that the names fit.
        prefix: Start of the names of the encoder; others do not count.

    Raises:
        CheckpointError: If names or dimensions show adapters, quantisation, parametrizations, a
            stack of convolutions, or patches of a video.
    """
    inside = {name: one for name, one in tensors.items() if name.startswith(prefix)}
    own = tuple(f"{prefix}{module}." for module in encoder_modules(dialect))
    told = _told(inside, CHANGED) or _told(
        [name for name in inside if name.startswith(own)], CHANGED_SWIN
    )
    if told:
        raise CheckpointError(told)
    for name, one in inside.items():
        if one.ndim == 5 and EMBEDDINGS.fullmatch(name):
            what = VIDEO.format(one.ndim - 2)
            raise CheckpointError(f"{_these(what, name)}; supported are images")
    empty = [name for name, one in inside.items() if name.endswith("weight") and not one.numel()]
    if len(empty) > 1:
        what = "a model that DeepSpeed ZeRO has divided: this file has names and no values"
        command = "python zero_to_fp32.py FOLDER OUT"
        raise CheckpointError(f"{_these(what, empty[0])}; join the parts with {command}")


def _told(names: Iterable[str], signs: tuple[Sign, ...]) -> str:
    lines = "\n".join(name for name in names if "\n" not in name and len(name) < 1000)
    for sign in signs:
        found = [
            re.search(rf"^(?:.*\.)?{pattern}.*", lines, re.MULTILINE) for pattern in sign.patterns
        ]
        if found[0] is not None and all(found):
            remedy = sign.remedy or "supported are Swin and Swin V2 for images"
            return f"{_these(sign.what, found[0].group())}; {remedy}"
    return ""


def _these(what: str, name: str) -> str:
    return f"these are the weights of {what} ({shortened(name)})"
