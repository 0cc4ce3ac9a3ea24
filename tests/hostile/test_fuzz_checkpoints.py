"""Checkpoint bytes that nobody meant: only our errors, no code run, within bounds."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from command_line import DIGITS, IMAGES
from fuzzing import fuzz, fuzz_commands, only_our_errors
from fuzzing_commands import ends_well
from hostile_pickles import DOUBLING, NESTED, imported, integer, text
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from swin_deploy.checkpoints.files import read_tensors
from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.pickles import TooLargeError, read_pickle

MARKER = "made-by-a-pickle"


NAMES = (
    "os.mkdir", "builtins.eval", "posix.system", "torch.FloatStorage", "torch.HalfStorage",
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.Size",
    "torch.Tensor", "torch.float32", "torch.device", "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_sparse_tensor", "torch._tensor._rebuild_from_type_v2",
    "collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.set",
    "__builtin__.bytearray", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
    "numpy._core.numeric._frombuffer", "numpy.dtype", "numpy.ndarray", "copyreg._reconstructor",
    "copy_reg.__newobj__", "__torch__.a.B", "omegaconf.DictConfig", "argparse.Namespace",
    "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter_with_state",
    "torch.storage._load_from_bytes", "builtins.object",
)  # fmt: skip
WORDS = (
    "f4", "<", "_parameters", "_modules", "_buffers", "_content", "_val", "module",
    "storage", "cpu", "0", "model", "state_dict", MARKER, "latin1", "hex_codec", "utf-32",
)  # fmt: skip
SIZES = st.sampled_from((0, 1, 2, 7, 300, 1 << 20, 1 << 33, 1 << 40, 1 << 62, -1))
LEAVES = st.one_of(
    st.sampled_from(NAMES).map(imported),
    st.sampled_from(WORDS).map(text),
    st.text(max_size=3).map(text),
    SIZES.map(integer),
    st.sampled_from([b"}", b"]", b")", b"N", b"\x88", b"\x89"]),
    st.floats().map(lambda value: b"G" + struct.pack(">d", value)),
)
# Any instructions in any order, most of which no reader can follow ...
ACTS = st.one_of(
    st.sampled_from([b"R", b"R", b"b", b"s", b"a", b"t", b"u", b"e", b"\x81", b"Q", b"0", b"2"]),
    st.sampled_from([b"\x85", b"\x86", b"\x87", b"(", b"(", b"\x93", b"o", b"l", b"d", b"\x90"]),
    st.sampled_from([b"\x82\x01", b"\x92", b"\x91", b"\x8f", b"\x94", b"1", b"I1\n", b"Pa\n"]),
    st.integers(0, 5).map(lambda index: b"q" + bytes([index])),
    st.integers(0, 5).map(lambda index: b"h" + bytes([index])),
    st.binary(max_size=2),
)
ANY_ORDER = st.lists(st.one_of(LEAVES, ACTS, ACTS), max_size=60).map(b"".join)


def tuple_of(parts: list[bytes]) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def whole(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Instructions that push one value, of instructions that push one value each."""
    few = st.lists(inner, max_size=4)
    call = st.tuples(st.sampled_from(NAMES), few)
    return st.one_of(
        few.map(tuple_of),
        few.map(lambda parts: b"](" + b"".join(parts) + b"e"),
        few.map(
            lambda parts: b"}(" + b"".join(text(str(i)) + p for i, p in enumerate(parts)) + b"u"
        ),
        inner.map(lambda part: part + b"q\x00h\x00\x86"),
        call.map(lambda parts: imported(parts[0]) + tuple_of(parts[1]) + b"R"),
        call.map(lambda parts: imported(parts[0]) + tuple_of(parts[1]) + b"\x81"),
        st.tuples(inner, inner).map(lambda parts: parts[0] + parts[1] + b"b"),
        SIZES.map(lambda items: tensor(items, [items])),
        st.lists(SIZES, max_size=3).map(lambda shape: tensor(16, shape)),
    )


def tensor(items: int, shape: list[int]) -> bytes:
    """A tensor of a shape, in a storage that is said to have so many items."""
    place = [
        text("storage"),
        imported("torch.FloatStorage"),
        text("0"),
        text("cpu"),
        integer(items),
    ]
    sizes, strides = tuple_of([*map(integer, shape)]), tuple_of([integer(0)] * len(shape))
    view = [tuple_of(place) + b"Q", integer(0), sizes, strides, b"\x89", b"}"]
    return imported("torch._utils._rebuild_tensor_v2") + tuple_of(view) + b"R"


# ... and those that every reader can.
STREAMS = st.one_of(ANY_ORDER, st.recursive(LEAVES, whole, max_leaves=12))


def instructions(stream: bytes, protocol: int) -> bytes:
    return b"\x80" + bytes([protocol]) + stream + b"."


def zipped(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", bytes(64))
        archive.writestr("a/version", b"3\n")
    return stream.getvalue()


@fuzz
@given(stream=STREAMS, protocol=st.sampled_from((2, 2, 4, 5)), in_zip=st.booleans())
@example(stream=b"}" + NESTED + b"Ns", protocol=2, in_zip=True)  # takes years to hash
@example(stream=b"}" + text("a") + DOUBLING + b"s", protocol=2, in_zip=False)  # 64 TB
@example(stream=b"(" + b"]" * 4_000_000 + b"l", protocol=2, in_zip=True)
@example(
    stream=text("os") + text("mkdir") + b"\x93" + text(MARKER) + b"\x85R", protocol=4, in_zip=True
)
@example(stream=b"cos\nmkdir\n" + text(MARKER) + b"\x85R", protocol=2, in_zip=False)
@example(
    stream=b"}" + text("a") + b"c__builtin__\nbytearray\n" + integer(1 << 33) + b"\x85Rs",
    protocol=2,
    in_zip=True,
)
def test_read_tensors_instructions_of_any_kind(
    stream: bytes, protocol: int, in_zip: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "pickles"
    folder.mkdir(exist_ok=True)
    path = folder / "w.pt"
    pickled = instructions(stream, protocol)
    path.write_bytes(zipped(pickled) if in_zip else pickled)
    here = Path.cwd()
    os.chdir(folder)
    try:
        with only_our_errors():
            read_tensors(path)
    finally:
        os.chdir(here)
    assert [found.name for found in folder.iterdir()] == ["w.pt"]


def test_read_pickle_follows_what_would_take_for_ever_or_all_memory() -> None:
    """A tuple that takes years to hash, a text that doubles: neither is hashed nor made."""
    for stream in (b"}" + NESTED + b"Ns", NESTED, DOUBLING):
        read_pickle(io.BytesIO(instructions(stream, 2)))
    with pytest.raises(TooLargeError):
        read_pickle(io.BytesIO(instructions(b"]" * 600_000, 2)))


def test_instructions_do_run_code_in_an_ordinary_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the examples above carry is live."""
    import pickle

    monkeypatch.chdir(tmp_path)
    pickle.loads(instructions(b"cos\nmkdir\n" + text(MARKER) + b"\x85R", 2))
    assert (tmp_path / MARKER).is_dir()


def damage() -> st.SearchStrategy[list[tuple[float, bytes]]]:
    """Places in a file, as shares of its length, and what to put there."""
    place = st.one_of(st.floats(0, 1), st.floats(0, 0.02), st.floats(0.98, 1))
    return st.lists(st.tuples(place, st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)


def damaged(whole: bytes, changes: list[tuple[float, bytes]], cut: float) -> bytes:
    data = bytearray(whole)
    for share, piece in changes:
        start = min(int(share * len(data)), len(data) - 1)
        data[start : start + len(piece)] = piece
    return bytes(data[: max(1, int(cut * len(data)))])


def written(kind: str) -> bytes:
    state = load_file(DIGITS)
    if kind == "safetensors":
        return save(state)
    stream = io.BytesIO()
    torch.save({"model": state}, stream, _use_new_zipfile_serialization=kind == "zip")
    return stream.getvalue()


WHOLE = {kind: written(kind) for kind in ("zip", "legacy", "safetensors")}
CUTS = st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1))


@fuzz
@given(kind=st.sampled_from(sorted(WHOLE)), changes=damage(), cut=CUTS)
def test_load_model_bytes_changed_and_cut(
    kind: str,
    changes: list[tuple[float, bytes]],
    cut: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    path.write_bytes(damaged(WHOLE[kind], changes, cut))
    with only_our_errors():
        load_model(checkpoint=path)


NUMBERS = st.sampled_from((0, 1, 2, -1, 4, 16, 1 << 31, 1 << 62, 1 << 64, 1.5, None, "1"))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(
            ("F32", "F16", "F64", "F8_E4M3", "F4", "BOOL", "U64", "C64", "X", 1)
        ),
        "shape": st.lists(NUMBERS, max_size=4),
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2),
    }
)
HEADERS = st.dictionaries(
    st.sampled_from(("a", "b", "head.weight", "__metadata__", "")),
    st.one_of(ENTRIES, ENTRIES, NUMBERS, st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2)),
    max_size=4,
)


@fuzz
@given(header=HEADERS, data=st.binary(max_size=64), more=st.sampled_from((0, 0, 0, 1, -1, 1 << 40)))
@example(
    header={"a": {"dtype": "F32", "shape": [0, 1 << 62, 1 << 62], "data_offsets": [0, 0]}},
    data=b"",
    more=0,
)
@example(
    header={"a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}},
    data=bytes(4),
    more=0,
)
@example(header={"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, data=bytes(1), more=0)
def test_read_tensors_headers_of_any_kind(
    header: dict[str, object], data: bytes, more: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = json.dumps(header).encode()
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(struct.pack("<Q", max(0, len(raw) + more)) + raw + data)
    with only_our_errors():
        read_tensors(path)


FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@fuzz
@given(
    shape=st.lists(st.sampled_from((0, 1, 2, 1 << 31, 1 << 33, 1 << 40)), max_size=6),
    dtype=st.sampled_from([*FLOATS, torch.bool, torch.int64, torch.complex64, torch.float8_e4m3fn]),
    copies=st.integers(1, 3),
)
@example(shape=[1 << 33], dtype=torch.float32, copies=1)
@example(shape=[0, 2, 1 << 31, 1 << 31], dtype=torch.float32, copies=1)
@example(shape=[1] * 100, dtype=torch.float32, copies=1)
@example(shape=[2], dtype=torch.float8_e5m2, copies=1)
@example(shape=[1 << 20], dtype=torch.float16, copies=100_000)
def test_read_tensors_views_of_any_size(
    shape: list[int], dtype: torch.dtype, copies: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tensors that have one value for any number of places, or share their values."""
    try:
        view = torch.zeros(1, dtype=dtype).expand(shape)
    except RuntimeError:  # more places than an integer can count
        return
    if copies > 3:
        view = torch.zeros(shape, dtype=dtype)
    path = tmp_path_factory.getbasetemp() / "views.pt"
    torch.save({f"k{index}": view for index in range(copies)}, path)
    with only_our_errors():
        for tensor in read_tensors(path)[0].values():
            assert tensor.numel() * 4 <= path.stat().st_size * 8 + (64 << 20)


@fuzz_commands
@given(kind=st.sampled_from(sorted(WHOLE)), changes=damage(), cut=CUTS)
def test_main_checkpoint_changed_and_cut(
    kind: str,
    changes: list[tuple[float, bytes]],
    cut: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    path.write_bytes(damaged(WHOLE[kind], changes, cut))
    output = path.with_name("evaluation")
    ends_well(
        "evaluate", "--checkpoint", path, "--data", IMAGES, "--limit", "2", "--output", output
    )
