"""The config of a checkpoint as it was saved, and as it is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.dialect import CheckpointHints, Dialect, EncoderTensors
from swin_deploy.checkpoints.infer_sizes import (
    has_cut_windows,
    shown_img_size,
    shown_pretrained,
    shown_windows,
)
from swin_deploy.checkpoints.variants import (
    SHOWN,
    check_agreement,
    effective_windows,
    in_words,
)
from swin_deploy.config import (
    VARIANTS,
    HeadActivation,
    Output,
    Size,
    SwinConfig,
)
from swin_deploy.config.activations import Activation
from swin_deploy.config.assumptions import Assumption
from swin_deploy.config.fit import CUTS
from swin_deploy.config.swin import Pool
from swin_deploy.images.preprocessing import PreprocessingChoice
from swin_deploy.images.scores import Scores

DEFAULT_CHOICE = PreprocessingChoice()


@dataclass(frozen=True)
class ConfigRequest:
    """The user's requests; None where the checkpoint decides.

    Attributes:
        known: Config of the variant ``name``.
        name: Name of the variant that the checkpoint must be; empty for any model.
        img_size: Image side in pixels, or rows and columns.
        window_size: Window side, in tokens.
        source: Library that the checkpoint comes from.
        weights: Weights to take out of several in a file.
        activation: Activation of the MLPs.
        pool: Pooling of tokens to features.
        encoder: Start of the names of the encoder to take out of several in a dict.
        preprocessing: The user's choices about the preprocessing.
        head: Name of the classifier in the file, or of one of its layers.
        head_activation: Activation between the two layers of the classifier.
        semantic_weight: Semantic weight of a SOLIDER checkpoint, from 0 to 1.
        output: Kind of output.
        scores: Kind of the classes' scores.
    """

    known: SwinConfig | None = None
    name: str = ""
    img_size: int | tuple[int, int] | None = None
    window_size: int | None = None
    source: str | None = None
    weights: str | None = None
    activation: Activation | None = None
    pool: Pool | None = None
    encoder: str | None = None
    preprocessing: PreprocessingChoice = DEFAULT_CHOICE
    head: str | None = None
    head_activation: HeadActivation | None = None
    semantic_weight: float | None = None
    output: Output | None = None
    scores: Scores | None = None


def own_config(
    named: EncoderTensors, sizes: dict[str, Any], facts: CheckpointHints, asked: ConfigRequest
) -> tuple[SwinConfig, list[Assumption], int | tuple[int, int]]:
    """Find the config of the model as it was saved, what is assumed, and its image size.

    The size is another than the config's if windows do not tile it, where the library pads.

    Args:
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig`` that the weights show (``infer_sizes``).
        facts: Facts that do not come from the weights.
        asked: The user's requests.

    Raises:
        CheckpointError: If nothing tells the window size, or files contradict each other.
        ConfigError: If it is not the variant asked for, or no image size can be built.
    """
    stages = len(sizes["depths"])
    shown = shown_windows(named, sizes)
    if shown is None and facts.window_size is None:
        facts = _asked_window(sizes, facts, asked)
    windows = shown or facts.window_size
    each = windows if isinstance(windows, tuple) else (windows or 0,) * stages
    by_stage = tuple(Size.of(window).rows for window in each)  # checkpoints have squares
    pretrained: Sequence[int | tuple[int, int]] | None = shown_pretrained(named, sizes, by_stage)
    if pretrained is None:
        pretrained = (facts.pretrained_window_sizes or ())[:stages]
    fields = sizes | {"window_size": windows} | _settings(facts, asked)
    fields |= geometry_of(named.dialect, sizes, facts)
    if sizes["family"] == "swinv2" and any(pretrained):
        fields["pretrained_window_sizes"] = pretrained
    img_size, assumed = _own_img_size(named, sizes, facts, asked)
    own = _tiled(fields, img_size, asked.img_size)
    if assumed:
        img_size = own.img_size
    if shown is not None and facts.origin and facts.window_size is not None:
        _check_window(own, facts)
    if asked.known is not None:
        check_agreement(asked.name, asked.known, own)
    own = _as_asked(own, shrinks=own.window_rule in CUTS)
    own = dataclasses.replace(own, output=facts.output or _natural_output(sizes))
    return own, assumed, img_size


def _own_img_size(
    named: EncoderTensors, sizes: dict[str, Any], facts: CheckpointHints, asked: ConfigRequest
) -> tuple[int | tuple[int, int], list[Assumption]]:
    """Find the image size of the model as it was saved, and what is assumed."""
    shown = shown_windows(named, sizes)
    known = _saved_img_size(shown_img_size(named, sizes, shown), sizes, facts)
    if known is None and asked.img_size is not None and has_cut_windows(named, sizes):
        known = asked.img_size
    if known is not None:
        return known, []
    last = facts.window_size if shown is None else shown[-1]
    side = Size.of(last[-1] if isinstance(last, tuple) else last or 0).rows
    guess = (int(sizes["patch_size"]) << (len(sizes["depths"]) - 1)) * side
    reason = "at which the last stage is one window: the weights do not tell it"
    assumed = [Assumption("image size", f"{guess} px", reason, "--image-size")]
    return guess, assumed if asked.img_size is None else []


def geometry_of(dialect: Dialect, sizes: dict[str, Any], facts: CheckpointHints) -> dict[str, Any]:
    """Return the fields of ``SwinConfig`` about sizes that windows do not tile, by the source.

    Backbones of detectors pad, and shift also where one window covers the map. They are told by
    the norms of their stages, unless the module itself tells.

    Args:
        dialect: The dialect of the checkpoint.
        sizes: Fields of ``SwinConfig`` that the weights show.
        facts: Facts of the files next to the weights.
    """
    fields = dialect.geometry(sizes["family"]) | {"built_size": facts.built_size or 0}
    detector = sizes["stage_norms"] and not sizes["num_classes"]
    always = detector and sizes["family"] == "swin"
    if always if facts.always_shift is None else facts.always_shift:
        fields["window_rule"] = "always"
        if fields["pads"] == "none":
            fields |= {"pads": "pad-then-roll", "remainder": "pad"}
    return fields


def _saved_img_size(
    shown: int | tuple[int, int] | None, sizes: dict[str, Any], facts: CheckpointHints
) -> int | tuple[int, int] | None:
    """Return the image size that the weights show, else the one that files say; None if none.

    Raises:
        CheckpointError: If a file says another size than absolute positions have places for.
    """
    if shown is None or facts.img_size is None:
        return shown or facts.img_size
    if sizes["absolute_positions"] and facts.origin and Size.of(shown) != Size.of(facts.img_size):
        raise CheckpointError(
            f"{facts.origin} says image size {Size.of(facts.img_size)}, and the absolute positions "
            f"have the places of {Size.of(shown)}"
        )
    return shown


def _settings(facts: CheckpointHints, asked: ConfigRequest) -> dict[str, Any]:
    """Return the fields that no tensor shows, from the files and the user.

    Raises:
        CheckpointError: If the two contradict each other.
    """
    settings = dict(facts.settings)
    for field, wanted in (("activation", asked.activation), ("pool", asked.pool)):
        if wanted is None:
            continue
        if settings.setdefault(field, wanted) != wanted:
            raise CheckpointError(
                f"{facts.origin} says {field} {settings[field]}, not {wanted}; leave --{field} out"
            )
    return settings


def wanted_config(
    own: SwinConfig, asked: ConfigRequest, *, img_size: int | tuple[int, int]
) -> tuple[SwinConfig, list[str]]:
    """Return the config at the image and window size asked for, and notes on the changes.

    Args:
        own: Config of the model as it was saved.
        asked: The user's requests.
        img_size: Image side in pixels, or rows and columns: the user's, else the file's.

    Raises:
        ConfigError: If the library that the model comes from does not take the image size.
    """
    changes: dict[str, Any] = {"img_size": img_size}
    notes: list[str] = []
    other = any(window != (asked.window_size,) * 2 for window in own.window_sizes)
    if asked.window_size is not None and other:
        changes["window_size"] = asked.window_size
        if own.family == "swinv2":
            # The authors fine-tune so: coordinates stay scaled to the windows of pretraining.
            scale = own.pretrained_window_sizes or effective_windows(own)
            changes["pretrained_window_sizes"] = scale
            notes.append(
                f"position biases computed for windows of {asked.window_size}, "
                f"coordinates scaled to the checkpoint's {in_words(scale)}"
            )
    return dataclasses.replace(own, **changes), notes


def _filled_by(patch_size: int, windows: Sequence[Size]) -> int:
    """Return the smallest image side, in pixels, whose maps whole windows fill in every stage."""
    sides = (patch_size * max(window) << stage for stage, window in enumerate(windows))
    return math.lcm(patch_size << (len(windows) - 1), *sides)


def _asked_window(
    sizes: dict[str, Any], facts: CheckpointHints, asked: ConfigRequest
) -> CheckpointHints:
    """Complete the facts with the user's window for weights of V2 that do not show theirs.

    Raises:
        CheckpointError: If the user gives no window, or several variants have it.
    """
    fitting = {
        name: known
        for name, known in VARIANTS.items()
        if all(getattr(known, field) == sizes[field] for field in SHOWN)
    }
    if asked.window_size is None:
        names = f"--model ({', '.join(fitting)})" if fitting else "--model"
        raise CheckpointError(
            "these weights of Swin V2 do not tell their window size; "
            f"say it with {names} or --window-size"
        )
    same = {
        name: known for name, known in fitting.items() if known.window_size == asked.window_size
    }
    if len(same) > 1:
        raise CheckpointError(
            f"windows of {asked.window_size} fit {' and '.join(same)}, whose position biases "
            "differ; say which with --model"
        )
    facts = dataclasses.replace(facts, window_size=asked.window_size)
    for known in same.values():
        facts = dataclasses.replace(
            facts,
            img_size=facts.img_size or known.img_size,
            pretrained_window_sizes=known.pretrained_window_sizes,
        )
    return facts


def _tiled(
    fields: dict[str, Any], img_size: int | tuple[int, int], asked: int | tuple[int, int] | None
) -> SwinConfig:
    """Return the config at the file's image size, at the one asked for, or at one that fits.

    Only the size that is built must fit, which ``wanted_config`` sees to.
    """
    try:
        return SwinConfig(**fields, img_size=img_size)
    except ConfigError:
        windows = fields["window_size"]
        each = windows if isinstance(windows, tuple) else (windows,) * len(fields["depths"])
        unit = _filled_by(fields["patch_size"], [Size.of(window) for window in each])
        for side in (asked, unit):
            with contextlib.suppress(ConfigError):
                if side is not None:
                    return SwinConfig(**fields, img_size=side)
        raise


def _as_asked(config: SwinConfig, *, shrinks: bool) -> SwinConfig:
    """Replace the windows by the widest one if the smaller ones only come from smaller maps.

    Args:
        config: Config with a window for each stage.
        shrinks: True if the original's windows shrink to smaller maps, which others pad.
    """
    if not shrinks and len(set(config.window_sizes)) > 1:
        return config
    try:
        widest = dataclasses.replace(config, window_size=max(config.window_sizes))
    except ConfigError:
        return config
    return widest if effective_windows(widest) == effective_windows(config) else config


def _check_window(own: SwinConfig, facts: CheckpointHints) -> None:
    """Refuse a ``config.json`` with another window than the weights show.

    Raises:
        CheckpointError: If the two contradict each other.
    """
    try:
        said = dataclasses.replace(own, window_size=facts.window_size or 0)
        same = effective_windows(said) == effective_windows(own)
    except ConfigError:  # its windows do not even tile the image
        same = False
    if not same:
        raise CheckpointError(
            f"{facts.origin} says window_size {in_words(facts.window_size)}, "
            f"the weights have {in_words(own.window_size)}"
        )


def _natural_output(sizes: dict[str, Any]) -> Output | Literal[""]:
    """Return the default output: stages for backbones, tokens without norm and head, else empty."""
    if sizes["stage_norms"] and not sizes["num_classes"]:
        return "stages"
    return "" if sizes["final_norm"] or sizes["num_classes"] else "tokens"
