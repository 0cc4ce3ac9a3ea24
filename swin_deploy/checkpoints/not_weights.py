"""The kind of a file that is not a weights file, and what to do with it."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from exporters.text_files import listed, shortened

SEEN = 2048  # bytes from the start that are looked at
WEIGHTS_ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".pkl", ".tar")
TAR_DAMAGE = (
    tarfile.TarError, OSError, ValueError, LookupError, ArithmeticError, EOFError, MemoryError,
    RuntimeError, TypeError,
)  # fmt: skip
MOST_MEMBERS = 1000  # of a tar file, looked at in turn
LIBRARY = "this tool reads PyTorch and safetensors files; save the weights from there"
UNPACK = "unpack it and give the file inside"
RENAMED = "give the PyTorch checkpoint that it was made from"

# Start of a file, the place of that start, and what the file then is.
SIGNS: tuple[tuple[bytes, int, str], ...] = (
    (b"version https://git-lfs", 0,
     "a Git LFS pointer, not the file itself; run git lfs pull in its repository"),
    (b"\x1f\x8b", 0, f"compressed with gzip; {UNPACK} (zcat FILE > weights.pth)"),
    (b"\x28\xb5\x2f\xfd", 0, f"compressed with Zstandard; {UNPACK} (zstdcat FILE > weights.pth)"),
    (b"\xfd7zXZ\0", 0, f"compressed with xz; {UNPACK} (xzcat FILE > weights.pth)"),
    (b"BZh", 0, f"compressed with bzip2; {UNPACK} (bzcat FILE > weights.pth)"),
    (b"7z\xbc\xaf\x27\x1c", 0, f"a 7z archive; {UNPACK}"),
    (b"Rar!\x1a\x07", 0, f"a RAR archive; {UNPACK}"),
    (b"\x89HDF\r\n\x1a\n", 0, f"an HDF5 file, as Keras and TensorFlow write; {LIBRARY}"),
    (b"GGUF", 0, f"a GGUF file of llama.cpp; {RENAMED}"),
    (b"ggml", 0, f"a GGML file; {RENAMED}"),
    (b"\x93NUMPY", 0,
     "one NumPy array (.npy) without names; save the weights alone: "
     "torch.save(model.state_dict(), path)"),
    (b"ET", 4, f"an ExecuTorch program; {RENAMED}"),
    (b"TFL3", 4, f"a TensorFlow Lite model; {RENAMED}"),
    (b"ftrt", 0, f"a TensorRT engine; {RENAMED}"),
    (b"ptrt", 0, f"a TensorRT engine; {RENAMED}"),
    (b"%PDF", 0, "a PDF document; give a checkpoint file"),
    (b"\x89PNG", 0, "a PNG picture; give a checkpoint file"),
    (b"\xff\xd8\xff", 0, "a JPEG picture; give a checkpoint file"),
)  # fmt: skip
LIBRARY_ENDINGS = {".pb": "a TensorFlow graph", ".msgpack": "a Flax file"}
PROTOBUF = b"\x08"  # tag of the version that an ONNX file begins with
PRODUCERS = (b"\x12", b":", b"B")  # tags of what may follow: producer, graph, operator sets
TAR_SIGN, TAR_AT = b"ustar", 257
# Names of entries that tell what a zip file is.
ZIP_SIGNS: tuple[tuple[str, str], ...] = (
    (r".*\.npy", "a NumPy archive (.npz), as JAX and TensorFlow models are converted to; "
     + LIBRARY),
    (r"(.*/)?(model\.weights\.h5|variables\.h5)", f"a Keras file; {LIBRARY}"),
    (r"(.*/)?saved_model\.pb", f"a TensorFlow SavedModel; {LIBRARY}"),
    (r"\[Content_Types\]\.xml", "an Office document; give a checkpoint file"),
    (r"(.*/)?META-INF/MANIFEST\.MF", "a Java archive; give a checkpoint file"),
)  # fmt: skip
EXPORTED = re.compile(
    r"(.*/)?(serialized_exported_program\.json|archive_format|models/model\.json)"
)

# Keys of the states of optimizers, schedulers and scalers, and of what training scripts keep.
OPTIMIZER = frozenset({"state", "param_groups"})
STATES = (
    (OPTIMIZER, "the state of an optimizer"),
    (frozenset({"last_epoch", "_step_count"}), "the state of a learning rate scheduler"),
    (frozenset({"scale", "growth_factor"}), "the state of a gradient scaler"),
)
TRAINING = frozenset({
    "amp", "amp_scaler", "args", "best_acc", "best_metric", "config", "epoch", "global_step",
    "grad_scaler", "iter", "iteration", "loss", "lr_scheduler", "lr_schedulers", "metric",
    "opt", "optim", "optimizer", "optimizer_state", "optimizer_state_dict", "optimizer_states",
    "optimizers", "rng_state", "scaler", "scaler_state_dict", "scheduler",
    "scheduler_state_dict", "step",
})  # fmt: skip
THE_MODELS = "give the file of the model that was saved with it"


def training_kind(values: Mapping[object, object]) -> str:
    """Say what a file of training without weights holds, and what to do; empty if none is known.

    Args:
        values: Content of the file.
    """
    states = [what for keys, what in STATES if keys <= values.keys()]
    if states:
        return f"{states[0]} and no weights; {THE_MODELS}"
    if values and values.keys() <= TRAINING:
        kept = listed([str(name) for name in values])
        return f"what training keeps next to the weights ({kept}) and no weights; {THE_MODELS}"
    if "shadow_params" in values:
        return (
            "an average as a list of tensors without names (shadow_params); copy it into the "
            "model, ema.copy_to(model.parameters()), and save model.state_dict()"
        )
    return ""


def foreign_kind(path: Path, start: bytes) -> str:
    """Say what a file is that is neither PyTorch's nor safetensors, and what to do.

    Args:
        path: Path of the file.
        start: Its first ``SEEN`` bytes.

    Returns:
        What it is and what to do, after "NAME is"; empty if it is of no known kind.
    """
    for sign, place, words in SIGNS:
        if start[place : place + len(sign)] == sign:
            return words
    if start[TAR_AT : TAR_AT + len(TAR_SIGN)] == TAR_SIGN:
        return _tar_kind(path)
    return _protobuf_kind(path, start)


def zip_kind(path: Path, names: Sequence[str]) -> str:
    """Say what a zip file without a ``data.pkl`` is, and what to do; as ``foreign_kind``.

    Args:
        path: Path of the file.
        names: Names of its entries.
    """
    for pattern, words in ZIP_SIGNS:
        if any(re.fullmatch(pattern, name) for name in names):
            return words
    if any(EXPORTED.fullmatch(name) for name in names):
        load = f"p = torch.export.load({str(path)!r}); torch.save(p.state_dict, 'weights.pt')"
        return f'a program of torch.export; take its weights: python -c "import torch; {load}"'
    return _archive_kind("a zip archive", names)


def _archive_kind(what: str, names: Sequence[str]) -> str:
    """Name the weights file in an archive."""
    inside = [name for name in names if name.lower().endswith(WEIGHTS_ENDINGS)]
    if not inside:
        return f"{what} without a checkpoint in it; give a checkpoint file"
    several = f" (and {len(inside) - 1} more)" if len(inside) > 1 else ""
    return f"{what} that holds {shortened(inside[0])}{several}; unpack it and give that file"


def _tar_kind(path: Path) -> str:
    """Look at the names in a tar file; nothing of it is unpacked."""
    names: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member, _ in zip(archive, range(MOST_MEMBERS), strict=False):
                names.append(member.name)
    except TAR_DAMAGE:
        return "a damaged tar archive; copy it again"
    if {"storages", "tensors", "pickle"} <= {PurePosixPath(name).name for name in names}:
        return (
            "in the tar form of PyTorch before 0.1.10, which is older than any Swin; load it there "
            "and save the weights alone: torch.save(model.state_dict(), path)"
        )
    return _archive_kind("a tar archive", names)


def _protobuf_kind(path: Path, start: bytes) -> str:
    """Tell ONNX files and TensorFlow's graphs, which have no signature of their own."""
    ending = path.suffix.lower()
    if re.search(r"\.data-\d{5}-of-\d{5}$", path.name) or ending == ".index":
        return f"a part of a TensorFlow checkpoint; {LIBRARY}"
    if ending in LIBRARY_ENDINGS:
        return f"{LIBRARY_ENDINGS[ending]}; {LIBRARY}"
    tagged = start[:1] == PROTOBUF and len(start) > 8 and start[1] < 0x20
    if ending in (".onnx", ".ort") or (tagged and start[2:3] in PRODUCERS):
        return (
            "an ONNX file; give the PyTorch checkpoint that it was made from as --checkpoint, "
            "and a file of ours as --onnx"
        )
    return ""


def text_kind(start: bytes) -> str:
    """Tell web pages from other texts, whose first words are often a server's reason.

    Args:
        start: First bytes of a file that no reader can read.

    Returns:
        What it is and what to do, as ``foreign_kind`` says it; empty if it is not text.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not _is_text(text):
        return ""
    if re.match(rb"<(!doctype html|html|head|body|script|\?xml|!--)", text, re.IGNORECASE):
        title = re.search(rb"<title[^>]*>([^<]*)", text, re.IGNORECASE)
        named = f" ({shortened(_line(title[1]))})" if title and title[1].strip() else ""
        return f"a web page{named}, not the file that its link leads to; download it again"
    kind = "JSON text" if text[:1] in (b"{", b"[") else "text"
    words = _line(text)[:60]
    more = f", and begins with {words!r}" if words else ""
    return f"{kind}, neither a torch.save file nor safetensors{more}; download or copy it again"


def _is_text(data: bytes) -> bool:
    """Tell whether bytes are UTF-8 text, which may be cut in the middle of a letter."""
    try:
        data[: max(len(data) - 4, 0)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(data) and b"\0" not in data


def _line(data: bytes) -> str:
    return " ".join(data.decode("utf-8", "replace").split())
