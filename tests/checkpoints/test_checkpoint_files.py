import io
import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_reference
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.files import read_tensors
from swin_deploy.config import notebook_config

State = dict[str, Tensor]
SMALL = notebook_config(img_size=56, embed_dim=16, depths=(2, 2), num_classes=3)


@pytest.fixture(scope="module")
def state() -> State:
    return {
        name: value.detach().clone() for name, value in build_reference(SMALL).named_parameters()
    }


def failure(path: Path) -> str:
    """The one line that says why ``path`` is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's notes on odd pickles
        with pytest.raises(CheckpointError) as info:
            read_tensors(path)
    message = str(info.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def assert_same(found: State, expected: State, *, atol: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol)


def save_plain(state: State, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_wrapped(key: str) -> Callable[[State, Path], None]:
    return lambda state, path: torch.save({"epoch": 3, key: state, "optimizer": {"lr": 0.1}}, path)


def save_parallel(state: State, path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in state.items()}, path)


def save_twice_wrapped(state: State, path: Path) -> None:
    parallel = {f"module.{name}": value for name, value in state.items()}
    torch.save({"model": {"state_dict": parallel}, "epoch": 1}, path)


def save_parameters(state: State, path: Path) -> None:
    torch.save({name: nn.Parameter(value) for name, value in state.items()}, path)


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(save_plain, id="torch-zip"),
        pytest.param(save_legacy, id="torch-legacy-pickle"),
        pytest.param(save_wrapped("state_dict"), id="under-state_dict"),
        pytest.param(save_wrapped("model"), id="under-model"),
        pytest.param(save_wrapped("model_state_dict"), id="under-model_state_dict"),
        pytest.param(save_parallel, id="data-parallel"),
        pytest.param(save_twice_wrapped, id="wrapped-twice-and-parallel"),
        pytest.param(save_parameters, id="parameters"),
        pytest.param(save_file, id="safetensors"),
    ],
)
def test_read_tensors_takes_every_dialect(
    save: Callable[[State, Path], None], state: State, tmp_path: Path
) -> None:
    path = tmp_path / "weights.bin"
    save(state, path)
    tensors, metadata = read_tensors(path)
    assert_same(tensors, state)
    assert metadata == {}
    assert not any(tensor.requires_grad for tensor in tensors.values())


@pytest.mark.parametrize("save", [save_plain, save_file], ids=["torch", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_read_tensors_gives_float32_whatever_is_stored(
    dtype: torch.dtype, save: Callable[[State, Path], None], state: State, tmp_path: Path
) -> None:
    stored = {name: value.to(dtype) for name, value in state.items()}
    save(stored, tmp_path / "weights")
    assert_same(
        read_tensors(tmp_path / "weights")[0],
        {name: value.float() for name, value in stored.items()},
    )


def test_read_tensors_keeps_index_tensors_as_they_are(state: State, tmp_path: Path) -> None:
    torch.save(
        {**state, "index": torch.arange(4), "mask": torch.ones(2, dtype=torch.bool)},
        tmp_path / "w.pt",
    )
    tensors = read_tensors(tmp_path / "w.pt")[0]
    assert tensors["index"].dtype == torch.int64
    assert tensors["mask"].dtype == torch.bool


def test_read_tensors_only_strips_the_prefix_that_all_keys_have(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert set(read_tensors(tmp_path / "w.pt")[0]) == {"module.a", "b"}


@pytest.mark.parametrize("length", [0x180, 0x4B50], ids=["as-a-pickle", "as-a-zip"])
def test_read_tensors_safetensors_whose_length_looks_otherwise(length: int, tmp_path: Path) -> None:
    """The header's length comes first, and may be spelt like the start of another format."""
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"k": "v"}}
    )
    data = struct.pack("<Q", length) + header.ljust(length).encode() + struct.pack("<f", 2.5)
    assert data[:1] == b"\x80" or data[:2] == b"PK"
    (tmp_path / "w.safetensors").write_bytes(data)
    tensors, metadata = read_tensors(tmp_path / "w.safetensors")
    assert tensors["a"].tolist() == [2.5]
    assert metadata == {"k": "v"}


def write_image(path: Path) -> None:
    Image.new("RGB", (20, 20)).save(path, "PNG")


def write_plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")


def write_cycle(path: Path) -> None:
    cycle: dict[str, Any] = {}
    cycle["model"] = cycle
    torch.save(cycle, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda path: None, "does not exist; give a checkpoint", id="missing"),
        pytest.param(Path.mkdir, "is a folder", id="folder"),
        pytest.param(lambda path: path.write_bytes(b""), "it is empty", id="empty"),
        pytest.param(
            lambda path: path.write_text("hello, world\n" * 9), "neither a torch.save", id="text"
        ),
        pytest.param(
            lambda path: path.write_text('{"mode":{"depths": [2, 2]}}'),
            "it is JSON text, neither a torch.save",
            id="json",
        ),
        pytest.param(
            lambda path: path.write_text('{"a": 1}'), "neither a torch.save", id="short-json"
        ),
        pytest.param(write_image, "it is a PNG picture", id="image"),
        pytest.param(write_plain_zip, "it is a zip archive without a checkpoint", id="plain-zip"),
        pytest.param(write_cycle, "not tensors by name: model", id="dict-in-itself"),
        pytest.param(lambda path: torch.save([torch.ones(1)], path), "holds a list", id="list"),
        pytest.param(lambda path: torch.save(torch.ones(1), path), "holds a Tensor", id="tensor"),
        pytest.param(lambda path: torch.save({}, path), "holds no tensors", id="empty-dict"),
        pytest.param(
            lambda path: torch.save({"model": {}}, path), "holds no tensors", id="empty-inner-dict"
        ),
        pytest.param(
            lambda path: torch.save({0: torch.ones(1)}, path),
            "by name: a key of type int;",
            id="keys-are-numbers",
        ),
        pytest.param(
            lambda path: torch.save({"optimizer": {"lr": 1}, "epoch": 3}, path),
            "holds what training keeps next to the weights (optimizer, epoch) and no weights",
            id="optimizer-only",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.ones(1), "optimizer": {"lr": 1}}, path),
            "not tensors by name: optimizer;",
            id="dict-beside-tensors",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.ones(1, dtype=torch.complex64)}, path),
            "not dense real arrays: a (complex64",
            id="complex",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path),
            "not dense real arrays: a (sparse tensor)",
            id="sparse",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.ones(2, device="meta")}, path),
            "not dense real arrays: a (meta tensor no storage)",
            id="without-values",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.tensor(float("nan")), "b": torch.ones(1)}, path),
            "NaN or infinity in a;",
            id="nan-scalar",
        ),
        pytest.param(
            lambda path: save_file(
                {
                    "a": torch.ones(1),
                    "b": torch.tensor([1, -torch.inf]),
                    "c": torch.tensor([torch.nan]),
                },
                path,
            ),
            "NaN or infinity in b, c;",
            id="infinities",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.tensor([1e300], dtype=torch.float64)}, path),
            "NaN or infinity in a;",
            id="too-large-for-float32",
        ),
    ],
)
def test_read_tensors_refuses(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    write(path)
    assert message in failure(path)


def test_read_tensors_refuses_a_name_that_no_file_has(tmp_path: Path) -> None:
    assert "null" in failure(tmp_path / "w\0")


def test_read_tensors_refuses_a_pipe_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe" in failure(tmp_path / "pipe")


def test_read_tensors_says_why_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "w.pt").write_bytes(b"PK")
    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot read" in (message := failure(tmp_path / "w.pt"))
    assert "Permission denied" in message
    with pytest.raises(CheckpointError, match="name too long"):
        read_tensors(tmp_path / ("w" * 300))


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, (str(self.target), "w"))


def pickle_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def pickle_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def pickle_plain(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [pickle_zip, pickle_legacy, pickle_plain])
@pytest.mark.parametrize("place", ["alone", "among-tensors", "under-model"])
def test_read_tensors_does_not_run_what_is_in_a_pickle(
    place: str, save: Callable[[object, Path], None], tmp_path: Path
) -> None:
    target = tmp_path / "made-by-the-pickle"
    intruder = Intruder(target)
    tensors = {"a": torch.ones(1)} if save is not pickle_plain else {}
    values: object = {
        "alone": intruder,
        "among-tensors": {**tensors, "hook": intruder},
        "under-model": {"model": {**tensors, "hook": intruder}},
    }[place]
    save(values, tmp_path / "w.pt")
    if place == "alone" or not tensors:
        assert "save the weights alone" in failure(tmp_path / "w.pt")
    else:
        assert_same(read_tensors(tmp_path / "w.pt")[0], tensors)
    assert not target.exists()
    if save is pickle_plain:  # the same file does run code in an ordinary reader
        pickle.loads((tmp_path / "w.pt").read_bytes())
        assert target.exists()


@pytest.mark.parametrize("save", [save_plain, save_legacy, save_file])
def test_read_tensors_refuses_files_cut_anywhere(
    save: Callable[[State, Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "w"
    save({"a": torch.arange(300.0), "b": torch.ones(3, 3)}, path)
    whole = path.read_bytes()
    cuts = {1, 2, 3, 7, 8, 9, 20, 64, len(whole) // 3, len(whole) // 2, len(whole) - 9}
    for cut in sorted(cuts | set(range(100, len(whole) - 4, len(whole) // 30))):
        path.write_bytes(whole[:cut])
        failure(path)


@pytest.mark.parametrize("save", [save_plain, save_legacy, save_file])
def test_read_tensors_damaged_bytes_give_one_line_or_tensors(
    save: Callable[[State, Path], None], tmp_path: Path
) -> None:
    """Bytes changed at random: never another exception than ours."""
    path = tmp_path / "w"
    save({"a": torch.ones(30), "b": torch.ones(3, 3)}, path)
    whole, generator = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(200):
        changed = bytearray(whole)
        for _ in range(3):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        path.write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_tensors(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95"], ids=repr)
def test_read_tensors_refuses_random_bytes(start: bytes, tmp_path: Path) -> None:
    generator = random.Random(1)
    for length in (1, 3, 16, 50, 500, 500, 500):
        (tmp_path / "w").write_bytes(start + generator.randbytes(length))
        assert "checkpoint" in failure(tmp_path / "w")


def test_zip_members_are_read_from_memory_alone(state: State, tmp_path: Path) -> None:
    """A zip whose member names point elsewhere writes nothing there."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(tmp_path / "w.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name.replace("archive/", "../outside/"), source.read(name))
    (tmp_path / "inside").mkdir()
    failure(tmp_path / "w.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "w.pt"]
