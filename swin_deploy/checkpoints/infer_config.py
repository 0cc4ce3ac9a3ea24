"""The config of a checkpoint as it was saved, and as it is asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.dialect import CheckpointHints, EncoderTensors
from swin_deploy.checkpoints.infer_sizes import shown_img_size, shown_pretrained, shown_windows
from swin_deploy.config import VARIANTS, Output, Size, SwinConfig, nearest, sizes_remedy
from swin_deploy.config.assumptions import Assumption
from swin_deploy.images.preprocessing import PreprocessingChoice

SHOWN = ("family", "patch_size", "embed_dim", "depths", "num_heads", "mlp_ratio")


DEFAULT_CHOICE = PreprocessingChoice()


@dataclass(frozen=True)
class ConfigRequest:
    """The user's requests; None where the checkpoint decides.

    Attributes:
        known: Config of the variant ``name``.
        name: Name of the variant that the checkpoint must be; empty for any model.
        img_size: Image side, in pixels.
        window_size: Window side, in tokens.
        source: Library that the checkpoint comes from.
        weights: Weights to take out of several in a file.
        preprocessing: The user's choices about the preprocessing.
    """

    known: SwinConfig | None = None
    name: str = ""
    img_size: int | None = None
    window_size: int | None = None
    source: str | None = None
    weights: str | None = None
    preprocessing: PreprocessingChoice = DEFAULT_CHOICE


def own_config(
    named: EncoderTensors, sizes: dict[str, Any], facts: CheckpointHints, asked: ConfigRequest
) -> tuple[SwinConfig, list[Assumption]]:
    """Find the config of the model as it was saved, and what is assumed.

    Args:
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig`` that the weights show (``infer_sizes``).
        facts: Facts that do not come from the weights.
        asked: The user's requests.

    Raises:
        CheckpointError: If nothing tells the window size, or files contradict each other.
        ConfigError: If it is not the variant asked for, or windows cannot tile the image.
    """
    assumed: list[Assumption] = []
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
    fields = sizes | {"window_size": windows}
    if sizes["family"] == "swinv2" and any(pretrained):
        fields["pretrained_window_sizes"] = pretrained
    img_size = shown_img_size(named, sizes, shown) or facts.img_size
    if img_size is None:
        img_size = _guess_img_size(sizes, by_stage)
        if asked.img_size is None:
            reason = "the smallest whose last stage is one window: the weights do not tell it"
            assumed.append(Assumption("image size", f"{img_size} px", reason, "--image-size"))
    own = _tiled(fields, img_size, asked.img_size)
    if shown is not None and facts.origin and facts.window_size is not None:
        _check_window(own, facts)
    if asked.known is not None:
        check_agreement(asked.name, asked.known, own)
    own = dataclasses.replace(_as_asked(own), output=facts.output or _natural_output(sizes))
    return own, assumed


def wanted_config(
    own: SwinConfig, asked: ConfigRequest, *, pads: bool
) -> tuple[SwinConfig, list[str]]:
    """Return the config at the image and window size asked for, and notes on the changes.

    Args:
        own: Config of the model as it was saved.
        asked: The user's requests.
        pads: True if the original pads maps that windows do not fill.

    Raises:
        ConfigError: If windows cannot tile the image, or a map would have to be padded.
    """
    changes: dict[str, Any] = {}
    notes: list[str] = []
    if asked.img_size is not None:
        changes["img_size"] = asked.img_size
    other = any(window != (asked.window_size,) * 2 for window in own.window_sizes)
    if asked.window_size is not None and other:
        changes["window_size"] = asked.window_size
        if own.family == "swinv2":
            # The authors fine-tune so: coordinates stay scaled to the windows of pretraining.
            scale = own.pretrained_window_sizes or effective_windows(own)
            changes["pretrained_window_sizes"] = scale
            notes.append(
                f"position biases computed for windows of {asked.window_size}, "
                f"coordinates scaled to the checkpoint's {_listed(scale)}"
            )
    if pads:
        windows = own.window_sizes
        if asked.window_size:
            windows = (Size.square(asked.window_size),) * len(own.depths)
        _refuse_padding(own, Size.of(asked.img_size or own.img_size), windows)
    return dataclasses.replace(own, **changes), notes


def _refuse_padding(own: SwinConfig, image: Size, windows: tuple[Size, ...]) -> None:
    """Refuse an image size whose maps windows do not fill, where the original pads them.

    Raises:
        ConfigError: If the size is not a multiple of every window's side in pixels.
    """
    sides = (own.patch_size * max(window) << stage for stage, window in enumerate(windows))
    unit = math.lcm(own.patch_size << (len(windows) - 1), *sides)
    if any(side % unit for side in image):
        near = nearest(range(unit, max(image) + 5 * unit, unit), max(image), 4)
        raise ConfigError(
            f"windows of {_listed(windows)} do not fill the maps of image size {image} in every "
            f"stage, which the original pads and this tool does not; {sizes_remedy(near)}"
        )


def effective_windows(config: SwinConfig) -> tuple[Size, ...]:
    """Return the window of each stage as built."""
    return tuple(stage.window_size for stage in config.stages)


def check_agreement(name: str, wanted: SwinConfig, found: SwinConfig) -> None:
    """Refuse a checkpoint that is not of the variant asked for.

    The papers' models may have any head, and may have been saved at another image size.

    Args:
        name: Name of the variant.
        wanted: Config of the variant.
        found: Config of the model as it was saved.

    Raises:
        ConfigError: If sizes differ; the message names all that do.
    """
    fields = [*SHOWN, "window_size"]
    if found.family == "notebook":
        fields.append("num_classes")
    differences = [
        f"{field} {_listed(getattr(found, field))} instead of {_listed(getattr(wanted, field))}"
        for field in fields
        if getattr(found, field) != getattr(wanted, field)
        and not (field == "window_size" and _same_windows(wanted, found))
    ]
    if differences:
        raise ConfigError(
            f"the checkpoint is no {name}: it has {', '.join(differences)}; leave --model out"
        )


def variant_of(config: SwinConfig, *, any_head: bool = False) -> str | None:
    """Find the variant that a config is, whatever its output.

    Args:
        config: Config of a model.
        any_head: True to accept any number of classes.

    Returns:
        Name of the variant; None if the config is not one.
    """
    for name, known in VARIANTS.items():
        same_head = any_head or known.num_classes == config.num_classes
        same_image = known.family == "notebook" or known.img_size == config.img_size
        same_sizes = all(getattr(known, field) == getattr(config, field) for field in SHOWN)
        if same_head and same_image and same_sizes and _same_windows(known, config):
            return name
    return None


def _same_windows(known: SwinConfig, config: SwinConfig) -> bool:
    """Tell whether all stages have the same windows, in the model and in its pretraining."""
    if known.pretrained_window_sizes != config.pretrained_window_sizes:
        return False
    if known.window_sizes == config.window_sizes:
        return True
    try:
        at_its_size = dataclasses.replace(known, img_size=config.img_size)
    except ConfigError:
        return False
    return effective_windows(at_its_size) == effective_windows(config)


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


def _guess_img_size(sizes: dict[str, Any], windows: tuple[int, ...]) -> int:
    """Return the image side, in pixels, at which the last stage is one window."""
    return (int(sizes["patch_size"]) << (len(windows) - 1)) * windows[-1]


def _tiled(
    fields: dict[str, Any], img_size: int | tuple[int, int], fallback: int | None
) -> SwinConfig:
    """Return the config at the file's own image size, or at the fallback if windows do not fit."""
    try:
        return SwinConfig(**fields, img_size=img_size)
    except ConfigError:
        if fallback is None:
            raise
        return SwinConfig(**fields, img_size=fallback)


def _as_asked(config: SwinConfig) -> SwinConfig:
    """Replace the windows by the widest one if the smaller ones only come from smaller maps."""
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
    said = dataclasses.replace(own, window_size=facts.window_size or 0)
    if effective_windows(said) != effective_windows(own):
        raise CheckpointError(
            f"{facts.origin} says window_size {_listed(facts.window_size)}, "
            f"the weights have {_listed(own.window_size)}"
        )


def _natural_output(sizes: dict[str, Any]) -> Output | Literal[""]:
    """Return the default output: stages for backbones, tokens without norm and head, else empty."""
    if sizes["stage_norms"]:
        return "stages"
    return "" if sizes["final_norm"] or sizes["num_classes"] else "tokens"


def described(config: SwinConfig) -> str:
    """Return the sizes of a model in words."""
    head = f"{config.num_classes} classes" if config.num_classes else "no classifier"
    return (
        f"{'Swin V2' if config.family == 'swinv2' else 'Swin'}: {config.embed_dim} channels, "
        f"depths {_listed(config.depths)}, heads {_listed(config.num_heads)}, "
        f"windows of {_listed(config.window_size)}, images of {config.img_size}, {head}"
    )


def _listed(value: Any) -> str:  # noqa: ANN401 - a field of a config
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
