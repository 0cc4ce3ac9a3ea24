"""The activations of an MLP, and the names that libraries have for them."""

from __future__ import annotations

from typing import Literal, get_args

Activation = Literal[
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "silu",
    "mish",
    "hard_swish",
    "hard_sigmoid",
    "sigmoid",
    "tanh",
]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
# Other names of the same functions: timm.layers.create_act and transformers.activations.ACT2FN.
# Several of transformers' differ in the order of their sums only.
OTHER_NAMES: dict[str, Activation] = {
    "celu": "elu",  # the two are one function where alpha is 1, as it is there
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "swish": "silu",
}


def find_activation(name: str) -> Activation | None:
    """Return the activation that a library's name stands for; None if it is not known.

    Args:
        name: Name in timm, in any case, or in transformers.
    """
    plain = name.lower()
    return OTHER_NAMES.get(plain) or next((one for one in ACTIVATIONS if one == plain), None)
