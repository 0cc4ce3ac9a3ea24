#!/usr/bin/env python3
"""Whole models around a Swin: with it replaced, and unmodified, side by side.

    .venv/bin/python benchmarks/whole_models.py [MODEL]...

Each model is built from its library's config, with trained-like random weights; nothing is fetched.
Its Swin is replaced, and the whole is compared with the unmodified model in PyTorch and in ONNX
Runtime, at one image. Both are exported by PyTorch's new exporter and planned in float16 by
TensorRT-RTX. A row of a Markdown table follows for each model. Run it without models for their
names and all rows; a model at full size takes one to five minutes of one core, and up to 8 GB.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.engine.to_engine import build_engine
from exporters.errors import DeployError
from exporters.half_precision import to_half
from exporters.spec import BatchProfile, EngineOptions
from exporters.text_files import shortened
from swin_deploy.config.sizes import Size
from swin_deploy.swap.replace import swap_swin
from swin_deploy.swap.whole_onnx import export_original, export_whole

TESTS = Path(__file__).resolve().parents[1] / "tests" / "support"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
TINY: dict[str, Any] = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
SHALLOW: dict[str, Any] = TINY | {"depths": [2, 2, 2, 2]}
BASE: dict[str, Any] = {"embed_dim": 128, "depths": [2, 2, 2, 2], "num_heads": [4, 8, 16, 32]}
HEAD = ("model", "images", "PyTorch error", "ONNX Runtime error", "replaced", "unmodified", "MB")


class ImageSide(nn.Module):
    """GroundingDINO without text: its backbone, and the projections of its maps.

    Args:
        whole: The model of transformers.
    """

    def __init__(self, whole: Any) -> None:  # noqa: ANN401 - a class found at run time
        super().__init__()
        self.backbone = whole.model.backbone.conv_encoder.model
        self.project = whole.model.input_proj_vision

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone(images).feature_maps
        found = [project(one) for project, one in zip(self.project, maps, strict=False)]
        return [*found, self.project[len(maps)](maps[-1])]


def of_transformers(name: str, **fields: Any) -> nn.Module:  # noqa: ANN401
    """Build a model of transformers from the fields of its config."""
    library = peers().import_peer("transformers")
    kind = getattr(library, name)
    return trained(kind(kind.config_class(**fields)))


def backbone(kind: str = "Swin", **fields: Any) -> Any:  # noqa: ANN401
    """Return the config of a backbone, Swin-T unless ``fields`` say other."""
    library = peers().import_peer("transformers")
    wanted = {**TINY, "window_size": 7, "out_features": STAGES, **fields}
    return getattr(library, f"{kind}Config")(**wanted)


def peers() -> Any:  # noqa: ANN401 - a module found at run time
    """Return ``tests/support/peers.py``: trained-like weights, and torchvision's shim on CPUs."""
    return support("peers")


def support(name: str) -> Any:  # noqa: ANN401 - as above
    """Return one of the modules that tests share."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    return importlib.import_module(name)


def trained(model: nn.Module) -> nn.Module:
    """Return a model with weights such as training leaves."""
    with torch.no_grad():
        weights: nn.Module = peers().trained_like(model)
    return weights.eval()


def upernet(*, hidden: int, labels: int, **fields: Any) -> nn.Module:  # noqa: ANN401
    """Build UperNet around Swin-T."""
    return of_transformers(
        "UperNetForSemanticSegmentation",
        backbone_config=backbone(image_size=512, **fields),
        hidden_size=hidden,
        auxiliary_in_channels=384,
        num_labels=labels,
    )


def grounding_dino() -> nn.Module:
    """Build GroundingDINO's image side around Swin-T, three maps, with few words and layers."""
    words = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    library = peers().import_peer("transformers")
    whole = of_transformers(
        "GroundingDinoForObjectDetection",
        backbone_config=backbone(out_features=STAGES[1:]),
        text_config=library.BertConfig(**words, intermediate_size=32, vocab_size=50),
        encoder_layers=1,
        decoder_layers=2,  # its library ties the second's weights to the first's, and refuses one
    )
    return ImageSide(whole).eval()


def around(inner: nn.Module, channels: list[int], *, last: bool = False) -> nn.Module:
    """Return a small segmenter of a user's own around a backbone."""
    segmenter: nn.Module = support("swaps").Segmenter(inner, channels, last=last)
    return trained(segmenter)


def timm_features() -> nn.Module:
    """Build timm's feature extractor inside a module of a user's own."""
    timm = peers().import_peer("timm")
    name = "swin_tiny_patch4_window7_224"
    inner = timm.create_model(name, features_only=True, img_size=512)
    return around(inner, [96, 192, 384, 768], last=True)


def torchvision_classifier() -> nn.Module:
    """Build torchvision's Swin-T inside a module of a user's own."""
    models = peers().import_peer("torchvision.models")
    return trained(nn.Sequential(models.swin_t(weights=None), nn.Linear(1000, 10)))


def detectron2() -> nn.Module:
    """Build the Swin that Detectron2's projects share, of the authors, inside a segmenter."""
    sizes = {"depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "window_size": 7}
    inner = support("detector_libraries").build_transparent_background(
        embed_dim=96, out_indices=(0, 1, 2, 3), **sizes
    )
    # Its first output is the stem's.
    return around(inner, [96, 96, 192, 384, 768])


MODELS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "UperNet, 2/2/2/2, hidden 64, 2 labels": (
        "512x512", lambda: upernet(hidden=64, labels=2, **SHALLOW),
    ),
    "UperNet, 2/2/2/2, hidden 64, 150 labels": (
        "512x512", lambda: upernet(hidden=64, labels=150, **SHALLOW),
    ),
    "UperNet, Swin-T": ("512x512", lambda: upernet(hidden=512, labels=150)),
    "Mask2Former, Swin-T": (
        "384x384",
        lambda: of_transformers(
            "Mask2FormerForUniversalSegmentation", backbone_config=backbone(image_size=384)
        ),
    ),
    "MaskFormer, Swin-T": (
        "512x512",
        lambda: of_transformers(
            "MaskFormerForInstanceSegmentation", backbone_config=backbone(image_size=512)
        ),
    ),
    "GroundingDINO's images, Swin-T": ("800x1344", grounding_dino),
    "DPT, Swin V2-T": (
        "256x256",
        lambda: of_transformers(
            "DPTForDepthEstimation",
            backbone_config=backbone("Swinv2", image_size=256, window_size=16),
            neck_hidden_sizes=[96, 192, 384, 768],
            reassemble_factors=[1, 1, 1, 1],
            is_hybrid=False,
        ),
    ),
    "Donut's encoder, Swin-B, 2/2/2/2": (
        "1280x960",
        lambda: of_transformers("DonutSwinModel", **BASE, image_size=[1280, 960], window_size=10),
    ),
    "Nougat's encoder, Swin-B, 2/2/2/2": (
        "896x672",
        lambda: of_transformers("DonutSwinModel", **BASE, image_size=[896, 672], window_size=7),
    ),
    "Swinv2Model, V2-T": (
        "256x256",
        lambda: of_transformers("Swinv2Model", **TINY, image_size=256, window_size=8),
    ),
    "MaskFormerSwinBackbone, Swin-T": (
        "512x512",
        lambda: of_transformers(
            "MaskFormerSwinBackbone", **TINY, image_size=512, window_size=7, out_features=STAGES
        ),
    ),
    "timm's features in a user's module, Swin-T": ("512x512", timm_features),
    "torchvision's Swin-T in a user's module": ("224x224", torchvision_classifier),
    "Detectron2's class in a user's module, Swin-T": ("800x1344", detectron2),
}  # fmt: skip


def planned(graph: Any) -> Any:  # noqa: ANN401 - onnx is untyped
    """Return the float16 plan of a graph, of one image."""
    half = to_half(graph, io_precision="fp32")
    options = EngineOptions(flavor="tensorrt-rtx")
    return build_engine(half, BatchProfile(1, 1, 1), options=options).plan


def attempt(step: Callable[[], Any]) -> Any:  # noqa: ANN401 - the step's result
    """Run a step; return its result, or its error in one line."""
    try:
        return step()
    except DeployError as err:
        return shortened(" ".join(str(err).split()).replace("|", "/"))


def in_words(plan: Any) -> str:  # noqa: ANN401 - a plan, or an error
    """Return kernels, fused attention and MB of a plan; an error as it is."""
    if isinstance(plan, str):
        return plan
    fused = f"{plan.fused_attention} of {plan.attention_blocks}"
    wide = f", {len(plan.float32_compute)} in float32" if plan.float32_compute else ""
    return f"{plan.kernel_count} kernels, {fused} fused{wide}, {plan.bytes_moved / 1e6:,.1f} MB"


def measured(name: str) -> Iterator[str]:
    """Yield the cells of a model's row."""
    sides, build = MODELS[name]
    rows, columns = map(int, sides.split("x"))
    model = build()
    swap = swap_swin(model, (Size(rows, columns),))
    whole = export_whole(model, swap, opset=18, batch=1)
    ours = attempt(lambda: planned(whole.graph))
    theirs = attempt(lambda: planned(export_original(model, swap, opset=18, batch=1)))
    yield name
    yield sides
    for errors in (swap.errors, whole.errors):
        worst = max(errors, key=lambda one: one.error)
        yield f"{worst.error:.1e} ({'pass' if all(one.passed for one in errors) else 'FAIL'})"
    yield in_words(ours)
    yield in_words(theirs)
    known = not isinstance(ours, str) and not isinstance(theirs, str)
    yield f"{ours.bytes_moved / theirs.bytes_moved:.2f}" if known else "-"


def _row(name: str) -> list[str]:
    return list(measured(name))


def main() -> None:
    """Print a row for each model that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="Words in its name; all without."
    )
    asked = parser.parse_args().models
    chosen = [one for one in MODELS if not asked or any(word in one for word in asked)]
    if not chosen:
        parser.error(f"no model has {asked[0]!r} in its name; there are: {'; '.join(MODELS)}")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for row in (HEAD, ("---",) * len(HEAD)):
        sys.stdout.write(f"| {' | '.join(row)} |\n")
    for name in chosen:
        start = time.perf_counter()
        row = attempt(functools.partial(_row, name))
        cells = [name, row] if isinstance(row, str) else row
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()
        sys.stderr.write(f"{name}: {time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
