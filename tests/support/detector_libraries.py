"""The Swin files of libraries for detection and segmentation, from a cache folder of their own.

They are oracles of tests and never a dependency: pip installs them, without what they depend on,
into the user's cache, once for each set of pins; where that fails the tests are skipped with the
reason. Only their Swin files are run: the ``__init__`` of their packages, which import much that is
not installed, are passed over.

transparent-background holds the Swin of BiRefNet and InSPyReNet, GroundingDINO's is that of DINO;
both are the code of Swin-Transformer-Object-Detection, from which Mask2Former's and Detectron2's
come, too, which no index has.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tarfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from cached_wheels import cached
from torch import Tensor, nn

WHEELS = (
    "mmcv-lite==2.1.0",
    "mmengine==0.10.7",
    "mmdet==3.3.0",
    "mmsegmentation==1.2.2",
    "mmpretrain==1.2.0",
    "addict==2.4.0",
    "termcolor==3.3.0",
    "transparent-background==1.3.4",
)
ARCHIVES = ("groundingdino-py==0.4.0",)  # a source archive, which is unpacked and never built
GROUNDING = "groundingdino/models/GroundingDINO/backbone/swin_transformer.py"
# Packages whose ``__init__`` is passed over, and the modules whose names it would have.
BARE: dict[str, tuple[str, ...]] = {
    "mmcv": (),
    "mmcv.ops": (),
    "mmdet": (),
    "mmdet.utils": ("typing_utils",),
    "mmdet.models": (),
    "mmdet.models.backbones": (),
    "mmdet.models.layers.transformer": (),
    "mmdet.models.layers": ("transformer.utils",),
    "mmseg": (),
    "mmseg.utils": ("typing_utils",),
    "mmseg.models": (),
    "mmseg.models.backbones": (),
    "mmseg.models.utils": (),
    "mmpretrain": (),
    "mmpretrain.models": (),
    "mmpretrain.models.backbones": (),
    "mmpretrain.models.heads": (),
    "mmpretrain.models.necks": (),
    "mmpretrain.models.utils": ("attention", "embed", "helpers"),
    "transparent_background": (),
    "transparent_background.backbones": (),
}
# Modules that are imported and not used by what is run here.
ABSENT = (
    *("cv2", "yapf", "yapf.yapflib", "yapf.yapflib.yapf_api"),
    *("mmpretrain.evaluation", "mmpretrain.evaluation.metrics", "mmpretrain.structures"),
    *("groundingdino", "groundingdino.util", "groundingdino.util.misc"),
)


class Absent(types.ModuleType):
    """A module in the place of one that is not installed; to call anything of it is an error."""

    __path__: list[str] = []  # noqa: RUF012 - a package to the import system

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_args: object, **_named: object) -> None:
            raise RuntimeError(f"{self.__name__}.{name} is not installed here")

        return refuse


def library_folder() -> Path:
    """The folder of the libraries, installed if it is not there; a skip where that fails."""
    found = _installed()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@functools.cache
def _installed() -> Path | str:
    """The folder, or the reason why there is none."""
    return cached("detection libraries", WHEELS, ARCHIVES, finish=_unpack)


def _unpack(folder: Path) -> None:
    """Take GroundingDINO's file out of its archive."""
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as stream:
            for member in stream.getmembers():
                if member.name.partition("/")[2] == GROUNDING:
                    member.name = "groundingdino_swin.py"
                    stream.extract(member, folder, filter="data")


@functools.cache
def _import(name: str) -> types.ModuleType:
    """A module of the libraries, imported while their folder is on the path."""
    peers.import_peer("timm")
    folder = library_folder()
    for absent in ABSENT:
        sys.modules.setdefault(absent, Absent(absent))
    sys.path.append(str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmcv-lite's about what it lacks
            _make_bare(folder)
            return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def _make_bare(folder: Path) -> None:
    new = [name for name in BARE if name not in sys.modules]
    for name in new:
        module = types.ModuleType(name)
        module.__path__ = [str(folder / name.replace(".", os.sep))]
        sys.modules[name] = module
    for name in new:
        for part in BARE[name]:
            names = vars(importlib.import_module(f"{name}.{part}"))
            public = {one: value for one, value in names.items() if not one.startswith("__")}
            vars(sys.modules[name]).update(public)


def mmdet() -> Any:  # noqa: ANN401 - classes found at run time
    """MMDetection's ``models/backbones/swin.py``."""
    return _import("mmdet.models.backbones.swin")


def mmseg() -> Any:  # noqa: ANN401 - as above
    """MMSegmentation's ``models/backbones/swin.py``."""
    return _import("mmseg.models.backbones.swin")


def mmpretrain(version: int = 1) -> Any:  # noqa: ANN401 - as above
    """MMPretrain's ``models/backbones/swin_transformer.py``, or that of V2."""
    suffix = "_v2" if version == 2 else ""
    return _import(f"mmpretrain.models.backbones.swin_transformer{suffix}")


def mmpretrain_parts() -> tuple[Any, Any]:
    """MMPretrain's pooling and linear classifier: ``GlobalAveragePooling``, ``LinearClsHead``."""
    neck = _import("mmpretrain.models.necks.gap").GlobalAveragePooling
    head = _import("mmpretrain.models.heads.linear_head").LinearClsHead
    return neck, head


def grounding_dino() -> Any:  # noqa: ANN401 - as above
    """GroundingDINO's Swin; it is given images in an object with ``tensors`` and ``mask``."""
    return _import("groundingdino_swin")


def transparent_background() -> Any:  # noqa: ANN401 - as above
    """transparent-background's Swin, which is BiRefNet's and InSPyReNet's."""
    return _import("transparent_background.backbones.SwinTransformer")


# Models of these libraries with trained-like weights. The window of 4 covers the last of three maps
# of 64 pixels, where detectors shift it and classifiers do not.
SIZES: dict[str, Any] = {"depths": (2, 2, 2), "num_heads": (1, 2, 4), "window_size": 4}
MM = {"embed_dims": 16, "strides": (4, 2, 2), "out_indices": (0, 1, 2), **SIZES}
MS = {"embed_dim": 16, "out_indices": (0, 1, 2), **SIZES}
V1 = {"embed_dims": 16, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
V2 = {**V1, "extra_norm_every_n_blocks": 0}


def _trained(model: nn.Module) -> nn.Module:
    peers.trained_like(model)  # theirs return nothing from ``eval``
    return model


def build_mmdet(**fields: object) -> nn.Module:
    return _trained(mmdet().SwinTransformer(**{**MM, **fields}))


def build_mmseg(**fields: object) -> nn.Module:
    return _trained(mmseg().SwinTransformer(**{**MM, **fields}))


def build_mmpretrain(**fields: object) -> nn.Module:
    """MMPretrain's V1: by default with the norm of a classifier, which its last stage has."""
    given = {"arch": V1, "img_size": 64, "window_size": 4, "out_indices": (2,), **fields}
    return _trained(mmpretrain().SwinTransformer(**given))


def build_mmpretrain_v2(**fields: object) -> nn.Module:
    given = {"arch": V2, "img_size": 64, "window_size": 4, "out_indices": (2,), **fields}
    return _trained(mmpretrain(2).SwinTransformerV2(**given))


def build_grounding_dino(**fields: object) -> nn.Module:
    return _trained(grounding_dino().SwinTransformer(**{**MS, **fields}))


def build_transparent_background(**fields: object) -> nn.Module:
    return _trained(transparent_background().SwinTransformer(**{**MS, **fields}))


class Classifier(nn.Module):
    """MMPretrain's ``ImageClassifier``: backbone, pooling and linear head, all of them its own."""

    def __init__(self, backbone: nn.Module, channels: int, classes: int = 5) -> None:
        super().__init__()
        pool, head = mmpretrain_parts()
        self.backbone, self.neck = backbone, pool()
        linear = head(num_classes=classes, in_channels=channels, loss=nn.CrossEntropyLoss())
        self.head = peers.trained_like(linear, seed=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.neck(self.backbone(images)))
        return logits


@torch.no_grad()
def maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What a model of these libraries, or of ours, gives: its stages' maps, or its logits."""
    # GroundingDINO's ``forward`` takes and gives images with masks.
    found = getattr(model, "forward_raw", model)(images)
    found = [found] if isinstance(found, Tensor) else list(found)
    with_stem = type(model).__module__.startswith("transparent_background")
    return found[1:] if with_stem else found


def last_tokens(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The last map [B, C, H, W] as tokens [B, N, C]."""
    return [maps(model, images)[-1].flatten(2).transpose(1, 2)]
