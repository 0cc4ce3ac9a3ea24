"""The same values laid out in memory in every way that arrays come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _permuted(values: Array) -> Array:
    """As a map [B, C, H, W] of tokens [N, B, C] is: the last axis is the first in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(values, -1, 0)), 0, -1)


def _sliced(values: Array) -> Array:
    wide = np.repeat(values, 2, axis=-1)
    return wide[..., ::2]


def _read_only(values: Array) -> Array:
    kept = values.copy()
    kept.flags.writeable = False
    return kept


def _unaligned(values: Array) -> Array:
    data = bytearray(b"\0" + values.tobytes())
    return np.frombuffer(data, values.dtype, values.size, offset=1).reshape(values.shape)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "permuted": _permuted,
    "negative strides": lambda values: np.ascontiguousarray(values[::-1, ..., ::-1])[
        ::-1, ..., ::-1
    ],
    "fortran": np.asfortranarray,
    "sliced": _sliced,
    "read-only": _read_only,
    "broadcast": lambda values: np.broadcast_to(values, (1, *values.shape))[0],
    "big-endian": lambda values: values.astype(values.dtype.newbyteorder(">")),
    "unaligned": _unaligned,
}
