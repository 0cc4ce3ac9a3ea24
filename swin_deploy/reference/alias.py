"""Copies of a module that cost no memory until they are cast or moved."""

from __future__ import annotations

import copy
import itertools
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def alias(module: Module) -> Module:
    """Return a copy of a module that shares its weights and buffers, in the same memory.

    A cast or a move gives the copy weights of its own; ``module`` stays as it is. An in-place
    change of the copy's weights changes both.
    """
    memo: dict[int, Any] = {}
    for value in itertools.chain(module.parameters(), module.buffers()):
        same = value.detach()
        is_parameter = isinstance(value, nn.Parameter)
        memo[id(value)] = nn.Parameter(same, requires_grad=False) if is_parameter else same
    return copy.deepcopy(module, memo)
