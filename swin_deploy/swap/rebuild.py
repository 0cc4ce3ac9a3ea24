"""A module with parts replaced: new along the way to them, shared everywhere else."""

from __future__ import annotations

import copy

from torch import nn


def rebuilt(model: nn.Module, replaced: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return a module with parts replaced wherever they stand in it.

    The modules on the way to a replaced part are shallow copies; all others, and all weights, are
    those of ``model``, which is not changed.

    Args:
        model: The module.
        replaced: Replacement by part.
    """
    done: dict[nn.Module, nn.Module] = dict(replaced)

    def of(module: nn.Module) -> nn.Module:
        if module not in done:
            children = {name: one and of(one) for name, one in module._modules.items()}
            changed = any(children[name] is not one for name, one in module._modules.items())
            done[module] = _with_children(module, children) if changed else module
        return done[module]

    return of(model)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return a model without the wrappers of ``torch.compile``, wherever they stand in it."""
    while wrappers := {one: inner for one in model.modules() if (inner := _compiled(one))}:
        model = rebuilt(model, wrappers)
    return model


def _compiled(module: nn.Module) -> nn.Module | None:
    """Return the module that a wrapper of ``torch.compile`` compiles; None for any other module."""
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _with_children(module: nn.Module, children: dict[str, nn.Module | None]) -> nn.Module:
    new = copy.copy(module)
    vars(new).update(_modules=children, _parameters=dict(module._parameters))
    return new
