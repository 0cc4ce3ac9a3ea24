"""Checkpoints of timm: the merge stands before its stage, the classifier is ``head.fc``."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from exporters.errors import CheckpointError
from exporters.text_files import shortened, typed
from swin_deploy.checkpoints.backbone_config import timm_part
from swin_deploy.checkpoints.config_fields import (
    TIMM,
    TIMM_ARGUMENTS,
    TIMM_PRETRAINED,
    unknown_note,
)
from swin_deploy.checkpoints.config_json import TimmArguments, TimmModel, TimmWeights
from swin_deploy.checkpoints.dialect import MERGE_NAME, CheckpointHints, Dialect
from swin_deploy.checkpoints.resize import TableResize
from swin_deploy.checkpoints.settings import timm_output, timm_settings
from swin_deploy.checkpoints.timm_features import (
    ALL_STAGES,
    CUT,
    REMARK,
    flat_name,
    out_stages,
)
from swin_deploy.checkpoints.timm_steps import file_rule, steps_rule
from swin_deploy.config import VARIANTS, Size, SwinConfig
from swin_deploy.config.sizes import Windows
from swin_deploy.images.rules import Rule, centre_crop_rule

if TYPE_CHECKING:
    from torch import Tensor

# Fields that may ask for another model than is built, and their supported values.
SUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "norm_layer": ((None,), "its default"),
    "embed_layer": ((None,), "its default"),
    "label_offset": ((None, 0), "0"),
    "custom_load": ((None, False), "false"),
}


def _source_keys(ours: str) -> tuple[str, ...]:
    merge = MERGE_NAME.fullmatch(ours)
    if merge:
        return (f"layers.{int(merge[1]) + 1}.downsample.{merge[2]}",)
    if ours.startswith("head."):
        return (f"head.fc.{ours.removeprefix('head.')}",)
    return (ours,)


# Keys of state dicts in one file, in the order of ``timm.models.load_state_dict``.
WEIGHTS_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")


def usual_weights(key: str, averaged: bool) -> str:
    """Say why timm, which loads the authors' files too, takes the weights under a key."""
    return "as timm's load_checkpoint does" if key in WEIGHTS_KEYS else ""


def merges_first(names: Collection[str], config_json: Mapping[str, Any]) -> bool | None:
    """Tell whether merges have the number of the stage after them, as in timm's names.

    Returns:
        False for the authors' names, and for one stage, which loads the same; None if the names
        and the ``config.json`` do not tell.
    """
    stages = 1
    while any(name.startswith(f"layers.{stages}.blocks.") for name in names):
        stages += 1
    behind = any(name.startswith("layers.0.downsample.") for name in names)
    before = any(name.startswith(f"layers.{stages - 1}.downsample.") for name in names)
    if behind != before:
        return before
    if "pretrained_cfg" in config_json or "head.fc.weight" in names:
        return True
    return False if stages == 1 and not behind else None


def facts(config_json: dict[str, Any], *, where: str) -> CheckpointHints:
    """Read the facts in a timm ``config.json``: architecture and arguments.

    Args:
        config_json: Content of the file, or an empty dict.
        where: Name of the file, for messages.

    Raises:
        CheckpointError: If the file asks for something that is not supported.
        FileError: If a value is of another type than the library's, or out of range.
    """
    if not config_json:
        return CheckpointHints()
    config_json = timm_part(config_json)
    model = typed(config_json, TimmModel, where=where)
    arguments = model.model_args or TimmArguments()
    # The old form is one dict, which is the description of the weights, too.
    inner = config_json if model.pretrained_cfg is None else model.pretrained_cfg
    weights = typed(inner, TimmWeights, where=f"{where}, pretrained_cfg")
    known = VARIANTS.get((model.architecture or "").partition(".")[0])
    classes = _classes(model, arguments, weights)
    sizes = _sizes(known, arguments, classes)
    _check_supported(model, arguments, weights)
    side = arguments.img_size or (weights.input_size or [])[-2:] or _image_side(known)
    stages = out_stages(arguments, sizes)
    features = bool(arguments.features_only)
    for name in CUT if features else ():
        sizes.pop(name, None)
    return CheckpointHints(
        origin="config.json",
        img_size=image_size(side),
        built_size=image_size(side) if arguments.dynamic_img_size else None,
        window_size=sizes.pop("window_size", None),
        pretrained_window_sizes=sizes.pop("pretrained_window_sizes", None),
        always_shift=bool(arguments.always_partition) or None,
        qkv_bias=arguments.qkv_bias,
        out_stages=stages,
        settings=timm_settings(model, arguments, weights),
        output="stages" if features else timm_output(model, arguments, weights, classes=classes),
        sizes=sizes,
        remarks=_unknown(config_json, model),
    )


def _classes(model: TimmModel, arguments: TimmArguments, weights: TimmWeights) -> int | None:
    """Return the number of classes; transformers' wrapper without a head writes one all the same.

    Source: transformers/models/timm_wrapper/modeling_timm_wrapper.py, TimmWrapperModel.
    """
    if "TimmWrapperModel" in (model.architectures or ()):
        return 0
    classes = (arguments.num_classes, model.num_classes, weights.num_classes)
    return next((count for count in classes if count is not None), None)


def _sizes(
    known: SwinConfig | None, arguments: TimmArguments, classes: int | None
) -> dict[str, Any]:
    """Return the variant's sizes, replaced by those that the file gives."""
    sizes = _variant_sizes(known)
    said: dict[str, Any] = {
        "embed_dim": arguments.embed_dim,
        "in_channels": arguments.in_chans,
        "depths": tuple(arguments.depths or ()) or None,
        "num_heads": tuple(arguments.num_heads or ()) or None,
        "mlp_ratio": _ratios(arguments.mlp_ratio),
        "patch_size": square(arguments.patch_size, "patch_size of config.json"),
        "window_size": _window_size(arguments.window_size),
        "pretrained_window_sizes": tuple(
            _rectangle(one).plain for one in arguments.pretrained_window_sizes or ()
        )
        or None,
        "num_classes": classes,
    }
    sizes |= {name: value for name, value in said.items() if value is not None}
    _check_head_dim(arguments.head_dim, sizes)
    return sizes


def _ratios(value: float | list[float] | None) -> float | tuple[float, ...] | None:
    """Return the one ratio of all stages, or one for each."""
    if not isinstance(value, list):
        return value
    return value[0] if len(set(value)) == 1 else tuple(value)


def _window_size(value: int | list[int | list[int]] | None) -> Windows | None:
    """Return one window for all stages, or one for each; two numbers are rows and columns."""
    if not isinstance(value, list):
        return value
    if len(value) == 2 and all(isinstance(side, int) for side in value):
        return _rectangle(value)
    return tuple(map(_rectangle, value))


def _rectangle(value: int | list[Any]) -> Size:
    """Return the size of a window, or of one of pretraining."""
    sides = [value, value] if isinstance(value, int) else value
    if len(sides) != 2:
        raise CheckpointError(f"a window size of config.json has {len(sides)} numbers, not two")
    return Size(sides[0], sides[1])


def _check_head_dim(head_dim: int | list[int] | None, sizes: dict[str, Any]) -> None:
    heads, dim = sizes.get("num_heads", ()), sizes.get("embed_dim", 0)
    usual = [(dim << stage) // count for stage, count in enumerate(heads)]
    said = head_dim if isinstance(head_dim, list) else [head_dim] * len(usual)
    if head_dim is not None and said != usual:
        raise CheckpointError(
            f"config.json asks for head_dim {head_dim}; supported is channels over heads"
        )


def _unknown(config_json: dict[str, Any], model: TimmModel) -> tuple[str, ...]:
    """Return notes on unknown fields; the old form has those of the weights at its top."""
    top = TIMM if model.pretrained_cfg is not None else TIMM | TIMM_PRETRAINED
    parts = (
        ("config.json", config_json, top),
        ("model_args of config.json", config_json.get("model_args"), TIMM_ARGUMENTS),
        ("pretrained_cfg of config.json", model.pretrained_cfg, TIMM_PRETRAINED),
    )
    return tuple(
        note
        for where, values, known in parts
        for note in unknown_note(values or (), known, where=where)
    )


def square(size: int | list[int] | None, what: str) -> int | None:
    """Return the side of a square size, whether it is written as one number or several.

    Args:
        size: One side, all sides, or None.
        what: Name of the size, for messages.

    Raises:
        CheckpointError: If it is a rectangle.
    """
    if size is None or isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise CheckpointError(
            f"{what} is {' x '.join(map(str, size))}, and only squares are supported"
        )
    return size[0]


def image_size(sides: int | list[int] | None) -> int | Size | None:
    """Return the size of a model's images, in pixels.

    Args:
        sides: One side, rows and columns, or None.

    Raises:
        CheckpointError: If there are more than two numbers.
    """
    if sides is None or isinstance(sides, int):
        return sides
    if len(sides) > 2:
        raise CheckpointError(f"an image size of config.json has {len(sides)} numbers, not two")
    return Size(sides[0], sides[-1]).plain


def _image_side(known: SwinConfig | None) -> int | None:
    return known.image.rows if known else None


def _variant_sizes(known: SwinConfig | None) -> dict[str, Any]:
    if known is None:
        return {}
    fields = ("embed_dim", "depths", "num_heads", "mlp_ratio", "patch_size", "window_size")
    return {field: getattr(known, field) for field in (*fields, "pretrained_window_sizes")}


def _check_supported(*parts: TimmModel | TimmArguments | TimmWeights) -> None:
    """Refuse what is not built."""
    for part in parts:
        for name, (supported, words) in SUPPORTED.items():
            value = getattr(part, name, None)
            if (value.lower() if isinstance(value, str) else value) not in supported:
                raise CheckpointError(
                    f"config.json asks for {name} {shortened(repr(value))}; supported is {words}"
                )


UNCROPPED = 384  # pixels: published models of this size see the whole picture


def _library_rule(config: SwinConfig, name: str) -> Rule:
    ratio = 1.0 if config.img_size == UNCROPPED else 0.9
    return centre_crop_rule(ratio, origin=f"timm's {name}")


def widening(table: Tensor, before: Size, after: Size) -> Tensor:
    """Interpolate a table [offsets(before).area, heads] as timm does.

    The old entries are laid out in geometric progression from the centre, so that small offsets
    keep their biases; between them the new ones are linear. Source: ``resize_rel_pos_bias_table``.

    Args:
        table: Biases of the offsets of a window, rows first.
        before: Window size of the table.
        after: Window size that is wanted.

    Returns:
        [offsets(after).area, heads].
    """
    import torch

    down, across = (
        _linear_weights(torch.tensor(_widening_points(2 * old - 1, 2 * new - 1)), 2 * new - 1)
        for old, new in zip(before, after, strict=True)
    )
    grid = table.T.reshape(table.shape[1], 2 * before.rows - 1, -1).double()
    # [heads, rows, columns] -> [heads, new rows, new columns] -> [offsets, heads]
    return (down @ grid @ across.T).flatten(1).T.float().contiguous()


def _widening_points(old: int, new: int) -> list[float]:
    """Return the old entries' positions; bisection finds the ratio by which their steps grow."""
    left, right, ratio = 1.01, 1.5, 1.0
    while right - left > 1e-6:
        ratio = (left + right) / 2.0
        if (1.0 - ratio ** (old // 2)) / (1.0 - ratio) > new // 2:
            right = ratio
        else:
            left = ratio
    distances: list[float] = []
    current = 1.0
    for step in range(old // 2):
        distances.append(current)
        current += ratio ** (step + 1)
    return [-distance for distance in reversed(distances)] + [0.0] + distances


def _linear_weights(points: Tensor, new: int) -> Tensor:
    """Return the old entries' weights in the new, [new, old], float64; constant past the ends."""
    import torch

    wanted = torch.arange(new, dtype=torch.float64) - new // 2
    points = points.double()
    wanted = wanted.clamp(min=float(points[0]), max=float(points[-1]))
    right = torch.bucketize(wanted, points).clamp(1, len(points) - 1)
    share = (wanted - points[right - 1]) / (points[right] - points[right - 1])
    weights = torch.zeros(new, len(points), dtype=torch.float64)
    weights.scatter_(1, right[:, None], share[:, None])
    weights.scatter_(1, right[:, None] - 1, 1 - share[:, None])
    return weights


DIALECT = Dialect(
    "timm",
    "layers.0.blocks.0.attn.",
    _source_keys,
    _library_rule,
    summary="state dict, or a folder of config.json and weights; V1, V2, S3",
    fits=lambda names, config_json: merges_first(names, config_json) is not False,
    told_by="where layers.*.downsample stands",
    hints=facts,
    usual_weights=usual_weights,
    pads=("roll-then-pad", "roll-then-pad"),
    remainder="crop",
    table_resize=TableResize("linear on timm's widening grid", widening),
    bare_patches=True,
    library="timm",
    file_rule=file_rule,
    steps_rule=steps_rule,
)


def _extractor_facts(config_json: dict[str, Any], *, where: str) -> CheckpointHints:
    """Read the facts of a feature extractor, whose output is stage maps; raise as ``facts``."""
    found = facts(config_json, where=where)
    stages = () if found.out_stages else (ALL_STAGES,)
    remarks = (REMARK, *stages, *found.remarks)
    return dataclasses.replace(found, output="stages", remarks=remarks)


EXTRACTOR = dataclasses.replace(
    DIALECT,
    key_prefix="layers_0.blocks.0.attn.",
    source_keys=lambda ours: tuple(map(flat_name, _source_keys(ours))),
    fits=lambda _names, _config_json: True,
    told_by="",
    hints=_extractor_facts,
)
