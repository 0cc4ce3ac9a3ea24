"""``scripts/gpu_suite``: a dry run of everything, and what it does when a part breaks."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from exporters.errors import FileError, MissingBackendError
from swin_deploy.suite.answers import found_faults, goals, rows_of
from swin_deploy.suite.document import DRY_RUN, conditions, open_document, save
from swin_deploy.suite.drive import Drive, drive, run_child
from swin_deploy.suite.markdown import render_document
from swin_deploy.suite.models import NOTEBOOK, TINY, Setup, suite_model
from swin_deploy.suite.parts import Part, parts_of

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "gpu_suite"
NOW = {"device": "this one", "code": "1"}

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the scripts are not installed")


def suite(*arguments, folder, **variables):
    """The script in a process, where torchvision imports whatever PyTorch is there."""
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "import peers\npeers.ensure_torchvision_importable()\n"
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A whole dry run: its folder, and how it ended."""
    folder = tmp_path_factory.mktemp("dry")
    places = ("--output", folder / "r.json", "--artifacts", folder / "files")
    return folder, places, suite("--dry-run", *places, folder=folder)


def test_dry_run_runs_everything(dry):
    folder, _, ended = dry
    assert ended.returncode == 0, ended.stderr
    document = json.loads((folder / "r.json").read_text())
    assert document["title"] == DRY_RUN
    assert list(document["parts"]) == [p.name for p in parts_of(Setup(folder, dry=True))]
    for name, part in document["parts"].items():
        assert part["status"] in ("done", "not run"), (name, part["reason"])
        assert bool(part["reason"]) == (part["status"] == "not run")
    done = [name for name, part in document["parts"].items() if part["status"] == "done"]
    assert {"environment", f"export-{NOTEBOOK}", f"parity-{TINY}", f"throughput-{TINY}"} <= set(
        done
    )


def test_dry_run_has_no_figures_to_quote(dry):
    folder, _, ended = dry
    page = (folder / "r.md").read_text()
    assert page.startswith("# Dry run: no figures")
    assert "# Dry run: no figures" in ended.stdout
    assert "| met |" not in page
    assert "| missed |" not in page


def test_dry_run_compares_every_hop_and_times_every_model(dry):
    pytest.importorskip("onnxruntime")
    document = json.loads((dry[0] / "r.json").read_text())
    hops = document["parts"][f"parity-{TINY}"]["data"]
    assert all(hops[name]["passed"] for name in ("deploy model, fp32", "ONNX fp32", "ONNX fp16"))
    rows = rows_of(document, f"throughput-{NOTEBOOK}")
    assert {"PyTorch reference", "deploy model", "ONNX fp32"} <= {row["name"] for row in rows}
    everything = document["parts"][f"throughput-{TINY}"]["data"]["batches"]["2"]["results"]
    reasons = {row["name"]: row["not_run"] for row in everything if row["not_run"]}
    assert "the time for compiling was spent" in reasons["deploy model, compiled"]
    assert reasons["tensorrt-rtx fp16, CUDA graph"]
    assert not [row["failed"] for row in everything if row["failed"]]


def test_dry_run_again_does_nothing_twice_and_takes_the_files_there(dry):
    folder, places, _ = dry
    before = {path: path.stat().st_mtime_ns for path in (folder / "files").iterdir()}
    again = suite("--dry-run", *places, "--part", f"export-{TINY}", folder=folder)
    assert f"export-{TINY}: done before" in again.stderr
    forced = suite("--dry-run", *places, "--part", f"export-{TINY}", "--again", folder=folder)
    assert forced.returncode == 0, forced.stderr
    document = json.loads((folder / "r.json").read_text())
    assert document["parts"][f"export-{TINY}"]["data"]["made"] == "taken from the folder"
    assert {path: path.stat().st_mtime_ns for path in (folder / "files").iterdir()} == before


def test_unknown_part_is_wrong_usage(tmp_path):
    ended = suite("--part", "everything", folder=tmp_path)
    assert ended.returncode == 2
    assert "unknown part everything; see --list" in ended.stderr


# parts that break

CHILD = """
    import json, os, signal, sys, time
    name, path = sys.argv[-3], sys.argv[-1]
    if name == "kept":
        json.dump({"status": "failed", "reason": "", "data": {"half": 1}}, open(path, "w"))
    if name in ("crash", "kept"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(60)
    if name == "exit":
        sys.exit("no more\\nmemory")
    json.dump({"status": "done", "reason": "", "data": {"found": 1}}, open(path, "w"))
"""


def done(_earlier, _keep):
    return {"found": 1}


def missing(_earlier, _keep):
    raise MissingBackendError("no GPU here")


def broken(_earlier, _keep):
    raise RuntimeError("no more\nmemory")


@pytest.fixture
def how(tmp_path):
    code = textwrap.dedent(CHILD)
    return Drive(
        output=tmp_path / "r.json",
        command=(sys.executable, "-c", code),
        seconds=60.0,
        conditions=NOW,
        again=False,
        say=lambda line: None,
    )


def driven(how, *parts):
    document = open_document(how.output, dry=False)
    drive(document, parts, how)
    return json.loads(how.output.read_text())["parts"]


@pytest.mark.parametrize(
    ("part", "status", "reason", "data"),
    [
        (Part("fine", 9, done), "done", "", {"found": 1}),
        (Part("fine", 9, done, isolated=True), "done", "", {"found": 1}),
        (Part("gone", 9, missing), "not run", "no GPU here", None),
        (Part("bad", 9, broken), "failed", "RuntimeError: no more memory", None),
        (Part("crash", 9, done, isolated=True), "failed", "SIGSEGV", None),
        (Part("kept", 9, done, isolated=True), "failed", "SIGSEGV", {"half": 1}),
        (Part("exit", 9, done, isolated=True), "failed", "status 1: no more memory", None),
        (Part("hang", 0.5, done, isolated=True), "failed", "ended after", None),
        (Part("none", 9, done, True, "no_such_module"), "not run", "is not installed", None),
    ],
    ids=lambda value: value.name if isinstance(value, Part) else "",
)
def test_drive_every_end_of_a_part_is_a_result(part, status, reason, data, how):
    last = Part("last", 9, done)
    parts = driven(how, part, last)
    assert parts[part.name]["status"] == status
    assert reason in parts[part.name]["reason"]
    assert parts[part.name]["data"] == data
    assert parts["last"]["status"] == "done"


def test_drive_resumes_but_for_other_conditions_failures_and_again(how):
    calls = []

    def count(_earlier, _keep):
        calls.append(1)
        return {}

    part = Part("part", 9, count)
    driven(how, part)
    driven(how, part)
    assert len(calls) == 1
    driven(dataclasses.replace(how, again=True), part)
    driven(dataclasses.replace(how, conditions=NOW | {"code": "2"}), part)
    assert len(calls) == 3
    driven(how, Part("bad", 9, broken))
    assert driven(how, Part("bad", 9, done))["bad"]["status"] == "done"


def test_drive_out_of_time_says_so(how):
    parts = driven(dataclasses.replace(how, seconds=0.0), Part("late", 9, done))
    assert parts["late"]["status"] == "not run"
    assert "were spent before" in parts["late"]["reason"]


def test_run_child_keeps_what_was_done_before_it_broke(tmp_path):
    def half(_earlier, keep):
        keep({"half": 1})
        raise RuntimeError("later")

    run_child(Part("half", 9, half), {"parts": {}}, tmp_path / "o.json")
    outcome = json.loads((tmp_path / "o.json").read_text())
    assert outcome == {"status": "failed", "reason": "RuntimeError: later", "data": {"half": 1}}


def test_open_document_refuses_what_it_did_not_write(tmp_path):
    path = tmp_path / "r.json"
    save(open_document(path, dry=True), path)
    with pytest.raises(FileError, match="is of a dry run"):
        open_document(path, dry=False)
    path.write_text("[]")
    with pytest.raises(FileError, match="cannot read"):
        open_document(path, dry=True)


def test_conditions_tell_a_dry_run_and_the_code():
    assert conditions(dry=True) != conditions(dry=False)
    assert len(conditions(dry=True)["code"]) == 16


def test_suite_model_of_other_weights_has_another_digest(tmp_path):
    setup = Setup(tmp_path, dry=True)
    one, same = suite_model(TINY, setup), suite_model(TINY, setup)
    assert one.sha256 == same.sha256
    assert one.sha256 != suite_model(NOTEBOOK, setup).sha256


# what the page says


def row(name, speed, kind, mode="eager", precision="fp16"):
    return {
        "name": name, "images_per_s": speed, "kind": kind, "mode": mode, "precision": precision,
        "batch": 128, "not_run": "", "failed": "", "backend": "B",
    }  # fmt: skip


def measured(*rows, title="gpu suite"):
    part = {
        "status": "done", "reason": "", "seconds": 1.0, "conditions": {"device": "H200"},
        "data": {"batches": {"128": {"results": list(rows)}}},
    }  # fmt: skip
    return {"title": title, "parts": {f"throughput-{TINY}": part}}


def test_goals_compare_with_what_was_measured():
    document = measured(
        row("timm's model", 2000.0, "original", precision="fp32"),
        row("timm's model, compiled", 8000.0, "original", "compile"),
        row("deploy model", 9000.0, "deploy"),
        row("tensorrt-rtx fp16", 10000.0, "engine", "file"),
    )
    speed, compiled, eager = goals(document)
    assert (speed.verdict, speed.measured.split()[0]) == ("met", "10,000")
    assert (compiled.verdict, compiled.measured.split()[0]) == ("missed", "1.25x")
    assert (eager.verdict, eager.measured.split()[0]) == ("met", "5.00x")
    assert [goal.verdict for goal in goals(measured())] == ["not measured"] * 3
    dry = goals(document | {"title": DRY_RUN})
    assert {goal.verdict for goal in dry} == {DRY_RUN}


def test_goals_leave_out_rows_that_failed():
    fast = row("deploy model", 99999.0, "deploy") | {"failed": "wrong output"}
    assert goals(measured(fast))[0].verdict == "not measured"


def test_faults_are_failures_and_hops_out_of_tolerance_not_what_is_missing():
    document = {
        "title": "gpu suite",
        "parts": {
            "a": {"status": "not run", "reason": "no GPU", "data": None},
            "b": {"status": "failed", "reason": "SIGSEGV", "data": None},
            "engine-tensorrt-x": {"status": "done", "reason": "", "data": {"passed": False}},
            "parity-x": {
                "status": "done",
                "reason": "",
                "data": {"ONNX": {"passed": True}, "deploy": {"failed": "out of memory"}},
            },
        },
    }
    assert found_faults(document) == [
        "b failed: SIGSEGV",
        "engine-tensorrt-x, engine-tensorrt-x: out of tolerance",
        "parity-x, deploy failed: out of memory",
    ]


def test_page_of_nothing_says_so(tmp_path):
    page = render_document(open_document(tmp_path / "r.json", dry=False))
    assert "no part done" in page
    assert "not measured" in page
