"""The Swin inside a model, replaced by the deploy model and proved equal."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from exporters.errors import ComparisonError, ConfigError
from exporters.spec import Runtime
from exporters.text_files import error_words, listed
from swin_deploy.checkpoints.load import with_weights
from swin_deploy.checkpoints.read import read_tensors
from swin_deploy.config import SwinConfig
from swin_deploy.config.assumptions import Assumption
from swin_deploy.config.sizes import Size
from swin_deploy.deploy.fold import fold
from swin_deploy.parity.checks import Tolerance
from swin_deploy.parity.tolerances import tolerance_for
from swin_deploy.swap.find import FoundSwin, find_swin
from swin_deploy.swap.prove import (
    OutputError,
    Trial,
    call,
    compare_outputs,
    counted,
    noise,
    run_watched,
)
from swin_deploy.swap.rebuild import rebuilt, uncompiled
from swin_deploy.swap.stand_ins import LastMap, StandIn

PROOF_BATCH = 2
# What a Swin inside a model, which is given tensors and gives maps, has no use for.
_OF_PICTURES = ("preprocessing", "scores", "class order", "mean", "std", "mean and std")


@dataclass(frozen=True)
class Swap:
    """A model with its Swin replaced, and the proof that it gives the same.

    Attributes:
        model: The model with the replacement. All parts but the Swin are those of the unmodified
            model, which has not changed.
        where: Path of the Swin in the model; empty if the model is the Swin.
        replaced: Class of the Swin.
        library: Library that it is of.
        sizes: Image sizes, (rows, columns) in pixels, that the replacement takes.
        family: Family of the Swin: ``swin`` or ``swinv2``.
        channels: Number of channels of its images.
        errors: Distance of every output from the unmodified Swin's, and of every output of the
            whole model, at each size.
        notes: Notes on what was found and left aside.
        assumptions: Choices that the module does not decide.
    """

    model: nn.Module = field(repr=False)
    where: str
    replaced: str
    library: str
    sizes: tuple[Size, ...]
    family: str
    channels: int
    errors: tuple[OutputError, ...]
    notes: tuple[str, ...] = field(default=(), repr=False)
    assumptions: tuple[Assumption, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every output is within its limit."""
        return all(one.passed for one in self.errors)

    @property
    def largest(self) -> OutputError:
        """The output with the largest error in units of its limit."""
        return max(self.errors, key=lambda one: one.error / (one.limit or 1.0))


def swap_swin(
    model: nn.Module,
    sizes: tuple[Size, ...],
    *,
    inputs: Any = None,  # noqa: ANN401 - whatever the model takes
    where: str | None = None,
    runtime: Runtime = "tensorrt",
) -> Swap:
    """Replace the Swin inside a model, and compare both with the unmodified model.

    1. The unmodified model is run, on ``inputs`` or on noise of the first size: its Swin's image
       sizes are the replacement's, or must be among those named.
    2. The Swin's weights are read as those of a file are, and folded for each size.
    3. The Swin alone is compared on noise of each size, and the whole model on what it ran on.

    Args:
        model: The model, float32, in evaluation mode. It is not changed.
        sizes: Image sizes; empty for those that the run shows.
        inputs: Inputs of the model; None for noise of the first size.
        where: Path of the Swin; None if it is the only one.
        runtime: Runtimes that the replacement is laid out for.

    Raises:
        CheckpointError: If there is no Swin, or it is not a plain one.
        ComparisonError: If the model does not run with the replacement, or does not use it.
        ConfigError: If the model does not run as it is, not at these sizes, or not twice alike.
    """
    compiled, model = model, uncompiled(model)
    found = find_swin(model, where)
    _check_form(model, found)
    trial, inputs = _tried(model, found, sizes, inputs)  # 1
    if sizes and not set(trial.sizes) <= set(sizes):
        raise ConfigError(
            f"{type(model).__name__} gives its Swin images of {_texts(trial.sizes)}, not only of "
            f"{_texts(sizes)}; name every size: --image-size again, image_size=[...] in Python"
        )
    sizes = sizes or trial.sizes
    loads = [_deployed(found, size, runtime) for size in sizes]  # 2
    family = loads[0].config.family
    deploys = dict(zip(sizes, (one.module for one in loads), strict=True))
    _share(list(deploys.values()))
    swin = type(found.module).__name__
    examples = [_alone(found, size, masked=trial.masked) for size in sizes]
    stand_in = found.kind.stand_in(found.module, deploys, examples[0][1])
    _as_original(stand_in, found.module)
    limit = tolerance_for("original", "fp32", family=family)
    errors: list[OutputError] = []
    with torch.no_grad():
        for size, (images, theirs) in zip(sizes, examples, strict=True):  # 3
            of = f"{swin}, {size.sides}"
            errors += compare_outputs(stand_in(images), theirs, limit, of=of)
    whole = rebuilt(model, {found.module: stand_in})
    if found.where:
        ours = _run_whole(whole, stand_in, inputs)
        compared = compare_outputs(ours, trial.outputs, limit, of=type(model).__name__)
        if not all(one.passed for one in compared):
            _require_repeatable(model, inputs, trial, limit=limit)
        errors += compared
    return Swap(
        model=whole,
        where=found.where,
        replaced=swin,
        library=found.kind.library,
        sizes=sizes,
        family=family,
        channels=loads[0].config.in_channels,
        errors=tuple(errors),
        notes=(
            *(
                ()
                if model is compiled
                else ("torch.compile is left off: compile the result again",)
            ),
            *dict.fromkeys(note for one in loads for note in one.notes),
        ),
        assumptions=tuple(dict.fromkeys(one for load in loads for one in load.assumptions)),
    )


def _texts(sizes: Iterable[Size]) -> str:
    return listed([one.sides for one in sizes])


def _check_form(model: nn.Module, found: FoundSwin) -> None:
    """Refuse a model that is being trained, has no plain numbers, or is not float32.

    Raises:
        ConfigError: If it is.
    """
    if any(one.training for one in model.modules()):
        raise ConfigError(f"{type(model).__name__} is in training mode; call its eval() first")
    odd = [name for name, one in found.module.state_dict().items() if not _is_plain(one)]
    if odd:
        raise ConfigError(
            f"{found.text} has no plain numbers in {listed(odd[:3])}: it is quantized, or was "
            "built without weights, on the meta device; give the float32 model with its weights"
        )
    types = {str(one.dtype) for one in found.module.parameters()} - {"torch.float32"}
    if types:
        raise ConfigError(
            f"{found.text} has weights of {listed(sorted(types))}; call float() of the model "
            "first: half precision is chosen when the engine is built"
        )


def _is_plain(value: object) -> bool:
    """Tell whether an entry of a state dict is a tensor with numbers, not quantized."""
    return isinstance(value, Tensor) and not value.is_meta and not value.is_quantized


def _tried(
    model: nn.Module,
    found: FoundSwin,
    sizes: tuple[Size, ...],
    inputs: Any,  # noqa: ANN401 - whatever the model takes
) -> tuple[Trial, Any]:
    """Run a copy of the unmodified model, which may keep something of each run.

    Source: transformers' Swin sets the shift of its windows for good where a map is small.
    """
    given = inputs is not None
    if not given:
        if not sizes:
            raise ConfigError("give image_size, or inputs that show the sizes")
        device = next(found.module.parameters()).device
        inputs = noise(sizes[0], _channels(found.module)).to(device)
    whole = copy.deepcopy(model)
    swin, end = whole.get_submodule(found.where), f".{found.kind.embed}"
    entry = next(one for name, one in swin.named_modules() if f".{name}".endswith(end))
    try:
        trial = run_watched(whole, swin, entry, inputs)
    except ConfigError as err:
        if given:
            raise
        raise ConfigError(
            f"{err}; if it takes more than images of {sizes[0].sides}, call "
            "swin_deploy.replace_backbone in Python with inputs=, a tuple or dict of its "
            "arguments, and export its model with torch.onnx.export"
        ) from err
    if not trial.sizes:
        raise ConfigError(f"{type(model).__name__} does not use its {found.text} on these inputs")
    return trial, inputs


def _channels(module: nn.Module) -> int:
    """Return the channels of the images of a Swin: those of its first convolution."""
    return next(one.in_channels for one in module.modules() if isinstance(one, nn.Conv2d))


@dataclass(frozen=True)
class _Deployed:
    """A deploy model at one size, and how it was read."""

    module: nn.Module
    config: SwinConfig
    notes: tuple[str, ...]
    assumptions: tuple[Assumption, ...]


def _deployed(found: FoundSwin, size: Size, runtime: Runtime) -> _Deployed:
    """Read a Swin's weights in the names of its library, and fold them for a size."""
    kind = found.kind
    state = {name: one.detach().cpu() for name, one in found.module.state_dict().items()}
    loaded = read_tensors(
        state,
        kind.beside(found.module),
        source=kind.source,
        img_size=size.plain,
        output=kind.output,
    )
    config = dataclasses.replace(loaded.config, output=kind.output)
    module: nn.Module = fold(with_weights(config, loaded.state_dict).eval(), runtime)
    if kind.stand_in.takes_map:
        module = LastMap(module, config.stages[-1].resolution)
    assumptions = tuple(one for one in loaded.assumptions if one.subject not in _OF_PICTURES)
    return _Deployed(module, config, loaded.notes, assumptions)


def _share(modules: list[nn.Module]) -> None:
    """Let deploy models of several sizes share the parameters that are equal."""
    first = dict(modules[0].named_parameters())
    for other in modules[1:]:
        for name, value in list(other.named_parameters()):
            same = first.get(name)
            if same is not None and same.shape == value.shape and torch.equal(same, value):
                path, _, leaf = name.rpartition(".")
                setattr(other.get_submodule(path), leaf, same)


@torch.no_grad()
def _alone(found: FoundSwin, size: Size, *, masked: type | None) -> tuple[Any, Any]:
    """Run a fresh copy of the unmodified Swin on noise; return the images and its outputs."""
    device = next(found.module.parameters()).device
    images: Any = noise(size, _channels(found.module), PROOF_BATCH).to(device)
    if masked is not None:
        images = masked(images, torch.zeros(PROOF_BATCH, *size, dtype=torch.bool, device=device))
    try:
        return images, call(copy.deepcopy(found.module), images)
    except Exception as err:
        reason = error_words(err)
        raise ConfigError(f"{found.text} does not take images of {size.sides}: {reason}") from err


def _as_original(stand_in: StandIn, original: nn.Module) -> None:
    """Put the replacement on the device of the original, frozen if that is."""
    parameter = next(original.parameters())
    stand_in.to(parameter.device)
    stand_in.requires_grad_(parameter.requires_grad)


@torch.no_grad()
def _require_repeatable(
    model: nn.Module,
    inputs: Any,  # noqa: ANN401 - whatever the model takes
    trial: Trial,
    *,
    limit: Tolerance,
) -> None:
    """Refuse a model whose outputs differ from run to run, or are not finite.

    Raises:
        ConfigError: If a second run of the unmodified model is not within the limit of the first.
    """
    name = type(model).__name__
    again = compare_outputs(call(copy.deepcopy(model), inputs), trial.outputs, limit, of=name)
    for one in again:
        if not one.passed:
            raise ConfigError(
                f"{name} cannot be compared: unmodified, it gives {one.output!r} off by "
                f"{one.error:.2g} RMS in a second run on the same inputs; switch off what is "
                "random in it, such as functional dropout, and what is not finite"
            )


@torch.no_grad()
def _run_whole(whole: nn.Module, stand_in: StandIn, inputs: Any) -> Any:  # noqa: ANN401
    """Run the model with the replacement.

    Raises:
        ComparisonError: If it fails, or does not call the replacement.
    """
    with counted(list(stand_in.deploys.values())) as calls:
        try:
            outputs = call(whole, inputs)
        except Exception as err:
            reason = error_words(err)
            raise ComparisonError(
                f"{type(whole).__name__} does not run with the replacement of its "
                f"{stand_in.replaced}: {reason}"
            ) from err
    if not calls():
        raise ComparisonError(
            f"{type(whole).__name__} holds its {stand_in.replaced} in a place besides its parts, "
            "and did not use the replacement"
        )
    return outputs
