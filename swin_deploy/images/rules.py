"""A source's way to prepare pictures for a model of any image size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from swin_deploy.config import Size
from swin_deploy.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class Rule:
    """A source's way to prepare pictures for a model of any image size.

    Attributes:
        at: Function from an image side in pixels to the steps.
        guess: Reason why it is a guess; empty if a file or the weights say it.
        native: Image size that the source itself says, in pixels; None if it says none.
        sized: Function from an image size to the steps, where those of a rectangle are not those
            along each axis.
    """

    at: Callable[[int], Preprocessing]
    guess: str = ""
    native: int | tuple[int, int] | None = None
    sized: Callable[[Size], Preprocessing] | None = None

    def changed(self, change: Callable[[Preprocessing], Preprocessing], *, guess: str) -> Rule:
        """Return the rule whose steps are these after a change.

        Args:
            change: Function from the steps for any size to the new ones.
            guess: Reason why the new rule is a guess; empty if it is none.
        """
        return dataclasses.replace(
            self,
            at=lambda side: change(self.at(side)),
            guess=guess,
            sized=None if self.sized is None else lambda size: change(self.steps(size)),
        )

    def steps(self, size: Size) -> Preprocessing:
        """Return the steps for images of a size; for a rectangle, by the rule along each axis.

        Their ``refusal`` says so if the rule's steps along the two axes do not agree.
        """
        if self.sized is not None:
            return self.sized(size)
        if size.is_square:
            return self.at(size.rows)
        rows, columns = map(self.at, size)
        box = (rows.resize_size.rows, columns.resize_size.columns)
        steps, other = (dataclasses.replace(one, crop=size, resize=box) for one in (rows, columns))
        if steps == other:
            return steps
        refusal = (
            f"{steps.origin} prepares {size.rows} and {size.columns} px in ways that do not go "
            f"together in an image of {size}; say how with --preprocessing or --resize-mode"
        )
        return dataclasses.replace(steps, refusal=refusal)


def centre_crop_rule(
    ratio: float,
    *,
    guess: str = "",
    **steps: Any,  # noqa: ANN401 - fields of Preprocessing
) -> Rule:
    """Return the rule of a centre crop: resize the shorter side to the image size over ``ratio``.

    Args:
        ratio: Side of the crop over that of the resized picture, which is rounded down as in timm.
        guess: Reason why it is a guess; empty if it is none.
        **steps: Other fields of ``Preprocessing``.
    """

    def at(img_size: int) -> Preprocessing:
        return Preprocessing(crop=img_size, resize=math.floor(img_size / ratio), **steps)

    return Rule(at, guess)


def squash_rule(*, guess: str = "", **steps: Any) -> Rule:  # noqa: ANN401 - as above
    """Return the rule that resizes every picture to the image size, whatever its shape.

    Args:
        guess: Reason why it is a guess; empty if it is none.
        **steps: Other fields of ``Preprocessing``.
    """

    def at(img_size: int) -> Preprocessing:
        return Preprocessing(crop=img_size, resize=img_size, resize_mode="squash", **steps)

    return Rule(at, guess)
