"""Which library a checkpoint comes from, and its model in our names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor

from exporters.errors import CheckpointError, ConfigError
from exporters.text_files import listed, shortened
from swin_deploy.checkpoints import huggingface, notebook, timm
from swin_deploy.checkpoints.assemble import assemble
from swin_deploy.checkpoints.dialect import (
    CheckpointHints,
    EncoderTensors,
    find_prefixes,
    outside_note,
    take_encoder,
)
from swin_deploy.checkpoints.folders import CheckpointFiles, read_content
from swin_deploy.checkpoints.infer_config import (
    ConfigRequest,
    check_agreement,
    described,
    own_config,
    pads,
    wanted_config,
)
from swin_deploy.checkpoints.infer_sizes import infer_sizes
from swin_deploy.checkpoints.known import DIALECTS, NOTEBOOK_EVIDENCE, SOURCES
from swin_deploy.checkpoints.pictures import notebook_pictures, pictures_of
from swin_deploy.checkpoints.resize import resize_tables
from swin_deploy.checkpoints.weights import Encoder
from swin_deploy.config import SwinConfig, variant
from swin_deploy.config.assumptions import Assumption
from swin_deploy.images.class_names import ClassNames
from swin_deploy.images.preprocessing import Preprocessing, PreprocessingChoice


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
        sha256: Of the weights file; of several parts, of their digests.
        reading: Where in the file the weights are, and what they were before they were resized.
        preprocessing: Steps from a picture to an input of the model.
        class_names: Names of the classes that the checkpoint's own files give, or None.
        assumptions: What nothing in the file says and had to be chosen.
    """

    config: SwinConfig
    state_dict: dict[str, Tensor]
    source: str
    notes: tuple[str, ...]
    sha256: str
    reading: Reading
    preprocessing: Preprocessing
    class_names: ClassNames | None = None
    assumptions: tuple[Assumption, ...] = ()


class CheckpointOptions(TypedDict, total=False):
    """What may be asked of a checkpoint; what is absent or None, the checkpoint decides.

    Attributes:
        source: One of ``SOURCES``; by default found from the keys.
        img_size: Image side in pixels, instead of the checkpoint's.
        window_size: Window side in tokens, instead of the checkpoint's.
        weights: The weights to take of several in a file: ``ema``, ``raw`` or their key; by default
            what the source's library takes, which is then an assumption.
        preprocessing: What the user says of the preprocessing.
    """

    source: str | None
    img_size: int | None
    window_size: int | None
    weights: str | None
    preprocessing: PreprocessingChoice


def load_checkpoint(
    path: Path, name: str | None = None, **options: Unpack[CheckpointOptions]
) -> LoadedCheckpoint:
    """Read a checkpoint of any source.

    Args:
        path: A weights file, or a folder with one and its ``config.json``.
        name: A variant that the checkpoint must be, which also tells what weights do not show.
        options: What is asked of it, see ``CheckpointOptions``.

    Raises:
        CheckpointError: If it cannot be read, lacks the weights that are asked for, fits no source
            or several, or does not fit its model.
        ConfigError: If the variant is unknown or another one, or windows cannot tile the image.
        FileError: If a JSON file beside it cannot be read.
    """
    asked = ConfigRequest(variant(name) if name is not None else None, name or "", **options)
    content = read_content(path, wanted=asked.weights)
    prefix = content.chosen.encoder.prefix
    found = asked.source or detect_source(content.tensors, content.config_json, prefix=prefix)
    if found == "notebook":
        return _load_notebook(content, asked, path=path)
    if found not in SOURCES:
        raise CheckpointError(f"unknown source {found}; known are {', '.join(SOURCES)}")
    named = _named(content.tensors, found, prefix)
    facts = _facts(content, found, asked)
    sizes = infer_sizes(named, facts)
    own, assumed = own_config(named, sizes, facts, asked)
    state, filled = assemble(named, own)
    config, changed = wanted_config(own, asked, pads=pads(named, own))
    state, resized = resize_tables(state, own, config, source=found)
    pictures = pictures_of(content, found, own=own, config=config, asked=asked)
    read = (*content.chosen.notes, *outside_note(named), *facts.remarks)
    return LoadedCheckpoint(
        config=config,
        state_dict=state,
        source=found,
        notes=(described(config), *read, *filled, *changed, *resized, *pictures.notes),
        sha256=content.sha256,
        reading=_reading(content, path=path, source=found, saved=own, asked=asked),
        preprocessing=pictures.preprocessing,
        class_names=pictures.class_names,
        assumptions=(*content.chosen.assumptions, *assumed, *pictures.assumptions),
    )


def _reading(
    content: CheckpointFiles, *, path: Path, source: str, saved: SwinConfig, asked: ConfigRequest
) -> Reading:
    return Reading(
        path=path,
        weights_path=content.weights_path,
        source=source,
        saved=saved,
        encoder=content.chosen.encoder,
        key=content.chosen.name,
        wanted=asked.weights,
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
    found = [dialect.source for dialect in DIALECTS if find_prefixes(keys, dialect.key_prefix)]
    if any(NOTEBOOK_EVIDENCE in key for key in keys):
        found.append("notebook")
    if set(found) == {"microsoft", "timm"}:
        found = [_authors_or_timm(keys, config_json, prefix)]
    found = list(dict.fromkeys(found))
    if len(found) == 1:
        return found[0]
    some = listed(sorted(keys)[:3])
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


def _named(tensors: dict[str, Tensor], source: str, prefix: str) -> EncoderTensors:
    """The encoder's tensors in the dialect of a source.

    Raises:
        CheckpointError: If the keys are not of that source.
    """
    for dialect in DIALECTS:
        if dialect.source == source and dialect.applies(tensors, prefix):
            return take_encoder(dialect, tensors, prefix)
    wanted = [dialect.key_prefix for dialect in DIALECTS if dialect.source == source]
    others = [dialect.source for dialect in DIALECTS if find_prefixes(tensors, dialect.key_prefix)]
    hint = f"; its keys are those of {' or '.join(dict.fromkeys(others))}" if others else ""
    raise CheckpointError(
        f"no checkpoint of {source}: no key starts with {' or '.join(wanted)}{hint}"
    )


def _facts(content: CheckpointFiles, source: str, asked: ConfigRequest) -> CheckpointHints:
    """What the files beside the weights, and else the variant's name, tell."""
    facts = CheckpointHints()
    where, size = str(shortened(content.config_path or "config.json")), asked.img_size
    if source == "timm":
        facts = timm.facts(content.config_json, where=where, asked_size=size)
    if source == "huggingface":
        facts = huggingface.facts(content.config_json, where=where, asked_size=size)
    known = asked.known
    if known is None:
        return facts
    return dataclasses.replace(
        facts,
        img_size=facts.img_size or known.img_size,
        window_size=facts.window_size or known.window_size,
        pretrained_window_sizes=facts.pretrained_window_sizes or known.pretrained_window_sizes,
    )


def _load_notebook(
    content: CheckpointFiles, asked: ConfigRequest, *, path: Path
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
    pictures = notebook_pictures(content, config, asked)
    return LoadedCheckpoint(
        config=config,
        state_dict=content.tensors,
        source="notebook",
        notes=(*content.chosen.notes, *pictures.notes),
        sha256=content.sha256,
        reading=_reading(content, path=path, source="notebook", saved=config, asked=asked),
        preprocessing=pictures.preprocessing,
        class_names=pictures.class_names,
        assumptions=(*content.chosen.assumptions, *pictures.assumptions),
    )
