"""The config of a checkpoint as it was saved, and as it is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.dialect import CheckpointHints, EncoderTensors
from swin_deploy.checkpoints.infer_sizes import shown_img_size, shown_pretrained
from swin_deploy.checkpoints.own_windows import Clues, are_of, as_built, geometry_of, own_windows
from swin_deploy.checkpoints.variants import (
    SHOWN,
    check_agreement,
    effective_windows,
    in_words,
)
from swin_deploy.checkpoints.window_tables import WindowTable, shown_windows, window_tables
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
from swin_deploy.config.sizes import (
    Windows,
    one_for_all,
    rounded_note,
    rounded_up,
    stage_windows,
    whole_size,
    windows_text,
)
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
        pad_to: Number of pixels that both sides of the image are rounded up to a multiple of.
        window_size: Window of all stages or of each, as ``stage_windows`` reads it.
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
        content: Size that pictures take of the image; known once the model is read.
    """

    known: SwinConfig | None = None
    name: str = ""
    img_size: int | tuple[int, int] | None = None
    pad_to: int | None = None
    window_size: Windows | None = None
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
    content: Size | None = None


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
    tables = window_tables(named, sizes)
    if tables is None and facts.window_size is None:
        facts = _asked_window(sizes, facts, asked)
    fields = sizes | _settings(facts, asked) | geometry_of(named.dialect, sizes, facts)
    shown = shown_img_size(named, sizes, shown_windows(tables))
    known = _saved_img_size(shown, sizes, facts)
    assumed: list[Assumption] = []
    if tables is None:
        windows = stage_windows(facts.window_size or 0, len(sizes["depths"]))
    else:
        clues = Clues(fields, known, facts.window_size, asked.window_size)
        if known is None and not all(table.window for table in tables):
            # The image asked for may be the one to whose maps windows are cut.
            at_asked = dataclasses.replace(clues, img_size=asked.img_size)
            clues = clues if _only_uncut(tables, at_asked) else at_asked
            known = clues.img_size
        windows, assumed = own_windows(tables, clues)
    fields |= {"window_size": windows} | _pretrained(named, sizes, windows, facts)
    others = {name: value for name, value in fields.items() if name != "window_size"}
    guess, reason = _guessed_size(others, windows)
    img_size = known or guess
    own = _tiled(fields, img_size, asked.img_size)
    if known is None and asked.img_size is None:
        img_size = own.img_size
        assumed.append(Assumption("image size", f"{img_size} px", reason, "--image-size"))
    if tables and facts.origin and facts.window_size is not None:
        _check_window(own, facts)
    if asked.known is not None:
        check_agreement(asked.name, asked.known, own)
    own = _as_asked(own, shrinks=own.window_rule in CUTS)
    own = dataclasses.replace(own, output=facts.output or _natural_output(sizes))
    return own, assumed, img_size


def _only_uncut(tables: tuple[WindowTable, ...], at_asked: Clues) -> bool:
    """Tell whether tables are those of the windows asked for, but not at the image asked for."""
    if at_asked.asked is None:
        return False
    windows = stage_windows(at_asked.asked, len(tables))
    given = zip(tables, windows, strict=True)
    return all(table.fits(own) for table, own in given) and not are_of(tables, windows, at_asked)


def _guessed_size(
    fields: dict[str, Any], windows: tuple[Size, ...]
) -> tuple[int | tuple[int, int], str]:
    """Return an image size, in pixels, for windows, and the reason for it.

    The last map is one window, if that does not cut the windows of an earlier one.
    """
    pixels = int(fields["patch_size"]) << (len(windows) - 1)
    guess = Size(*(side * pixels for side in windows[-1])).plain
    if as_built(windows, Clues(fields, guess)) == windows:
        return guess, "at which the last stage is one window: the weights do not tell it"
    rows = _filled_by(fields["patch_size"], [one.rows for one in windows])
    columns = _filled_by(fields["patch_size"], [one.columns for one in windows])
    whole = Size(rows, columns).plain
    return whole, "which whole windows fill in every stage: the weights do not tell it"


def _pretrained(
    named: EncoderTensors,
    sizes: dict[str, Any],
    windows: tuple[Size, ...],
    facts: CheckpointHints,
) -> dict[str, Any]:
    """Return the windows of V2's pretraining as a field of ``SwinConfig``; none for the own ones.

    Saved coordinates show them, else files say them.
    """
    shown = shown_pretrained(named, sizes, windows)
    said = (facts.pretrained_window_sizes or ())[: len(windows)]
    pretrained = said if shown is None else shown
    used = sizes["family"] == "swinv2" and any(pretrained)
    return {"pretrained_window_sizes": pretrained} if used else {}


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


def image_size(
    asked: ConfigRequest, own: int | tuple[int, int]
) -> tuple[Size, int | tuple[int, int], list[str]]:
    """Return the size that pictures take, the image size, rounded up as asked, and a note on that.

    Args:
        asked: The user's requests.
        own: Image size that files or weights say.

    Raises:
        ConfigError: If the user's size is none.
    """
    inside = whole_size(own if asked.img_size is None else asked.img_size)
    if asked.pad_to is None:
        return inside, inside.plain, []
    return inside, rounded_up(inside, asked.pad_to), [rounded_note(inside, asked.pad_to)]


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
    windows = own.window_sizes
    if asked.window_size is not None:
        windows = stage_windows(asked.window_size, len(own.depths))
    if windows != own.window_sizes:
        changes["window_size"] = one_for_all(windows)
        if own.family == "swinv2":
            # The authors fine-tune so: coordinates stay scaled to the windows of pretraining.
            scale = own.pretrained_window_sizes or effective_windows(own)
            changes["pretrained_window_sizes"] = scale
            notes.append(
                f"position biases computed for windows of {in_words(changes['window_size'])}, "
                f"coordinates scaled to the checkpoint's {in_words(scale)}"
            )
    return dataclasses.replace(own, **changes), notes


def _filled_by(patch_size: int, windows: Sequence[int]) -> int:
    """Return the smallest image side, in pixels, whose maps whole windows fill in every stage."""
    sides = (patch_size * window << stage for stage, window in enumerate(windows))
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
    windows = stage_windows(asked.window_size, len(sizes["depths"]))
    same = {name: known for name, known in fitting.items() if known.window_sizes == windows}
    if len(same) > 1:
        raise CheckpointError(
            f"windows of {windows_text(asked.window_size)} fit {' and '.join(same)}, whose "
            "position biases differ; say which with --model"
        )
    facts = dataclasses.replace(facts, window_size=windows)
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
        unit = _filled_by(fields["patch_size"], [max(one) for one in fields["window_size"]])
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
    widest_sides = Size(*map(max, zip(*config.window_sizes, strict=True)))
    try:
        widest = dataclasses.replace(config, window_size=widest_sides)
    except ConfigError:
        return config
    return widest if effective_windows(widest) == effective_windows(config) else config


def _check_window(own: SwinConfig, facts: CheckpointHints) -> None:
    """Refuse a ``config.json`` with another window than the weights show.

    Raises:
        CheckpointError: If the two contradict each other.
    """
    try:
        windows = stage_windows(facts.window_size or 0, len(own.depths))
        said = dataclasses.replace(own, window_size=windows)
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
