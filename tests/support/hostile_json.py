"""Hostile JSON: files beside weights, reports, evaluations, manifests, and engines changed."""

import copy
import functools
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from command_line import HALF_STEM, STEM
from hostile_run import ANY, Case, Write, writing

from exporters.artifact import manifest_path, sha256_of

DEEP = "DEEP"  # stands for brackets without end
VALUES: dict[str, Any] = {
    "null": None, "text": "7", "no text": "", "negative": -1, "zero": 0, "2^40": 1 << 40,
    "2^70": 1 << 70, "1e308": 1e308, "NaN": float("nan"), "infinity": float("inf"),
    "fraction": 0.5, "true": True, "list": [7, 7], "list of lists": [[7], [7]], "empty list": [],
    "long list": [2] * 100_000, "object": {"a": 1}, "empty object": {},
    "million letters": "x" * 1_000_000, "escapes": "\x1b[31m\n\u202e", "surrogate": "\ud800",
    "NUL": "a\0b", "deep": DEEP,
}  # fmt: skip
TEXTS: dict[str, str] = {
    "empty": "", "cut": '{"a": [1, 2', "no JSON": "hello", "null": "null", "list": "[]",
    "number": "7", "text": '"a"', "deep": "[" * 100_000, "digits": "9" * 5000,
    "empty object": "{}", "key twice": '{"schema": 1, "schema": 2}',
    "5 million lists": f"[{'[],' * 5_000_000}[]]", "20 million lists": f"[{'[],' * 20_000_000}[]]",
}  # fmt: skip
SPECIAL = ("fifo", "folder", "loop", "bytes", "zero", "random", "full", "null")


def text_of(values: object) -> str:
    """JSON text, with what Python's writer could not nest."""
    return json.dumps(values).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000)


def make_special(kind: str, path: Path) -> None:
    """Put something else than a text file in a file's place."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00{")
    else:
        path.symlink_to(f"/dev/{kind}")


def places(values: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    if path:
        yield path
    if isinstance(values, dict):
        for key, value in values.items():
            yield from places(value, (*path, key))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from places(value, (*path, index))


def changed(values: Any, path: tuple[Any, ...], value: object) -> Any:  # noqa: ANN401 - JSON
    """A copy with one value in place of another."""
    copied = copy.deepcopy(values)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copied


def documents(honest: object, *, count: int, seed: int) -> Iterator[tuple[str, Write]]:
    """What to write in place of a JSON file, by name; so many with one value changed."""
    picked = random.Random(seed)
    texts = dict(TEXTS)
    every = list(places(honest))
    for _ in range(count):
        path, (name, value) = picked.choice(every), picked.choice(list(VALUES.items()))
        texts[f"{'.'.join(map(str, path))} {name}"] = text_of(changed(honest, path, value))
    for name, text in texts.items():
        yield name, writing(text)
    for kind in SPECIAL:
        yield kind, functools.partial(make_special, kind)


def in_folder(name: str, file: str, write: Write, *command: object) -> Case:
    """A case with one file of the case's own."""

    def make(folder: Path) -> tuple[object, ...]:
        (folder / file).parent.mkdir(exist_ok=True)
        write(folder / file)
        return ("-q", *command)

    return Case(name, make, ANY, names=Path(file).name)


def in_copy(name: str, source: Path, file: str, write: Write, *command: object) -> Case:
    """A case with a copy of an honest folder, one file in it replaced."""

    def make(folder: Path) -> tuple[object, ...]:
        shutil.copytree(source, folder / "own")
        write(folder / "own" / file)
        return ("-q", *command)

    return Case(name, make, ANY)


def read(path: Path) -> Any:  # noqa: ANN401 - JSON
    return json.loads(path.read_text())


def report_cases(honest: Path, seed: int) -> Iterator[Case]:
    values, own = read(honest / "report" / "report.json"), honest / "report"
    commands: tuple[tuple[object, ...], ...] = (
        ("report.json",),
        (".", "--output", "out"),
        (own, "report.json"),
        ("report.json", own, "--markdown", "x.md"),
    )
    for index, (name, write) in enumerate(documents(values, count=240, seed=seed)):
        command = ("report", *commands[index % len(commands)])
        yield in_folder(f"report {name}", "report.json", write, *command)


def evaluation_cases(honest: Path, seed: int) -> Iterator[Case]:
    path = next((honest / "evaluation").rglob("evaluation.json"))
    command = ("report", honest / "report", "--evaluation", "evaluation.json")
    for name, write in documents(read(path), count=80, seed=seed):
        yield in_folder(f"evaluation {name}", "evaluation.json", write, *command)
    lines = next(path.parent.glob("reference*.jsonl"))
    header = json.loads(lines.read_text().split("\n")[0])
    again = ("evaluate", "--model", "notebook-digits", "--limit", "20", "--output", "own")
    for name, write in documents(header, count=12, seed=seed):
        yield in_copy(f"predictions {name}", path.parent, lines.name, write, *again)


FOLDERS = {
    "timm": ("config.json",),
    "huggingface": ("config.json", "preprocessor_config.json"),
    "parts": ("model.safetensors.index.json",),
}


def folder_cases(honest: Path, seed: int) -> Iterator[Case]:
    """Folders as timm and Hugging Face write them, one of their JSON files changed."""
    command = ("precision", "--checkpoint", "own", "--limit", "1")
    for library, files in FOLDERS.items():
        for file in files:
            values = read(honest / library / file)
            for name, write in documents(values, count=100, seed=seed):
                title = f"{library} {file} {name}"
                yield in_copy(title, honest / library, file, write, *command)


PARITY = ("parity", "--model", "notebook-digits", "--limit", "1", "--batches", "1")
ENGINE = "bad.engine"


def engine_case(name: str, honest: Path, change: Write, *command: object) -> Case:
    """A case with a copy of the honest engine and its manifest, changed."""

    def make(folder: Path) -> tuple[object, ...]:
        source = honest / "engines" / f"{HALF_STEM}.engine"
        shutil.copy(source, folder / ENGINE)
        shutil.copy(manifest_path(source), manifest_path(folder / ENGINE))
        change(folder / ENGINE)
        return ("-q", *command)

    return Case(name, make, ANY, names="bad")


def manifest_cases(honest: Path, seed: int) -> Iterator[Case]:
    values = read(manifest_path(honest / "engines" / f"{HALF_STEM}.engine"))
    commands = (
        ("plan", ENGINE),
        ("plan", ENGINE, "--gpu", "H100", "--svg", "x.svg"),
        (*PARITY, "--engine", ENGINE),
    )
    for index, (name, write) in enumerate(documents(values, count=160, seed=seed)):
        command = commands[index % len(commands)]
        yield engine_case(f"manifest {name}", honest, beside(write), *command)
    fields = ("batch", "attention_blocks", "range_kernels", "kernels", "blocks", "flavor")
    for field in fields:
        for name, value in VALUES.items():
            text = text_of(changed(values, ("plan", field), value))
            yield engine_case(
                f"manifest plan.{field} {name}",
                honest,
                beside(writing(text)),
                *("plan", ENGINE, "--gpu", "L4"),
            )


def beside(write: Write) -> Write:
    """The same change, to the manifest of a file."""
    return lambda path: write(manifest_path(path))


def tampered(kind: str, picked: random.Random, other: bytes) -> Write:
    """A change to an engine: ``flip``, ``cut`` or ``swap``, its manifest made to fit or not."""

    def change(engine: Path) -> None:
        data = bytearray(engine.read_bytes())
        if kind.startswith("flip"):
            data[picked.randrange(len(data))] ^= 1 << picked.randrange(8)
        elif kind.startswith("cut"):
            del data[len(data) * picked.randrange(100) // 100 :]
        else:
            data[:] = other
        engine.write_bytes(data)
        if kind.endswith("signed"):
            beside = manifest_path(engine)
            beside.write_text(json.dumps(read(beside) | {"sha256": sha256_of(engine)}))

    return change


def tampered_cases(honest: Path, seed: int) -> Iterator[Case]:
    """Engines that are not those of their manifests, and manifests that fit what they are not."""
    picked = random.Random(seed)
    other = (honest / "engines" / f"{STEM}.onnx").read_bytes()
    kinds = ("flip", "cut", "swap", "flip signed", "cut signed", "swap signed")
    for index in range(60):
        command = (("plan", ENGINE), (*PARITY, "--engine", ENGINE))[index // 2 % 2]
        change = tampered(kinds[index % len(kinds)], picked, other)
        yield engine_case(f"engine {kinds[index % 6]} {index}", honest, change, *command)
    for kind in SPECIAL:
        special = functools.partial(make_special, kind)
        yield engine_case(f"engine {kind}", honest, special, "plan", ENGINE)


def place_cases() -> Iterator[Case]:
    """The newest export is looked for among files with hostile manifests."""
    for kind in SPECIAL:

        def both(path: Path, kind: str = kind) -> None:
            path.write_bytes(b"no ONNX")
            make_special(kind, manifest_path(path))

        yield in_folder(f"newest export, {kind}", "engines/bad.onnx", both, "build-trt")


def cases(honest: Path, seed: int) -> Iterator[Case]:
    """Every hostile JSON file, and engine."""
    yield from report_cases(honest, seed)
    yield from evaluation_cases(honest, seed)
    yield from folder_cases(honest, seed)
    yield from manifest_cases(honest, seed)
    yield from tampered_cases(honest, seed)
    yield from place_cases()
