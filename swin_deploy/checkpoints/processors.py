"""Image processors of transformers: their defaults, and the fields that change no pixel.

Source: transformers 5.23, the image processors of its models on Pillow.
"""

from __future__ import annotations

from typing import Any

from swin_deploy.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TO_UNIT,
    Interpolation,
    by_channel,
)

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
    "crop_size": None,
    "pad_size": None,
    "size_divisor": None,
    "max_size": None,
}
# Detectors and segmenters keep the picture's shape, and pad it below and on the right.
SHAPE_KEEPERS: dict[str, Any] = {
    "size": {"shortest_edge": 800, "longest_edge": 1333},
    "image_mean": IMAGENET_MEAN,
    "image_std": IMAGENET_STD,
    "default_to_square": False,
}
DETECTORS = ("Detr", "DeformableDetr", "ConditionalDetr", "GroundingDino", "RTDetr")
SEGMENTERS = ("MaskFormer", "Mask2Former", "OneFormer")  # always pad
PROCESSORS |= dict.fromkeys(DETECTORS, SHAPE_KEEPERS | {"do_pad": True, "max_size": 1333})
PROCESSORS |= dict.fromkeys(SEGMENTERS, SHAPE_KEEPERS | {"size_divisor": 32, "max_size": None})
PROCESSORS["OneFormer"] = SHAPE_KEEPERS | {"do_convert_rgb": True}
PROCESSORS["RTDetr"] = SHAPE_KEEPERS | {
    "size": {"height": 640, "width": 640},
    "do_normalize": False,
}
# Processors that read no ``do_center_crop``.
NEVER_CROP = (*DETECTORS, *SEGMENTERS, "ConvNext", "Segformer", "DPT")
# Processors that pad to ``pad_size`` after all other steps, if ``do_pad`` is true.
PAD_LAST = ("ViT", "Siglip", "DeiT", "CLIP", "Bit", *DETECTORS)
# Readers of documents turn, shrink and pad a page.
PAGES = ("Donut", "Nougat")
PAGE: dict[str, Any] = {"do_thumbnail": True, "do_pad": True, "do_align_long_axis": False}
PROCESSORS["Donut"] = PAGE | {"size": {"height": 2560, "width": 1920}}
PROCESSORS["Nougat"] = PAGE | {
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
    "use_fast",
    "return_metadata",
    "size_unit",
}

REFUSED_SWITCHES = ("rescale_offset", "keep_aspect_ratio")
PAGE_SWITCHES = ("do_crop_margin", "do_align_long_axis", "do_thumbnail")

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
