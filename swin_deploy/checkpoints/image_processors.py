"""Image processors of transformers: ``preprocessor_config.json`` to the steps that it stands for.

Source: transformers 5.23, ``image_processing_backends.py`` and the image processors of its models.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from exporters.text_files import listed, typed
from swin_deploy.config import MOST_SIDE
from swin_deploy.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TO_UNIT,
    Interpolation,
    Preprocessing,
    ResizeMode,
    Rule,
    by_channel,
    squash_rule,
)

Side = Annotated[int, msgspec.Meta(ge=1, le=MOST_SIDE)]
HALVES = (0.5, 0.5, 0.5)
RAW = by_channel(0.0, 1.0)  # nothing subtracted, nothing divided by
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RESAMPLE: tuple[Interpolation, ...] = (  # by number, as PIL.Image.Resampling
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)
# Defaults of each image processor of transformers, for fields that its file does not have.
_SQUASH = {"size": {"height": 224, "width": 224}}
_CROPPED = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "default_to_square": False,
    "resample": 3,
}
_CLIP: dict[str, Any] = {
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "do_convert_rgb": True,
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": _SQUASH,
    "Beit": _SQUASH | {"resample": 3, "crop_size": {"height": 224, "width": 224}},
    "Siglip": _SQUASH | {"resample": 3, "default_to_square": False, "do_convert_rgb": True},
    "Segformer": _SQUASH
    | {
        "size": {"height": 512, "width": 512},
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    },
    "DPT": {"size": {"height": 384, "width": 384}, "resample": 3},
    "DeiT": {
        "size": {"height": 256, "width": 256},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "resample": 3,
    },
    "CLIP": _CROPPED | _CLIP,
    "Bit": _CROPPED | _CLIP,
    "MobileNetV2": _CROPPED | {"size": {"shortest_edge": 256}, "resample": 2},
    "ConvNext": {
        "size": {"shortest_edge": 384},
        "default_to_square": False,
        "resample": 3,
        "crop_pct": 224 / 256,
    },
}
DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "do_pad": False,
    "do_convert_rgb": False,
    "resample": 2,
    "rescale_factor": TO_UNIT,
    "image_mean": HALVES,
    "image_std": HALVES,
    "default_to_square": True,
}
# Detectors and segmenters keep the picture's shape: their images are not a fixed square. Their mean
# and standard deviation are used all the same.
SHAPE_KEEPERS = {
    "size": {"shortest_edge": 800, "longest_edge": 1333},
    "image_mean": IMAGENET_MEAN,
    "image_std": IMAGENET_STD,
    "default_to_square": False,
}
DETECTORS = ("Detr", "DeformableDetr", "ConditionalDetr", "GroundingDino", "RTDetr")
SEGMENTERS = ("MaskFormer", "Mask2Former", "OneFormer")
PROCESSORS |= dict.fromkeys((*DETECTORS, *SEGMENTERS), SHAPE_KEEPERS)
PROCESSORS["OneFormer"] = SHAPE_KEEPERS | {"do_convert_rgb": True}
PROCESSORS["RTDetr"] = SHAPE_KEEPERS | {
    "size": {"height": 640, "width": 640},
    "do_normalize": False,
}
# Readers of documents turn, shrink and pad a page to a rectangle, in steps that are not built.
PAGES = {"do_thumbnail": True, "do_pad": True, "do_align_long_axis": False}
PROCESSORS["Donut"] = PAGES | {"size": {"height": 2560, "width": 1920}}
PROCESSORS["Nougat"] = PAGES | {
    "size": {"height": 896, "width": 672},
    "do_crop_margin": True,
    "image_mean": IMAGENET_MEAN,
    "image_std": IMAGENET_STD,
}
# Fields of a processor's file that change no pixel of a single picture here.
WITHOUT_EFFECT = {
    "_processor_class",
    "_valid_processor_keys",
    "auto_map",
    "backend",
    "class_info_file",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_annotations",
    "do_reduce_labels",
    "ignore_index",
    "format",
    "image_processor_type",
    "feature_extractor_type",
    "input_data_format",
    "metadata",
    "model_input_names",
    "num_labels",
    "num_text",
    "processor_class",
    "reduce_labels",
    "repo_path",
    "return_tensors",
    "size_divisibility",
    "size_divisor",
    "use_fast",
    "return_metadata",
    "max_size",
    "size_unit",
}


REFUSED_SWITCHES = (
    "do_crop_margin",
    "do_align_long_axis",
    "do_thumbnail",
    "do_pad",
    "rescale_offset",
    "keep_aspect_ratio",
)
# Fields whose meaning and type are the same in every image processor.
SHARED = (
    "image_processor_type",
    "feature_extractor_type",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


class ImageProcessor(msgspec.Struct, kw_only=True):
    """The fields of ``preprocessor_config.json`` that change pixels, every one optional."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool | None = None
    size: Side | list[Side] | dict[str, Side | None] | None = None
    default_to_square: bool | None = None
    resample: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    do_center_crop: bool | None = None
    crop_size: Side | list[Side] | dict[str, Side | None] | None = None
    crop_pct: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    do_rescale: bool | None = None
    rescale_factor: float | None = None
    do_normalize: bool | None = None
    image_mean: float | list[float] | None = None
    image_std: float | list[float] | None = None
    do_pad: bool | None = None
    keep_aspect_ratio: bool | None = None
    ensure_multiple_of: int | None = None
    do_convert_rgb: bool | None = None
    rescale_offset: bool | None = None
    do_thumbnail: bool | None = None
    do_align_long_axis: bool | None = None
    do_crop_margin: bool | None = None
    pad_size: Any = None


def steps_rule(values: dict[str, Any], where: str) -> Rule | None:
    """Read an image processor's file; raise the errors of ``huggingface_rule``.

    Args:
        values: The parsed JSON file.
        where: Name of the file, for messages.

    Returns:
        The rule; None if the file is not an image processor's.
    """
    known = values.keys() & {*ImageProcessor.__struct_fields__, "image_processor"}
    return huggingface_rule(values, where=where) if known else None


def huggingface_rule(values: dict[str, Any], *, where: str) -> Rule:
    """Read an image processor's file.

    Args:
        values: The parsed ``preprocessor_config.json``.
        where: Name of the file, for messages.

    Returns:
        The rule; its steps carry a refusal if the processor does something that is not supported.

    Raises:
        FileError: If a value is of another type or range.
        ConfigError: If the steps cannot be done.
    """
    if isinstance(values.get("image_processor"), dict):  # a processor_config.json
        values = values["image_processor"]
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "ViT")
    stem = kind.removesuffix("Fast").removesuffix("Pil")
    stem = stem.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if stem not in PROCESSORS:  # its other fields may be of any type
        values = {name: values[name] for name in SHARED if name in values}
    read = typed(values, ImageProcessor, where=where)
    said = {n: value for n, value in msgspec.structs.asdict(read).items() if value is not None}
    steps = DEFAULTS | PROCESSORS.get(stem, {}) | said
    known = {*ImageProcessor.__struct_fields__, *WITHOUT_EFFECT}
    unknown = sorted(name for name in values.keys() - known if values[name] is not None)
    refusal = _refusal(steps, stem, unknown, kind)
    if refusal:
        refusal = (
            f"{where}: {refusal}, which is not supported; say how to prepare images with "
            "--resize-mode or --preprocessing"
        )
    fixed: dict[str, Any] = {
        **(by_channel(steps["image_mean"], steps["image_std"]) if steps["do_normalize"] else RAW),
        "rescale": steps["rescale_factor"] if steps["do_rescale"] else 1.0,
        "interpolation": RESAMPLE[steps["resample"]],
        "crop_rounding": "huggingface",
        "turn": True,
        "on_white": bool(steps["do_convert_rgb"]),
        "origin": where,
        "refusal": refusal,
    }
    if refusal:
        return squash_rule(**fixed)
    return _shape_rule(steps, stem, fixed)


def _refusal(steps: dict[str, Any], stem: str, unknown: list[str], kind: str) -> str:
    """Name the setting of a processor that is not supported; empty if there is none."""
    if stem not in PROCESSORS:
        return f"the image processor {kind}"
    if unknown:
        return f"the fields {listed(unknown)}"
    size = _size(steps["size"], square=steps["default_to_square"])
    multiple = steps.get("ensure_multiple_of") or 1
    if steps["do_resize"] and any(side % multiple for side in size.values()):
        return f"ensure_multiple_of {multiple}"
    # Detectors and segmenters pad to the largest picture of a batch, unless they have a size.
    alone = stem in (*DETECTORS, *SEGMENTERS) and not steps.get("pad_size")
    none = ("do_pad",) if alone else ()
    switched = [name for name in REFUSED_SWITCHES if steps.get(name) and name not in none]
    return f"{' and '.join(switched)} true" if switched else _refused_shape(steps, stem)


def _refused_shape(steps: dict[str, Any], stem: str) -> str:
    """Name the size that does not end in a square of one size; empty if there is none."""
    size = _size(steps["size"], square=steps["default_to_square"])
    crop = _size(steps["crop_size"], square=True) if steps["do_center_crop"] else {}
    if steps["do_resize"] and "do_thumbnail" in PROCESSORS[stem]:
        return f"the shape of the picture, which {stem}'s resize keeps"
    if steps["do_resize"] and set(size) not in ({"height", "width"}, {"shortest_edge"}):
        return f"size {listed([f'{name} {value}' for name, value in size.items()])}"
    for name, sides in (("size", size), ("crop_size", crop)):
        if len(set(sides.values())) > 1:
            return f"{name} {' x '.join(map(str, sides.values()))}, no square"
    if "shortest_edge" in size and not crop and stem != "ConvNext":
        return f"size shortest_edge {size['shortest_edge']} without do_center_crop"
    return ""


def _size(size: int | list[int] | dict[str, int | None], *, square: bool) -> dict[str, int]:
    """Return a size by name, as transformers reads it (``get_size_dict``)."""
    if isinstance(size, int):
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    if isinstance(size, list):
        return dict(zip(("height", "width"), (*size, *size)[:2], strict=True))
    return {name: side for name, side in size.items() if side is not None}


def _shape_rule(steps: dict[str, Any], stem: str, fixed: dict[str, Any]) -> Rule:
    """Return the rule of resize and crop, scaled to the model's image size if the file differs."""
    crop = _size(steps["crop_size"], square=True)["height"] if steps["do_center_crop"] else None
    if not steps["do_resize"]:
        fixed["resize_mode"] = "none"
        return Rule(lambda side: Preprocessing(crop=side, resize=side, **fixed), native=crop)
    size = _size(steps["size"], square=steps["default_to_square"])
    resized = size.get("shortest_edge") or size["height"]
    if stem == "ConvNext" and "shortest_edge" in size:
        return Rule(lambda side: _convnext(side, steps["crop_pct"], fixed), native=resized)
    crop = crop or resized
    mode: ResizeMode = "shortest" if "shortest_edge" in size else "squash"

    def at(side: int) -> Preprocessing:
        to = resized if side == crop else max(1, round(resized * side / crop))
        return Preprocessing(crop=side, resize=to, resize_mode=mode, **fixed)

    return Rule(at, native=crop)


def _convnext(side: int, ratio: float, fixed: dict[str, Any]) -> Preprocessing:
    """Return ConvNext's steps: crop below 384 pixels, squash from there up."""
    if side < 384:
        return Preprocessing(crop=side, resize=int(side / ratio), **fixed)
    return Preprocessing(crop=side, resize=side, resize_mode="squash", **fixed)
