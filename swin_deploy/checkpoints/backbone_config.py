"""The part about the Swin in the ``config.json`` of transformers' models, whatever is around it.

Source: transformers 5.23, ``backbone_utils.py``, ``models/timm_backbone`` and the configs of models
around a backbone; their form before version 5 named the backbone in a text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from swin_deploy.config import VARIANTS
from swin_deploy.config.names import find_variant

MASKFORMER = "maskformer-swin"
FAMILIES = {"swin": "swin", "swinv2": "swinv2", "donut-swin": "swin", MASKFORMER: "swin"}
TIMM_BACKBONE = "timm_backbone"
NAMED = "backbone"  # key of a backbone that a text names
MOST_DEPTH = 4  # dicts in dicts that are looked into
# transformers' fields of TimmBackbone to the arguments of ``timm.create_model``.
TIMM_ARGUMENTS = {"num_channels": "in_chans"} | {
    name: name for name in ("features_only", "out_indices", "img_size", "always_partition")
}


def swin_part(config_json: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Find the fields of the Swin encoder.

    Args:
        config_json: Content of the file.

    Returns:
        Key of the part, joined by dots, and its fields. The key is empty, and the fields are the
        whole file's, if the file is about a Swin alone, or tells nothing of one.
    """
    if not is_kind(config_json, FAMILIES):
        parts = swin_parts(config_json)
        if parts and all(part == next(iter(parts.values())) for part in parts.values()):
            return next(iter(parts.items()))
        named = {} if parts else _named_swin(config_json)
        if named:
            return NAMED, named
    return "", config_json


def swin_parts(config_json: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every part about a Swin encoder, by key."""
    return dict(_parts(config_json, FAMILIES))


def is_kind(values: dict[str, Any], kinds: Collection[str]) -> bool:
    """Tell whether a config is of one of the model types."""
    kind = values.get("model_type")
    return isinstance(kind, str) and kind in kinds


def _parts(
    values: dict[str, Any], kinds: Collection[str], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the outermost dicts of some model types, with their keys."""
    if path and is_kind(values, kinds):
        yield ".".join(path), values
    elif len(path) < MOST_DEPTH:
        for key, inner in values.items():
            if isinstance(inner, dict):
                yield from _parts(inner, kinds, (*path, key))


def _named_swin(config_json: dict[str, Any]) -> dict[str, Any]:
    """Return transformers' fields of the published Swin that ``backbone`` names; empty if none."""
    name = config_json.get(NAMED)
    known = VARIANTS.get(find_variant(name) or "") if isinstance(name, str) else None
    if known is None or known.family == "notebook" or not isinstance(known.window_size, int):
        return {}
    sizes = ("embed_dim", "depths", "num_heads", "mlp_ratio", "patch_size", "window_size")
    fields = {size: getattr(known, size) for size in (*sizes, "pretrained_window_sizes")}
    lists = {size: list(value) for size, value in fields.items() if isinstance(value, tuple)}
    own = {"image_size": known.img_size, **fields, **lists}
    return own | _keywords(config_json) | {"model_type": known.family}


def _keywords(config_json: dict[str, Any]) -> dict[str, Any]:
    given = config_json.get("backbone_kwargs")
    return given if isinstance(given, dict) else {}


def timm_part(config_json: dict[str, Any]) -> dict[str, Any]:
    """Return a config in timm's own form: ``architecture`` and ``model_args``.

    Args:
        config_json: Content of the file: timm's own, TimmWrapper's, TimmBackbone's, or that of a
            larger model of transformers around TimmBackbone.
    """
    found = dict(_parts({"": config_json}, (TIMM_BACKBONE,)))
    inner = next(iter(found.values()), {})
    if not inner and isinstance(config_json.get(NAMED), str):
        inner = {NAMED: config_json[NAMED], **_keywords(config_json)}
    if not inner:
        return config_json
    arguments = {
        theirs: inner[name]
        for name, theirs in TIMM_ARGUMENTS.items()
        if inner.get(name) is not None
    }
    return {"architecture": inner.get(NAMED), "model_args": {"features_only": True} | arguments}
