"""A reference model with its weights, from a model name or a checkpoint."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from exporters.errors import CheckpointError, ConfigError
from exporters.text_files import listed, naming
from swin_deploy.checkpoints.assemble import derived_buffers
from swin_deploy.checkpoints.infer_config import DEFAULT_CHOICE
from swin_deploy.checkpoints.known import refuse_without_file
from swin_deploy.checkpoints.pictures import prepared
from swin_deploy.checkpoints.preprocessors import variant_rule
from swin_deploy.checkpoints.read import CheckpointOptions, Reading, load_checkpoint
from swin_deploy.checkpoints.variants import variant_of
from swin_deploy.config import BUNDLED_WEIGHTS, DEFAULT_MODEL, Size, SwinConfig, variant
from swin_deploy.config.assumptions import Assumption
from swin_deploy.config.names import variant_name
from swin_deploy.config.published import with_fields
from swin_deploy.config.sizes import rounded_note, rounded_up, whole_size
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import DeployModel
from swin_deploy.images.class_names import ClassNames, read_class_names
from swin_deploy.images.preprocessing import Preprocessing, PreprocessingChoice
from swin_deploy.images.scores import SCORES, Scores
from swin_deploy.reference import Reference, build_reference

RANDOM_SEED = 0


@dataclass(frozen=True)
class LoadedModel:
    """A reference model, and the origin of its weights.

    Attributes:
        name: Name of the variant, or of the checkpoint's file or folder.
        config: Sizes of the model.
        reference: The model, float32, in evaluation mode, on the CPU.
        checkpoint: Path of the weights file or folder, or None for random weights.
        sha256: SHA-256 of the weights; empty for random weights.
        preprocessing: Steps from a picture to an input.
        class_names: Names of the classes; None if they are unknown.
        scores: Kind of the classes' scores.
        source: The library that the checkpoint comes from, or an empty string.
        notes: Notes on what was found, ignored or changed while loading.
        assumptions: Choices that neither the checkpoint nor the user made.
        reading: Record of how the checkpoint was read; None for random weights.
    """

    name: str
    config: SwinConfig
    reference: Reference
    checkpoint: Path | None
    sha256: str
    preprocessing: Preprocessing
    class_names: ClassNames | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    reading: Reading | None = None
    scores: Scores = "softmax"

    @property
    def weights_key(self) -> str:
        """The place of the weights among others in their file; empty for the file itself."""
        return self.reading.key if self.reading else ""

    @functools.cached_property
    def deploy(self) -> DeployModel:
        """The deploy model, folded once; callers must not change it."""
        return fold(self.reference)

    @property
    def weights(self) -> str:
        """The weights in words: a file, the key in it, its SHA-256; or random and their seed."""
        if self.checkpoint is None:
            return f"random weights (seed {RANDOM_SEED}): no trained model"
        key = f", {self.weights_key}" if self.weights_key else ""
        return f"{self.checkpoint.name}{key} (SHA-256 {self.sha256[:16]}...)"


class LoadOptions(CheckpointOptions, total=False):
    """Options of a model to load, in addition to ``CheckpointOptions``.

    Attributes:
        classes: Path of the file of class names; by default those of the checkpoint.
    """

    classes: str | Path | None


def require_known(asked: LoadOptions) -> None:
    """Refuse an unknown option, which would be ignored, and a bare name as preprocessing.

    Args:
        asked: The options.

    Raises:
        ConfigError: If an option is not one of ``LoadOptions``, or ``preprocessing`` is not a
            ``PreprocessingChoice``.
    """
    known = sorted(LoadOptions.__optional_keys__)
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(f"{unknown[0]} is not an option of a model; known are {listed(known)}")
    if asked.get("scores") not in (None, *SCORES):
        raise ConfigError(f"scores {asked.get('scores')!r}: one of {', '.join(SCORES)} is needed")
    steps = asked.get("preprocessing", DEFAULT_CHOICE)
    if not isinstance(steps, PreprocessingChoice):
        raise ConfigError(
            f"preprocessing {steps!r} is not a PreprocessingChoice; give one, such as "
            "PreprocessingChoice(source='timm')"
        )


def load_model(
    name: str | None = None, checkpoint: Path | None = None, **asked: Unpack[LoadOptions]
) -> LoadedModel:
    """Load a reference model.

    Args:
        name: Name of a variant, or another name of it (``variant_name``); with a checkpoint, the
            sizes of both must agree.
        checkpoint: Path of a weights file or folder; without one the variant's bundled weights are
            taken, or random ones, seeded.
        asked: Options, see ``LoadOptions``.

    Raises:
        CheckpointError: If the file cannot be read or does not fit.
        ConfigError: If the variant or an option is unknown, the image size cannot be built, or
            the class file is of another number of classes.
        FileError: If a file next to the weights, or one that the user names, cannot be read.
    """
    require_known(asked)
    if checkpoint is None:
        refuse_without_file(asked)
    name = None if name is None else variant_name(name)
    if checkpoint is None and name in BUNDLED_WEIGHTS:
        checkpoint = BUNDLED_WEIGHTS[name]
    loaded = _random(name, asked) if checkpoint is None else _from_file(name, checkpoint, asked)
    loaded = replace(loaded, scores=asked.get("scores") or loaded.scores)
    classes = asked.get("classes")
    if classes is None:
        return loaded
    return replace(loaded, class_names=read_class_names(Path(classes), loaded.config.num_classes))


def _from_file(name: str | None, checkpoint: Path, asked: LoadOptions) -> LoadedModel:
    if name is not None:
        variant(name)  # all later errors are about the checkpoint
    options: CheckpointOptions = {
        "source": asked.get("source"),
        "img_size": asked.get("img_size"),
        "pad_to": asked.get("pad_to"),
        "window_size": asked.get("window_size"),
        "weights": asked.get("weights"),
        "activation": asked.get("activation"),
        "pool": asked.get("pool"),
        "encoder": asked.get("encoder"),
        "preprocessing": asked.get("preprocessing", DEFAULT_CHOICE),
        "head": asked.get("head"),
        "head_activation": asked.get("head_activation"),
        "semantic_weight": asked.get("semantic_weight"),
        "output": asked.get("output"),
        "scores": asked.get("scores"),
    }
    with naming(checkpoint):
        loaded = load_checkpoint(checkpoint, name, **options)
    config = with_fields(loaded.config, {"output": asked.get("output")})
    return LoadedModel(
        name=name or variant_of(loaded.config) or _name_of(checkpoint),
        config=config,
        reference=with_weights(config, loaded.state_dict).eval(),
        checkpoint=checkpoint,
        sha256=loaded.sha256,
        preprocessing=loaded.preprocessing,
        class_names=loaded.class_names,
        source=loaded.source,
        notes=loaded.notes,
        assumptions=loaded.assumptions,
        reading=loaded.reading,
        scores=loaded.scores,
    )


def _name_of(checkpoint: Path) -> str:
    """Return the name of a file without its endings (``.pth.tar`` is two), or of a folder."""
    if checkpoint.is_dir():
        return checkpoint.resolve().name
    return checkpoint.name.removesuffix(".tar").rpartition(".")[0] or checkpoint.name


def with_weights(config: SwinConfig, state: dict[str, Tensor]) -> Reference:
    """Build the reference with given weights, and do not initialise it, which takes seconds.

    Args:
        config: Config of the model.
        state: Name to float32 tensor, as in ``LoadedCheckpoint``.

    Raises:
        CheckpointError: If weights are whole numbers.
    """
    with torch.device("meta"):
        reference = build_reference(config)
    whole = [name for name, _ in reference.named_parameters() if not _is_real(state.get(name))]
    if whole:
        raise CheckpointError(
            f"the weights {listed(whole)} are whole numbers, not real ones; save them before they "
            "are quantised"
        )
    reference.load_state_dict(state, assign=True)
    if config.family != "notebook":
        for name, value in derived_buffers(config):
            module, _, leaf = name.rpartition(".")
            setattr(reference.get_submodule(module), leaf, value)
    return reference


def _is_real(tensor: Tensor | None) -> bool:
    """Tell whether a tensor can be a weight; a missing one is reported elsewhere."""
    return tensor is None or tensor.is_floating_point()


def _random(name: str | None, asked: LoadOptions) -> LoadedModel:
    name = DEFAULT_MODEL if name is None else name
    known = variant(name)
    fields = ("img_size", "window_size", "activation", "pool", "output")
    wanted = {key: asked.get(key) for key in fields}
    content: Size | None = None
    notes: tuple[str, ...] = ()
    multiple = asked.get("pad_to")
    if multiple is not None:
        size = asked.get("img_size")
        content = whole_size(known.img_size if size is None else size)
        wanted["img_size"] = rounded_up(content, multiple)
        notes = (rounded_note(content, multiple),)
    config = with_fields(known, wanted)
    choice = asked.get("preprocessing", DEFAULT_CHOICE)
    rule = variant_rule(known)  # nothing depends on a guess
    steps, _ = prepared(rule, config, choice, size_is_asked=True, content=content)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)  # torch.manual_seed would seed GPUs too
        reference = build_reference(config).eval()
    return LoadedModel(name, config, reference, None, "", steps, notes=notes)
