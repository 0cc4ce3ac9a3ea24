"""The libraries whose checkpoints are read, for tests: imports, trained-like weights, outputs."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

# Nothing is to be fetched: models are built here.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# torch.library removes the operators of a library object that is collected.
_SHIMS: list[torch.library.Library] = []


def ensure_torchvision_importable() -> str:
    """Let torchvision, hence timm and transformers, be imported where its operators cannot load.

    torchvision 0.28: with a CPU build of torch its ``_C.so`` lacks the CUDA libraries; the failure
    is swallowed and ``torchvision::nms does not exist`` follows. Two schemas are enough, no Swin
    calls them. Remove when torchvision of the default index imports beside torch for the CPU.

    Returns:
        ``absent``, ``native`` (real operators) or ``shimmed``.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return "absent"
    extensions = sorted(Path(spec.submodule_search_locations[0]).glob("_C*.so"))
    try:
        if extensions and not _SHIMS:
            torch.ops.load_library(str(extensions[0]))
            return "native"
    except OSError:
        pass
    if not _SHIMS:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _SHIMS.append(library)
    return "shimmed"


def import_peer(name: str) -> ModuleType:
    """A peer library, or a skip with the reason where it is not installed."""
    ensure_torchvision_importable()
    module: ModuleType = pytest.importorskip(name, exc_type=ImportError)
    return module


@torch.no_grad()
def trained_like(model: Model, seed: int = 0) -> Model:
    """Give every parameter of any library's Swin such values as training leaves; returns it.

    Outlier channels, LayerNorm scales around 1, biases and bias tables far from 0, logit scales
    of V2 below, at and above their clamp of ln(100).
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, std: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * std

    def outliers(count: int) -> Tensor:
        return torch.where(torch.rand(count, generator=generator) < 0.03, 3.0, 1.0)

    for name, value in model.named_parameters():
        if name.endswith("logit_scale") and value.ndim:
            picked = torch.tensor([1.0, math.log(10.0), math.log(100.0), 5.5])
            value.copy_(picked.repeat(len(value))[: len(value), None, None])
        elif value.ndim == 1 and name.endswith("weight"):
            value.copy_(normal(value, 0.3).exp() * outliers(len(value)))
        elif value.ndim < 2:
            value.copy_(normal(value, 0.3))
        elif name.endswith("relative_position_bias_table"):
            value.copy_(normal(value, 1.0))
        else:
            fan_in = value[0].numel()
            spread = outliers(len(value)).reshape(-1, *[1] * (value.ndim - 1))
            value.copy_(normal(value, 0.6 * fan_in**-0.5) * spread)
    _zero_key_biases(model)
    return model.eval()


def _zero_key_biases(model: nn.Module) -> None:
    """Keys of V2 have no bias; torchvision has one that it sets to zero when it runs."""
    for module in model.modules():
        bias = getattr(getattr(module, "qkv", None), "bias", None)
        if bias is not None and hasattr(module, "logit_scale"):
            bias.chunk(3)[1].zero_()


def hooked(modules: list[nn.Module], run: Callable[[], Any]) -> list[Tensor]:
    """What each of ``modules`` gives while ``run`` runs."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def last_blocks(model: nn.Module) -> list[nn.Module]:
    """The last block of each stage, of any of the libraries."""
    return list(_last_blocks(model))


def _last_blocks(model: nn.Module) -> Iterator[nn.Module]:
    features = getattr(model, "features", None)
    if features is not None:
        yield from (stage[-1] for stage in features[1::2])
        return
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "layers":
            yield from (stage.blocks[-1] for stage in module)
            return


@torch.no_grad()
def stage_maps(model: nn.Module, images: Tensor, dims: tuple[int, ...]) -> list[Tensor]:
    """The map [B, C, H, W] behind each stage's blocks, before the merge."""
    tokens = hooked(last_blocks(model), lambda: model(images))
    maps = []
    for value, dim in zip(tokens, dims, strict=True):
        side = math.isqrt(value.numel() // (len(images) * dim))
        maps.append(value.reshape(len(images), side, side, dim).permute(0, 3, 1, 2))
    return maps


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """What the model gives, of any of the libraries."""
    output = model(images)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


FOUR_STAGES = {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SIZES: dict[str, Any] = {"embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8)}


def build_timm(family: str, **sizes: object) -> nn.Module:
    """timm's model with trained-like weights: 64 pixels, windows of 4, 10 classes."""
    module = import_peer(f"timm.models.swin_transformer{'' if family == 'swin' else '_v2'}")
    kind = module.SwinTransformer if family == "swin" else module.SwinTransformerV2
    fields = {"img_size": 64, "window_size": 4, "num_classes": 10, **SIZES, **sizes}
    return trained_like(kind(**fields))


def build_torchvision(family: str, **sizes: object) -> nn.Module:
    """torchvision's model with trained-like weights: windows of 4, 10 classes."""
    module = import_peer("torchvision.models.swin_transformer")
    fields: dict[str, Any] = {"window_size": [4, 4], "num_classes": 10, **SIZES, **sizes}
    if family == "swinv2":
        fields |= {
            "block": module.SwinTransformerBlockV2,
            "downsample_layer": module.PatchMergingV2,
        }
    return trained_like(module.SwinTransformer(patch_size=[4, 4], **fields))


def build_huggingface(family: str, kind: str = "ForImageClassification", **sizes: object) -> Any:  # noqa: ANN401 - a class found at run time, with methods of its own
    """transformers' model with trained-like weights: 64 pixels, windows of 4, 10 classes."""
    library = import_peer("transformers")
    start = {"swin": "Swin", "swinv2": "Swinv2", "donut": "DonutSwin"}[family]
    fields = {"image_size": 64, "window_size": 4, "num_labels": 10, **SIZES, **sizes}
    config = getattr(library, f"{start}Config")(**fields)
    return trained_like(getattr(library, f"{start}{kind}")(config))


def build_maskformer(*, converted: bool = False, **sizes: object) -> Any:  # noqa: ANN401 - as above
    """MaskFormer around a Swin; ``converted`` writes the backbone's config in its own form."""
    library = import_peer("transformers")
    kind = library.MaskFormerSwinConfig if converted else library.SwinConfig
    fields = {**FOUR_STAGES, "image_size": 64, "window_size": 2, "out_features": STAGES, **sizes}
    decoder = library.DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=4,
    )  # fmt: skip
    config = library.MaskFormerConfig(
        backbone_config=kind(**fields), decoder_config=decoder, fpn_feature_size=32,
        mask_feature_size=32,
    )  # fmt: skip
    return trained_like(library.MaskFormerForInstanceSegmentation(config))


def microsoft_state(model: nn.Module) -> dict[str, Tensor]:
    """The authors' file of a timm model: their names, and the buffers that they save."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        parts = name.replace("head.fc.", "head.").split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts)] = value
    saved = ("relative_position_index", "relative_coords_table", "attn_mask")
    return state | {name: value for name, value in model.named_buffers() if name.endswith(saved)}


def saved(state: dict[str, Tensor], path: Path) -> Path:
    """A file of contiguous copies: safetensors by its suffix, else torch.save."""
    copies = {name: value.detach().clone().contiguous() for name, value in state.items()}
    if path.suffix == ".safetensors":
        save_file(copies, path)
    else:
        torch.save(copies, path)
    return path
