"""``scripts/compare_exports``: small models and the real libraries; its page."""

import dataclasses
import importlib.machinery
import importlib.util
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, REJECTED
from exported import needs_rtx
from peers import import_peer

from benchmarks.exports import models, routes, steps, timing
from benchmarks.exports.tables import filled, measured, tables
from exporters.errors import MissingBackendError
from swin_deploy.runners.base import Runner

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "compare_exports"
RESULTS = ROOT / "docs" / "results" / "exports-cpu.json"
HELD = {"models": "tiny"}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script as a module; what it sets for its own process is as before afterwards."""
    loader = importlib.machinery.SourceFileLoader("compare_exports", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # it would lie beside the script
        patch.setattr(sys, "path", list(sys.path))
        patch.setitem(sys.modules, loader.name, module)
        loader.exec_module(module)
        yield module


@pytest.fixture
def run(script, capsys, monkeypatch, tmp_path):
    """``main`` in this process: the exit status, standard output and standard error."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    manager = logging.root.manager
    monkeypatch.setattr(manager, "disable", manager.disable)  # put back what main sets
    threads = torch.get_num_threads()

    def call(*arguments: object) -> tuple[int, str, str]:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            status = script.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def small() -> models.Model:
    """The smallest V1 model."""
    return models.models(tiny=True)[0]


@pytest.mark.slow
@needs_rtx
def test_every_step_is_kept_and_not_done_again(run, script, small, monkeypatch, tmp_path):
    import_peer("timm")
    timm = next(one for one in steps.TIMED if one.library == "timm")
    monkeypatch.setattr(steps, "TIMED", (timm,))
    monkeypatch.setattr(steps, "ROUTES", (timm,))
    monkeypatch.setattr(script, "models", lambda *, tiny: (small,) if tiny else ())
    path = tmp_path / "x.json"
    status, text, progress = run("--quick", "--json", path)
    assert status == 0
    assert "Swin-T / plan / timm, TorchScript" in progress
    document = json.loads(path.read_text())
    assert text.strip() == measured(document)
    done = document["steps"]
    for title in ("ours, fp32", "timm, TorchScript"):
        assert done[f"Swin-T / file / {title}"]["error"] < FLOAT32_TOLERANCE
    for title in ("ours, fp16", "ours, fp8", "ours, fp8-weights", "timm, TorchScript"):
        assert done[f"Swin-T / plan / {title}"]["fused"] == "2 of 2"
    assert done["Swin-T / file / ours, fp16"]["error"] < done["Swin-T / file / ours, fp8"]["error"]
    times = done["Swin-T / times / batch 8, threads 1"]["times"]
    assert times["ours, fp32 / ONNX Runtime"]["ratio"] == 1
    assert {name.partition(" / ")[2] for name in times} == {"ONNX Runtime", *steps.OPENVINO}
    # A run that was interrupted after its last step has nothing left to do.
    document["conditions"] = json.loads(path.read_text())["conditions"]
    (tmp_path / "quick").mkdir(exist_ok=True)
    (tmp_path / "quick" / "part.json").write_text(json.dumps(document))
    status, again, progress = run("--quick", "--json", path)
    assert (status, again, progress) == (0, text, "")


@pytest.mark.parametrize("library", ["torchvision", "transformers"])
def test_every_librarys_module_gives_what_ours_gives(small, library):
    import_peer(library)
    loaded = models.trained_like(small)
    images = torch.randn(2, 3, *small.config.image)
    (route, *_) = [route for route in routes.ROUTES if route.library == library]
    with torch.no_grad():
        ours = routes.make_module(loaded, routes.Route(routes.OURS, "dynamo"))(images)
        theirs = routes.make_module(loaded, route)(images)
    assert (ours - theirs).abs().max() / ours.square().mean().sqrt() < FLOAT32_TOLERANCE


def test_an_export_that_fails_is_a_note_and_no_row_of_times(small, tmp_path):
    document: dict[str, Any] = {"conditions": HELD, "steps": {}}
    run = steps.Run(document, tmp_path / "x.json", tmp_path, 0.0, lambda _: None)
    found = steps.of_peer(run, small, routes.Route("no_library", "dynamo"))
    assert found["notes"][0].startswith("export: KeyError: 'no_library'")
    document["steps"] = {"Swin-T / file / no_library, dynamo": found}
    assert tables(document)["Swin-T / files"].endswith(f"no_library, dynamo | {'- | ' * 7}"[:-1])


def test_facts_see_other_weights(small, tmp_path):
    pytest.importorskip("onnxruntime")
    path, ours = tmp_path / "x.onnx", routes.Route(routes.OURS, "dynamo")
    models.write_ours(small, models.PLAIN, path)
    right = steps.facts(path, small, ours, "fp32")
    assert right["error"] < FLOAT32_TOLERANCE
    graph = onnx.load(path)
    weight = next(one for one in graph.graph.initializer if len(one.dims) == 2)
    values = onnx.numpy_helper.to_array(weight) * 2
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, path)
    assert steps.facts(path, small, ours, "fp32")["error"] > REJECTED


class Busy(Runner):
    """A runner that takes a given processor time, and gives a given value."""

    name, precision, backend = "busy", "fp32", "none"

    def __init__(self, seconds: float, value: float) -> None:
        self.seconds, self.value = seconds, value

    def __enter__(self) -> "Busy":
        return self

    def __exit__(self, *exc_info: object) -> None:
        return

    def prepare(self, images: np.ndarray) -> None:
        return

    def synchronize(self) -> None:
        return

    def execute(self) -> None:
        end = time.process_time() + self.seconds
        while time.process_time() < end:
            pass

    def fetch(self) -> tuple[np.ndarray]:
        return (np.full((1, 2), self.value, np.float32),)


def test_time_files_gives_the_ratio_of_processor_times_and_the_error():
    runners = {"first": Busy(0.004, 1.0), "second": Busy(0.008, 1.5)}
    found = timing.time_files(runners, np.zeros((1, 1), np.float32), seconds=0, threads=1)
    assert found["first"]["ratio"] == 1
    assert found["second"]["ratio"] == pytest.approx(2, rel=0.2)
    assert (found["first"]["error"], found["second"]["error"]) == (0, pytest.approx(0.5))
    assert found["second"]["rounds"] == timing.LEAST_ROUNDS


def test_a_run_goes_on_only_under_the_same_conditions(script, tmp_path):
    path = tmp_path / "part.json"
    document = {"conditions": HELD, "steps": {"a": {"mb": 1.0}}}
    path.write_text(json.dumps(document))
    assert script.opened(path, HELD) == document
    assert script.opened(path, {"models": "full size"})["steps"] == {}
    run = steps.Run(document, path, tmp_path, 0.0, lambda _: None)
    run.step("a", lambda: pytest.fail("it is done"))
    run.step("b", lambda: {"mb": 2.0})
    assert json.loads(path.read_text())["steps"]["b"]["mb"] == 2.0


@pytest.mark.skipif(not RESULTS.is_file(), reason="the results are not installed")
def test_tables_of_the_exports_page_are_measured() -> None:
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    assert measured(document) in page
    assert filled(page, document) == page
    key = next(key for key in document["steps"] if key.endswith("/ file / ours, fp32"))
    document["steps"][key]["nodes"] += 1
    assert filled(page, document) != page


def test_padded_model_has_pads_and_a_batch_of_two():
    padded = models.models(tiny=False)[2]
    assert padded.batches == (2,)
    assert all(stage.has_pads for stage in padded.config.stages)
    other = dataclasses.replace(padded.config, img_size=448)
    assert not all(stage.has_pads for stage in other.stages)


@pytest.mark.parametrize("part", [("--quick",), ("--no-engine",), ("--model", "SwinV2-T")])
def test_only_a_whole_run_fills_the_page(script, part):
    assert script.parse(()).json == RESULTS
    assert script.parse(part).json != RESULTS


def test_missing_libraries_are_named_with_how_to_install_them():
    routes.require(["json"])
    with pytest.raises(MissingBackendError, match=r"not installed: no_such; pip install .*peers"):
        routes.require(["json", "no_such"])


def test_results_that_cannot_be_written_are_one_line_and_status_3(run):
    status, text, progress = run("--quick", "--no-engine", "--json", "/proc/x/y.json")
    assert (status, text) == (3, "")
    assert "cannot write" in progress.splitlines()[-1]


@pytest.mark.parametrize("wrong", [("--seconds", "-1"), ("--seconds", "nan"), ("--model", "V3")])
def test_wrong_usage_is_status_2(script, wrong):
    with pytest.raises(SystemExit) as caught:
        script.parse(wrong)
    assert caught.value.code == 2
