"""What ends a command besides its own errors: one line and status 3, or a bug's report and 70."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Command, run_process

from swin_deploy.cli.failures import HEAD, MOST_LETTERS, bug_report, explain, one_line
from swin_deploy.cli.models import models


def test_one_line_leaves_a_short_message_as_it_is() -> None:
    assert one_line("a.pt does not exist; check the path") == "a.pt does not exist; check the path"


def test_one_line_escapes_what_is_no_letter() -> None:
    assert one_line("a\nb\x1b[31m\u202e\ud800") == r"a\nb\x1b[31m\u202e\ud800"


@pytest.mark.parametrize("middle", ["x" * 1_000, "\u202e" * 400, "x" * 1_000_000], ids=len)
def test_one_line_keeps_head_and_remedy(middle: str) -> None:
    shown = one_line(f"model.pt is odd: {middle}; save it again")
    assert len(shown) == MOST_LETTERS
    assert shown.startswith("model.pt is odd: ")
    assert shown.endswith("; save it again")
    assert shown[HEAD:].startswith(" ... ")


def raised(act: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011 - any kind
        act()
    return info.value


def nest(depth: int = 0) -> int:
    return nest(depth + 1)


class OnnxRuntimeError(Exception):
    """As ONNX Runtime's exceptions are: of no base of Python's own."""


def fail(err: Exception) -> Callable[[], object]:
    def act() -> None:
        raise err

    return act


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (fail(MemoryError()), "not enough memory; use a smaller"),
        (lambda: torch.empty(1 << 60), "not enough memory"),
        (fail(RuntimeError("std::bad_alloc")), "not enough memory"),
        (fail(torch.OutOfMemoryError("CUDA out of memory. Tried")), "not enough memory"),
        (
            fail(OnnxRuntimeError("Failed to allocate memory for requested buffer")),
            "not enough memory",
        ),
        (nest, "nests too deeply"),
        (lambda: b"\xff".decode(), "is no text ('utf-8' codec"),
        (lambda: "\ud800".encode(), "is no text ('utf-8' codec"),
        (lambda: Path("/nowhere/at/all").read_text(), "No such file or directory: /nowhere/at/all"),
        (lambda: importlib.import_module("no_such_package"), "the package no_such_package does"),
    ],
    ids=["python", "torch", "c++", "cuda", "ort", "depth", "decode", "encode", "system", "package"],
)
def test_explain_says_what_is_no_bug_in_one_line(act: Callable[[], object], words: str) -> None:
    assert words in explain(raised(act))


@pytest.mark.parametrize(
    "act",
    [
        lambda: {"b": 1}["a"],
        lambda: int("a"),
        lambda: None.x,  # type: ignore[attr-defined] # it is to fail
        lambda: 1 / 0,
        fail(RuntimeError("odd")),
    ],
    ids=["key", "value", "attribute", "zero", "runtime"],
)
def test_explain_has_nothing_to_say_of_a_bug(act: Callable[[], object]) -> None:
    err = raised(act)
    assert explain(err) == ""
    assert "Traceback" in bug_report(err)
    assert "please report it" in bug_report(err).splitlines()[-1]


def test_main_ends_a_bug_with_its_traceback_and_status_70(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1 means that a check failed: a script must not take a bug for that."""

    def broken(**_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(models, "callback", broken)
    outcome = swin("models")
    assert outcome.status == 70
    assert "Traceback (most recent call last)" in outcome.err
    assert re.search(r"error: this is a bug in swin-deploy .*; please report it", outcome.err)
    assert outcome.out == ""


def test_main_ends_without_memory_in_one_line(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "callback", lambda **_: torch.empty(1 << 60))
    swin("models").assert_error("not enough memory; use a smaller batch or image size")


@pytest.mark.parametrize(
    "arguments", [("export", "--batch", "x" * 9_999), ("x" * 9_999,), ("--x" * 999,)]
)
def test_main_usage_errors_are_short(swin: Command, arguments: tuple[str, ...]) -> None:
    outcome = swin(*arguments)
    assert outcome.status == 2
    assert all(len(line) <= MOST_LETTERS for line in outcome.err.splitlines())


BROKEN = {
    "runtime": "raise RuntimeError('operator torchvision::nms does not exist')",
    "attribute": "import os; os.no_such_thing",
    "system": "raise SystemError('initialization of _C failed')",
    "syntax": "def broken(:",
    "exit": "raise SystemExit(0)",
    "import": "raise ImportError('libcudart.so.12: cannot open shared object file')",
    "empty": "",
}


def broken_package(folder: Path, name: str, source: str) -> dict[str, str]:
    package = folder / "packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    return {"PYTHONPATH": str(package.parent)}


@pytest.mark.parametrize("kind", ["runtime", "syntax", "empty"])
@pytest.mark.parametrize("name", ["onnxruntime", "polygraphy", "torch", "onnxscript"])
def test_doctor_lists_a_broken_package_and_goes_on(name: str, kind: str, tmp_path: Path) -> None:
    outcome = run_process("doctor", "--json", env=broken_package(tmp_path, name, BROKEN[kind]))
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    found = outcome.json["packages" if name == "onnxscript" else name]
    assert found["state"] == "broken"
    assert name in found["detail"]
    assert "pip install" in found["remedy"]
    assert "polygraphy" in outcome.json  # the last


@pytest.mark.parametrize("kind", BROKEN)
def test_command_says_that_a_package_is_broken(kind: str, full: Path, tmp_path: Path) -> None:
    env = broken_package(tmp_path, "tensorrt_rtx", BROKEN[kind])
    arguments = ("plan", full, "--flavor", "tensorrt-rtx")
    outcome = run_process("-q", *arguments, env=env)
    outcome.assert_error("tensorrt-rtx ")
    assert "; mend its installation: pip install" in outcome.err
    assert full.name not in outcome.err


@pytest.mark.parametrize("kind", ["runtime", "attribute", "syntax"])
def test_command_says_that_a_required_package_is_broken(kind: str, tmp_path: Path) -> None:
    env = broken_package(tmp_path, "safetensors", BROKEN[kind])
    outcome = run_process("-q", "export", "--model", "notebook-digits", env=env, cwd=tmp_path)
    outcome.assert_error("the package safetensors does not load (")
    assert "pip install --force-reinstall safetensors" in outcome.err
