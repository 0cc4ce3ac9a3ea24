"""Hostile checkpoint files: pickles, zips, safetensors, tensors that cannot be real, metadata."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from command_line import DIGITS
from hostile_run import Case
from safetensors.torch import load_file, save_file
from torch import Tensor

from swin_deploy.checkpoints.notebook import CONFIG_KEY

Make = Callable[[Path], tuple[object, ...]]
Writer = Callable[[Path], None]
ANY = (0, 1, 2, 3)  # changed weights may well be worse than guessing
FORMATS = ("zip", "legacy")
CALLS = (
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "builtins.exec",
    "os.popen",
    "shutil.rmtree",
)


def evaluate(path: object, *more: object) -> tuple[object, ...]:
    """The command that loads a checkpoint soonest."""
    return ("-q", "evaluate", "--checkpoint", path, "--limit", "20", "--output", "out", *more)


def file_case(name: str, write: Writer, *, file: str = "bad.pt", **limits: Any) -> Case:
    def make(folder: Path) -> tuple[object, ...]:
        write(folder / file)
        return evaluate(file, "--data", folder.parent / "honest" / "images")

    return Case(name, make, names=limits.pop("names", file), **limits)


def honest_state() -> dict[str, Tensor]:
    return load_file(DIGITS)


def saved(values: object, kind: str = "zip", protocol: int = 2) -> bytes:
    """The bytes of ``torch.save``."""
    stream = io.BytesIO()
    torch.save(
        values, stream, _use_new_zipfile_serialization=kind == "zip", pickle_protocol=protocol
    )
    return stream.getvalue()


def rezipped(data: bytes, pickled: bytes | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A ``torch.save`` file with another data.pkl."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", method) as new:
        for name in old.namelist():
            own = name.endswith("/data.pkl") and pickled is not None
            new.writestr(name, pickled if own else old.read(name))
    return stream.getvalue()


def pickle_of(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return next(archive.read(n) for n in archive.namelist() if n.endswith("/data.pkl"))


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, call: str, argument: object) -> None:
        module, _, name = call.rpartition(".")
        self.called = getattr(__import__(module), name), (argument,)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.called


def code_cases() -> Iterator[Case]:
    """Pickles that run code when a careless reader loads them."""
    for call in CALLS:
        argument = "pwned" if call == "shutil.rmtree" else "touch pwned"
        if call.startswith("builtins"):
            argument = "open('pwned', 'w')"
        for protocol in (0, 2, 4, 5):
            raw = pickle.dumps({"a": Runs(call, argument)}, protocol)
            name = f"code {call} protocol {protocol}"
            yield file_case(f"{name} raw", lambda path, raw=raw: path.write_bytes(raw))
            zipped = rezipped(saved({"a": torch.zeros(1)}), raw)
            yield file_case(f"{name} zip", lambda path, data=zipped: path.write_bytes(data))
    values = {"a": torch.zeros(2), "b": Runs("os.system", "touch pwned")}
    for kind in FORMATS:
        data = saved(values, kind)
        yield file_case(f"code with tensors {kind}", lambda path, data=data: path.write_bytes(data))


# Hand-made instructions: bombs, hangs, and calls of what PyTorch's reader lets through.
def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _int(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def streams() -> dict[str, bytes]:
    """Pickles by name, each without its protocol."""
    nested = b")" + b"".join(b"q%c2\x86" % (i,) for i in range(60))  # a tuple twice, 60 times
    doubled = _text("a" * 64) + _text("latin1") + b"\x86R"
    hexed = b"".join(_global("_codecs", "encode") for _ in range(40)) + _global("_codecs", "encode")
    hexed += doubled + b"".join(_text("hex_codec") + b"\x86R" for _ in range(40))
    tensor = _global("torch._utils", "_rebuild_tensor_v2")
    return {
        "nothing": b"",
        "only stop": b".",
        "pop of nothing": b"0.",
        "tuple that hashes for ever": b"}" + nested + b"Ns.",
        "tuple that prints for ever": nested + b".",
        "codec that doubles": b"}" + _text("a") + hexed + b"s.",
        "bytearray of 2^40": b"}" + _text("a") + _global("__builtin__", "bytearray") + _int(1 << 40) + b"\x85Rs.",
        "bytearray of 2^33": b"}" + _text("a") + _global("__builtin__", "bytearray") + _int(1 << 33) + b"\x85Rs.",
        "tensor of 2^40": b"}" + _text("a") + _global("torch", "Tensor") + _int(1 << 40) + b"\x85Rs.",
        "tensor of 2^33": b"}" + _text("a") + _global("torch", "Tensor") + _int(1 << 33) + b"\x85Rs.",
        "list in itself": b"]q\x00h\x00a.",
        "dict in itself": b"}q\x00" + _text("model") + b"h\x00s.",
        "a million lists": b"(" + b"]" * 1_000_000 + b"l.",
        "four million lists": b"(" + b"]" * 4_000_000 + b"l.",
        "60 million lists": b"(" + b"]" * 60_000_000 + b"l.",
        "deep marks": b"(" * 100_000 + b".",
        "deep tuples": b")" + b"\x85" * 1_000_000 + b".",
        "deep lists": b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep dict of dicts": b"}" + (_text("model") + b"}") * 50_000 + b"s" * 50_000 + b".",
        "memo that is not there": b"h\x05.",
        "large memo number": b"}r\xff\xff\xff\xff.",
        "text cut off": b"X\xff\xff\xff\x7fabc",
        "text of 4 GiB": b"X\xff\xff\xff\xff" + b"a" * 100,
        "not UTF-8": b"}X\x02\x00\x00\x00\xff\xfeNs.",
        "lone surrogate": b"}X\x03\x00\x00\x00\xed\xa0\x80Ns.",
        "extension": b"\x82\x01.",
        "inst": b"(S'touch pwned'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'touch pwned'\no.",
        "stack global": b"\x8c\x02os\x8c\x06system\x93\x8c\x0btouch pwned\x85R.",
        "newobj": _global("collections", "OrderedDict") + b")\x81.",
        "build": _global("collections", "OrderedDict") + b")R}" + _text("__class__") + b"Nsb.",
        "storage without data": tensor + b"(" + b"(" + _text("storage") + _global("torch", "FloatStorage") + _text("9") + _text("cpu") + _int(4) + b"tQK\x00K\x04\x85K\x01\x85\x89" + _global("collections", "OrderedDict") + b")RtR.",
        "long key": b"}" + _text("k" * 1_000_000) + b"Ns.",
        "keys of all sorts": b"}(K\x01NNN\x88N\x89NG?\xf0\x00\x00\x00\x00\x00\x00Nu.",
        "persistent id": b"Px\n.",
        "frame": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        "bytes of 2^62": b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc",
        "out of band buffer": b"\x97.",
        "sparse": b"}" + _text("a") + _global("torch._utils", "_rebuild_sparse_tensor") + b"N)\x86Rs.",
        "meta of 2^62": b"}" + _text("a") + _global("torch._utils", "_rebuild_meta_tensor_no_storage") + b"(" + _global("torch", "float32") + b"(" + _int(1 << 62) + b"t(" + _int(1) + b"t\x89tRs.",
    }  # fmt: skip


def stream_cases() -> Iterator[Case]:
    for name, stream in streams().items():
        for protocol in (2,) if len(stream) > 100_000 else (2, 4, 5):
            raw = b"\x80" + bytes([protocol]) + stream
            title = f"pickle, {name}, protocol {protocol}"
            yield file_case(f"{title}, raw", lambda path, raw=raw: path.write_bytes(raw))
            data = rezipped(saved({"a": torch.zeros(4)}), raw)
            yield file_case(f"{title}, zip", lambda path, data=data: path.write_bytes(data))


def _odd_tensors() -> dict[str, Any]:
    """Tensors of a form or size that no weights have, by name."""
    odd: dict[str, Any] = {
        "expanded": torch.zeros(1).expand(2**33),
        "expanded a little": torch.zeros(1).expand(2**20),
        "half expanded": torch.zeros(1, dtype=torch.float16).expand(2**33),
        "expanded flag": torch.zeros(1, dtype=torch.bool).expand(2**35),
        "100 dimensions": torch.zeros([1] * 100),
        "65 dimensions": torch.zeros([1] * 65),
        "empty": torch.zeros(0),
        "empty and vast": torch.zeros(0, 2**62),
        "empty and vaster": torch.zeros(1).expand(1).as_strided((0, 2**62, 2**62), (0, 0, 0)),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "sparse": torch.zeros(2, 2).to_sparse(),
        "sparse and vast": torch.sparse_coo_tensor(torch.zeros(2, 0).long(), torch.zeros(0), (2**30, 2**30)),
        "csr": torch.eye(2).to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
        "meta": torch.zeros(2, device="meta"),
        "meta and vast": torch.zeros(2**60, device="meta"),
        "grad": torch.nn.Parameter(torch.zeros(2)),
        "conjugate": torch.zeros(2, dtype=torch.complex64).conj(),
        "negated": torch.zeros(2, dtype=torch.complex64).conj().imag,
        "a number": torch.tensor(1.0),
        "infinite": torch.tensor([float("inf")]),
        "not a number": torch.tensor([float("nan")]),
        "not a number in float64": torch.tensor([1e300], dtype=torch.float64),
    }  # fmt: skip
    kinds = ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn_x2", "uint16", "uint64",
             "uint4", "int2", "bits8", "bits1x8", "bool", "int8", "float64", "bfloat16", "float16")  # fmt: skip
    for kind in kinds:
        dtype = getattr(torch, kind, None)
        if dtype is not None:
            odd[kind] = torch.empty(2, dtype=dtype)
    return odd


def tensor_cases() -> Iterator[Case]:
    """One odd tensor in the place of an honest one, and beside the honest ones."""
    state = honest_state()
    first = next(iter(state))
    for name, tensor in _odd_tensors().items():
        for where, key in (("in place", first), ("beside", "extra")):
            for kind in FORMATS:
                try:
                    data = saved(state | {key: tensor}, kind)
                except (RuntimeError, NotImplementedError, KeyError, AttributeError):
                    continue
                title = f"tensor {name}, {where}, {kind}"
                yield file_case(title, lambda path, data=data: path.write_bytes(data))
    many = {f"k{index}": torch.zeros(1) for index in range(100_000)}
    one = torch.zeros(1 << 20, dtype=torch.float16)
    for name, values in {
        "100,000 keys": many,
        "100,000 keys beside": state | many,
        "100,000 keys of one half tensor": {f"k{index}": one for index in range(100_000)},
        "a key of a million letters": state | {"k" * 1_000_000: torch.zeros(1)},
        "keys of a million letters": {str(i) + "k" * 1_000_000: torch.zeros(1) for i in range(9)},
        "keys with line breaks": state | {"a\nb\r\x1b[31m\u202e": torch.zeros(1)},
        "keys that are numbers": {index: torch.zeros(1) for index in range(100_000)},
        "deep": {"model": {"model": {"model": {"model": state}}}},
        "all gone": {},
        "a list": list(state.values()),
        "a number": 1,
        "text": "x" * 1_000_000,
        "stages without end": state | {f"stages.{i}.WSA.x": torch.zeros(1) for i in range(9999)},
        "a stage far off": state | {"stages.9999.WSA.x": torch.zeros(1)},
    }.items():
        data = saved(values)
        yield file_case(f"values, {name}", lambda path, data=data: path.write_bytes(data))
    for key in state:
        for name, shape in {"vast": (2**62, 2**62), "empty": (0,), "long": (1,) * 64}.items():
            data = saved(
                state | {key: torch.zeros(1).as_strided((0, *shape), (0,) * (len(shape) + 1))}
            )
            if name != "vast" or key == first or "embeddings" in key:
                yield file_case(
                    f"shape {name} of {key}", lambda path, data=data: path.write_bytes(data)
                )


def _bomb(
    path: Path, *, unpacked: int, name: str = "data.pkl", method: int = zipfile.ZIP_DEFLATED
) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        with archive.open(f"a/{name}", "w", force_zip64=True) as entry:
            entry.write(b"\x80\x02")
            for _ in range(unpacked >> 20):
                entry.write(bytes(1 << 20))
        for more, data in (
            ("data.pkl", b"\x80\x02}."),
            ("version", b"3\n"),
            ("byteorder", b"little"),
        ):
            if more != name:
                archive.writestr(f"a/{more}", data)


def _overlapping(path: Path) -> None:
    """Entries that share one place in the file."""
    data = saved({f"k{index}": torch.zeros(1 << 18) + index for index in range(2)})
    path.write_bytes(data)
    raw = bytearray(data)
    start = raw.rfind(b"PK\x01\x02")
    entry = bytes(raw[start : raw.rfind(b"PK\x05\x06")])
    count, size = struct.unpack("<HI", raw[-12:-10] + raw[-10:-6])
    body = raw[:-22] + entry * 4000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count + 4000, count + 4000, size + 4000 * len(entry), struct.unpack("<I", raw[-6:-2])[0], 0)  # fmt: skip
    path.write_bytes(bytes(body) + end)


def zip_cases(seed: int) -> Iterator[Case]:
    data = saved(honest_state())
    for cut in range(0, 100, 5):
        part = data[: len(data) * cut // 100]
        yield file_case(f"zip cut at {cut} %", lambda path, part=part: path.write_bytes(part))
    legacy = saved(honest_state(), "legacy")
    for cut in range(0, 100, 10):
        part = legacy[: len(legacy) * cut // 100]
        yield file_case(f"legacy cut at {cut} %", lambda path, part=part: path.write_bytes(part))
    picked = random.Random(seed)
    for index in range(60):
        for kind, whole in (("zip", data), ("legacy", legacy)):
            raw = bytearray(whole)
            for _ in range(picked.choice((1, 1, 4, 64))):
                raw[picked.randrange(len(raw)) if index % 2 else picked.randrange(3000)] ^= (
                    1 << picked.randrange(8)
                )
            yield file_case(
                f"{kind} flip {index}", lambda path, raw=raw: path.write_bytes(raw), statuses=ANY
            )
    pickled = pickle_of(data)
    for index in range(80):
        raw = bytearray(pickled)
        for _ in range(picked.choice((1, 2, 8))):
            raw[picked.randrange(len(raw))] = picked.randrange(256)
        zipped = rezipped(data, bytes(raw))
        yield file_case(
            f"pickle flip {index}", lambda path, data=zipped: path.write_bytes(data), statuses=ANY
        )
    yield file_case("bomb of 1 GiB", lambda path: _bomb(path, unpacked=1 << 30))
    yield file_case(
        "bomb of 1 GiB as data", lambda path: _bomb(path, unpacked=1 << 30, name="data/0")
    )
    yield file_case(
        "bomb of 1 GiB as version", lambda path: _bomb(path, unpacked=1 << 30, name="version")
    )
    yield file_case(
        "pickle of 200 MB", lambda path: _bomb(path, unpacked=200 << 20, method=zipfile.ZIP_STORED)
    )
    yield file_case("entries that overlap", _overlapping)
    yield file_case(
        "compressed", lambda path: path.write_bytes(rezipped(data, method=zipfile.ZIP_DEFLATED))
    )
    yield file_case("empty zip", lambda path: zipfile.ZipFile(path, "w").close())
    yield file_case("only PK", lambda path: path.write_bytes(b"PK"))
    yield file_case("zip of text", lambda path: path.write_bytes(_zip_of({"a/b.txt": b"x"})))
    yield file_case(
        "zip of paths", lambda path: path.write_bytes(_zip_of({"../../data.pkl": b"\x80\x02}."}))
    )
    yield file_case(
        "torchscript",
        lambda path: path.write_bytes(
            _zip_of({"a/data.pkl": pickled, "a/constants.pkl": b"\x80\x02)."})
        ),
    )
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), scripted)
    yield file_case("a real torchscript", lambda path: path.write_bytes(scripted.getvalue()))


def _zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safetensors_cases(seed: int) -> Iterator[Case]:
    def entry(shape: list[Any], ends: list[Any], dtype: Any = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": ends}

    many = {f"k{index}": entry([0], [0, 0]) for index in range(400_000)}
    headers: dict[str, bytes] = {
        "empty header": _safetensors({}),
        "length 0": _safetensors(b"", length=0),
        "length 2^63": _safetensors(b"{}", length=(1 << 63) + (0x7B << 0)),
        "length 100 MB": _safetensors(b"{" + b" " * 1000, length=100_000_000),
        "length 99 MB, there": _safetensors(b"{" + b" " * 99_000_000 + b"}"),
        "length one too many": _safetensors(b"{}", length=3),
        "400,000 keys": _safetensors(many),
        "vast": _safetensors({"a": entry([0, 2**62, 2**62], [0, 0])}),
        "vast product": _safetensors({"a": entry([2**32, 2**32, 2**32], [0, 0])}),
        "vast offsets": _safetensors({"a": entry([4], [0, 2**63])}, bytes(16)),
        "offsets back": _safetensors({"a": entry([4], [16, 0])}, bytes(16)),
        "negative shape": _safetensors({"a": entry([-4], [0, 16])}, bytes(16)),
        "fraction": _safetensors({"a": entry([4.5], [0, 16])}, bytes(16)),
        "wrong type": _safetensors({"a": 1}),
        "list": _safetensors([1, 2]),
        "deep": _safetensors(b'{"a":' + b"[" * 100_000),
        "100 dimensions": _safetensors({"a": entry([1] * 100, [0, 4])}, bytes(4)),
        "metadata of numbers": _safetensors({"__metadata__": {"a": 1}}),
        "metadata of 50 MB": _safetensors({"__metadata__": {"a": "x" * 50_000_000}}),
        "twice": _safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "overlap": _safetensors({"a": entry([4], [0, 16]), "b": entry([4], [0, 16])}, bytes(16)),
        "surrogate": _safetensors(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "NaN": _safetensors(b'{"a":NaN}'),
        "not UTF-8": _safetensors(b'{"\xff":1}'),
        "cut": _safetensors({"a": entry([4], [0, 16])}, bytes(3)),
    }  # fmt: skip
    for dtype in (
        "F4",
        "F6_E2M3",
        "F8_E4M3",
        "F8_E5M2",
        "F8_E8M0",
        "C64",
        "BOOL",
        "U64",
        "X",
        1,
        None,
    ):
        for size in (1, 2, 8, 16):
            headers[f"type {dtype} {size}"] = _safetensors(
                {"a": entry([2], [0, size], dtype)}, bytes(size)
            )
    for name, data in headers.items():
        yield file_case(
            f"safetensors, {name}",
            lambda path, data=data: path.write_bytes(data),
            file="bad.safetensors",
        )
    picked = random.Random(seed)
    whole = DIGITS.read_bytes()
    for index in range(60):
        raw = bytearray(whole)
        end = 8 if index % 3 == 0 else struct.unpack("<Q", whole[:8])[0] + 8
        for _ in range(picked.choice((1, 3))):
            raw[picked.randrange(end)] = picked.randrange(256)
        yield file_case(f"safetensors flip {index}", lambda path, raw=raw: path.write_bytes(raw), file="bad.safetensors")  # fmt: skip
    for cut in range(0, 100, 10):
        part = whole[: len(whole) * cut // 100]
        yield file_case(f"safetensors cut at {cut} %", lambda path, part=part: path.write_bytes(part), file="bad.safetensors")  # fmt: skip


VALUES: dict[str, Any] = {
    "null": None, "text": "7", "empty": "", "negative": -1, "zero": 0, "1e9": 1_000_000_000,
    "2^31": 1 << 31, "2^40": 1 << 40, "2^70": 1 << 70, "fraction": 7.5, "NaN": float("nan"),
    "infinity": float("inf"), "1e308": 1e308, "true": True, "list": [7], "long list": [2] * 100_000, "deep": "DEEP",
    "list of texts": ["7", "7"], "object": {"a": 1}, "million letters": "x" * 1_000_000, "pair of 2^40": [1 << 40, 1 << 40],
}  # fmt: skip


def metadata_cases() -> Iterator[Case]:
    """Configs that our own tools saved with the weights, one field changed."""
    from swin_deploy.config import VARIANTS

    honest = VARIANTS["notebook-digits"].to_dict()
    for field in (*honest, "preprocessing", "unknown"):
        for name, value in VALUES.items():
            text = json.dumps(honest | {field: value}).replace(
                '"DEEP"', "[" * 100_000 + "]" * 100_000
            )

            def write(path: Path, text: str = text) -> None:
                save_file(honest_state(), path, metadata={CONFIG_KEY: text})

            yield file_case(f"config {field} {name}", write, file="bad.safetensors")
    for name, text in {
        "null": "null",
        "list": "[]",
        "text": '"a"',
        "cut": "{",
        "empty": "",
        "deep": "[" * 1_000_000,
    }.items():
        yield file_case(f"config is {name}", lambda path, text=text: save_file(honest_state(), path, metadata={CONFIG_KEY: text}), file="bad.safetensors")  # fmt: skip


def _device(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.symlink_to(f"/dev/{kind}")


def file_cases() -> Iterator[Case]:
    for kind in ("fifo", "folder", "loop", "zero", "full", "null", "random"):
        for file in ("bad.pt", "bad.safetensors"):
            yield file_case(
                f"{kind} as {file}", lambda path, kind=kind: _device(kind, path), file=file
            )


def cases(_: Path, seed: int) -> Iterator[Case]:
    """Every hostile checkpoint."""
    yield from file_cases()
    yield from code_cases()
    yield from stream_cases()
    yield from tensor_cases()
    yield from zip_cases(seed)
    yield from safetensors_cases(seed)
    yield from metadata_cases()


assert OrderedDict  # of pickles
