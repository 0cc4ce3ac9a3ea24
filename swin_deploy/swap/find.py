"""The Swins inside a module, and the one that is meant."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from exporters.errors import CheckpointError
from exporters.text_files import listed, shortened
from swin_deploy.checkpoints.known import DIALECTS
from swin_deploy.swap.known import Kind, kind_of


@dataclass(frozen=True)
class FoundSwin:
    """A Swin inside a module.

    Attributes:
        where: Path of the Swin in the module; empty for the module itself.
        module: The Swin.
        kind: Its kind.
    """

    where: str
    module: nn.Module
    kind: Kind

    @property
    def text(self) -> str:
        """Its class and place in words."""
        return f"{type(self.module).__name__} at {self.where or 'the top'}"


def find_swin(model: nn.Module, where: str | None = None) -> FoundSwin:
    """Find the Swin inside a model.

    Args:
        model: The model, or the Swin itself.
        where: Path of the Swin; None if it is the only one.

    Raises:
        CheckpointError: If there is none that is known, none at this place, or several.
    """
    every = _outermost(model)
    found = [one for one in every if where in (None, one.where)]
    if len(found) == 1:
        return found[0]
    there = listed([one.text for one in every])
    if where is not None:
        held = f"it has {there}" if every else _seen(model)
        raise CheckpointError(
            f"{type(model).__name__} has no Swin at {shortened(where) or 'the top'}: {held}"
        )
    if not found:
        raise CheckpointError(
            f"{type(model).__name__} has no Swin of a known class: {_seen(model)}"
        )
    choose = " or ".join(f"where={one.where!r}" for one in found[:4])
    raise CheckpointError(
        f"{type(model).__name__} has {len(found)} Swins: {there}; say which with {choose}"
    )


def _outermost(model: nn.Module) -> list[FoundSwin]:
    """Return the Swins that are not parts of others: a backbone, and not the encoder in it."""
    found: list[FoundSwin] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{one.where}." if one.where else "") for one in found)
        kind = None if inside else kind_of(module)
        if kind is not None:
            found.append(FoundSwin(name, module, kind))
    return found


def _seen(model: nn.Module) -> str:
    """Say what of a Swin the names of a model's tensors show."""
    names = list(model.state_dict())
    starts = {start for one in DIALECTS[1:] for start in one.prefixes(names)}
    if not starts:
        return "none of its tensors has the name of a Swin's"
    places = [start.removesuffix(".") or "the top" for start in sorted(starts)]
    return (
        f"there are weights of one at {listed(places)}, in a class that is not known; "
        "save its state_dict, and export it with swin-deploy export --outputs stages"
    )
