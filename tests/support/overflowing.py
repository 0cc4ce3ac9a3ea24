"""Checkpoints of the trained digits model, changed so that float16 or bfloat16 cannot run them.

In float32 each computes what the trained model does: exactly so, but for ``mlp``, where a few
hidden units become ReLU.
"""

from collections.abc import Callable
from pathlib import Path

from command_line import DIGITS
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]
BLOCK = "stages.2.WSA"  # layers.3 of the deploy model
UNITS = slice(0, 256, 64)  # of its MLP
SCALE = 5e4  # of values that are about 3: beyond float16, but the weights are not
OFFSET = 96.0  # added to every channel of the last stage: bfloat16 has steps of 0.5 there


def mlp(state: State) -> None:
    """GELU(s x) / s tends to ReLU(x): hidden values overflow, the result is about the same."""
    state[f"{BLOCK}.MLP.0.weight"][UNITS] *= SCALE
    state[f"{BLOCK}.MLP.0.bias"][UNITS] *= SCALE
    state[f"{BLOCK}.MLP.3.weight"][:, UNITS] /= SCALE


def attention(state: State) -> None:
    """Values times s, the projection's columns by s: attention's values overflow."""
    for kind in ("weight", "bias"):
        state[f"{BLOCK}.WMSA.proj1.{kind}"][2::3] *= SCALE  # rows go by head, channel and q, k, v
    state[f"{BLOCK}.WMSA.proj2.weight"] /= SCALE


def offset(state: State) -> None:
    """A large mean of the last stage's stream, which every norm and the head take away again."""
    state["stages.1.layer_norm.bias"] += OFFSET
    state["head.bias"] -= state["head.weight"].sum(dim=1) * OFFSET


def attention_and_offset(state: State) -> None:
    attention(state)
    offset(state)


def write_checkpoint(folder: Path, change: Callable[[State], None]) -> Path:
    """A checkpoint of the digits model after ``change``."""
    state = {name: value.clone() for name, value in load_file(DIGITS).items()}
    change(state)
    path = folder / f"{change.__name__}.safetensors"
    save_file(state, path)
    return path
