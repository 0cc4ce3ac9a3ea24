"""ONNX files changed byte by byte and field by field: only our errors, within bounds."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from exported import exported
from fuzzing import fuzz, fuzz_commands, only_our_errors
from fuzzing_commands import ends_well
from google.protobuf.message import Message
from hostile_onnx import CHANGES
from hypothesis import assume, example, given
from hypothesis import strategies as st
from onnx import helper

from exporters.half_precision import precision_of, to_half
from exporters.plan import count_attention
from exporters.to_onnx import load_onnx
from swin_deploy.artifacts.facts import NAMES, facts_of
from swin_deploy.artifacts.onnx_file import OnnxFile
from swin_deploy.checkpoints.load import load_model
from swin_deploy.runners.intermediates import tappable_graph


@functools.cache
def honest() -> bytes:
    """A small export with all that ours have: a shifted block, two attentions, metadata."""
    graph = exported("blocks")
    helper.set_model_props(graph, {"float32_modules": '["layers.0"]', "config": "{}"})
    return graph.SerializeToString()


def use(path: Path) -> None:
    """Everything that is done with a graph before a backend has it."""
    graph = load_onnx(path)
    _ = OnnxFile(path, graph).facts
    count_attention(graph)
    tappable_graph(path, graph, "fp32")
    if precision_of(graph) == "fp32":
        to_half(graph, io_precision="fp32")
        to_half(graph, io_precision="fp32", precision="bf16")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx") / "bad.onnx"


PLACES = st.one_of(st.floats(0, 1), st.floats(0.6, 1))
PIECES = st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=3)), min_size=1, max_size=4)


@fuzz
@given(pieces=PIECES, cut=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_load_onnx_bytes_changed_and_cut(
    path: Path, pieces: list[tuple[float, bytes]], cut: float
) -> None:
    path.write_bytes(with_pieces(pieces)[: int(cut * len(honest()))])
    with only_our_errors():
        use(path)


def with_pieces(pieces: list[tuple[float, bytes]]) -> bytes:
    data = bytearray(honest())
    for share, piece in pieces:
        start = min(int(share * len(data)), len(data) - 1)
        data[start : start + len(piece)] = piece
    return bytes(data)


INTEGERS = (0, 1, -1, 2, 7, 99, 1 << 16, 1 << 31, 1 << 40, 1 << 62, -(1 << 62))
TEXTS = ("", "x", "images", "/", "a/b/c", "\n", "MatMul", "Softmax", "Gather", "x" * 5000, "é")


def messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from messages(inner)


def change_field(message: Message, draw: st.DataObject) -> None:
    """Set, drop, double or exchange what is in one field of a message."""
    fields = list(message.DESCRIPTOR.fields)
    field = draw.draw(st.sampled_from(fields))
    value = getattr(message, field.name)
    if hasattr(value, "append") or hasattr(value, "add"):
        change_list(value, draw)
    elif field.type == field.TYPE_MESSAGE:
        message.ClearField(field.name) if draw.draw(st.booleans()) else value.SetInParent()
    else:
        set_scalar(message, field, draw)


def change_list(values: Any, draw: st.DataObject) -> None:  # noqa: ANN401 - of protobuf
    assume(len(values))
    index = draw.draw(st.integers(0, len(values) - 1))
    act = draw.draw(st.sampled_from(("drop", "double", "first", "clear")))
    entry = values[index]
    if act == "clear":
        del values[:]
    elif act == "drop":
        del values[index]
    elif act == "double":
        values.append(entry)
    else:
        others = [entry, *(one for at, one in enumerate(values) if at != index)]
        copies = [one.SerializeToString() if isinstance(one, Message) else one for one in others]
        kind = type(entry)
        del values[:]
        values.extend([kind.FromString(c) if isinstance(entry, Message) else c for c in copies])


def set_scalar(message: Message, field: Any, draw: st.DataObject) -> None:  # noqa: ANN401
    choices: dict[int, Any] = {
        field.TYPE_STRING: TEXTS,
        field.TYPE_BYTES: (b"", b"\xff", b"abcd", b"b,c->bc", bytes(400)),
        field.TYPE_FLOAT: (0.0, 1.0, float("nan"), float("inf")),
    }
    value = draw.draw(st.sampled_from(choices.get(field.type, INTEGERS)))
    try:
        setattr(message, field.name, value)
    except ValueError:  # more than the field's type can hold
        assume(False)


@fuzz
@given(draw=st.data(), count=st.integers(1, 3))
def test_load_onnx_fields_changed(path: Path, draw: st.DataObject, count: int) -> None:
    graph = onnx.ModelProto.FromString(honest())
    for _ in range(count):
        every = list(messages(graph))
        kinds = sorted({type(one).__name__ for one in every})
        kind = draw.draw(st.sampled_from(kinds))
        same = [one for one in every if type(one).__name__ == kind]
        change_field(draw.draw(st.sampled_from(same)), draw)
    path.write_bytes(graph.SerializeToString())
    with only_our_errors():
        use(path)


@pytest.mark.parametrize("name", CHANGES)
def test_load_onnx_changed_on_purpose(name: str, path: Path) -> None:
    graph = onnx.ModelProto.FromString(honest())
    try:
        CHANGES[name](graph)
    except StopIteration:
        pytest.skip("the graph has no such operator")
    path.write_bytes(graph.SerializeToString())
    with only_our_errors():
        use(path)


METADATA = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=6,
).map(json.dumps)


@functools.cache
def whole_facts() -> dict[str, str]:
    return facts_of(load_model("notebook-digits")).to_metadata()


@fuzz
@given(
    key=st.sampled_from((*NAMES, "float32_modules", "float32_asked")),
    value=st.one_of(METADATA, st.text()),
)
@example(key="config", value="[" * 100_000)
@example(key="preprocessing", value="[" * 900 + "]" * 900)
@example(key="float32_modules", value="[[1]]")
def test_facts_in_graph_of_any_kind(key: str, value: str, path: Path) -> None:
    graph = onnx.ModelProto.FromString(honest())
    helper.set_model_props(graph, whole_facts() | {key: value})
    path.write_bytes(graph.SerializeToString())
    with only_our_errors():
        use(path)


@fuzz_commands
@given(pieces=PIECES)
def test_main_onnx_bytes_changed(path: Path, full: Path, pieces: list[tuple[float, bytes]]) -> None:
    data = bytearray(full.read_bytes())
    for share, piece in pieces:
        start = min(int(share * len(data)), len(data) - 1)
        data[start : start + len(piece)] = piece
    path.write_bytes(data)
    model = ("--model", "notebook-digits")
    ends_well("evaluate", *model, "--onnx", path, "--limit", "2", "--output", path.parent / "out")
