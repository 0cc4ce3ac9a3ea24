"""Hostile JSON: files beside weights, reports, evaluations, manifests, and engines changed."""

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from command_line import HALF_STEM, STEM
from hostile_run import Case
from safetensors.torch import save_file

from exporters.artifact import manifest_path, sha256_of

ANY = (0, 1, 2, 3)
DEEP = "DEEP"  # stands for brackets without end
VALUES: dict[str, Any] = {
    "null": None, "text": "7", "no text": "", "negative": -1, "zero": 0, "2^40": 1 << 40,
    "2^70": 1 << 70, "1e308": 1e308, "NaN": float("nan"), "infinity": float("inf"),
    "fraction": 0.5, "true": True, "list": [7, 7], "list of lists": [[7], [7]], "empty list": [],
    "long list": [2] * 100_000, "object": {"a": 1}, "empty object": {},
    "million letters": "x" * 1_000_000, "escapes": "\x1b[31m\n\u202e", "surrogate": "\ud800",
    "NUL": "a\0b", "deep": DEEP,
}  # fmt: skip


def text_of(values: object) -> str:
    """JSON text, with what Python's writer could not nest."""
    return json.dumps(values).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000)


def places(values: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    if path:
        yield path
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()  # fmt: skip
    for key, value in inner:
        yield from places(value, (*path, key))


def changed(values: Any, path: tuple[Any, ...], value: object) -> Any:  # noqa: ANN401 - JSON
    """A copy with one value in place of another."""
    copied = copy.deepcopy(values)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copied


def mutations(values: Any, seed: int, count: int) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Name and text of documents with one value changed, left out or made odd."""
    picked = random.Random(seed)
    every = list(places(values))
    for _ in range(count):
        path = picked.choice(every)
        name, value = picked.choice(list(VALUES.items()))
        where = ".".join(map(str, path))
        yield f"{where} {name}", text_of(changed(values, path, value))


TEXTS: dict[str, str] = {
    "empty": "", "cut": '{"a": [1, 2', "no JSON": "hello", "null": "null", "list": "[]",
    "number": "7", "text": '"a"', "deep": "[" * 100_000, "digits": "9" * 5000,
    "empty object": "{}", "key twice": '{"schema": 1, "schema": 2}',
    "20 million brackets": "[" + "[]," * 7_000_000 + "[]]",
}  # fmt: skip


def _special(kind: str, path: Path) -> None:
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


SPECIAL = ("fifo", "folder", "loop", "bytes", "zero", "random", "full", "null")


def documents(
    name: str,
    values: Any,
    *,
    count: int,
    seed: int,  # noqa: ANN401 - JSON
) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """What to write in place of a JSON file, by name."""
    for title, text in (*TEXTS.items(), *mutations(values, seed, count)):
        yield f"{name} {title}", lambda path, text=text: path.write_text(text, encoding="utf-8")
    for kind in SPECIAL:
        yield f"{name} {kind}", lambda path, kind=kind: _special(kind, path)


def report_cases(honest: Path, seed: int) -> Iterator[Case]:
    values = json.loads((honest / "report" / "report.json").read_text())
    for index, (name, write) in enumerate(documents("report", values, count=240, seed=seed)):

        def make(folder: Path, write: Callable[[Path], object] = write, index: int = index) -> tuple[object, ...]:  # fmt: skip
            write(folder / "report.json")
            own = honest / "report"
            return (
                ("-q", "report", "report.json"),
                ("-q", "report", ".", "--output", "out"),
                ("-q", "report", own, "report.json"),
                ("-q", "report", "report.json", own, "--markdown", "x.md"),
            )[index % 4]

        yield Case(name, make, ANY, names="report.json")


def evaluation_cases(honest: Path, seed: int) -> Iterator[Case]:
    path = next((honest / "evaluation").rglob("evaluation.json"))
    values = json.loads(path.read_text())
    for name, write in documents("evaluation", values, count=80, seed=seed):

        def make(folder: Path, write: Callable[[Path], object] = write) -> tuple[object, ...]:
            write(folder / "evaluation.json")
            return ("-q", "report", honest / "report", "--evaluation", "evaluation.json")

        yield Case(name, make, ANY, names="evaluation.json")
    lines = next((honest / "evaluation").rglob("reference*.jsonl"))
    for name, write in documents("predictions", json.loads(lines.read_text().split("\n")[0]), count=12, seed=seed):  # fmt: skip

        def make_kept(folder: Path, write: Callable[[Path], object] = write) -> tuple[object, ...]:
            shutil.copytree(lines.parent, folder / "out")
            write(folder / "out" / lines.name)
            return ("-q", "evaluate", "--model", "notebook-digits", "--limit", "20", "--output", "out")  # fmt: skip

        yield Case(name, make_kept, ANY)


def _engine(honest: Path, folder: Path) -> Path:
    engine = folder / "bad.engine"
    source = honest / "engines" / f"{HALF_STEM}.engine"
    shutil.copy(source, engine)
    shutil.copy(manifest_path(source), manifest_path(engine))
    return engine


PARITY = ("-q", "parity", "--model", "notebook-digits", "--limit", "1", "--batches", "1")


def manifest_cases(honest: Path, seed: int) -> Iterator[Case]:
    source = manifest_path(honest / "engines" / f"{HALF_STEM}.engine")
    values = json.loads(source.read_text())
    small = copy.deepcopy(values)
    for index, (name, write) in enumerate(documents("manifest", small, count=160, seed=seed)):

        def make(folder: Path, write: Callable[[Path], object] = write, index: int = index) -> tuple[object, ...]:  # fmt: skip
            engine = _engine(honest, folder)
            write(manifest_path(engine))
            return (
                ("-q", "plan", "bad.engine"),
                ("-q", "plan", "bad.engine", "--gpu", "H100", "--svg", "x.svg"),
                (*PARITY, "--engine", "bad.engine"),
            )[index % 3]

        yield Case(name, make, ANY, names="bad")
    for field in ("batch", "attention_blocks", "range_kernels", "kernels", "blocks", "flavor"):
        for name, value in VALUES.items():

            def make_plan(folder: Path, field: str = field, value: object = value) -> tuple[object, ...]:  # fmt: skip
                engine = _engine(honest, folder)
                text = text_of(changed(values, ("plan", field), value))
                manifest_path(engine).write_text(text)
                return ("-q", "plan", "bad.engine", "--gpu", "L4")

            yield Case(f"manifest plan.{field} {name}", make_plan, ANY, names="bad")


def tampered_cases(honest: Path, seed: int) -> Iterator[Case]:
    """Engines that are not those of their manifests, and manifests that fit what they are not."""
    picked = random.Random(seed)

    def tamper(kind: str, engine: Path) -> None:
        data = bytearray(engine.read_bytes())
        if kind.startswith("flip"):
            data[picked.randrange(len(data))] ^= 1 << picked.randrange(8)
        elif kind.startswith("cut"):
            del data[len(data) * picked.randrange(100) // 100 :]
        else:
            data[:] = (honest / "engines" / f"{STEM}.onnx").read_bytes()
        engine.write_bytes(data)
        if kind.endswith("signed"):
            beside = manifest_path(engine)
            facts = json.loads(beside.read_text())
            beside.write_text(json.dumps(facts | {"sha256": sha256_of(engine)}))

    for index in range(60):
        kind = ("flip", "cut", "swap", "flip signed", "cut signed", "swap signed")[index % 6]

        def make(folder: Path, kind: str = kind, index: int = index) -> tuple[object, ...]:
            tamper(kind, _engine(honest, folder))
            command = (("-q", "plan"), (*PARITY, "--engine"))[index % 2]
            return (*command, "bad.engine")

        yield Case(f"engine {kind} {index}", make, ANY, names="bad")
    for kind in SPECIAL:

        def make_special(folder: Path, kind: str = kind) -> tuple[object, ...]:
            _special(kind, _engine(honest, folder))
            return ("-q", "plan", "bad.engine")

        yield Case(f"engine {kind}", make_special, names="bad")


def newest_cases(honest: Path) -> Iterator[Case]:
    """The newest export is looked for among files with hostile manifests."""
    for kind in (*SPECIAL, "20 million brackets", "deep"):

        def make(folder: Path, kind: str = kind) -> tuple[object, ...]:
            (folder / "engines").mkdir()
            path = folder / "engines" / "bad.onnx"
            path.write_bytes(b"no ONNX")
            if kind in TEXTS:
                manifest_path(path).write_text(TEXTS[kind])
            else:
                _special(kind, manifest_path(path))
            return ("-q", "build-trt", "--fp16")

        yield Case(f"newest export, manifest {kind}", make, names="bad.onnx")


def timing_cache_cases(honest: Path, seed: int) -> Iterator[Case]:
    del seed
    for kind in SPECIAL:

        def make(folder: Path, kind: str = kind) -> tuple[object, ...]:
            _special(kind, folder / "bad.cache")
            onnx = honest / "engines" / f"{STEM}.onnx"
            return ("-q", "build-trt", onnx, "--timing-cache", "bad.cache", "--output", "out/x.engine")  # fmt: skip

        yield Case(f"timing cache {kind}", make, ANY)


def _folder(values: Any, honest_weights: dict[str, torch.Tensor], folder: Path) -> None:  # noqa: ANN401
    folder.mkdir()
    save_file(honest_weights, folder / "model.safetensors")
    (folder / "config.json").write_text(text_of(values))


def cases(honest: Path, seed: int) -> Iterator[Case]:
    """Every hostile JSON file, and engine."""
    yield from report_cases(honest, seed)
    yield from evaluation_cases(honest, seed)
    yield from manifest_cases(honest, seed)
    yield from tampered_cases(honest, seed)
    yield from newest_cases(honest)
    yield from timing_cache_cases(honest, seed)
