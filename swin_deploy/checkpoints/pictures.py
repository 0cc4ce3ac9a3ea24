"""The preprocessing and the class names of a checkpoint, from its own files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from exporters.errors import ConfigError
from exporters.text_files import typed
from swin_deploy.checkpoints.detectors import StoredNormalisation
from swin_deploy.checkpoints.dialect import Dialect, SideFiles
from swin_deploy.checkpoints.infer_config import ConfigRequest
from swin_deploy.checkpoints.known import LIBRARIES
from swin_deploy.checkpoints.preprocessors import chosen_rule, library_rule
from swin_deploy.checkpoints.training import training_classes, training_rule
from swin_deploy.checkpoints.variants import variant_of
from swin_deploy.config import Size, SwinConfig, channels_text
from swin_deploy.config.assumptions import Assumption
from swin_deploy.images.class_names import (
    PUBLISHED,
    ClassNames,
    class_names_of,
    published_class_names,
    read_class_names,
)
from swin_deploy.images.preprocessing import (
    Preprocessing,
    PreprocessingChoice,
)
from swin_deploy.images.rules import Rule
from swin_deploy.images.scores import Scores
from swin_deploy.images.tag_list import TAGS_FILE

RGB = 3
# transformers' problem types and the scores that its pipelines give.
PROBLEMS: dict[str | None, Scores] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
ONE_CLASS = Assumption(
    "scores",
    "sigmoid of the one class",
    "as softmax gives 1 for every picture: no file next to the weights says it",
    "--scores sigmoid|none",
)
PREPROCESSING_OPTION = f"--preprocessing {'|'.join(LIBRARIES)}|FILE"


@dataclass(frozen=True)
class Pictures:
    """The preprocessing of a model's pictures, and the names of its classes.

    Attributes:
        preprocessing: Steps from a picture to an input of the model.
        class_names: Names of the classes; None if they are unknown.
        scores: Kind of the classes' scores.
        notes: Notes on what was found, for the user to read.
        assumptions: Choices that neither the files nor the user made.
    """

    preprocessing: Preprocessing
    class_names: ClassNames | None
    scores: Scores
    notes: tuple[str, ...]
    assumptions: tuple[Assumption, ...]


def pictures_of(
    files: SideFiles,
    dialect: Dialect,
    *,
    own: SwinConfig,
    config: SwinConfig,
    asked: ConfigRequest,
    stored: StoredNormalisation | None = None,
) -> Pictures:
    """Find the preprocessing and the class names of a checkpoint.

    Args:
        files: Metadata of the weights, and the JSON files next to them.
        dialect: The dialect of the checkpoint.
        own: Config of the model as it was saved.
        config: Config of the model that was asked for.
        asked: The user's requests.
        stored: Mean and std among the tensors of the weights file, or None.

    Raises:
        ConfigError: If the steps cannot be done, or are for another number of channels.
        FileError: If a file cannot be read, or has a value of another type.
    """
    library = library_rule(dialect.source, own)
    told = dialect.file_rule(files) or training_rule(files, library)
    rule = told or library
    if stored and told is None:
        rule = stored.changed(rule)
    sized, choice = asked.img_size is not None, asked.preprocessing
    content = asked.content if asked.pad_to is not None else None
    steps, assumed = prepared(rule, config, choice, size_is_asked=sized, content=content)
    if dialect.class_names is not None:
        names = dialect.class_names(files, config.num_classes)
    else:
        names = _class_names(files, config.num_classes) or _trained_names(files, own)
    scores, noted = _scores(files, asked)
    assumed += _tagger_assumptions(files, asked.preprocessing)
    if scores is None:
        scores = "sigmoid" if _gives_one_logit(config, asked) else "softmax"
        assumed += (ONE_CLASS,) if scores == "sigmoid" else ()
    return Pictures(steps, names, scores, (*_notes(steps, assumed), *noted), assumed)


def _gives_one_logit(config: SwinConfig, asked: ConfigRequest) -> bool:
    return config.num_classes == 1 and asked.output in (None, "logits")


def _scores(files: SideFiles, asked: ConfigRequest) -> tuple[Scores | None, tuple[str, ...]]:
    """Return the kind of the classes' scores and a note on a file that says it; else None."""
    if asked.scores is not None:
        return asked.scores, ()
    problem = typed(files.config_json, _Labels, where="config.json").problem_type
    if problem in PROBLEMS:
        return PROBLEMS[problem], (f"scores: {PROBLEMS[problem]} (problem_type {problem})",)
    if files.tags_path is not None:
        return "sigmoid", (f"scores: sigmoid, any number of tags at once ({TAGS_FILE})",)
    return None, ()


def _tagger_assumptions(files: SideFiles, choice: PreprocessingChoice) -> tuple[Assumption, ...]:
    """Return what a tagger's files do not say of its pictures, and its users do otherwise."""
    if files.tags_path is None or choice.source or choice.channel_order:
        return ()
    return (
        Assumption(
            "channel order",
            "RGB, the picture's edges cropped",
            f"as config.json says; users of taggers with a {TAGS_FILE} give BGR pixels, the "
            "picture padded to a white square (--resize-mode square --pad-color 255,255,255)",
            "--channel-order rgb|bgr",
        ),
    )


def prepared(
    rule: Rule,
    config: SwinConfig,
    choice: PreprocessingChoice,
    *,
    size_is_asked: bool,
    content: Size | None = None,
) -> tuple[Preprocessing, tuple[Assumption, ...]]:
    """Return the steps from a picture to an input of a model, and what is assumed of them.

    Args:
        rule: The rule of the files next to the weights, or of the source's library.
        config: Sizes of the model.
        choice: The user's choices about the preprocessing.
        size_is_asked: True if the user gave the image size.
        content: Size that pictures take of an image that is rounded up; None for all of it.

    Raises:
        ConfigError: If the steps cannot be done, or are for another number of channels.
        FileError: If the file that the user names cannot be read.
    """
    if choice.source is not None:
        rule = chosen_rule(choice.source, config)
    found = rule.steps(config.image) if content is None else _padded(rule, config.image, content)
    inside = config.image if content is None else content
    own, assumed = _for_channels(found, config.in_channels, choice)
    steps = choice.apply(own)
    if rule.guess and not choice.settles:
        assumed.append(Assumption("preprocessing", steps.text, rule.guess, PREPROCESSING_OPTION))
    if rule.native not in (None, config.img_size, inside.plain) and not size_is_asked:
        reason = f"though {steps.origin} prepares images of {rule.native} px"
        assumed.append(Assumption("image size", f"{config.img_size} px", reason, "--image-size"))
    return steps, tuple(assumed)


def _padded(rule: Rule, image: Size, content: Size) -> Preprocessing:
    """Return a rule's steps for an image that is larger than the size that pictures take.

    1. A file for images of that size whose own steps pad.
    2. Any other rule, at the size that pictures take. They keep their shape, as in detectors,
       unless the steps pad already.
    """
    steps = rule.steps(image) if rule.native == image.plain else None  # 1
    if steps is None or not steps.pads_end:
        steps = rule.steps(content)  # 2
    fits = {} if steps.pads_end or steps.page else {"resize_mode": "fit", "resize": steps.crop}
    changes: dict[str, Any] = {**fits, "pad_size": image}
    return replace(steps, **changes, origin=f"{steps.origin}, changed by --pad-to")


def _for_channels(
    steps: Preprocessing, channels: int, choice: PreprocessingChoice
) -> tuple[Preprocessing, list[Assumption]]:
    """Return the steps with mean and std for a model's channels, and what is assumed of them.

    Steps for RGB have the same numbers for any other channels: their own if all three are the same,
    else their averages, as in timm 1.0.31 (``data/model_config.py``), which is an assumption.

    Raises:
        ConfigError: If the steps or the user's values are for another number of channels.
    """
    given = {"mean": choice.mean, "std": choice.std}
    for name, values in given.items():
        if values is not None and len(values) not in (1, channels):
            raise ConfigError(
                f"--{name} has {len(values)} numbers, the model takes {channels_text(channels)}; "
                f"give one number for all, or {channels}"
            )
    if steps.channels == channels:
        return steps, []
    missing = [name for name, values in given.items() if values is None]
    if missing and steps.channels != RGB:
        raise ConfigError(
            f"mean and std of {steps.origin} have {steps.channels} numbers, the model takes "
            f"{channels_text(channels)}; give --mean and --std"
        )
    mean, std = map(_one_for_all, (steps.mean, steps.std))
    spread = replace(steps, mean=(mean,) * channels, std=(std,) * channels)
    numbers = {"mean": (steps.mean, mean), "std": (steps.std, std)}
    guessed = [name for name in missing if len(set(numbers[name][0])) > 1]
    if not guessed:
        return spread, []
    assumption = Assumption(
        " and ".join(guessed),
        f"{' and '.join(f'{name} {numbers[name][1]:g}' for name in guessed)} for every channel",
        f"the averages of those of {steps.origin}, which are for RGB, where the model takes "
        f"{channels_text(channels)}",
        " with ".join(f"--{name}" for name in guessed),
    )
    return spread, [assumption]


def _one_for_all(values: tuple[float, ...]) -> float:
    """Return the number that all values are, else their average."""
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def _notes(steps: Preprocessing, assumed: tuple[Assumption, ...]) -> tuple[str, ...]:
    """Return a note on the steps and their origin; none if an assumption tells them."""
    if any(one.value == steps.text for one in assumed):
        return ()
    return (f"preprocessing of {steps.origin}: {steps.refusal or steps.text}",)


class _Labels(msgspec.Struct, kw_only=True):
    """The class names that a ``config.json`` may have."""

    id2label: dict[int, str] | None = None
    problem_type: str | None = None
    label_names: list[str] | dict[int, str] | None = None
    pretrained_cfg: Any = None


def _class_names(files: SideFiles, num_classes: int) -> ClassNames | None:
    """Read the names next to the weights.

    They are a tagger's ``selected_tags.csv``, Hugging Face's ``id2label`` or timm's
    ``label_names``.
    """
    if files.tags_path is not None and num_classes:
        return replace(read_class_names(files.tags_path, num_classes), asked=False)
    read = typed(files.config_json, _Labels, where="config.json")
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


def _trained_names(files: SideFiles, own: SwinConfig) -> ClassNames | None:
    """Return the names that a training script left, else ImageNet's for a published model."""
    labels, place = training_classes(files, own.num_classes)
    found = class_names_of(labels, own.num_classes, source=place) if labels else None
    return found or _published_names(own)


def _published_names(config: SwinConfig) -> ClassNames | None:
    """Return ImageNet's names for the head of a published model; None for any other."""
    if variant_of(config, any_head=True) is None or config.num_classes not in PUBLISHED:
        return None
    return published_class_names(config.num_classes)
