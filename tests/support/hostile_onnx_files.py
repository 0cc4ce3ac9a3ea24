"""Hostile ONNX files: changed graphs and bytes, data outside the file, odd metadata."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import onnx
from command_line import STEM
from hostile_json import make_special
from hostile_onnx import CHANGES, heaviest
from hostile_run import ANY, Case, Write
from onnx import TensorProto, helper

MODEL = ("--model", "notebook-digits")
PLAN = ("plan", "bad.onnx")
BUILD = ("build-trt", "bad.onnx", "--fp16", "--output", "out/x.engine")
PARITY = ("parity", *MODEL, "--onnx", "bad.onnx", "--limit", "1", "--batches", "1")
BENCH = ("bench", *MODEL, "--onnx", "bad.onnx", "--batch", "1", "--seconds", "1")
EVALUATE = ("evaluate", *MODEL, "--onnx", "bad.onnx", "--limit", "20", "--output", "out")
COMMANDS = (PLAN, BUILD, PARITY, BENCH, EVALUATE)


def honest_graph(honest: Path) -> onnx.ModelProto:
    return onnx.load(honest / "engines" / f"{STEM}.onnx")


def bytes_case(name: str, data: bytes, command: tuple[str, ...], more: Write = id) -> Case:
    def make(folder: Path) -> tuple[object, ...]:
        (folder / "bad.onnx").write_bytes(data)
        more(folder)
        return ("-q", *command)

    return Case(f"{command[0]}, {name}", make, ANY, names="bad")


def structure_cases(honest: Path) -> Iterator[Case]:
    for name, change in CHANGES.items():
        for command in (PLAN, BUILD, PARITY):
            graph = honest_graph(honest)
            change(graph)
            yield bytes_case(name, graph.SerializeToString(), command)


def field(number: int, data: bytes) -> bytes:
    """A message inside another, as protobuf writes it."""
    size, length = len(data), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


BYTES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello, world\n" * 99,
    "one byte": b"\x08",
    "JSON": b"{}",
    "length without end": b"\x3a\xff\xff\xff\xff\x0f",
    "groups without end": b"\x0b" * 100_000,
    "graphs 20 deep": nested(20),
    "graphs 2,000 deep": nested(2_000),
}


def byte_cases(honest: Path, seed: int) -> Iterator[Case]:
    """No ONNX at all, text that is none, files cut off, and bytes changed at random."""
    graph = honest_graph(honest)
    node, whole = graph.graph.node[3], graph.SerializeToString()
    for name, data in BYTES.items():
        yield bytes_case(name, data, PLAN)
        yield bytes_case(name, data, PARITY)
    for name, text in {"node name": node.name, "value name": node.output[0]}.items():
        wrong = whole.replace(text.encode(), b"\xff" * len(text))
        for command in COMMANDS:
            yield bytes_case(f"{name} that is not UTF-8", wrong, command)
    for cut in range(5, 100, 10):
        yield bytes_case(f"cut at {cut} %", whole[: len(whole) * cut // 100], PLAN)
    picked = random.Random(seed)
    for index in range(220):
        flipped = bytearray(whole)
        for _ in range(picked.choice((1, 1, 2, 8))):
            flipped[picked.randrange(len(flipped))] = picked.randrange(256)
        yield bytes_case(f"flip {index}", bytes(flipped), COMMANDS[index % len(COMMANDS)])


METADATA: dict[str, str] = {
    "deep": "[" * 100_000,
    "deep and whole": "[" * 900 + "]" * 900,
    "cut": "{",
    "null": "null",
    "number": "7",
    "text": '"a"',
    "list": "[1, null, {}]",
    "empty object": "{}",
    "no JSON": "hello",
    "digits": "9" * 5000,
    "200,000 keys": json.dumps({str(index): index for index in range(200_000)}),
    "million letters": json.dumps({"a": "x" * 1_000_000}),
    "20 million lists": f"[{'[],' * 20_000_000}[]]",
}
KEYS = ("config", "preprocessing", "assumptions", "float32_modules", "float32_asked", "model",
        "weights", "checkpoint_sha256", "precision", "versions")  # fmt: skip


def metadata_cases(honest: Path) -> Iterator[Case]:
    for key in KEYS:
        for name, value in METADATA.items():
            graph = honest_graph(honest)
            props = {entry.key: entry.value for entry in graph.metadata_props}
            helper.set_model_props(graph, props | {key: value})
            command = COMMANDS[(len(name) + len(key)) % 3]
            yield bytes_case(f"metadata {key} {name}", graph.SerializeToString(), command)
    for key in ("config", "float32_modules"):
        graph = honest_graph(honest)
        graph.metadata_props.add(key=key, value="twice")
        yield bytes_case(f"metadata {key} twice", graph.SerializeToString(), PARITY)


NUMBERS = ("-1", "-9223372036854775808", "1", "99999999999", "9" * 30, "9" * 5000, "abc", "1.5",
           "", "0x10", " 4 ", "٣", "1e3", "-0", "+4")  # fmt: skip
LOCATIONS = ("../outside.bin", "/etc/passwd", "/dev/zero", "/dev/stdin", "..", ".", "a/b", "",
             "x" * 300, "x" * 5000, "nul\0", "C:\\x", "data.bin/", "./data.bin", "bad.onnx",
             "~/x")  # fmt: skip
ENTRIES: dict[str, dict[str, str | None]] = {
    "honest": {},
    **{f"without {key}": {key: None} for key in ("location", "offset", "length")},
    **{f"offset {value[:12]}, {len(value)}": {"offset": value} for value in NUMBERS},
    **{f"length {value[:12]}, {len(value)}": {"length": value} for value in NUMBERS},
    **{f"place {value[:12]}, {len(value)}": {"location": value} for value in LOCATIONS},
}
PLACES = ("fifo", "folder", "loop", "zero", "random", "full", "gone", "empty", "outside", "linked")


def external_case(
    name: str, honest: Path, command: tuple[str, ...], entries: dict[str, str | None], kind: str
) -> Case:
    """The largest weight in a file of its own, as ``entries`` say; the file is of a kind."""
    graph = honest_graph(honest)
    tensor = heaviest(graph)
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    said = {"location": "data.bin", "offset": "0", "length": str(len(data))} | entries
    for key, value in said.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)

    def write(folder: Path) -> None:
        path, outside = folder / "data.bin", folder.parent / "outside.bin"
        outside.write_bytes(data)
        path.write_bytes(b"" if kind == "empty" else data)
        if kind in ("gone", "outside", "linked"):
            path.unlink()
        if kind == "outside":
            path.symlink_to(outside)
        elif kind == "linked":
            path.hardlink_to(outside)
        elif kind not in ("", "gone", "empty"):
            make_special(kind, path)

    return bytes_case(f"external data, {name}", graph.SerializeToString(), command, write)


def external_cases(honest: Path) -> Iterator[Case]:
    for command in (PLAN, PARITY):
        for name, entries in ENTRIES.items():
            yield external_case(name, honest, command, entries, "")
        for kind in PLACES:
            yield external_case(kind, honest, command, {}, kind)


def cases(honest: Path, seed: int) -> Iterator[Case]:
    """Every hostile ONNX file."""
    yield from structure_cases(honest)
    yield from byte_cases(honest, seed)
    yield from metadata_cases(honest)
    yield from external_cases(honest)
