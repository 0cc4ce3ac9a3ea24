"""Hostile safetensors: headers of any size and form, and the configs that they may carry."""

import functools
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

from command_line import DIGITS
from hostile_json import DEEP, TEXTS, VALUES, text_of
from hostile_run import Case, data_case, file_case
from safetensors.torch import load_file, save_file

from swin_deploy.checkpoints.notebook import CONFIG_KEY
from swin_deploy.config import VARIANTS

FILE = "bad.safetensors"
ONE = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def packed(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with a header, JSON values or bytes, and the length that it is said to have."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[Any], ends: list[int], dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": ends}


HEADERS: dict[str, bytes] = {
    "empty header": packed({}),
    "length 0": packed(b"", length=0),
    "length 2^63": packed(b"{}", length=1 << 63),
    "length 100 MB": packed(b"{" + b" " * 1000, length=100_000_000),
    "length 99 MB, there": packed(b"{" + b" " * 99_000_000 + b"}"),
    "length one too many": packed(b"{}", length=3),
    "400,000 keys": packed({f"k{index}": entry([0], [0, 0]) for index in range(400_000)}),
    "100,000 keys": packed({f"k{index}": entry([0], [0, 0]) for index in range(100_000)}),
    "vast": packed({"a": entry([0, 2**62, 2**62], [0, 0])}),
    "vast product": packed({"a": entry([2**32, 2**32, 2**32], [0, 0])}),
    "vast offsets": packed({"a": entry([4], [0, 2**63])}, bytes(16)),
    "offsets back": packed({"a": entry([4], [16, 0])}, bytes(16)),
    "negative shape": packed({"a": entry([-4], [0, 16])}, bytes(16)),
    "fraction": packed({"a": entry([4.5], [0, 16])}, bytes(16)),
    "wrong type": packed({"a": 1}),
    "list": packed([1, 2]),
    "deep": packed(b'{"a":' + b"[" * 100_000),
    "100 dimensions": packed({"a": entry([1] * 100, [0, 4])}, bytes(4)),
    "metadata of numbers": packed({"__metadata__": {"a": 1}}),
    "metadata of 50 MB": packed({"__metadata__": {"a": "x" * 50_000_000}}),
    "metadata of 15 MB": packed({"__metadata__": {"a": "x" * 15_000_000}}),
    "twice": packed(f'{{"a":{ONE},"a":{ONE}}}'.encode(), bytes(4)),
    "overlap": packed({"a": entry([4], [0, 16]), "b": entry([4], [0, 16])}, bytes(16)),
    "surrogate": packed(f'{{"\\ud800":{ONE}}}'.encode(), bytes(4)),
    "NaN": packed(b'{"a":NaN}'),
    "not UTF-8": packed(b'{"\xff":1}'),
    "cut": packed({"a": entry([4], [0, 16])}, bytes(3)),
}
TYPES = ("F4", "F6_E2M3", "F8_E4M3", "F8_E5M2", "F8_E8M0", "C64", "BOOL", "U64", "X", 1, None)


def header_cases() -> Iterator[Case]:
    for name, data in HEADERS.items():
        yield data_case(f"safetensors, {name}", data, file=FILE)
    for dtype in TYPES:
        for size in (1, 2, 8, 16):
            data = packed({"a": entry([2], [0, size], dtype)}, bytes(size))
            yield data_case(f"safetensors, type {dtype}, {size} bytes", data, file=FILE)


def flip_cases(seed: int) -> Iterator[Case]:
    picked = random.Random(seed)
    whole = DIGITS.read_bytes()
    for index in range(60):
        raw = bytearray(whole)
        end = 8 if index % 3 == 0 else struct.unpack("<Q", whole[:8])[0] + 8
        for _ in range(picked.choice((1, 3))):
            raw[picked.randrange(end)] = picked.randrange(256)
        yield data_case(f"safetensors flip {index}", bytes(raw), file=FILE)
    for cut in range(0, 100, 10):
        part = whole[: len(whole) * cut // 100]
        yield data_case(f"safetensors cut at {cut} %", part, file=FILE)


def config_cases() -> Iterator[Case]:
    """Configs that our own tools saved with the weights, one field changed."""
    honest = VARIANTS["notebook-digits"].to_dict()
    state = load_file(DIGITS)
    texts = {f"is {name}": text for name, text in TEXTS.items() if len(text) < 1 << 20}
    values = VALUES | {"1e9": 10**9, "2^31": 1 << 31, "pair of 2^40": [1 << 40] * 2, "deep": DEEP}
    for field in (*honest, "preprocessing", "unknown"):
        for name, value in values.items():
            if name != "surrogate":  # safetensors cannot write it
                texts[f"{field} {name}"] = text_of(honest | {field: value})
    for name, text in texts.items():
        write = functools.partial(save_file, state, metadata={CONFIG_KEY: text})
        yield file_case(f"config {name}", write, file=FILE)


def cases(seed: int) -> Iterator[Case]:
    """Every hostile safetensors file."""
    yield from header_cases()
    yield from flip_cases(seed)
    yield from config_cases()
