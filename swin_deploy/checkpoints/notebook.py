"""Checkpoints of the notebook's model: its parameter names, and the sizes they imply."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from exporters.errors import CheckpointError, ConfigError
from exporters.text_files import listed, parse_json, shortened, typed
from swin_deploy.checkpoints.dialect import Dialect, SideFiles
from swin_deploy.checkpoints.nearest_names import missing_keys
from swin_deploy.config import VARIANTS, SwinConfig, notebook_config
from swin_deploy.images.class_names import ClassNames, class_names_of
from swin_deploy.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
)
from swin_deploy.images.rules import Rule, centre_crop_rule

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING = "Embedding.linear_embedding.weight"
FIRST_TABLE = "stages.0.WSA.WMSA.embeddings.embeddings"
FIRST_MLP = "stages.0.WSA.MLP.0.weight"
STAGE_ENTRY = re.compile(r"stages\.([0-9]{1,4})\.(\w+)")
CONFIG_KEY = "swin_deploy_config"  # key of the metadata in which our own tools save the config
WHERE = f"the metadata {CONFIG_KEY}"
COMMON_CROP = 0.875  # image size over the size that pictures are resized to
NO_SIZES = ("preprocessing", "class_names")  # other fields of that metadata


def infer_config(
    tensors: dict[str, Tensor], metadata: dict[str, str], *, img_size: int | tuple[int, int] | None
) -> SwinConfig:
    """Infer the config of the model in a notebook checkpoint.

    Args:
        tensors: Name to tensor.
        metadata: Metadata of the file. Fields that no tensor's shape tells, such as heads and image
            size, come from the config in it, else from the variant of these sizes, else from the
            notebook.
        img_size: Image side, in pixels, to use instead; None for the checkpoint's.

    Raises:
        CheckpointError: If the names or shapes are not those of a notebook checkpoint, or the
            metadata disagrees with them.
        ConfigError: If windows cannot tile the image size.
        FileError: If the metadata is not JSON.
    """
    missing = [key for key in (EMBEDDING, FIRST_TABLE, FIRST_MLP) if key not in tensors]
    if missing:
        raise CheckpointError(
            f"not a notebook checkpoint: it lacks {', '.join(missing)}; "
            f"it has {len(tensors)} tensors, such as {listed(sorted(tensors)[:3])}"
        )
    embed_dim, _, patch_size, _ = _shape(tensors, EMBEDDING, 4)
    sizes: dict[str, Any] = {
        "embed_dim": embed_dim,
        "patch_size": patch_size,
        "depths": _depths(tensors),
        "window_size": math.isqrt(_shape(tensors, FIRST_TABLE, 2)[0]),
        "mlp_ratio": _shape(tensors, FIRST_MLP, 2)[0] / embed_dim,
        "num_classes": _shape(tensors, "head.weight", 2)[0] if "head.weight" in tensors else 0,
    }
    known = _saved_config(metadata, sizes) or _variant_config(sizes)
    chosen: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    return replace(known, **chosen) if known else notebook_config(**sizes, **chosen)


def check_state(tensors: dict[str, Tensor], config: SwinConfig) -> None:
    """Compare names, shapes and types with the model's.

    Args:
        tensors: Name to tensor.
        config: Sizes of the model.

    Raises:
        CheckpointError: If a name is missing or unknown, a shape differs, or a tensor is not
            floating point; the message names the first of each.
    """
    import torch

    from swin_deploy.reference.notebook import NotebookSwin

    with torch.device("meta"):
        wanted = NotebookSwin(config).state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - wanted.keys())
    shapes = [
        f"{key} is {list(tensors[key].shape)}, not {list(wanted[key].shape)}"
        for key in sorted(wanted.keys() & tensors.keys())
        if tensors[key].shape != wanted[key].shape
    ]
    types = [
        f"{key} is {str(tensors[key].dtype).removeprefix('torch.')}"
        for key in sorted(wanted.keys() & tensors.keys())
        if not tensors[key].is_floating_point()
    ]
    problems = [
        f"{kind}: {listed(names)}"
        for kind, names in (
            ("unknown keys", unknown),
            ("wrong shapes", shapes),
            ("not floating point", types),
        )
        if names
    ]
    if missing:
        problems = [missing_keys(missing, tensors, *problems)]
    if problems:
        raise CheckpointError(f"the checkpoint does not fit its model; {'; '.join(problems)}")


def _depths(tensors: dict[str, Tensor]) -> tuple[int, ...]:
    """Count the blocks of each stage: entries of ``stages`` are pairs of blocks, or merges."""
    entries = {int(m[1]): m[2] for key in tensors if (m := STAGE_ENTRY.match(key))}
    depths = [0]
    for index in range(len(entries)):
        if index not in entries:
            raise CheckpointError(
                f"the checkpoint does not fit its model; missing keys: stages.{index}.*, "
                f"although there is stages.{max(entries)}"
            )
        if entries[index] in ("WSA", "SWSA"):
            depths[-1] += 2
        else:
            depths.append(0)
    if 0 in depths:
        raise CheckpointError(
            "the checkpoint does not fit its model; its stages need blocks (WSA, SWSA) before and "
            f"after each merge, and have {listed([str(depth) for depth in depths])} of them"
        )
    return tuple(depths)


def _shape(tensors: dict[str, Tensor], key: str, ndim: int) -> tuple[int, ...]:
    shape = tuple(tensors[key].shape)
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(
            f"wrong shapes: {key} is {list(shape)}, not of {ndim} dimensions with values"
        )
    return shape


class _SavedSteps(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The preprocessing that our own tools save with the notebook's weights."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    crop_ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] = COMMON_CROP


def _saved_values(metadata: dict[str, str]) -> dict[str, Any]:
    """Read the values that our own tools saved with the tensors; empty if there are none.

    Raises:
        CheckpointError: If they are not a JSON object.
        FileError: If they are not JSON.
    """
    if CONFIG_KEY not in metadata:
        return {}
    values = parse_json(metadata[CONFIG_KEY], where=WHERE)
    if not isinstance(values, dict):
        raise CheckpointError(f"{WHERE} is no model config; save the checkpoint again")
    return values


def saved_rule(metadata: dict[str, str]) -> Rule | None:
    """Read the preprocessing that our own tools saved with the tensors.

    Args:
        metadata: Metadata of the file.

    Returns:
        The rule; None if none is saved.

    Raises:
        CheckpointError: If the saved values are not a JSON object.
        FileError: If they are not JSON, or a value is of another type or range.
    """
    saved = _saved_values(metadata).get("preprocessing")
    if saved is None:
        return None
    steps = typed(saved, _SavedSteps, where=f"{WHERE}, preprocessing")
    return centre_crop_rule(
        steps.crop_ratio,
        mean=steps.mean,
        std=steps.std,
        interpolation=steps.interpolation,
        origin=WHERE,
    )


def _class_names(files: SideFiles, num_classes: int) -> ClassNames | None:
    """Read the class names that our own tools saved with the tensors, if any.

    Raises:
        FileError: If they are damaged.
    """
    saved = _saved_values(files.metadata).get("class_names") or ()
    names = typed(saved, tuple[str, ...], where=f"{WHERE}, class_names")
    labels = {index: (name,) for index, name in enumerate(names)}
    return class_names_of(labels, num_classes, source=WHERE)


def _saved_config(metadata: dict[str, str], sizes: dict[str, Any]) -> SwinConfig | None:
    """Read the config that our own tools saved with the tensors; None if there is none.

    Raises:
        CheckpointError: If it is damaged, or is not the tensors' config.
    """
    values = _saved_values(metadata)
    if not values:
        return None
    try:
        saved = SwinConfig.from_dict({k: v for k, v in values.items() if k not in NO_SIZES})
    except (ValueError, ArithmeticError, RecursionError, ConfigError) as err:
        raise CheckpointError(
            f"{WHERE} is no model config ({shortened(err)}); save it again"
        ) from err
    differences = [
        f"{name} {shortened(getattr(saved, name))}, not {shortened(size)}"
        for name, size in sizes.items()
        if getattr(saved, name) != size
    ]
    if differences:
        raise CheckpointError(
            f"{WHERE} disagrees with the tensors: it has "
            f"{listed(differences, between='; ')}; save the checkpoint again"
        )
    return saved


def _variant_config(sizes: dict[str, Any]) -> SwinConfig | None:
    """Find the variant whose weights have these sizes; None if there is none."""
    for config in VARIANTS.values():
        if all(getattr(config, name) == size for name, size in sizes.items()):
            return config
    return None


def _library_rule(config: SwinConfig, name: str) -> Rule:
    guess = "a common choice: the notebook prepares no pictures"
    return centre_crop_rule(COMMON_CROP, guess=guess, origin="nothing that was given")


DIALECT = Dialect(
    "notebook",
    "WSA.WMSA.",
    lambda ours: (ours,),
    _library_rule,
    summary="torch.save or safetensors of the notebook's model",
    family="notebook",
    whole=True,
    file_rule=lambda files: saved_rule(files.metadata),
    class_names=_class_names,
)
