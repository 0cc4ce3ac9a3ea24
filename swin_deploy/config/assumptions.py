"""Choices that the program had to make because no input settled them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """One choice that no input settled.

    Attributes:
        subject: Name of what was chosen, such as ``image size``.
        value: The value that was chosen, with every number in it.
        reason: The reason for that value and for having to choose.
        option: The option that settles it, such as ``--image-size``.
    """

    subject: str
    value: str
    reason: str
    option: str

    @property
    def text(self) -> str:
        """The warning: the choice, its reason and the option, in words."""
        return f"{self.subject}: assuming {self.value}, {self.reason}; {self.option} settles it"
