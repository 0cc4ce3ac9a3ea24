"""``scripts/compare_exports``, with a small model and the real libraries."""

import dataclasses
import importlib.machinery
import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, REJECTED
from exported import needs_rtx
from peers import import_peer

from exporters.errors import MissingBackendError

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "compare_exports"
NO_ENGINE = ("--variant", "tiny", "--no-engine", "--seconds", "0")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script as a module; what it sets for its own process is as before afterwards."""
    loader = importlib.machinery.SourceFileLoader("compare_exports", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # it would lie beside the script
        patch.setitem(sys.modules, loader.name, module)  # dataclasses look there
        loader.exec_module(module)
        yield module


@pytest.fixture
def run(script, capsys, monkeypatch):
    """``main`` in this process: the exit status, standard output and standard error."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(sys, "path", list(sys.path))
    manager = logging.root.manager
    monkeypatch.setattr(manager, "disable", manager.disable)  # put back what main sets

    def call(*arguments: object) -> tuple[int, str, str]:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            status = script.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


def table(text: str) -> list[dict[str, str]]:
    """The rows of the Markdown table in ``text``, by heading."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


@pytest.mark.slow
@needs_rtx
def test_table_holds_ours_and_the_librarys_two_exports_with_the_same_weights(
    run, script, monkeypatch, tmp_path
):
    import_peer("timm")
    small = dataclasses.replace(script.TINY, depths=(2,), num_heads=(2,))
    monkeypatch.setattr(script, "TINY", small)  # half the time
    status, text, progress = run(
        *("--variant", "tiny", "--only", "timm", "--seconds", "1", "--json", tmp_path / "x.json")
    )
    assert status == 0
    assert "timm, TorchScript: building engines" in progress
    rows = table(text)
    names = [(row["route"], row["exporter"]) for row in rows]
    assert names == [("swin-deploy", "dynamo"), ("timm", "dynamo"), ("timm", "TorchScript")]
    for row in rows:
        assert float(row["max error"]) < FLOAT32_TOLERANCE
        assert row["attention fused"] == "2 of 2"
        assert float(row["engine MB"]) > 0
        assert "-" not in (row["CPU time, batch 1"], row["CPU time, batch 8"])
    ours = rows[0]
    assert all(
        int(ours[column]) < int(row[column]) for row in rows[1:] for column in ("nodes", "kernels")
    )
    assert {row["float16 by"] for row in rows} == {"graph"}  # TorchScript's casts, too
    written = json.loads((tmp_path / "x.json").read_text())
    assert [row["nodes"] for row in written["rows"]] == [int(row["nodes"]) for row in rows]
    assert written["conditions"]["model"].startswith("tiny, 64 px")


@pytest.mark.parametrize("library", ["torchvision", "transformers"])
def test_every_librarys_module_gives_what_ours_gives(script, library):
    import_peer(library)
    loaded = script.trained_like("tiny")
    images = script.seeded(loaded.config)
    (route, *_) = [route for route in script.ROUTES if route.library == library]
    with torch.no_grad():
        ours = script.make_module(loaded, script.Route(script.OURS, "dynamo"))(images)
        theirs = script.make_module(loaded, route)(images)
    assert (ours - theirs).abs().max() / ours.square().mean().sqrt() < FLOAT32_TOLERANCE


def test_a_route_that_fails_is_a_row_with_its_reason(script, tmp_path):
    loaded = script.trained_like("tiny")
    row = script.exported(loaded, script.Route("no_library", "dynamo"), tmp_path)
    assert "path" not in row
    assert row["notes"][0].startswith("export: KeyError: 'no_library'")
    (shown,) = table(script.markdown([row | {"nodes": None}]))
    assert list(shown) == ["route", "exporter", "notes"]
    (_, second) = table(script.markdown([{**row, "nodes": 3}, row]))
    assert second["nodes"] == "-"


def test_error_of_sees_other_weights(script, tmp_path):
    pytest.importorskip("onnxruntime")
    loaded = script.trained_like("tiny")
    ours = script.Route(script.OURS, "dynamo")
    images = script.seeded(loaded.config)
    with torch.no_grad():
        graph, seconds = script.export(loaded, ours, dynamic=True)
        onnx.save(graph, tmp_path / "x.onnx")
        module = script.make_module(loaded, ours)
        assert seconds > 0
        assert script.error_of(tmp_path / "x.onnx", module, images) < FLOAT32_TOLERANCE
        loaded.reference.head.weight[0] += 0.5
        other = script.make_module(loaded, ours)
        assert script.error_of(tmp_path / "x.onnx", other, images) > REJECTED


@pytest.mark.parametrize(
    ("only", "count"),
    [((), 8), (("timm",), 2), (("hugging", "eager"), 2), (("dynamo",), 4), (("timm", "vision"), 0)],
)
def test_only_chooses_routes_that_hold_each_text(script, only, count):
    assert len(script.chosen(only)) == count


def test_missing_libraries_are_named_with_how_to_install_them(script):
    script.require(["json"])
    with pytest.raises(MissingBackendError, match=r"not installed: no_such; pip install .*peers"):
        script.require(["json", "no_such"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variant", "swin_huge"), "unknown model swin_huge"),
        (("--variant", "notebook-digits"), "is in no library"),
        (("--json", "/proc/x/y.json"), "cannot write"),
    ],
    ids=["unknown", "notebook", "json"],
)
def test_what_cannot_be_done_is_one_line_and_status_3(run, arguments, message):
    status, text, progress = run(*NO_ENGINE, "--only", "nothing", *arguments)
    assert (status, text) == (3, "")
    assert message in progress.splitlines()[-1]


@pytest.mark.parametrize("wrong", [("--threads", "0"), ("--seconds", "-1"), ("--variants",)])
def test_wrong_usage_is_status_2(script, wrong):
    with pytest.raises(SystemExit) as caught:
        script.parse(wrong)
    assert caught.value.code == 2
