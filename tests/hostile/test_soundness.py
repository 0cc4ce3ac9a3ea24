"""ONNX files that ONNX's own checker lets through, and that nothing may compute with."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import copy_of, exported
from hostile_onnx import CHANGES
from onnx import TensorProto, helper, numpy_helper

from exporters.errors import ExportError
from exporters.soundness import MOST_NODES, require_sound
from exporters.to_onnx import load_onnx

REFUSED = {
    "no inputs": "no input with a batch",
    "no outputs": "no output",
    "input of type 99": "element type 99, which does not exist",
    "input of type 0": "its input has no element type",
    "input that is a sequence": "no input with a batch",
    "input of one dimension": "no input with a batch",
    "batch of 2^40": "which no tensor can be",
    "batch of 65537": "a batch of 65,537, at most 65,536",
    "batch of -5": "which no tensor can be",
    "side of 2^40": "which no tensor can be",
    "weight of type 99": "element type 99, which does not exist",
    "weight of type 0": "element type 0, which does not exist",
    "weight of float64": "bytes of data",
    "weight of 2^40": "which no tensor can be",
    "weight of 2^62 x 2^62 x 0": "which no tensor can be",
    "weight of 100 dimensions": "dimensions, which is not supported",
    "weight without data": "lacks its values",
    "weight cut": "bytes of data",
    "weight in a segment": "is a segment, which is not supported",
    "names of a million dots": "NodeProto.name is a name of 1,000,002 letters",
    "node without outputs": "has no output",
    "einsum of odd words": "is not UTF-8 text",
    "constant of type 99": "element type 99",
    "loop of one turn": "a Loop, which may never end",
    "100,000 nodes": f"nodes, at most {MOST_NODES:,}",
}
ACCEPTED = ("names all equal", "names empty", "names with escapes", "foreign matrix product",
            "doc of 10 MB", "scopes of deep brackets", "output twice")  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_load_onnx_refuses_in_one_line(name: str, tmp_path: Path) -> None:
    graph = copy_of(exported("blocks"))
    CHANGES[name](graph)
    (tmp_path / "bad.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ExportError, match=r"bad\.onnx is not a whole ONNX file") as info:
        load_onnx(tmp_path / "bad.onnx")
    assert REFUSED[name] in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ACCEPTED)
def test_require_sound_accepts_what_is_only_odd(name: str, tmp_path: Path) -> None:
    graph = copy_of(exported("blocks"))
    CHANGES[name](graph)
    require_sound(graph, tmp_path)


def test_require_sound_accepts_every_way_to_keep_values(tmp_path: Path) -> None:
    graph = copy_of(exported("blocks"))
    for kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT4, TensorProto.BOOL,
                 TensorProto.BFLOAT16, TensorProto.UINT8, TensorProto.INT64):  # fmt: skip
        made = helper.make_tensor(f"t{kind}", kind, [3], [1, 0, 1])
        graph.graph.initializer.append(made)
    graph.graph.initializer.append(numpy_helper.from_array(np.array(["a", "b"], object), "words"))
    graph.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 3), np.float32), "none"))
    require_sound(graph, tmp_path)


def external(tmp_path: Path, **entries: str) -> onnx.ModelProto:
    """A graph whose largest weight lies in data.bin, as ``entries`` say."""
    graph = copy_of(exported("blocks"))
    tensor = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    (tmp_path / "data.bin").write_bytes(bytes(64) + tensor.raw_data)
    said = {"location": "data.bin", "offset": "64", "length": str(len(tensor.raw_data))} | entries
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in said.items():
        tensor.external_data.add(key=key, value=value)
    return graph


def test_require_sound_accepts_data_next_to_the_file(tmp_path: Path) -> None:
    require_sound(external(tmp_path), tmp_path)
    (tmp_path / "model.onnx").write_bytes(external(tmp_path).SerializeToString())
    loaded = load_onnx(tmp_path / "model.onnx")
    weights = {t.name: numpy_helper.to_array(t) for t in exported("blocks").graph.initializer}
    for tensor in loaded.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), weights[tensor.name])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-1"}, "the offset of the data"),
        ({"offset": "x"}, "the offset of the data"),
        ({"offset": "1.5"}, "the offset of the data"),
        ({"offset": "٣"}, "the offset of the data"),
        ({"offset": "9" * 5000}, "the offset of the data"),
        ({"offset": "65"}, "needs"),
        ({"offset": "99999999999"}, "needs"),
        ({"length": "-1"}, "the length of the data"),
        ({"length": "99999999999"}, "needs"),
        ({"length": "4"}, "needs"),
        ({"location": ""}, "no regular file in the file's folder"),
        ({"location": "."}, "no regular file in the file's folder"),
        ({"location": "nowhere"}, "No such file"),
        ({"location": "x" * 300}, "File name too long"),
        ({"location": "a\0b"}, "null"),
        ({"location": "../data.bin"}, "no regular file in the file's folder"),
        ({"location": "/dev/zero"}, "no regular file in the file's folder"),
    ],
    ids=lambda value: next(iter(value.items()))[1][:9] if isinstance(value, dict) else "",
)
def test_require_sound_refuses_data_that_is_not_there(
    entries: dict[str, str], message: str, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "data.bin").write_bytes(bytes(1 << 20))
    with pytest.raises(ExportError, match=message):
        require_sound(external(inside, **entries), inside)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_outside(path: Path) -> None:
    (path.parent.parent / "outside.bin").write_bytes(bytes(1 << 20))
    path.symlink_to(path.parent.parent / "outside.bin")


@pytest.mark.parametrize(
    "place", [fifo, link_outside, Path.mkdir, lambda path: path.symlink_to("/dev/zero")],
    ids=["fifo", "link", "folder", "device"],
)  # fmt: skip
def test_require_sound_refuses_data_that_is_no_file(
    place: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    graph = external(folder)
    (folder / "data.bin").unlink()
    place(folder / "data.bin")
    with pytest.raises(ExportError, match="no regular file in the file's folder"):
        require_sound(graph, folder)


def test_require_sound_refuses_data_that_is_read_again_and_again(tmp_path: Path) -> None:
    graph = external(tmp_path)
    tensor = next(t for t in graph.graph.initializer if t.external_data)
    size = int(tensor.external_data[2].value)
    count = (65 << 20) // size
    for number in range(count):
        copied = graph.graph.initializer.add()
        copied.CopyFrom(tensor)
        copied.name = f"copy{number}"
    with pytest.raises(ExportError, match="its tensors ask for"):
        require_sound(graph, tmp_path)
