"""Arrays in the one form that every library takes.

PyTorch, ONNX Runtime, TensorRT and Polygraphy each refuse, or warn of, other arrays: those that are
not contiguous, have negative strides or foreign byte order, or cannot be written.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", bound=np.number[Any])


def plain_array(values: NDArray[Any], dtype: type[Real]) -> NDArray[Real]:
    """Return values in row-major order, native byte order and writable memory.

    Args:
        values: Array of any layout; it is not changed.
        dtype: Type of the result.

    Returns:
        ``values`` itself if it meets all three already, else a copy, of the same shape.
    """
    return np.require(values, dtype, ["C", "A", "W", "E"])
