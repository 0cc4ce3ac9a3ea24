"""Checks that every ONNX file must pass before anything computes with it.

ONNX's own checker asks whether operators exist and names are there. It lets through text that is
not UTF-8, element types that do not exist, tensors of more values than they hold, and data outside
the file that is longer than the disk.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import TensorProto

from exporters.errors import ExportError
from exporters.text_files import shortened

MOST_ITEMS = 1 << 40  # values of a tensor; the largest of a Swin has a thousandth of that
MOST_DIMENSIONS = 64  # as NumPy has them
MOST_BATCH = 1 << 16
MOST_NODES = 20_000  # PyTorch's old exporter makes 6,000 of the deepest Swin
LOOPS = ("Loop", "Scan")
MOST_NAME = 4096  # letters
NAMES = frozenset({"name", "op_type", "domain", "overload", "input", "output", "dim_param"})
SPARE = 64 << 20  # bytes that a file may ask for beyond what it has
# Bits of an item, by element type; a complex number has two parts.
BITS = {
    kind: 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    for kind in TensorProto.DataType.values()
    if kind not in (TensorProto.UNDEFINED, TensorProto.STRING)
} | {
    getattr(TensorProto, name): bits
    for name, bits in {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}.items()
    if hasattr(TensorProto, name)
}
KINDS = {*BITS, TensorProto.STRING}


def require_sound(graph: onnx.ModelProto, folder: Path) -> None:
    """Refuse a graph whose texts, types, shapes or data cannot be what they say.

    Args:
        graph: The graph as parsed, without its external data.
        folder: Folder of the file and of its external data.

    Raises:
        ExportError: If it is unsound; the message does not name the file.
    """
    external: list[TensorProto] = []
    nodes = 0
    for message in _messages(graph):
        if isinstance(message, TensorProto):
            _require_tensor(message)
            if message.data_location == TensorProto.EXTERNAL:
                external.append(message)
        elif isinstance(message, onnx.TypeProto.Tensor):
            _require_type(message)
        elif isinstance(message, onnx.NodeProto):
            nodes += 1
            _require_node(message)
    if nodes > MOST_NODES:
        raise ExportError(f"it has {nodes:,} nodes, at most {MOST_NODES:,}")
    _require_input(graph)
    _require_external(external, folder)


def _messages(message: Message) -> Iterator[Any]:
    """Yield a message and every message inside it, outermost first, and check their texts."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            texts = [value] if isinstance(value, str | bytes) else value
            if any(isinstance(text, bytes) for text in texts):  # protobuf's form of invalid text
                raise ExportError(f"{message.DESCRIPTOR.name}.{field.name} is not UTF-8 text")
            if field.name in NAMES and any(len(text) > MOST_NAME for text in texts):
                longest = max(map(len, texts))
                raise ExportError(
                    f"{message.DESCRIPTOR.name}.{field.name} is a name of {longest:,} letters"
                )
        elif field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _messages(inner)


def _require_node(node: onnx.NodeProto) -> None:
    if not any(node.output):
        raise ExportError(f"the node {_named(node)} has no output")
    if node.op_type in LOOPS:
        raise ExportError(f"it holds a {node.op_type}, which may never end; export it without")
    for attribute in node.attribute:
        for text in (attribute.s, *attribute.strings):
            try:
                text.decode()
            except UnicodeDecodeError as err:
                name = shortened(attribute.name)
                raise ExportError(f"{name} of {_named(node)} is not UTF-8 text") from err


def _require_tensor(tensor: TensorProto) -> None:
    name = _named(tensor)
    if tensor.data_type not in KINDS:
        raise ExportError(f"{name} is of element type {tensor.data_type}, which does not exist")
    dims = list(tensor.dims)
    items = math.prod(dims)
    if any(size < 0 for size in dims) or max(dims, default=0) > MOST_ITEMS or items > MOST_ITEMS:
        raise ExportError(f"{name} is of shape {shortened(dims)}, which no tensor can be")
    if len(dims) > MOST_DIMENSIONS or tensor.HasField("segment"):
        what = f"has {len(dims)} dimensions" if len(dims) > MOST_DIMENSIONS else "is a segment"
        raise ExportError(f"{name} {what}, which is not supported")
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    have = len(tensor.raw_data)
    if have and have != (items * BITS.get(tensor.data_type, 0) + 7) // 8:
        raise ExportError(f"{name} of shape {shortened(dims)} has {have:,} bytes of data")
    if items and not have:
        try:
            onnx.numpy_helper.to_array(tensor)  # few values, each in a field of its own
        except (ValueError, TypeError) as err:
            raise ExportError(f"{name} of shape {shortened(dims)} lacks its values") from err


def _require_type(kind: onnx.TypeProto.Tensor) -> None:
    if kind.elem_type not in KINDS | {TensorProto.UNDEFINED}:
        raise ExportError(f"a value is of element type {kind.elem_type}, which does not exist")
    sizes = [dim.dim_value for dim in kind.shape.dim]
    if any(size < 0 for size in sizes) or math.prod(filter(None, sizes)) > MOST_ITEMS:
        raise ExportError(f"a value is of shape {shortened(sizes)}, which no tensor can be")


def _require_input(graph: onnx.ModelProto) -> None:
    shape = graph.graph.input[0].type.tensor_type.shape.dim if graph.graph.input else []
    if not shape:
        raise ExportError("it has no input with a batch; give the ONNX file of an image model")
    if graph.graph.input[0].type.tensor_type.elem_type == TensorProto.UNDEFINED:
        raise ExportError("its input has no element type; give the ONNX file of an image model")
    if shape[0].dim_value > MOST_BATCH:
        raise ExportError(f"it takes a batch of {shape[0].dim_value:,}, at most {MOST_BATCH:,}")
    if not graph.graph.output:
        raise ExportError("it has no output; give the ONNX file of an image model")


def _require_external(tensors: list[TensorProto], folder: Path) -> None:
    """Refuse external data that is missing, or lies outside the ONNX file's folder."""
    files: dict[Path, int] = {}
    asked = 0
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = _external_file(_named(tensor), entries.get("location", ""), folder)
        size = files.setdefault(path, path.stat().st_size)
        start, length = (_number(tensor, entries, key) for key in ("offset", "length"))
        wanted = (math.prod(tensor.dims) * BITS.get(tensor.data_type, 0) + 7) // 8
        length = size - start if "length" not in entries else length
        if length != wanted or start + length > size:
            raise ExportError(
                f"{_named(tensor)} needs {wanted:,} bytes, and {length:,} from {start:,} on are "
                f"named of the {size:,} in {shortened(path.name)}"
            )
        asked += length
    if asked > 4 * sum(files.values()) + SPARE:
        have = sum(files.values())
        raise ExportError(f"its tensors ask for {asked:,} bytes of data, and there are {have:,}")


def _external_file(name: str, location: str, folder: Path) -> Path:
    """Return the path of the regular file in ``folder`` that holds a tensor's data."""
    path = folder / location
    try:
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
        regular = stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise ExportError(f"the data of {name}, {shortened(location)}: {reason}") from err
    if not inside or not regular:
        raise ExportError(
            f"the data of {name}, {shortened(location)}, is no regular file in the file's folder"
        )
    return path


def _number(tensor: TensorProto, entries: dict[str, str], key: str) -> int:
    text = entries.get(key, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ExportError(f"the {key} of the data of {_named(tensor)} is {shortened(text)}")
    return int(text)


def _named(message: TensorProto | onnx.NodeProto) -> str:
    """Return the name of a tensor or node for a message, or its kind if it has no name."""
    kind = "node" if isinstance(message, onnx.NodeProto) else "tensor"
    return shortened(message.name, 60) if message.name else f"a {kind} without a name"
