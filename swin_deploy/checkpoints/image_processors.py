"""Image processors of transformers: ``preprocessor_config.json`` to the steps that it stands for.

Source: transformers 5.23, ``image_processing_backends.py`` and the image processors of its models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from exporters.text_files import listed, typed
from swin_deploy.checkpoints.processors import (
    DEFAULTS,
    DETECTORS,
    NEVER_CROP,
    PAD_LAST,
    PAGE_SWITCHES,
    PAGES,
    PROCESSORS,
    RAW,
    REFUSED_SWITCHES,
    RESAMPLE,
    SEGMENTERS,
    SHARED,
    WITHOUT_EFFECT,
)
from swin_deploy.config import MOST_SIDE, Size
from swin_deploy.images.pages import Page, Thumbnail
from swin_deploy.images.preprocessing import (
    Preprocessing,
    ResizeMode,
    by_channel,
)
from swin_deploy.images.rules import Rule, squash_rule

Side = Annotated[int, msgspec.Meta(ge=1, le=MOST_SIDE)]
Sides = Annotated[list[Side], msgspec.Meta(min_length=1, max_length=2)]
EDGES = {"shortest_edge", "longest_edge"}
OF_SOME = ("size_divisor", "max_size")  # fields that the other processors do not read


class ImageProcessor(msgspec.Struct, kw_only=True):
    """The fields of ``preprocessor_config.json`` that change pixels, every one optional."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool | None = None
    size: Side | Sides | dict[str, Side | None] | None = None
    default_to_square: bool | None = None
    resample: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    do_center_crop: bool | None = None
    crop_size: Side | Sides | dict[str, Side | None] | None = None
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
    pad_size: Side | Sides | dict[str, Side | None] | None = None
    size_divisor: Annotated[int, msgspec.Meta(ge=0, le=MOST_SIDE)] | None = None
    max_size: Side | None = None


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
    own = PROCESSORS.get(stem, {})
    said = {name: value for name, value in said.items() if name not in OF_SOME or name in own}
    steps = DEFAULTS | own | said
    if stem in NEVER_CROP:
        steps["do_center_crop"] = False
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
    multiple = steps.get("ensure_multiple_of") or 1
    if steps["do_resize"] and any(side % multiple for side in _size(steps, stem).values()):
        return f"ensure_multiple_of {multiple}"
    names = REFUSED_SWITCHES if stem in PAGES else (*REFUSED_SWITCHES, *PAGE_SWITCHES)
    switched = [name for name in names if steps.get(name)]
    if steps["do_pad"] and stem not in (*PAD_LAST, *SEGMENTERS, *PAGES):
        switched.append("do_pad")
    if switched:
        return f"{' and '.join(switched)} true"
    return _refused_page(steps) if stem in PAGES else _refused_shape(steps, stem)


def _refused_page(steps: dict[str, Any]) -> str:
    """Name the setting of a page that does not end in one size; empty if there is none."""
    if not steps["do_pad"]:
        return "do_pad false, with which every page has a size of its own"
    if steps["do_center_crop"]:
        return "do_center_crop true"
    size = _size(steps, "Donut")
    return "" if set(size) == {"height", "width"} else _in_words(size)


def _refused_shape(steps: dict[str, Any], stem: str) -> str:
    """Name the size that does not end in images of one size; empty if there is none."""
    size, crops = _size(steps, stem), steps["do_center_crop"]
    edges, words = set(size), _in_words(size)
    if crops and _rectangle(steps["crop_size"]) is None:
        return f"do_center_crop with crop_size {steps['crop_size']}"
    pads = stem in SEGMENTERS or (stem in DETECTORS and steps["do_pad"])
    pads = pads or _pad_size(steps, stem) is not None
    if not steps["do_resize"]:
        return "do_resize false with padding" if pads else ""
    if edges == EDGES and (crops or not pads):
        return f"{words} {'with do_center_crop' if crops else 'without do_pad'}"
    if edges not in (EDGES, {"height", "width"}, {"shortest_edge"}):
        return words
    if edges == {"shortest_edge"} and not crops and stem != "ConvNext":
        return f"{words} without do_center_crop"
    return _refused_pad(steps, stem)


def _refused_pad(steps: dict[str, Any], stem: str) -> str:
    """Name a size to pad to that is none, or too small; empty if there is no such size."""
    pad, whole = _pad_size(steps, stem), _whole(steps, stem)
    if pad is None:
        none = steps["do_pad"] and steps["pad_size"] and stem in PAD_LAST
        return f"pad_size {steps['pad_size']}" if none else ""
    if whole is not None and (pad.rows < whole.rows or pad.columns < whole.columns):
        return f"pad_size {pad.sides}, smaller than the {whole.sides} that it pads"
    return ""


def _in_words(size: dict[str, int]) -> str:
    return f"size {listed([f'{name} {value}' for name, value in size.items()])}"


def _size(steps: dict[str, Any], stem: str) -> dict[str, int]:
    """Return a processor's size by name; sides are rounded up to ``size_divisor``."""
    given = steps["size"]
    if stem == "Donut" and isinstance(given, list):
        given = given[::-1]  # width first
    size = _by_name(given, square=steps["default_to_square"])
    if isinstance(given, int) and "shortest_edge" in size and steps["max_size"]:
        size["longest_edge"] = steps["max_size"]
    if "height" in size and steps["size_divisor"]:
        return {name: _up(side, steps["size_divisor"]) for name, side in size.items()}
    return size


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _by_name(size: int | list[int] | dict[str, int | None], *, square: bool) -> dict[str, int]:
    """Return a size by name, as transformers reads it (``get_size_dict``)."""
    if isinstance(size, int):
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    if isinstance(size, list):
        return dict(zip(("height", "width"), (*size, *size)[:2], strict=True))
    return {name: side for name, side in size.items() if side is not None}


def _pad_size(steps: dict[str, Any], stem: str) -> Size | None:
    """Return the size that a processor pads to after normalisation; None for that of the batch."""
    pads = steps["do_pad"] and stem in PAD_LAST
    if not steps["pad_size"] or not (pads or stem in ("MaskFormer", "Mask2Former")):
        return None
    return _rectangle(steps["pad_size"])


def _rectangle(size: int | list[int] | dict[str, int | None] | None) -> Size | None:
    """Return a crop or pad size as rows and columns; None if it does not say both."""
    named = {} if size is None else _by_name(size, square=True)
    return Size(named["height"], named["width"]) if set(named) == {"height", "width"} else None


def _whole(steps: dict[str, Any], stem: str) -> Size | None:
    """Return the size of pictures after resize and crop; None if it is not one size."""
    if steps["do_center_crop"]:
        return _rectangle(steps["crop_size"])
    size = _size(steps, stem)
    return _rectangle({**size})


def _shape_rule(steps: dict[str, Any], stem: str, fixed: dict[str, Any]) -> Rule:
    """Return the rule of resize, crop and pads, scaled if the model's image size is another."""
    if stem in PAGES:
        return _page_rule(steps, stem, fixed)
    whole = _whole(steps, stem)
    if not steps["do_resize"]:
        native = whole and whole.plain if steps["do_center_crop"] else None
        return _rule(
            lambda image: Preprocessing(crop=image, resize=image, resize_mode="none", **fixed),
            native,
        )
    size, pad = _size(steps, stem), _pad_size(steps, stem)
    if set(size) == EDGES:
        return _edges_rule(Size(size["shortest_edge"], size["longest_edge"]), pad, steps, fixed)
    if stem == "ConvNext" and "shortest_edge" in size:
        shortest = size["shortest_edge"]
        return Rule(lambda side: _convnext(side, steps["crop_pct"], fixed), native=shortest)
    edge = size.get("shortest_edge")
    to = Size.square(edge) if edge else Size(size["height"], size["width"])
    mode: ResizeMode = "shortest" if edge else "squash"
    return _scaled_rule(to, whole or to, pad, fixed | {"resize_mode": mode})


def _rule(sized: Callable[[Size], Preprocessing], native: int | tuple[int, int] | None) -> Rule:
    return Rule(lambda side: sized(Size.square(side)), native=native, sized=sized)


def _scaled_rule(to: Size, crop: Size, pad: Size | None, fixed: dict[str, Any]) -> Rule:
    """Return the rule of a resize to a size, a crop and pads; all three grow with the image.

    Args:
        to: Size that pictures are resized to.
        crop: Size of the crop.
        pad: Size that is padded to, or None.
        fixed: Other fields of the steps.
    """
    native = pad or crop

    def sized(image: Size) -> Preprocessing:
        def grown(size: Size) -> Size:
            axes = zip(size, image, native, strict=True)
            return Size(*(max(1, round(side * now / own)) for side, now, own in axes))

        end = None if pad is None else image
        return Preprocessing(crop=grown(crop), resize=grown(to), pad_size=end, **fixed)

    return _rule(sized, native.plain)


def _edges_rule(
    edges: Size, pad: Size | None, steps: dict[str, Any], fixed: dict[str, Any]
) -> Rule:
    """Return the rule that keeps a picture's shape and pads it; a smaller image limits the edges.

    Args:
        edges: Shortest and longest edge.
        pad: Size that is padded to, or None for the image's.
        steps: All settings of the processor.
        fixed: Other fields of the steps.
    """
    multiple = steps["size_divisor"] or 1

    def sized(image: Size) -> Preprocessing:
        short, long = min(edges.rows, min(image)), min(edges.columns, max(image))
        return Preprocessing(
            crop=image,
            resize=(short, max(short, long)),
            resize_mode="fit",
            multiple=multiple,
            **fixed,
        )

    largest = Size(*(_up(edge, multiple) for edge in edges))
    return _rule(sized, (pad or largest).plain)


def _page_rule(steps: dict[str, Any], stem: str, fixed: dict[str, Any]) -> Rule:
    """Return the rule of a page: that of a processor of the model's size."""
    size = _size(steps, stem)
    thumbnail: Thumbnail = "nougat" if stem == "Nougat" else "donut"
    page = Page(
        crop_margin=bool(steps.get("do_crop_margin")) and stem == "Nougat",
        align_long_axis=steps["do_align_long_axis"],
        thumbnail=thumbnail if steps["do_thumbnail"] else "none",
    )
    mode: ResizeMode = "shortest" if steps["do_resize"] else "none"

    def sized(image: Size) -> Preprocessing:
        return Preprocessing(crop=image, resize=min(image), resize_mode=mode, page=page, **fixed)

    return _rule(sized, Size(size["height"], size["width"]).plain)


def _convnext(side: int, ratio: float, fixed: dict[str, Any]) -> Preprocessing:
    """Return ConvNext's steps: crop below 384 pixels, squash from there up."""
    if side < 384:
        return Preprocessing(crop=side, resize=int(side / ratio), **fixed)
    return Preprocessing(crop=side, resize=side, resize_mode="squash", **fixed)
