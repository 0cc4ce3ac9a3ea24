"""Which library a checkpoint comes from, and its model in our names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from exporters.errors import CheckpointError, ConfigError
from exporters.text_files import shortened
from swin_deploy.assumptions import Assumption
from swin_deploy.checkpoints import huggingface, microsoft, notebook, timm, torchvision
from swin_deploy.checkpoints.assemble import assemble
from swin_deploy.checkpoints.dialect import (
    Facts,
    Named,
    find_prefixes,
    outside_note,
    take_encoder,
)
from swin_deploy.checkpoints.folders import Content, read_content
from swin_deploy.checkpoints.geometry import infer_sizes
from swin_deploy.checkpoints.known import DIALECTS, NOTEBOOK_EVIDENCE, SOURCES
from swin_deploy.checkpoints.resize import resize_tables
from swin_deploy.checkpoints.sizes import (
    Asked,
    check_agreement,
    own_config,
    pads,
    variant_of,
    wanted_config,
)
from swin_deploy.checkpoints.weights import Encoder
from swin_deploy.config import Preprocessing, SwinConfig, variant


@dataclass(frozen=True)
class Reading:
    """How a checkpoint was read, for whoever reads the same file by other means.

    Attributes:
        path: The file or folder that was given.
        weights_path: The weights file that was read, or the index of its parts.
        source: One of ``SOURCES``.
        saved: Config of the model that was saved, before another size was asked for.
        encoder: Place of the weights in the file.
        key: Shortest name that tells them from others in the file; empty for the file itself.
        wanted: What the user asked for with ``--weights``, or None.
        config_path: The ``config.json`` beside the weights, or None.
    """

    path: Path
    weights_path: Path
    source: str
    saved: SwinConfig
    encoder: Encoder
    key: str = ""
    wanted: str | None = None
    config_path: Path | None = None


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in our names.

    Attributes:
        config: Of the model that ``state_dict`` belongs to.
        state_dict: Name to float32 tensor.
        source: One of ``SOURCES``.
        notes: What was found, left aside or changed, for the user to read.
        assumptions: What nothing in the file says and had to be chosen.
        sha256: Of the weights file; of several parts, of their digests.
        reading: Where in the file the weights are, and what they were before they were resized.
    """

    config: SwinConfig
    state_dict: dict[str, Tensor]
    source: str
    notes: tuple[str, ...]
    sha256: str
    reading: Reading
    assumptions: tuple[Assumption, ...] = ()


def load_checkpoint(
    path: Path,
    *,
    source: str | None = None,
    name: str | None = None,
    img_size: int | None = None,
    window_size: int | None = None,
    weights: str | None = None,
) -> LoadedCheckpoint:
    """Read a checkpoint of any source.

    Args:
        path: A weights file, or a folder with one and its ``config.json``.
        source: One of ``SOURCES``; by default found from the keys.
        name: A variant that the checkpoint must be, which also tells what weights do not show.
        img_size: Image side in pixels, instead of the checkpoint's.
        window_size: Window side in tokens, instead of the checkpoint's.
        weights: The weights to take of several: ``ema``, ``raw`` or their key in the file.

    Raises:
        CheckpointError: If it cannot be read, lacks the weights that are asked for, fits no source
            or several, or does not fit its model.
        ConfigError: If the variant is unknown or another one, or windows cannot tile the image.
        FileError: If a JSON file beside it cannot be read.
    """
    asked = Asked(variant(name) if name is not None else None, name or "", img_size, window_size)
    content = read_content(path, wanted=weights)
    prefix = content.chosen.encoder.prefix
    found = source or detect_source(content.tensors, content.config_json, prefix=prefix)
    if found == "notebook":
        return _load_notebook(content, asked, path=path, wanted=weights)
    if found not in SOURCES:
        raise CheckpointError(f"unknown source {found}; known are {', '.join(SOURCES)}")
    named = _named(content.tensors, found, prefix)
    facts = _facts(content, found, asked)
    sizes = infer_sizes(named, facts)
    own, described, assumed = own_config(named, sizes, facts, asked)
    state, filled = assemble(named, own)
    config, changed = wanted_config(own, asked, pads=pads(named, own))
    state, resized = resize_tables(state, own, config, source=found)
    steps, more = _preprocessing(own, facts, found)
    read = (*content.chosen.notes, *outside_note(named), *facts.remarks)
    return LoadedCheckpoint(
        config=dataclasses.replace(config, preprocessing=steps),
        state_dict=state,
        source=found,
        notes=(described, *read, *filled, *changed, *resized, *more),
        sha256=content.sha256,
        reading=_reading(content, path=path, source=found, saved=own, wanted=weights),
        assumptions=(*content.chosen.assumptions, *assumed),
    )


def _reading(
    content: Content, *, path: Path, source: str, saved: SwinConfig, wanted: str | None
) -> Reading:
    return Reading(
        path=path,
        weights_path=content.weights_path,
        source=source,
        saved=saved,
        encoder=content.chosen.encoder,
        key=content.chosen.name,
        wanted=wanted,
        config_path=content.config_path,
    )


def detect_source(names: Iterable[str], config_json: dict[str, Any], *, prefix: str = "") -> str:
    """The source whose names these are.

    Args:
        names: Keys of a checkpoint.
        config_json: The ``config.json`` beside it, or an empty dict; asked where names fit
            several sources.
        prefix: Start of the names of the encoder that is meant.

    Raises:
        CheckpointError: If they fit none, or several that would load differently.
    """
    keys = [name for name in names if name.startswith(prefix)]
    found = [dialect.source for dialect in DIALECTS if find_prefixes(keys, dialect.evidence)]
    if any(NOTEBOOK_EVIDENCE in key for key in keys):
        found.append("notebook")
    if set(found) == {"microsoft", "timm"}:
        found = [_authors_or_timm(keys, config_json, prefix)]
    found = list(dict.fromkeys(found))
    if len(found) == 1:
        return found[0]
    some = ", ".join(sorted(keys)[:3])
    if not found:
        raise CheckpointError(
            f"no Swin checkpoint of {', '.join(SOURCES)}: "
            f"it has {len(keys)} tensors, such as {some}"
        )
    raise CheckpointError(
        f"the keys ({some}, ...) fit {' and '.join(found)}; say which with --source"
    )


def _authors_or_timm(keys: list[str], config_json: dict[str, Any], prefix: str) -> str:
    """Tell the two apart by where the merges stand; without merges they load the same."""
    stages = 1
    while any(key.startswith(f"{prefix}layers.{stages}.blocks.") for key in keys):
        stages += 1
    behind = any(key.startswith(f"{prefix}layers.0.downsample.") for key in keys)
    before = any(key.startswith(f"{prefix}layers.{stages - 1}.downsample.") for key in keys)
    if behind != before:
        return "microsoft" if behind else "timm"
    if "pretrained_cfg" in config_json or f"{prefix}head.fc.weight" in keys:
        return "timm"
    if stages == 1 and not behind:
        return "microsoft"
    raise CheckpointError(
        "the keys fit microsoft and timm, which differ in where layers.*.downsample stands; "
        "say which with --source"
    )


def _named(tensors: dict[str, Tensor], source: str, prefix: str) -> Named:
    """The encoder's tensors in the dialect of a source.

    Raises:
        CheckpointError: If the keys are not of that source.
    """
    for dialect in DIALECTS:
        if dialect.source == source and dialect.applies(tensors, prefix):
            return take_encoder(dialect, tensors, prefix)
    wanted = [dialect.evidence for dialect in DIALECTS if dialect.source == source]
    others = [dialect.source for dialect in DIALECTS if find_prefixes(tensors, dialect.evidence)]
    hint = f"; its keys are those of {' or '.join(dict.fromkeys(others))}" if others else ""
    raise CheckpointError(
        f"no checkpoint of {source}: no key starts with {' or '.join(wanted)}{hint}"
    )


def _facts(content: Content, source: str, asked: Asked) -> Facts:
    """What the files beside the weights, and else the variant's name, tell."""
    facts = Facts()
    where, size = str(shortened(content.config_path or "config.json")), asked.img_size
    if source == "timm":
        facts = timm.facts(content.config_json, where=where, asked_size=size)
    if source == "huggingface":
        both = content.config_json, content.preprocessor
        facts = huggingface.facts(*both, where=where, asked_size=size)
    known = asked.known
    if known is None:
        return facts
    return dataclasses.replace(
        facts,
        img_size=facts.img_size or known.img_size,
        window_size=facts.window_size or known.window_size,
        pretrained_window_sizes=facts.pretrained_window_sizes or known.pretrained_window_sizes,
        preprocessing=facts.preprocessing or known.preprocessing,
    )


def _preprocessing(
    own: SwinConfig, facts: Facts, source: str
) -> tuple[Preprocessing, tuple[str, ...]]:
    """The steps from an image to a model's input, and where they are known from."""
    if facts.preprocessing is not None:
        return facts.preprocessing, facts.notes
    own_steps = {"microsoft": microsoft.preprocessing, "torchvision": torchvision.preprocessing}
    steps = own_steps[source](own) if source in own_steps else None
    if steps is not None:
        return steps, (f"preprocessing of {source}'s own weights of these sizes",)
    name = variant_of(own)
    if source == "timm" and name:
        return variant(name).preprocessing, (f"preprocessing of timm's {name}",)
    return own.preprocessing, ("preprocessing is assumed: no file beside the weights tells it",)


def _load_notebook(
    content: Content, asked: Asked, *, path: Path, wanted: str | None
) -> LoadedCheckpoint:
    """The notebook's checkpoints have our names, and their windows cannot be changed."""
    config = notebook.infer_config(content.tensors, content.metadata, img_size=asked.img_size)
    notebook.check_state(content.tensors, config)
    if asked.window_size not in (None, config.window_size):
        raise ConfigError(
            f"window size {asked.window_size}: the notebook's position table is made for "
            f"{config.window_size} and cannot be resized"
        )
    if asked.known is not None:
        check_agreement(asked.name, asked.known, config)
    return LoadedCheckpoint(
        config=config,
        state_dict=content.tensors,
        source="notebook",
        notes=content.chosen.notes,
        sha256=content.sha256,
        reading=_reading(content, path=path, source="notebook", saved=config, wanted=wanted),
        assumptions=content.chosen.assumptions,
    )
