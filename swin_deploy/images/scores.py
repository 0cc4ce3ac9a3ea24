"""Scores of classes from logits: of one right class, of several at once, or as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # commands know the kinds of scores before they need NumPy
    import numpy as np
    from numpy.typing import NDArray

Scores = Literal["softmax", "sigmoid", "none"]
SCORES: tuple[Scores, ...] = get_args(Scores)
# Threshold from which taggers' users show a tag.
TAG_THRESHOLD = 0.35


def scores_of(logits: NDArray[np.float32], kind: Scores) -> NDArray[np.float64]:
    """Compute the scores [..., classes] of logits [..., classes], in float64.

    Args:
        logits: The logits.
        kind: ``softmax``, where one class is right; ``sigmoid``, where any number is; ``none`` for
            the logits themselves.
    """
    import numpy as np

    wide = logits.astype(np.float64)
    if kind == "none":
        return wide
    if kind == "sigmoid":
        half: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * wide))  # no overflow, unlike exp
        return half
    shares = np.exp(wide - wide.max(axis=-1, keepdims=True))
    total: NDArray[np.float64] = shares / shares.sum(axis=-1, keepdims=True)
    return total
