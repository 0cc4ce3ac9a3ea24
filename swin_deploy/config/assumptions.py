"""What the program takes for granted because nothing in its inputs says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """One thing that was not said and had to be chosen.

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
        """The sentence that warns of it."""
        return f"{self.subject}: assuming {self.value}, {self.reason}; {self.option} settles it"
