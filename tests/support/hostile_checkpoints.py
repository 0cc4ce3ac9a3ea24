"""Hostile checkpoint files: odd tensors, zips, bombs, bytes changed and cut off."""

import functools
import io
import os
import random
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_safetensors
import torch
from command_line import DIGITS
from hostile_json import SPECIAL, make_special
from hostile_pickles import code_cases, rezipped, saved, stream_cases
from hostile_run import ANY, Case, data_case, file_case
from safetensors.torch import load_file

ODD_TYPES = (
    "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn_x2", "uint16", "uint64",
    "uint4", "int2", "bits8", "bits1x8", "bool", "int8", "float64", "bfloat16", "float16",
)  # fmt: skip


def odd_tensors() -> dict[str, Any]:
    """Tensors of a form or size that no weights have, by name."""
    one = torch.zeros(1)
    empty_sparse = (torch.zeros(2, 0).long(), torch.zeros(0))
    types = {name: getattr(torch, name) for name in ODD_TYPES if hasattr(torch, name)}
    return {
        "expanded": one.expand(2**33),
        "expanded a little": one.expand(2**20),
        "half expanded": one.half().expand(2**33),
        "expanded flag": one.bool().expand(2**35),
        "100 dimensions": torch.zeros([1] * 100),
        "65 dimensions": torch.zeros([1] * 65),
        "empty": torch.zeros(0),
        "empty and vast": torch.zeros(0, 2**62),
        "empty and vaster": one.as_strided((0, 2**62, 2**62), (0, 0, 0)),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "conjugate": torch.zeros(2, dtype=torch.complex64).conj(),
        "negated": torch.zeros(2, dtype=torch.complex64).conj().imag,
        "sparse": torch.zeros(2, 2).to_sparse(),
        "sparse and vast": torch.sparse_coo_tensor(*empty_sparse, (2**30, 2**30)),
        "csr": torch.eye(2).to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
        "meta": torch.zeros(2, device="meta"),
        "meta and vast": torch.zeros(2**60, device="meta"),
        "grad": torch.nn.Parameter(torch.zeros(2)),
        "a number": torch.tensor(1.0),
        "infinite": torch.tensor([float("inf")]),
        "not a number": torch.tensor([float("nan")]),
        "beyond float32": torch.tensor([1e300], dtype=torch.float64),
        **{name: torch.empty(2, dtype=kind) for name, kind in types.items()},
    }


def tensor_cases() -> Iterator[Case]:
    """One odd tensor in the place of an honest one, and beside the honest ones."""
    state = load_file(DIGITS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's notes on odd tensors
        odd = odd_tensors()
    for name, tensor in odd.items():
        for where, key in (("in place", next(iter(state))), ("beside", "extra")):
            for kind in ("zip", "legacy"):
                try:
                    data = saved(state | {key: tensor}, kind)
                except (RuntimeError, NotImplementedError, KeyError, AttributeError):
                    continue  # PyTorch cannot save it so
                yield data_case(f"tensor {name}, {where}, {kind}", data)
    for key in state:
        for name, shape in {"empty": (0,), "long": (1,) * 64, "vast": (2**62, 2**62)}.items():
            odd_one = torch.zeros(1).as_strided((0, *shape), (0,) * (len(shape) + 1))
            yield data_case(f"shape {name} of {key}", saved(state | {key: odd_one}))


def value_cases() -> Iterator[Case]:
    """Dicts that are no state dicts, or vast ones."""
    state: dict[Any, Any] = dict(load_file(DIGITS))
    one, half = torch.zeros(1), torch.zeros(1 << 20).half()
    many = {f"k{index}": one for index in range(100_000)}
    for name, values in {
        "100,000 keys": many,
        "100,000 keys beside": state | many,
        "100,000 keys of one half tensor": dict.fromkeys(many, half),
        "15,000 keys beside": state | dict(list(many.items())[:15_000]),
        "15,000 keys of one half tensor": dict.fromkeys(list(many)[:15_000], half),
        "a key of a million letters": state | {"k" * 1_000_000: one},
        "keys of a million letters": {str(index) + "k" * 1_000_000: one for index in range(7)},
        "keys with line breaks": state | {"a\nb\r\x1b[31m\u202e": one},
        "keys that are numbers": dict.fromkeys(range(100_000), one),
        "deep": {"model": {"model": {"model": {"model": state}}}},
        "all gone": {},
        "a list": list(state.values()),
        "a number": 1,
        "text": "x" * 1_000_000,
        "stages without end": state | {f"stages.{index}.WSA.x": one for index in range(9999)},
        "a stage far off": state | {"stages.9999.WSA.x": one},
    }.items():
        yield data_case(f"values, {name}", saved(values))


def flip_cases(seed: int) -> Iterator[Case]:
    """Bits and bytes changed at random, every second time near the start; and files cut off."""
    picked = random.Random(seed)
    state = load_file(DIGITS)
    whole = {kind: saved(state, kind) for kind in ("zip", "legacy")}
    for index in range(60):
        for kind, data in whole.items():
            raw = bytearray(data)
            for _ in range(picked.choice((1, 1, 4, 64))):
                place = picked.randrange(len(raw) if index % 2 else 3000)
                raw[place] ^= 1 << picked.randrange(8)
            yield data_case(f"{kind} flip {index}", bytes(raw), statuses=ANY)
    with zipfile.ZipFile(io.BytesIO(whole["zip"])) as archive:
        pickled = next(archive.read(n) for n in archive.namelist() if n.endswith("/data.pkl"))
    for index in range(80):
        raw = bytearray(pickled)
        for _ in range(picked.choice((1, 2, 8))):
            raw[picked.randrange(len(raw))] = picked.randrange(256)
        data = rezipped(whole["zip"], bytes(raw))
        yield data_case(f"pickle flip {index}", data, statuses=ANY)
    for kind, data in whole.items():
        for cut in range(0, 100, 5):
            yield data_case(f"{kind} cut at {cut} %", data[: len(data) * cut // 100])


def _zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _bomb(path: Path, name: str, *, mib: int, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        with archive.open(f"a/{name}", "w", force_zip64=True) as entry:
            for _ in range(mib):
                entry.write(bytes(1 << 20))
        for other, data in {"data.pkl": b"\x80\x02}.", "version": b"3\n"}.items():
            if other != name:
                archive.writestr(f"a/{other}", data)


def _overlapping(path: Path) -> None:
    """Four thousand entries that share one place in the file."""
    raw = saved({f"k{index}": torch.zeros(1 << 18) + index for index in range(2)})
    start, end = raw.rfind(b"PK\x01\x02"), raw.rfind(b"PK\x05\x06")
    entry, (count, size, place) = raw[start:end], struct.unpack("<HII", raw[end + 10 : end + 20])
    counts = (count + 4000, count + 4000, size + 4000 * len(entry), place, 0)
    path.write_bytes(raw[:end] + entry * 4000 + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *counts))


def zip_cases() -> Iterator[Case]:
    honest = saved(load_file(DIGITS))
    for name in ("data.pkl", "data/0", "version"):
        yield file_case(f"bomb of 1 GiB, {name}", functools.partial(_bomb, name=name, mib=1024))
    stored = zipfile.ZIP_STORED
    yield file_case(
        "pickle of 200 MB", lambda path: _bomb(path, "data.pkl", mib=200, method=stored)
    )
    yield file_case("entries that overlap", _overlapping)
    scripted = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), scripted)
    for name, data in {
        "empty": _zip_of({}),
        "only PK": b"PK",
        "of text": _zip_of({"a/b.txt": b"x"}),
        "of paths": _zip_of({"../../data.pkl": b"\x80\x02}."}),
        "of TorchScript's names": _zip_of({"a/data.pkl": b"\x80\x02}.", "a/constants.pkl": b"."}),
        "of a real TorchScript": scripted.getvalue(),
        "packed again": rezipped(honest, method=zipfile.ZIP_DEFLATED),
        "packed with LZMA": rezipped(honest, method=zipfile.ZIP_LZMA),
    }.items():
        yield data_case(f"zip {name}", data)


def place_cases() -> Iterator[Case]:
    for kind in SPECIAL:
        for file in ("bad.pt", "bad.safetensors"):
            yield file_case(f"{kind} as {file}", functools.partial(make_special, kind), file=file)
    yield file_case("hard link", lambda path: os.link(DIGITS, path), file="bad.pt")


def cases(_: Path, seed: int) -> Iterator[Case]:
    """Every hostile checkpoint."""
    yield from place_cases()
    yield from code_cases()
    yield from stream_cases()
    yield from tensor_cases()
    yield from value_cases()
    yield from flip_cases(seed)
    yield from zip_cases()
    yield from hostile_safetensors.cases(seed)
