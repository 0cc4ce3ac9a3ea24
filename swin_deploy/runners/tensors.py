"""Names and types of the tensors that an engine takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exporters.errors import BuildError
from exporters.precisions import HALVES, PRECISIONS


@dataclass(frozen=True)
class EngineTensors:
    """Names and types of an engine's one input and its outputs.

    Attributes:
        input_name: Name of the input.
        input_dtype: Type of the input.
        output_dtypes: Types of the outputs by name, in the engine's order.
    """

    input_name: str
    input_dtype: torch.dtype
    output_dtypes: dict[str, torch.dtype]


def find_tensors(trt: Any, engine: Any, path: Path) -> EngineTensors:
    """Read the names and types of an engine's tensors.

    Args:
        trt: The TensorRT module.
        engine: The engine, loaded.
        path: Path of its file, for the message.

    Raises:
        BuildError: If there is not exactly one input, no output, or a type other than float32,
            float16, bfloat16 and uint8.
    """
    edges = [PRECISIONS[name] for name in ("fp32", *HALVES)]
    real = {one.engine_type: one.dtype for one in edges}
    dtypes = {getattr(trt.DataType, name): getattr(torch, kind) for name, kind in real.items()}
    dtypes[trt.DataType.UINT8] = torch.uint8
    types, inputs = {}, []
    # Not a comprehension: the frame of one that fails would keep the engine beyond its runtime.
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        types[name] = engine.get_tensor_dtype(name)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            inputs.append(name)
    outputs = [name for name in types if name not in inputs]
    if len(inputs) != 1 or not outputs or not all(one in dtypes for one in types.values()):
        raise BuildError(
            f"{path} has inputs {inputs} and outputs {outputs}; expected one input, and all in "
            f"{', '.join(real.values())}, or pixels in uint8"
        )
    output_dtypes = {name: dtypes[types[name]] for name in outputs}
    return EngineTensors(inputs[0], dtypes[types[inputs[0]]], output_dtypes)
