"""What a weights file may ask for: what is too much is refused before it is made."""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from command_line import Command
from conftest import build_reference
from hostile_pickles import rezipped
from safetensors.torch import save_file
from torch import Tensor

from exporters.errors import CheckpointError
from swin_deploy.checkpoints import limits
from swin_deploy.checkpoints.files import read_tensors, read_weights
from swin_deploy.checkpoints.objects import plain_values
from swin_deploy.checkpoints.pickles import MOST_STEPS, Stored, TooLargeError, read_pickle
from swin_deploy.checkpoints.torch_files import TorchFile, read_torch_file
from swin_deploy.config import notebook_config, variant
from swin_deploy.reference import build_reference as new_reference


def pickled(values: object, protocol: int = 2) -> io.BytesIO:
    return io.BytesIO(pickle.dumps(values, protocol))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "values",
    [
        {"a": [1, 2.5, None, True, "é", b"\xff", (1,), (), {"b": {3}}]},
        {index: (index, [index] * 3) for index in range(500)},
        [1 << 70, -1, "x" * 70_000, "\ud800", "\n", 1e300, (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    ],
    ids=["all", "many", "odd"],
)
def test_read_pickle_gives_plain_values_of_every_protocol(values: object, protocol: int) -> None:
    stream = pickled(values, protocol)
    found = read_pickle(stream)
    assert stream.read() == b""
    assert plain_values(TorchFile(found, nothing)) == as_read(values)


def nothing(stored: Stored) -> Tensor:
    raise ValueError(stored)


def as_read(values: Any) -> Any:  # noqa: ANN401 - any value
    """What is read of a value: sets are tuples, and so are objects that are no dicts."""
    if isinstance(values, dict):
        return {key: as_read(value) for key, value in values.items()}
    if isinstance(values, list):
        return [as_read(value) for value in values]
    return tuple(values) if isinstance(values, set | frozenset) else values


class Caller:
    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return self.function, ("a",)


@pytest.mark.parametrize("protocol", range(6))
def test_read_pickle_names_what_is_imported_in_every_protocol(protocol: int) -> None:
    names = read_pickle(pickled({"a": Caller(print), "b": Caller(open)}, protocol)).names
    assert [name.rpartition(".")[2] for name in names] == ["print", "open"]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_read_torch_file_of_the_largest_swin_and_its_optimizer_is_far_from_any_limit(
    zipped: bool, tmp_path: Path
) -> None:
    with torch.device("meta"):
        shapes = new_reference(variant("swin_large_patch4_window12_384")).state_dict()
    state = {name: torch.zeros(1) for name in shapes}
    step = {"step": torch.zeros(1), "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)}
    values = {"model": state, "ema": state, "optimizer": dict.fromkeys(state, step), "epoch": 3}
    torch.save(values, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    found = read_torch_file(tmp_path / "w.pt").pickled
    assert set(found.names) <= {
        "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage",
    }  # fmt: skip
    steps = 0
    if zipped:
        with zipfile.ZipFile(tmp_path / "w.pt") as archive:
            steps = sum(1 for _ in pickletools.genops(archive.read("w/data.pkl")))
    assert steps < MOST_STEPS / 10


def test_read_pickle_refuses_more_instructions_than_weights_need() -> None:
    with pytest.raises(TooLargeError, match=f"{MOST_STEPS:,} instructions"):
        read_pickle(io.BytesIO(b"\x80\x02" + b"]" * (MOST_STEPS + 1) + b"."))


SHARED = torch.zeros(1 << 21).half()
SPARSE = torch.eye(2).to_sparse()
FP8 = torch.float8_e4m3fn


def save_bomb(path: Path, *, kind: str) -> None:
    name = {"pickle": "a/data.pkl", "storage": "a/data/0"}[kind]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(name, "w") as entry:
            for _ in range(128):
                entry.write(bytes(1 << 20))
        if kind != "pickle":
            archive.writestr("a/data.pkl", b"\x80\x02}.")


def save_twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/data.pkl", b"\x80\x02}.")


def save_large_directory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\5\6")
    data[end + 12 : end + 16] = struct.pack("<I", limits.MOST_HEADER + 1)
    path.write_bytes(data)


def save_header(path: Path) -> None:
    length = limits.MOST_HEADER + 8
    path.write_bytes(struct.pack("<Q", length) + b"{".ljust(length) + b"}")


def save_storage_without_data(path: Path) -> None:
    """A legacy file whose pickle names a storage of 2^33 values, none of which it has."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(200)}, stream, _use_new_zipfile_serialization=False)
    small, vast = b"K\xc8", b"\x8a\x05" + (1 << 33).to_bytes(5, "little")
    path.write_bytes(stream.getvalue().replace(small, vast))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: save_bomb(path, kind="pickle"), "bytes when it is unpacked"),
        (lambda path: save_bomb(path, kind="storage"), "bytes when it is unpacked"),
        (save_large_directory, "asks for a directory of more than"),
        (save_twice, "damaged"),
        (save_header, "asks for a header of"),
        (save_storage_without_data, "a storage of 200 values, not 8589934592"),
        (
            lambda path: torch.save({"a": torch.zeros(1).expand(1 << 33)}, path),
            "34,359,738,368 bytes of tensors, of which it stores 4",
        ),
        (
            lambda path: torch.save(dict.fromkeys(map(str, range(30)), SHARED), path),
            "bytes of tensors",
        ),
        (lambda path: torch.save({"a": torch.zeros([1] * 9)}, path), "a (9 dimensions)"),
        (lambda path: save_file({"a": torch.zeros(0, 1 << 31, 1 << 31)}, path), "a (shape [0, 21"),
        (lambda path: torch.save({"a": torch.zeros(2).to(FP8)}, path), "a (float8_e4m3fn)"),
        (lambda path: torch.save({"a": torch.empty(2, dtype=torch.uint16)}, path), "a (uint16)"),
        (lambda path: torch.save(dict.fromkeys(map(str, range(99)), SPARSE), path), "and 91 more"),
    ],
    ids=["bomb", "bomb-of-data", "directory", "names-twice", "header", "no-data", "expanded",
         "shared", "dimensions", "shape", "fp8", "uint16", "many"],
)  # fmt: skip
def test_read_tensors_refuses_what_asks_for_too_much(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.pt"
    write(path)
    with pytest.raises(CheckpointError) as info:
        read_tensors(path)
    assert message in str(info.value)
    assert str(path) in str(info.value)


def assert_read(values: dict[str, Tensor], path: Path, **options: Any) -> None:  # noqa: ANN401
    torch.save(values, path, **options)
    found, _ = read_tensors(path)
    for name, value in values.items():
        torch.testing.assert_close(found[name], value.float(), rtol=0, atol=0)


def test_read_tensors_takes_half_tied_and_small_expanded_tensors(tmp_path: Path) -> None:
    """Bounds must leave room for what training scripts save."""
    tied = torch.randn(64, 64)
    values = {
        "half": torch.randn(1 << 16).half(),
        "a": tied,
        "b": tied,
        "view": tied[3:9, ::2],
        "turned": tied.T,
        "expanded": torch.randn(1, 8).expand(512, 8),
        "number": torch.tensor(2.5),
    }
    for zipped in (True, False):
        assert_read(values, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)


def test_read_tensors_takes_a_zip_that_was_packed_again(tmp_path: Path) -> None:
    state = build_reference(notebook_config(img_size=56, embed_dim=16, depths=(2,))).state_dict()
    torch.save(state, tmp_path / "w.pt")
    packed = rezipped((tmp_path / "w.pt").read_bytes(), method=zipfile.ZIP_DEFLATED)
    (tmp_path / "packed.pt").write_bytes(packed)
    found, _ = read_tensors(tmp_path / "packed.pt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_read_weights_calls_nothing_in_any_protocol_and_says_so(
    protocol: int, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"a": torch.arange(3.0), "b": Caller(print)}
    torch.save(
        values,
        tmp_path / "w.pt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    chosen = read_weights(tmp_path / "w.pt").chosen
    assert chosen.tensors["a"].tolist() == [0, 1, 2]
    assert set(chosen.notes) == {
        "left aside what is no weight: b",
        f"left aside objects of {'__builtin__' if protocol < 3 else 'builtins'}.print: "
        "not imported",
    }
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool])
def test_weights_of_whole_numbers_are_refused_by_name(
    kind: torch.dtype, swin: Command, tmp_path: Path
) -> None:
    state = dict(families.loaded("notebook").reference.state_dict())
    name = next(name for name, value in state.items() if value.ndim == 2 and "weight" in name)
    state[name] = state[name].to(kind)
    torch.save(state, tmp_path / "w.pt")
    swin("export", "--checkpoint", tmp_path / "w.pt", "--output", "x.onnx").assert_error(name[:20])


def test_nested_tensor_is_refused(swin: Command, tmp_path: Path) -> None:
    value = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    torch.save({"w": value}, tmp_path / "w.pt")
    swin("export", "--checkpoint", tmp_path / "w.pt", "--output", "x.onnx").assert_error("nested")
