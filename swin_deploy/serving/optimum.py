"""A folder that Hugging Face's Optimum loads: ``ORTModelForImageClassification``, ``pipeline``."""

from __future__ import annotations

import json
from typing import Any

from exporters.errors import ConfigError
from exporters.weights import serialized
from swin_deploy.artifacts.onnx_file import read_onnx
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.serving.served import Served
from swin_deploy.serving.triton import Files, names_of

INPUT = "pixel_values"  # the name that Optimum gives images
# Pillow's numbers of its filters, which transformers' files have.
RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def optimum_files(served: Served) -> Files:
    """Return the files of the folder, by path.

    Raises:
        ConfigError: If it is no ONNX file of a classifier that takes images, or transformers has
            no processor with its steps.
    """
    if served.kind != "onnx" or not served.classifies or served.takes_pixels:
        raise ConfigError(
            f"{served.path} is not the ONNX file of a classifier that takes normalised images, "
            "which Optimum needs; export it so, without --bake-preprocessing"
        )
    kind, count = served.facts.scores, served.facts.config.num_classes
    if kind == "none" or (kind == "softmax" and count == 1):
        raise ConfigError(
            f"{served.path} gives {kind} scores of {count} classes, and transformers' pipeline "
            "makes a softmax of several classes or a sigmoid; export it with --scores, or use "
            "--for triton"
        )
    return {
        "model.onnx": _renamed(served),
        "config.json": _json(_config(served)),
        "preprocessor_config.json": _json(processor_config(served.facts.preprocessing)),
    }


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _renamed(served: Served) -> bytes:
    """Return the file with its input under Optimum's name."""
    graph = read_onnx(served.path).whole_graph()
    body, before = graph.graph, served.input.name
    body.input[0].name = INPUT
    for node in body.node:
        node.input[:] = [INPUT if name == before else name for name in node.input]
    return b"".join(serialized(graph))


def _config(served: Served) -> dict[str, Any]:
    """Return ``config.json``: what Optimum reads, and the sizes for readers."""
    config = served.facts.config
    names = dict(enumerate(names_of(served)))
    second = config.family == "swinv2"
    return {
        "architectures": [
            "Swinv2ForImageClassification" if second else "SwinForImageClassification"
        ],
        "model_type": "swinv2" if second else "swin",
        "image_size": config.image.plain,
        "num_channels": config.in_channels,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "id2label": {str(index): name for index, name in names.items()},
        "label2id": {name: index for index, name in names.items()},
        "problem_type": _problem_type(served),
    }


def _problem_type(served: Served) -> str:
    """Return transformers' name of the scores, by which ``pipeline`` takes softmax or sigmoid."""
    several = served.facts.scores == "sigmoid"
    return "multi_label_classification" if several else "single_label_classification"


def processor_config(steps: Preprocessing) -> dict[str, Any]:
    """Return ``preprocessor_config.json`` of some steps.

    1. A resize to both sides is that of ``ViTImageProcessor``.
    2. A resize of the shorter side with a centre crop is that of ``CLIPImageProcessor``.

    Raises:
        ConfigError: If transformers' processors do not have the steps.
    """
    _require_possible(steps)
    common = {
        "do_resize": True,
        "resample": RESAMPLE[steps.interpolation],
        "do_rescale": True,
        "rescale_factor": steps.rescale,
        "do_normalize": True,
        "image_mean": list(steps.mean),
        "image_std": list(steps.std),
        "do_convert_rgb": True,
    }
    size = {"height": steps.resize_size.rows, "width": steps.resize_size.columns}
    if steps.resize_mode == "squash" and steps.resize_size == steps.crop_size:  # 1
        return {"image_processor_type": "ViTImageProcessor", "size": size, **common}
    crop = {"height": steps.crop_size.rows, "width": steps.crop_size.columns}
    if steps.resize_mode == "shortest":  # 2
        size = {"shortest_edge": steps.resize_size.rows}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": size,
        "do_center_crop": True,
        "crop_size": crop,
        **common,
    }


def _require_possible(steps: Preprocessing) -> None:
    """Refuse steps that transformers' processors do not have; raises ``ConfigError``."""
    possible = {
        f"the resize mode {steps.resize_mode}": steps.resize_mode == "squash"
        or (steps.resize_mode == "shortest" and steps.resize_size.is_square),
        "images of other than three channels": steps.channels == 3,
        "channels in the order BGR": steps.channel_order == "rgb",
        "steps of a page": steps.page is None,
        "pads": steps.fill is None and steps.pad_size is None,
    }
    missing = [what for what, can in possible.items() if not can]
    if missing:
        raise ConfigError(
            f"transformers' image processors lack {missing[0]}, which this model needs; use --for "
            "triton, or prepare pictures with swin_deploy.Predictor"
        )
