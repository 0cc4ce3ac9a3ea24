"""Files that people give as a checkpoint and that are none: told by name, with what to do."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Command
from safetensors.torch import save_file
from torch import Tensor, nn

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.files import read_weights

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 113342400\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Drive - Virus scan\n warning</title></head></html>"
STATE = {"a": torch.ones(3)}
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\x00"


def torch_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save(STATE, stream)
    return stream.getvalue()


def zip_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, torch_bytes())
    return stream.getvalue()


def tar_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
    return stream.getvalue()


FILES: dict[str, tuple[str, bytes, str]] = {
    "lfs": ("model.safetensors", LFS, "a Git LFS pointer, not the file itself; run git lfs pull"),
    "page": ("w.pth", PAGE, "a web page (Drive - Virus scan warning), not the file"),
    "page-without-title": ("w.pth", b"<html>\xd0\xb0", "a web page, not the file"),
    "xml": ("w.pth", b'<?xml version="1.0"?><Error/>', "a web page, not the file"),
    "json": ("w.pth", b'{"error": 403}', "JSON text, neither a torch.save file nor safetensors"),
    "words": ("w.pth", b"Access Denied\n", "text, neither a torch.save file nor safetensors"),
    "gzip": ("w.pth.gz", gzip.compress(b"a" * 99), "compressed with gzip; unpack it"),
    "xz": ("w.xz", lzma.compress(b"a"), "compressed with xz; unpack it"),
    "bzip2": ("w.bz2", bz2.compress(b"a"), "compressed with bzip2; unpack it"),
    "zstd": ("w.zst", b"\x28\xb5\x2f\xfd" + bytes(20), "compressed with Zstandard; unpack it"),
    "zip": ("w.zip", zip_of("out/best.pth", "notes.md"), "a zip archive that holds out/best.pth"),
    "zip-several": ("w.zip", zip_of("a.pth", "b.pt"), "that holds a.pth (and 1 more); unpack it"),
    "zip-without": ("w.zip", zip_of("notes.md"), "a zip archive without a checkpoint in it"),
    "tar": ("w.tar", tar_of("x/best.ckpt"), "a tar archive that holds x/best.ckpt; unpack it"),
    "tar-of-torch": ("w.pth", tar_of("storages", "tensors", "pickle"), "of PyTorch before 0.1.10"),
    "tar-cut": ("w.tar", tar_of("a")[:400], "a damaged tar archive"),
    "onnx": ("m.onnx", ONNX, "an ONNX file; give the PyTorch checkpoint"),
    "onnx-renamed": ("w.pth", ONNX, "an ONNX file; give the PyTorch checkpoint"),
    "keras": ("k.keras", zip_of("config.json", "model.weights.h5"), "a Keras file"),
    "hdf5": ("k.h5", b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file, as Keras"),
    "saved-model": ("saved_model.pb", b"\x08\x01\x12\x00", "a TensorFlow graph"),
    "tf-index": ("model.ckpt.index", b"\0\1" + bytes(9), "a part of a TensorFlow checkpoint"),
    "tf-data": ("m.ckpt.data-00000-of-00001", bytes(9), "a part of a TensorFlow checkpoint"),
    "flax": ("flax_model.msgpack", b"\x82\xa1a", "a Flax file"),
    "gguf": ("m.gguf", b"GGUF\3\0\0\0", "a GGUF file"),
    "tflite": ("m.tflite", b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
    "executorch": ("m.pte", b"\x1c\0\0\0ET12", "an ExecuTorch program"),
    "engine": ("m.engine", b"ftrt" + bytes(9), "a TensorRT engine"),
    "bytes": ("w.pth", bytes(range(100, 200)), "neither a torch.save file nor safetensors"),
    "utf-16": ("w.pth", "text".encode("utf-16"), "neither a torch.save file nor safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_main_says_what_a_file_is(name: str, swin: Command, tmp_path: Path) -> None:
    file, data, words = FILES[name]
    (tmp_path / file).write_bytes(data)
    outcome = swin("-q", "export", "--checkpoint", file)
    outcome.assert_error(words)
    assert f"{file} is not a checkpoint: it is " in outcome.err
    assert len(outcome.err) < 500


def test_npz_and_npy_are_told_by_name(swin: Command) -> None:
    np.savez("w.npz", a=np.ones(3))
    np.save("w.npy", np.ones(3))
    swin("-q", "export", "--checkpoint", "w.npz").assert_error("a NumPy archive (.npz)")
    swin("-q", "export", "--checkpoint", "w.npy").assert_error("one NumPy array (.npy)")


def test_lfs_pointer_in_a_folder_is_told_by_name(swin: Command, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(LFS)
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    swin("-q", "export", "--checkpoint", ".").assert_error("run git lfs pull")


def test_exported_program_is_told_with_a_command_that_works(tmp_path: Path) -> None:
    """The command of the message is run, and gives a file that is read."""
    model = nn.Linear(3, 4)
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(model, (torch.ones(1, 3),)), path)
    with pytest.raises(CheckpointError, match=r"a program of torch\.export; take its we") as info:
        read_weights(path)
    code = str(info.value).partition('-c "')[2].removesuffix('"')
    exec(code.replace("'weights.pt'", repr(str(tmp_path / "weights.pt"))), {})
    found = read_weights(tmp_path / "weights.pt").chosen.tensors
    assert torch.equal(found["weight"], model.weight)


OPTIMIZER = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
KEPT = r"what training keeps next to the weights \({}\)"
STATES: dict[str, tuple[Callable[[], object], str]] = {
    "optimizer": (
        lambda: {"optimizer": OPTIMIZER.state_dict(), "epoch": 3}, KEPT.format("optimizer, epoch")
    ),
    "random-state": (lambda: {"rng_state": torch.ones(3)}, KEPT.format("rng_state")),
    "state-alone": (OPTIMIZER.state_dict, "the state of an optimizer"),
    "state-in-a-model": (lambda: {"model": OPTIMIZER.state_dict()}, "the state of an optimizer"),
    "object": (lambda: OPTIMIZER, "the state of an optimizer"),
    "scheduler": (
        lambda: torch.optim.lr_scheduler.StepLR(OPTIMIZER, 2).state_dict(),
        "the state of a learning rate scheduler",
    ),
    "scaler": (lambda: {"scaler": {"scale": 1.0}}, KEPT.format("scaler")),
    "scaler-alone": (
        lambda: {"scale": 65536.0, "growth_factor": 2.0}, "the state of a gradient scaler"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "says"), STATES.values(), ids=STATES.keys())
def test_read_weights_of_an_optimizer_alone_says_so(
    build: Callable[[], object], says: str, tmp_path: Path
) -> None:
    torch.save(build(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"{says} and no weights; give the file of the model"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("pad", range(8))
def test_read_weights_of_safetensors_whose_length_looks_like_json(pad: int, tmp_path: Path) -> None:
    """A header of 123 bytes begins the file with a brace; so may any other length."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(123 + 256 * pad)
    data = len(header).to_bytes(8, "little") + header + np.float32(2).tobytes()
    assert data[:1] == b"{"
    (tmp_path / "w.safetensors").write_bytes(data)
    assert read_weights(tmp_path / "w.safetensors").chosen.tensors["a"].tolist() == [2]


def test_read_weights_of_safetensors_by_another_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.pth")
    found: dict[str, Tensor] = read_weights(tmp_path / "w.pth").chosen.tensors
    assert torch.equal(found["a"], STATE["a"])
