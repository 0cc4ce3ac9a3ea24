"""Tensors and arrays, rebuilt from the arguments that a pickle gives, every one checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swin_deploy.checkpoints.limits import ODD_KIND
from swin_deploy.checkpoints.pickles import Inert
from swin_deploy.checkpoints.torch_files import Fetch, as_bytes, storage_of

TORCH_TYPES = {str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
ARRAY_TYPES = frozenset({
    "b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16",
})  # fmt: skip
NUMPY_HOMES = ("numpy.core.", "numpy._core.")
MOST_AXES = 64


def rebuilt(made: Inert, fetch: Fetch) -> Tensor | float | complex | None:
    """Rebuild a tensor, an array (as a tensor) or a NumPy number.

    Args:
        made: Record of the call that would make it.
        fetch: Function that gives the values of a storage.

    Returns:
        The tensor or number; None if the call makes something else.

    Raises:
        ValueError, LookupError, TypeError, RuntimeError: If the arguments are not right: places
            outside the storage, sizes that do not fit the data, types that are no numbers.
    """
    home, _, name = made.name.rpartition(".")
    if home in ("torch._utils", "torch._tensor") and name.startswith("_rebuild_"):
        return TORCH.get(name, _odd)(made, fetch)
    if f"{home}.".startswith(NUMPY_HOMES) and name in NUMPY:
        return NUMPY[name](made)
    return None


def _from_storage(made: Inert, fetch: Fetch) -> Tensor:
    """Rebuild a view: storage, offset, sizes, strides; a type is the seventh argument of v3."""
    storage, offset, sizes, strides, *more = made.args
    third = made.name.endswith("_v3")
    if any(more[3 if third else 2 :]):
        return odd_tensor("conjugated or negated")
    values = storage_of(storage, fetch)
    if third:
        values = values.view(torch.uint8).view(_torch_type(more[2]))
    return _view(values, offset, _whole(sizes), _whole(strides))


def _view(values: Tensor, offset: Any, sizes: list[int], strides: list[int]) -> Tensor:  # noqa: ANN401
    (offset,) = _whole((offset,))
    if len(sizes) != len(strides) or len(sizes) > 100:
        raise ValueError("sizes and strides that do not go together")
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if 0 not in sizes and last >= len(values):
        raise ValueError("a tensor beyond its storage")
    return torch.as_strided(values, sizes, strides, offset if 0 not in sizes else 0)


def _whole(numbers: Any) -> list[int]:  # noqa: ANN401 - whatever a file holds
    if isinstance(numbers, Inert) and numbers.name in ("torch.Size", "torch._C.Size"):
        (numbers,) = numbers.args
    if not isinstance(numbers, tuple | list):
        raise ValueError("sizes that are no tuple")  # noqa: TRY004 - damage
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise ValueError("sizes that are no whole numbers from 0")
    return list(numbers)


def _torch_type(kind: Any) -> torch.dtype:  # noqa: ANN401 - whatever a file holds
    return TORCH_TYPES[kind.name if isinstance(kind, Inert) else ""]


def _inner(made: Inert, fetch: Fetch) -> Tensor:
    """Rebuild the tensor that a parameter or a copy from another device wraps."""
    inner = made.args[0]
    found = rebuilt(inner, fetch) if isinstance(inner, Inert) and inner.made else None
    return found if isinstance(found, Tensor) else odd_tensor("parameter")


def _from_type(made: Inert, fetch: Fetch) -> Tensor:
    """Rebuild a tensor of a class of its own: function, class, arguments, attributes."""
    function, _, args, *_ = made.args
    if not isinstance(function, Inert) or not isinstance(args, tuple):
        raise ValueError("a tensor without a function")  # noqa: TRY004 - damage
    found = rebuilt(Inert(function.name, made=True, args=args), fetch)
    return found if isinstance(found, Tensor) else odd_tensor("tensor of another class")


def _odd(made: Inert, _: Fetch) -> Tensor:
    return odd_tensor(made.name.rpartition("._rebuild_")[2])


def odd_tensor(kind: str) -> Tensor:
    """Return an empty tensor that stands for one of a form that no weights have."""
    stand_in = torch.empty(0, device="meta")
    setattr(stand_in, ODD_KIND, kind.replace("_", " "))
    return stand_in


TORCH: dict[str, Callable[[Inert, Fetch], Tensor]] = {
    **dict.fromkeys(("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"), _from_storage),
    **dict.fromkeys(
        (
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_device_tensor_from_numpy",
            "_rebuild_xla_tensor",
        ),
        _inner,
    ),
    **dict.fromkeys(("_rebuild_from_type", "_rebuild_from_type_v2"), _from_type),
}


def _reconstructed(made: Inert) -> Tensor | None:
    """Rebuild an array from the state that ``ndarray.__setstate__`` would take.

    Returns:
        The array as a tensor; None if it is not an array of numbers.

    Raises:
        ValueError, TypeError: If the data do not fit the shape.
    """
    if not isinstance(made.state, tuple) or len(made.state) != 5:
        return None
    _, shape, kind, columns_first, data = made.state
    dtype = _array_type(kind)
    return None if dtype is None else _array(data, dtype, shape, "F" if columns_first else "C")


def _array_type(kind: Any) -> np.dtype[Any] | None:  # noqa: ANN401 - whatever a file holds
    """Return the type that a record of ``numpy.dtype`` names; None if it is not of numbers."""
    if not isinstance(kind, Inert) or kind.name.rpartition(".")[2] != "dtype" or not kind.args:
        return None
    code = kind.args[0]
    if code not in ARRAY_TYPES:
        return None
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "="
    return np.dtype(f"{order}{code}") if order in ("<", ">", "|", "=") else None


def _array(data: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> Tensor:  # noqa: ANN401
    sizes, raw = _whole(shape), as_bytes(data)
    if len(sizes) > MOST_AXES or math.prod(sizes) * dtype.itemsize != len(raw):
        raise ValueError("an array whose data do not fit its shape")
    flat = np.frombuffer(raw, dtype)
    values = flat.reshape(sizes, order="F" if order == "F" else "C")
    native = values.astype(dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(native)


def _frombuffer(made: Inert) -> Tensor | None:
    data, kind, shape, order, *_ = made.args
    dtype = _array_type(kind)
    return None if dtype is None else _array(data, dtype, shape, order)


def _scalar(made: Inert) -> float | complex | None:
    kind, data = made.args
    dtype = _array_type(kind)
    if dtype is None:
        return None
    number: float | complex = _array(data, dtype, (), "C").item()
    return number


NUMPY: dict[str, Callable[[Inert], Tensor | float | complex | None]] = {
    "_reconstruct": _reconstructed,
    "_frombuffer": _frombuffer,
    "scalar": _scalar,
}
