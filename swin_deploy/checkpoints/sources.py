"""Which library a checkpoint comes from, and its model in our names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from exporters.errors import CheckpointError, ConfigError
from exporters.text_files import listed, typed
from swin_deploy.assumptions import Assumption
from swin_deploy.checkpoints import huggingface, microsoft, notebook, timm, torchvision
from swin_deploy.checkpoints.assemble import assemble
from swin_deploy.checkpoints.dialect import (
    Facts,
    Named,
    choose_prefix,
    find_prefixes,
    outside_note,
    take_encoder,
)
from swin_deploy.checkpoints.folders import Content, read_content
from swin_deploy.checkpoints.geometry import infer_sizes
from swin_deploy.checkpoints.image_processors import huggingface_rule
from swin_deploy.checkpoints.preprocessors import chosen_rule, library_rule, timm_rule
from swin_deploy.checkpoints.resize import resize_tables
from swin_deploy.checkpoints.sizes import (
    Asked,
    check_agreement,
    own_config,
    pads,
    wanted_config,
)
from swin_deploy.config import SwinConfig, variant
from swin_deploy.images.class_names import ClassNames, class_names_of
from swin_deploy.images.preprocessing import Preprocessing, PreprocessingChoice, Rule

SOURCES = ("notebook", "microsoft", "timm", "torchvision", "huggingface")
DIALECTS = (torchvision.DIALECT, *huggingface.DIALECTS, microsoft.DIALECT, timm.DIALECT)
NOTEBOOK_EVIDENCE = "WSA.WMSA."
CHANNELS = 3
PREPROCESSING_OPTION = "--preprocessing timm|torchvision|huggingface|microsoft|FILE"
DEFAULT_CHOICE = PreprocessingChoice()


class _Labels(msgspec.Struct, kw_only=True):
    """The class names that a ``config.json`` may have."""

    id2label: dict[int, str] | None = None
    label_names: list[str] | dict[int, str] | None = None
    pretrained_cfg: Any = None


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in our names.

    Attributes:
        config: Of the model that ``state_dict`` belongs to.
        state_dict: Name to float32 tensor.
        source: One of ``SOURCES``.
        notes: What was found, left aside or changed, for the user to read.
        sha256: Of the weights file; of several parts, of their digests.
        preprocessing: Steps from a picture to an input of the model.
        class_names: Names of the classes that the checkpoint's own files give, or None.
        assumptions: What nothing in the file says and had to be chosen.
    """

    config: SwinConfig
    state_dict: dict[str, Tensor]
    source: str
    notes: tuple[str, ...]
    sha256: str
    preprocessing: Preprocessing
    class_names: ClassNames | None = None
    assumptions: tuple[Assumption, ...] = ()


def load_checkpoint(
    path: Path,
    *,
    source: str | None = None,
    name: str | None = None,
    img_size: int | None = None,
    window_size: int | None = None,
    preprocessing: PreprocessingChoice = DEFAULT_CHOICE,
) -> LoadedCheckpoint:
    """Read a checkpoint of any source.

    Args:
        path: A weights file, or a folder with one and its ``config.json``.
        source: One of ``SOURCES``; by default found from the keys.
        name: A variant that the checkpoint must be, which also tells what weights do not show.
        img_size: Image side in pixels, instead of the checkpoint's.
        window_size: Window side in tokens, instead of the checkpoint's.
        preprocessing: What the user says of the preprocessing.

    Raises:
        CheckpointError: If it cannot be read, fits no source or several, or does not fit its
            model.
        ConfigError: If the variant is unknown or another one, or windows cannot tile the image.
    """
    asked = Asked(variant(name) if name is not None else None, name or "", img_size, window_size)
    content = read_content(path)
    found = source or detect_source(content.tensors, content.config_json)
    if found == "notebook":
        return _load_notebook(content, asked, preprocessing)
    if found not in SOURCES:
        raise CheckpointError(f"unknown source {found}; known are {', '.join(SOURCES)}")
    named = _named(content.tensors, found)
    facts = _facts(content, found, asked)
    sizes = infer_sizes(named, facts)
    own, described, assumed = own_config(named, sizes, facts, asked)
    state, filled = assemble(named, own)
    config, changed = wanted_config(own, asked, pads=pads(named, own))
    state, resized = resize_tables(state, own, config, source=found)
    rule = _file_rule(content, found) or library_rule(found, own)
    steps, more = prepared(rule, config, preprocessing, size_is_asked=img_size is not None)
    notes = [described, *outside_note(named), *filled, *changed, *resized, steps_note(steps)]
    return LoadedCheckpoint(
        config,
        state,
        found,
        tuple(notes),
        content.sha256,
        preprocessing=steps,
        class_names=_class_names(content, config.num_classes),
        assumptions=(*assumed, *more),
    )


def detect_source(names: Iterable[str], config_json: dict[str, Any]) -> str:
    """The source whose names these are.

    Args:
        names: Keys of a checkpoint.
        config_json: The ``config.json`` beside it, or an empty dict; asked where names fit
            several sources.

    Raises:
        CheckpointError: If they fit none, or several that would load differently.
    """
    keys = list(names)
    found = [dialect.source for dialect in DIALECTS if find_prefixes(keys, dialect.evidence)]
    if any(NOTEBOOK_EVIDENCE in key for key in keys):
        found.append("notebook")
    if set(found) == {"microsoft", "timm"}:
        found = [_authors_or_timm(keys, config_json)]
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


def _authors_or_timm(keys: list[str], config_json: dict[str, Any]) -> str:
    """Tell the two apart by where the merges stand; without merges they load the same."""
    prefix = choose_prefix(find_prefixes(keys, microsoft.DIALECT.evidence))
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


def _named(tensors: dict[str, Tensor], source: str) -> Named:
    """The encoder's tensors in the dialect of a source.

    Raises:
        CheckpointError: If the keys are not of that source.
    """
    for dialect in DIALECTS:
        prefixes = find_prefixes(tensors, dialect.evidence)
        if dialect.source == source and prefixes:
            return take_encoder(dialect, tensors, choose_prefix(prefixes))
    wanted = [dialect.evidence for dialect in DIALECTS if dialect.source == source]
    others = [dialect.source for dialect in DIALECTS if find_prefixes(tensors, dialect.evidence)]
    hint = f"; its keys are those of {' or '.join(dict.fromkeys(others))}" if others else ""
    raise CheckpointError(
        f"no checkpoint of {source}: no key starts with {' or '.join(wanted)}{hint}"
    )


def _facts(content: Content, source: str, asked: Asked) -> Facts:
    """What the files beside the weights, and else the variant's name, tell."""
    facts = Facts()
    if source == "timm":
        facts = timm.facts(content.config_json)
    if source == "huggingface":
        facts = huggingface.facts(content.config_json)
        if asked.img_size is None:
            side = huggingface.image_side(content.config_json)
            facts = dataclasses.replace(facts, img_size=side)
    known = asked.known
    if known is None:
        return facts
    return dataclasses.replace(
        facts,
        img_size=facts.img_size or known.img_size,
        window_size=facts.window_size or known.window_size,
        pretrained_window_sizes=facts.pretrained_window_sizes or known.pretrained_window_sizes,
    )


def _file_rule(content: Content, source: str) -> Rule | None:
    """How the files next to the weights prepare pictures; None without such files."""
    if source == "huggingface" and content.preprocessor:
        return huggingface_rule(content.preprocessor, where="preprocessor_config.json")
    if source == "timm" and content.config_json:
        inner = content.config_json.get("pretrained_cfg")
        pretrained = inner if isinstance(inner, dict) else {}
        return timm_rule({**content.config_json, **pretrained}, where="config.json")
    return None


def prepared(
    rule: Rule, config: SwinConfig, choice: PreprocessingChoice, *, size_is_asked: bool
) -> tuple[Preprocessing, tuple[Assumption, ...]]:
    """The steps from a picture to an input of a model, and what is assumed of them.

    Args:
        rule: The way of the files next to the weights, or of the source's library.
        config: Sizes of the model.
        choice: What the user says.
        size_is_asked: Whether the user gave the image size.

    Raises:
        ConfigError: If they cannot be done, or are for another number of channels.
        FileError: If the file that the user names cannot be read.
    """
    if choice.source is not None:
        rule = chosen_rule(choice.source, config)
    steps = choice.apply(rule.at(config.img_size))
    if len(steps.mean) != CHANNELS:
        raise ConfigError(
            f"mean and std of {steps.origin} have {len(steps.mean)} numbers, the model takes "
            f"{CHANNELS} channels; give --mean and --std"
        )
    assumed: list[Assumption] = []
    if rule.guess and not choice.settles:
        assumed.append(Assumption("preprocessing", steps.text, rule.guess, PREPROCESSING_OPTION))
    if rule.native not in (None, config.img_size) and not size_is_asked:
        reason = f"though {steps.origin} prepares images of {rule.native} px"
        assumed.append(Assumption("image size", f"{config.img_size} px", reason, "--image-size"))
    return steps, tuple(assumed)


def steps_note(steps: Preprocessing) -> str:
    """The preprocessing and its origin, for the user to read."""
    return f"preprocessing of {steps.origin}: {steps.refusal or steps.text}"


def _class_names(content: Content, num_classes: int) -> ClassNames | None:
    """The class names of ``config.json``: Hugging Face's ``id2label``, timm's ``label_names``."""
    read = typed(content.config_json, _Labels, where="config.json")
    inner = read.pretrained_cfg if isinstance(read.pretrained_cfg, dict) else {}
    names = read.label_names or typed(inner, _Labels, where="config.json").label_names
    if read.id2label:
        labels = {index: (name,) for index, name in read.id2label.items()}
        return class_names_of(labels, num_classes, source="id2label of config.json")
    if not names:
        return None
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    return class_names_of(
        {index: (name,) for index, name in listed.items()},
        num_classes,
        source="label_names of config.json",
    )


def _load_notebook(content: Content, asked: Asked, choice: PreprocessingChoice) -> LoadedCheckpoint:
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
    rule = notebook.saved_rule(content.metadata) or library_rule("notebook", config)
    steps, assumed = prepared(rule, config, choice, size_is_asked=asked.img_size is not None)
    return LoadedCheckpoint(
        config,
        content.tensors,
        "notebook",
        (steps_note(steps),),
        content.sha256,
        preprocessing=steps,
        assumptions=assumed,
    )
