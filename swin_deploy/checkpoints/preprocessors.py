"""How each library prepares pictures: from its files, and for its own models without any.

Sources: timm 1.0.31 ``data/transforms_factory.py``; torchvision 0.28 ``transforms/_presets.py``
and the weights of ``models/swin_transformer.py``; the authors' ``data/build.py``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import msgspec

from exporters.errors import CheckpointError, ConfigError, FileError
from exporters.text_files import read_json, typed
from swin_deploy.checkpoints.image_processors import ImageProcessor, huggingface_rule
from swin_deploy.checkpoints.infer_config import variant_of
from swin_deploy.config import SwinConfig
from swin_deploy.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    LIBRARIES,
    Preprocessing,
    Rule,
    centre_crop_rule,
    squash_rule,
)


class _TimmSteps(msgspec.Struct, kw_only=True):
    """The fields of timm's ``pretrained_cfg`` that change pixels, every one optional."""

    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: str | None = None
    crop_pct: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    crop_mode: str | None = None


TIMM_CROP_PCT = 0.875  # where a pretrained_cfg has none
TIMM_MODES = ("center", "squash", "border")


def timm_rule(values: dict[str, Any], *, where: str, guess: str = "") -> Rule:
    """Read the steps of a timm ``pretrained_cfg``, as ``resolve_data_config`` does.

    Raises:
        FileError: If a value is of another type or range.
        CheckpointError: If it asks for what is not supported.
    """
    read = typed(values, _TimmSteps, where=where)
    interpolation = read.interpolation or "bicubic"
    mode = read.crop_mode or "center"
    for name, value, known in (
        ("interpolation", interpolation, INTERPOLATIONS),
        ("crop_mode", mode, TIMM_MODES),
    ):
        if value not in known:
            raise CheckpointError(
                f"{where} asks for {name} {value}; supported are {', '.join(known)}"
            )
    fixed: dict[str, Any] = {
        "mean": tuple(read.mean or IMAGENET_MEAN),
        "std": tuple(read.std or IMAGENET_STD),
        "interpolation": interpolation,
        "origin": where,
    }
    if mode != "center":
        fixed["resize_mode"] = {"squash": "squash", "border": "pad"}[mode]
    return centre_crop_rule(read.crop_pct or TIMM_CROP_PCT, guess=guess, **fixed)


# Sides that torchvision resizes to before the crop, by family, width and blocks of stage 3.
TORCHVISION_RESIZED = {
    ("swin", 96, 6): 232,
    ("swin", 96, 18): 246,
    ("swin", 128, 18): 238,
    ("swinv2", 96, 6): 260,
    ("swinv2", 96, 18): 260,
    ("swinv2", 128, 18): 272,
}
TORCHVISION_SIZES = {"swin": 224, "swinv2": 256}
PUBLISHED_HEADS = (1000, 21841)  # ImageNet-1k, ImageNet-22k
UNCROPPED = 384  # pixels: published models of this size see the whole picture
SMALLEST_RESIZED = 32  # pixels: up to here the authors' code does not resize


def library_rule(source: str, config: SwinConfig) -> Rule:
    """The way in which a library prepares pictures for its own model of these sizes.

    Args:
        source: One of ``timm``, ``torchvision``, ``microsoft``, ``huggingface`` and ``notebook``.
        config: Sizes of the model.

    Returns:
        The rule; it is a guess unless the sizes and the head are those of a published model.
    """
    published = variant_of(config, any_head=True)
    known = published is not None and config.num_classes in PUBLISHED_HEADS
    name = published or "Swin models"
    guess = "" if known else f"as {source} does for {name}: no file next to the weights says it"
    if source == "torchvision":
        return _torchvision_rule(config, guess)
    if source == "microsoft":
        return Rule(_microsoft_steps, guess)
    if source == "huggingface":
        return squash_rule(
            guess=guess, crop_rounding="huggingface", turn=True, origin=f"Hugging Face's {name}"
        )
    if source == "notebook":
        guess = "a common choice: the notebook prepares no pictures"
        return centre_crop_rule(TIMM_CROP_PCT, guess=guess, origin="nothing that was given")
    ratio = 1.0 if config.img_size == UNCROPPED else 0.9
    return centre_crop_rule(ratio, guess=guess, origin=f"timm's {name}")


def library_steps(config: SwinConfig) -> Preprocessing:
    """The steps of a model without a checkpoint: timm's, and common ones for the notebook's."""
    source = "notebook" if config.family == "notebook" else "timm"
    return library_rule(source, config).steps(config.image)


def _microsoft_steps(side: int) -> Preprocessing:
    """The authors' ``build_transform`` with the settings of their published configs."""
    origin = "the authors' data/build.py"
    if side == UNCROPPED:
        return Preprocessing(crop=side, resize=side, resize_mode="squash", origin=origin)
    if side <= SMALLEST_RESIZED:
        return Preprocessing(crop=side, resize=side, resize_mode="none", origin=origin)
    return Preprocessing(crop=side, resize=int((256 / 224) * side), origin=origin)


def _torchvision_rule(config: SwinConfig, guess: str) -> Rule:
    """The transforms of torchvision's weights; its general ones for sizes that it has not."""
    blocks = config.depths[2] if len(config.depths) > 2 else 0
    resized = TORCHVISION_RESIZED.get((config.family, config.embed_dim, blocks))
    native = TORCHVISION_SIZES.get(config.family, 224)
    if resized is None:
        guess = "torchvision's ImageClassification preset: it has no weights of these sizes"
        origin = "torchvision's ImageClassification"
        return centre_crop_rule(224 / 256, guess=guess, interpolation="bilinear", origin=origin)

    def at(side: int) -> Preprocessing:
        to = resized if side == native else round(resized * side / native)
        return Preprocessing(crop=side, resize=to, origin="torchvision's weights of these sizes")

    return Rule(at, guess)


FILES = ("preprocessor_config.json", "processor_config.json", "config.json")
# Fields that tell the three forms of a file apart.
OURS = {"crop", "resize", "resize_mode"}
TIMMS = {"crop_pct", "crop_mode", "interpolation", "input_size"}
PROCESSORS_FIELDS = set(ImageProcessor.__struct_fields__) | {"image_processor"}


def chosen_rule(choice: str | Path, config: SwinConfig) -> Rule:
    """The rule that the user names: a library, or a file or folder that says it.

    Args:
        choice: One of ``LIBRARIES``, or the path of a ``preprocessor_config.json``, of a timm
            ``config.json``, of a manifest of ours, or of a folder with one of these.
        config: Sizes of the model.

    Raises:
        FileError: If the file cannot be read or is none of these.
        ConfigError: If its steps cannot be done.
    """
    if choice in LIBRARIES:
        return dataclasses.replace(library_rule(str(choice), config), guess="")
    path = Path(choice)
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise FileError(f"folder {path} holds none of {', '.join(FILES)}; name the file")
        path = found[0]
    values = read_json(path)
    if not isinstance(values, dict):
        raise FileError(f"{path} is not a JSON object; name {' or '.join(FILES[:2])}")
    steps = values.get("preprocessing", values)
    if isinstance(steps, dict) and steps.keys() >= OURS:
        return _own_rule(Preprocessing.from_dict(steps, where=path.name), path)
    inner = values.get("pretrained_cfg")
    if isinstance(inner, dict) or values.keys() & TIMMS:
        return timm_rule({**values, **(inner or {})}, where=path.name)
    if values.keys() & PROCESSORS_FIELDS:
        return huggingface_rule(values, where=path.name)
    raise FileError(
        f"{path} says nothing of preprocessing; name a preprocessor_config.json, a timm "
        f"config.json or a manifest of swin-deploy, or one of {', '.join(LIBRARIES)}"
    )


def _own_rule(steps: Preprocessing, path: Path) -> Rule:
    """Steps of ours, which are for one image size."""

    def at(side: int) -> Preprocessing:
        if side != steps.crop:
            raise ConfigError(
                f"{path} prepares images of {steps.crop} px, the model takes {side} px; name "
                f"another file, or give --image-size {steps.crop}"
            )
        return steps

    return Rule(at, native=steps.crop, own=steps)
