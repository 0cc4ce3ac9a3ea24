"""The kinds of Swins that are replaced: how each is told, read and stood in for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from swin_deploy.checkpoints.backbone_config import FAMILIES
from swin_deploy.checkpoints.dialect import SideFiles
from swin_deploy.config import Output
from swin_deploy.swap import own_facts, stand_ins

BACKBONES = frozenset({"SwinBackbone", "Swinv2Backbone", "MaskFormerSwinBackbone"})
ENCODERS = frozenset({"SwinModel", "Swinv2Model", "DonutSwinModel", "MaskFormerSwinModel"})
EXTRACTORS = frozenset({"FeatureListNet", "FeatureDictNet"})
SWIN = frozenset({"SwinTransformer", "SwinTransformerV2"})


@dataclass(frozen=True)
class Kind:
    """One kind of Swin.

    Attributes:
        library: Name of the library, for people.
        source: Name of the source whose names its tensors have.
        fits: Function that tells whether a module is of this kind.
        beside: Function that gives what the module tells by itself.
        output: Kind of output of the deploy model in it.
        stand_in: Class of the module that takes its place.
        embed: Path of the part that every image enters first.
    """

    library: str
    source: str
    fits: Callable[[Any], bool]
    beside: Callable[[Any], SideFiles]
    output: Output
    stand_in: type[stand_ins.StandIn]
    embed: str


def kind_of(module: nn.Module) -> Kind | None:
    """Return the kind of Swin that a module is; None if it is none that is known."""
    return next((kind for kind in KINDS if kind.fits(module)), None)


def _names(module: nn.Module) -> set[str]:
    """Return the names of a module's classes, its own and those that it is made from."""
    return {one.__name__ for one in type(module).__mro__}


def _is_transformers(module: Any, names: frozenset[str]) -> bool:  # noqa: ANN401 - not imported
    config = getattr(module, "config", None)
    return bool(_names(module) & names) and getattr(config, "model_type", None) in FAMILIES


def _is_extractor(module: Any) -> bool:  # noqa: ANN401 - as above
    first = getattr(module, "layers_0", None)
    return bool(_names(module) & EXTRACTORS) and hasattr(first, "blocks")


def _is_timm(module: Any) -> bool:  # noqa: ANN401 - as above
    parts = ("patch_embed", "layers", "forward_head", "feature_info")
    return bool(_names(module) & SWIN) and all(hasattr(module, part) for part in parts)


def _is_torchvision(module: Any) -> bool:  # noqa: ANN401 - as above
    parts = ("features", "norm", "permute", "avgpool", "head")
    return bool(_names(module) & SWIN) and all(hasattr(module, part) for part in parts)


def _is_detectors(module: Any, stages: str) -> bool:  # noqa: ANN401 - as above
    parts = ("patch_embed", stages, "out_indices")
    if not all(hasattr(module, part) for part in parts):
        return False
    blocks = own_facts.first_blocks(module)
    return bool(blocks) and own_facts.has_windows(blocks[0])


def _is_pretrain(module: Any) -> bool:  # noqa: ANN401 - as above
    last = hasattr(module, "stages") and (len(module.stages) - 1,)
    is_detectors = _is_detectors(module, "stages") and hasattr(module, "arch_settings")
    return is_detectors and tuple(module.out_indices) == last


KINDS = (
    Kind(
        "transformers", "huggingface", lambda one: _is_transformers(one, BACKBONES),
        own_facts.of_transformers, "stages", stand_ins.HuggingFaceBackbone, "embeddings",
    ),
    Kind(
        "transformers", "huggingface", lambda one: _is_transformers(one, ENCODERS),
        own_facts.of_transformers, "tokens", stand_ins.HuggingFaceModel, "embeddings",
    ),
    Kind(
        "timm", "timm", _is_extractor,
        own_facts.of_timm, "stages", stand_ins.TimmExtractor, "patch_embed",
    ),
    Kind(
        "timm", "timm", _is_timm,
        own_facts.of_timm, "tokens", stand_ins.TimmModel, "patch_embed",
    ),
    Kind(
        "torchvision", "torchvision", _is_torchvision,
        own_facts.of_blocks, "tokens", stand_ins.TorchvisionModel, "features.0",
    ),
    Kind(
        "OpenMMLab", "openmmlab", _is_pretrain,
        own_facts.of_blocks, "tokens", stand_ins.PretrainBackbone, "patch_embed",
    ),
    Kind(
        "OpenMMLab", "openmmlab", lambda one: _is_detectors(one, "stages"),
        own_facts.of_blocks, "stages", stand_ins.DetectorBackbone, "patch_embed",
    ),
    Kind(
        "Detectron2 and its kin", "microsoft", lambda one: _is_detectors(one, "layers"),
        own_facts.of_blocks, "stages", stand_ins.DetectorBackbone, "patch_embed",
    ),
)  # fmt: skip
