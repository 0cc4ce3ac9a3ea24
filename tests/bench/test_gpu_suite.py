"""``scripts/gpu_suite``: a dry run of everything, and what it does when a part breaks."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_suite.answers import (
    cut_short,
    engine_answers,
    found_faults,
    goals,
    rows_of,
    speed_table,
)
from benchmarks.gpu_suite.document import (
    DRY_RUN,
    claim_places,
    conditions,
    keep_to_itself,
    merge_partial,
    of_this_device,
    open_document,
    partial_path,
    save,
)
from benchmarks.gpu_suite.drive import Drive, drive, run_child
from benchmarks.gpu_suite.markdown import render_document
from benchmarks.gpu_suite.models import NOTEBOOK, TINY, TINY_V2, Setup, suite_model
from benchmarks.gpu_suite.parts import Part, parts_of
from benchmarks.gpu_suite.speed import _by_batch
from exporters.errors import FileError, MissingBackendError
from swin_deploy.bench import BenchReport, BenchResult, Comparison
from swin_deploy.images.sets import seeded_images

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "gpu_suite"
NOW = {"device": "this one", "code": "1"}

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the scripts are not installed")


def suite(*arguments, folder, **variables):
    """The script in a process."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=variables_for(folder) | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def variables_for(folder):
    """An environment where torchvision imports whatever PyTorch is there."""
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests' / 'support')!r})\n"
        "import peers\npeers.ensure_torchvision_importable()\n"
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A whole dry run: its folder, and how it ended."""
    folder = tmp_path_factory.mktemp("dry")
    places = ("--output", folder / "r.json", "--artifacts", folder / "files")
    ended = suite("--dry-run", *places, "--copy-to", folder / "out", folder=folder)
    return folder, places, ended


def test_dry_run_runs_everything(dry):
    folder, _, ended = dry
    assert ended.returncode == 0, ended.stderr
    document = json.loads((folder / "r.json").read_text())
    assert document["title"] == DRY_RUN
    assert list(document["parts"]) == [p.name for p in parts_of(Setup(folder, dry=True))]
    for name, part in document["parts"].items():
        assert part["status"] in ("done", "not run"), (name, part["reason"])
        assert bool(part["reason"]) == (part["status"] == "not run")
    done = {name for name, part in document["parts"].items() if part["status"] == "done"}
    assert {"environment", f"export-{NOTEBOOK}", f"parity-{TINY}", f"throughput-{TINY}"} <= done


def test_dry_run_leaves_copies_that_are_whole_and_nothing_under_way(dry):
    folder, _, _ = dry
    assert json.loads((folder / "out" / "r.json").read_text()) == json.loads(
        (folder / "r.json").read_text()
    )
    assert (folder / "out" / "r.md").read_text() == (folder / "r.md").read_text()
    assert not partial_path(folder / "r.json").exists()


def test_dry_run_has_no_figures_to_quote(dry):
    folder, _, ended = dry
    page = (folder / "r.md").read_text()
    assert page.startswith("# Dry run: no figures")
    assert "# Dry run: no figures" in ended.stdout
    assert "| met |" not in page
    assert "| missed |" not in page


def test_dry_run_judges_every_step_with_its_noise(dry):
    pytest.importorskip("onnxruntime")
    document = json.loads((dry[0] / "r.json").read_text())
    steps = [
        hop
        for part in (f"parity-{TINY}", f"parity-onnx-{TINY}", f"parity-{NOTEBOOK}")
        for hop in document["parts"][part]["data"]["parity"]["hops"]
    ]
    assert [hop["name"] for hop in steps] == [
        "deploy model", "ONNX fp32", "ONNX fp16", "deploy model",
    ]  # fmt: skip
    assert all(hop["passed"] for hop in steps)
    floors = [result["tolerance"]["floor"] for hop in steps for result in hop["results"]]
    assert all(floor["relative_l2"] > 0 for floor in floors)


def test_dry_run_times_every_model_and_says_what_it_did_not(dry):
    document = json.loads((dry[0] / "r.json").read_text())
    rows = rows_of(document, f"pytorch-{NOTEBOOK}")
    assert [row["name"] for row in rows] == ["PyTorch reference", "deploy model"]
    parts = document["parts"]
    compiled, *_ = (
        row
        for row in parts[f"pytorch-{TINY}"]["data"]["batches"]["2"]["results"]
        if row["mode"] == "compile"
    )
    assert "the time for compiling was spent" in compiled["not_run"]
    files = parts[f"throughput-{TINY}"]["data"]["batches"]["2"]["results"]
    reasons = {row["name"]: row["not_run"] for row in files if row["not_run"]}
    assert reasons["tensorrt-rtx fp16, CUDA graph"]
    assert {"deploy model", "ONNX fp32"} <= {row["name"] for row in files if not row["not_run"]}
    assert not [
        row["failed"]
        for part in parts.values()
        for values in ((part["data"] or {}).get("batches") or {}).values()
        for row in values["results"]
        if row["failed"]
    ]


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


def test_command_that_is_killed_loses_nothing_and_the_next_goes_on(dry, tmp_path):
    """A part that compiles, killed with its command: the batch it has is not done again."""
    part, output = f"pytorch-{TINY}", tmp_path / "r.json"
    words = ("--dry-run", "--part", part, "--output", output, "--copy-to", tmp_path / "out")
    places = (*words, "--artifacts", dry[0] / "files")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, places), "--scale", "1e-6"],
        env=variables_for(tmp_path),
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: found_in(tmp_path / "out" / "r.json", part, "batches") == {"2"}, process)
    children = children_of(process.pid)
    process.kill()
    process.wait()
    assert children
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    first = json.loads((tmp_path / "out" / "r.json").read_text())["parts"][part]
    again = suite(*places, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    document = json.loads(output.read_text())
    assert document["parts"][part]["status"] == "done"
    batches = document["parts"][part]["data"]["batches"]
    assert set(batches) == {"2", "1"}
    assert batches["2"] == first["data"]["batches"]["2"]


def found_in(path, part, key):
    """The names under a key of a part's findings; none while there is no document yet."""
    try:
        data = json.loads(path.read_text())["parts"][part]["data"] or {}
    except (OSError, KeyError):
        return set()
    return set(data.get(key, ()))


def wait_for(condition, process=None, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.02)


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("blocked", ["--copy-to", "--output"])
def test_places_that_cannot_be_written_are_refused_before_anything_is_done(blocked, tmp_path):
    (tmp_path / "file").touch()
    places = {"--output": tmp_path / "r.json"} | {blocked: tmp_path / "file" / "r.json"}
    words = [str(word) for pair in places.items() for word in pair]
    ended = suite("--dry-run", "--part", "environment", *words, folder=tmp_path)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: cannot write ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "r.json").exists()


def test_interrupted_command_says_so_and_leaves_no_child(tmp_path):
    words = ("--dry-run", "--part", "environment", "--output", tmp_path / "r.json")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, words)],
        env=variables_for(tmp_path),
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: children_of(process.pid), process)
    (child,) = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.decode().splitlines() == [
        "environment ...",
        "interrupted; what was measured is kept, the same command goes on from there",
    ]
    assert not Path(f"/proc/{child}").exists()


def test_second_command_on_the_same_results_is_refused(tmp_path):
    output = tmp_path / "deep" / "r.json"
    words = ("--dry-run", "--part", "environment", "--output", output)
    with keep_to_itself(output):
        ended = suite(*words, folder=tmp_path)
    assert ended.returncode == 3
    assert f"error: another command is at work on {output}; end it" in ended.stderr
    assert list(output.parent.iterdir()) == []  # the lock goes, too
    with keep_to_itself(output):
        pass


def test_child_whose_parent_has_gone_ends_before_it_does_anything(tmp_path):
    output = tmp_path / "r.json"
    words = ("--dry-run", "--child", "environment", "--output", output)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert suite(*words, "--parent", gone.stdout.strip(), folder=tmp_path).returncode == 1
    assert not partial_path(output).exists()
    assert suite(*words, "--parent", os.getpid(), folder=tmp_path).returncode == 0
    assert partial_path(output).exists()


def test_unknown_part_is_wrong_usage(tmp_path):
    ended = suite("--part", "everything", folder=tmp_path)
    assert ended.returncode == 2
    assert "unknown part everything; see --list" in ended.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("--seconds", "nan"), "nan is not a number of seconds above 0", id="nan"),
        pytest.param(("--seconds", "-5"), "-5 is not a number of seconds above 0", id="negative"),
        pytest.param(("--seconds", "soon"), "'soon' is not a number", id="word"),
        pytest.param(("--scale", "-1"), "-1 is not a factor of 0 or more", id="scale"),
        pytest.param(("--copy-to", ""), "is empty; is the variable set?", id="unset variable"),
        pytest.param(("--output", "r.md"), "r.md does not end in .json", id="the page's name"),
    ],
)
def test_suite_wrong_value_is_wrong_usage(words, message, tmp_path):
    ended = suite("--dry-run", "--part", "environment", *words, folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


def test_suite_without_pytorch_says_so_in_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('gone', name='torch')\n")
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--list"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: torch is not installed for ")


def test_suite_place_that_cannot_be_written_is_found_before_the_first_part(tmp_path):
    (tmp_path / "file").write_text("mine")
    places = ("--output", tmp_path / "r.json", "--copy-to", tmp_path / "file")
    ended = suite("--dry-run", "--part", "environment", *places, folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    (line,) = ended.stderr.splitlines()
    assert line.endswith("file: Not a directory; choose another place")
    assert not (tmp_path / "r.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_suite_of_full_sizes_without_a_gpu_is_refused(tmp_path):
    ended = suite("--part", "environment", "--output", tmp_path / "r.json", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    (line,) = ended.stderr.splitlines()
    assert "sees no NVIDIA GPU here" in line
    assert line.endswith("or use --dry-run")
    assert not (tmp_path / "r.json").exists()


def test_suite_interrupted_says_what_is_kept(tmp_path):
    words = ("--dry-run", "--output", tmp_path / "r.json", "--artifacts", tmp_path / "files")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, words)],
        env=variables_for(tmp_path),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    wait_for((tmp_path / "r.json").exists, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1].startswith("interrupted; what was measured is kept")


# parts that break

CHILD = """
    import json, os, signal, sys, time
    name, path = sys.argv[-1], sys.argv[1]
    def write(status, data, reason=""):
        outcome = {"part": name, "status": status, "reason": reason, "data": data}
        json.dump(outcome | {"conditions": {}, "seconds": 1.0}, open(path, "w"))
    if name in ("kept", "slow"):
        write("cut short", {"half": 1})
    if name == "unnamed":
        os.kill(os.getpid(), signal.SIGRTMIN + 1)
    if name == "loud":
        sys.stderr.write("x" * 9_000_000 + " ")
        sys.exit("the end")
    if name in ("crash", "kept"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name in ("hang", "slow"):
        time.sleep(60)
    if name == "exit":
        sys.exit("no more\\nmemory")
    if name == "gone":
        write("not run", None, "no GPU here")
    else:
        write("done", {"found": 1})
    if name == "teardown":
        os.kill(os.getpid(), signal.SIGSEGV)
"""


def work(earlier, keep):
    raise AssertionError("parts run in processes of their own")


@pytest.fixture
def how(tmp_path):
    output = tmp_path / "r.json"
    code = textwrap.dedent(CHILD)
    return Drive(
        output=output,
        command=(sys.executable, "-c", code, str(partial_path(output))),
        seconds=60.0,
        conditions=NOW,
        say=lambda line: None,
    )


def driven(how, *parts):
    document = open_document(how.output, dry=False)
    drive(document, parts, how)
    return json.loads(how.output.read_text())["parts"]


@pytest.mark.parametrize(
    ("part", "status", "reason", "data"),
    [
        (Part("fine", 9, work), "done", "", {"found": 1}),
        (Part("gone", 9, work), "not run", "no GPU here", None),
        (Part("crash", 9, work), "failed", "SIGSEGV", None),
        (Part("kept", 9, work), "failed", "SIGSEGV", {"half": 1}),
        (Part("exit", 9, work), "failed", "status 1: no more memory", None),
        (Part("unnamed", 9, work), "failed", "signal 35", None),
        (Part("loud", 9, work), "failed", "xxx the end", None),
        (Part("hang", 0.5, work), "cut short", "ended after", None),
        (Part("slow", 1.5, work), "cut short", "ended after", {"half": 1}),
        (Part("teardown", 9, work), "done", "then its process was ended by SIGSEGV", {"found": 1}),
        (Part("none", 9, work, "no_such_module"), "not run", "is not installed", None),
    ],
    ids=lambda value: value.name if isinstance(value, Part) else "",
)
def test_drive_every_end_of_a_part_is_a_result(part, status, reason, data, how):
    parts = driven(how, part, Part("last", 9, work))
    assert parts[part.name]["status"] == status
    assert reason in parts[part.name]["reason"]
    assert parts[part.name]["data"] == data
    assert parts["last"]["status"] == "done"
    assert not partial_path(how.output).exists()


def test_drive_resumes_but_for_other_conditions_failures_and_again(how):
    said = []
    how = dataclasses.replace(how, say=said.append)

    def times(*ways):
        said.clear()
        for way in ways:
            driven(way, Part("part", 9, work))
        return said.count("part ...")

    assert times(how, how) == 1
    assert times(dataclasses.replace(how, again=True)) == 1
    assert times(dataclasses.replace(how, conditions=NOW | {"code": "2"})) == 1
    driven(how, Part("crash", 9, work))
    said.clear()
    driven(how, Part("crash", 9, work))
    assert "crash ..." in said


def test_drive_out_of_time_says_so_and_leaves_what_there_is(how):
    late = dataclasses.replace(how, seconds=0.0)
    parts = driven(late, Part("late", 9, work))
    assert parts["late"]["status"] == "not run"
    assert "were spent before" in parts["late"]["reason"]
    driven(how, Part("slow", 1.5, work))
    assert driven(late, Part("slow", 9, work))["slow"]["data"] == {"half": 1}


def test_drive_takes_over_what_a_killed_command_left(how):
    left = {"part": "lost", "status": "cut short", "reason": "", "data": {"half": 1}}
    left |= {"conditions": NOW, "seconds": 3.0}
    partial_path(how.output).write_text(json.dumps(left))
    parts = driven(how, Part("fine", 9, work))
    assert parts["lost"]["status"] == "cut short"
    assert parts["lost"]["reason"] == "the command was ended while it ran"
    assert parts["lost"]["data"] == {"half": 1}
    partial_path(how.output).write_text("{")  # killed while it wrote, by another writer
    assert driven(how, Part("fine", 9, work))["lost"]["data"] == {"half": 1}


def test_run_child_keeps_what_was_done_before_it_broke(how):
    def half(_earlier, keep):
        keep({"half": 1})
        assert json.loads(partial_path(how.output).read_text())["status"] == "cut short"
        raise RuntimeError("later")

    run_child(Part("half", 9, half), {"parts": {}}, how)
    outcome = json.loads(partial_path(how.output).read_text())
    assert outcome | {"seconds": 0} == {
        "part": "half", "status": "failed", "reason": "RuntimeError: later", "data": {"half": 1},
        "conditions": NOW, "seconds": 0,
    }  # fmt: skip


def test_run_child_sees_what_was_found_under_the_same_conditions_alone(how):
    seen = []

    def look(earlier, _keep):
        seen.append(set(earlier))
        return {}

    parts = {
        name: {"status": "done", "reason": "", "data": {}, "conditions": conditions}
        for name, conditions in (("same", NOW), ("other", {"device": "another"}), ("me", NOW))
    }
    run_child(Part("me", 9, look), {"parts": parts}, how)
    run_child(Part("me", 9, look), {"parts": parts}, dataclasses.replace(how, again=True))
    assert seen == [{"same", "me"}, {"same"}]


def test_run_child_without_the_package_is_not_run(how):
    def missing(_earlier, _keep):
        raise MissingBackendError("no GPU here")

    run_child(Part("gone", 9, missing), {"parts": {}}, how)
    outcome = json.loads(partial_path(how.output).read_text())
    assert (outcome["status"], outcome["reason"]) == ("not run", "no GPU here")


def test_open_document_refuses_what_it_did_not_write(tmp_path):
    path = tmp_path / "r.json"
    save(open_document(path, dry=True), path)
    with pytest.raises(FileError, match="holds a dry run, this is a real run"):
        open_document(path, dry=False)
    path.write_text('{"schema"')
    with pytest.raises(FileError, match="cannot go on with"):
        open_document(path, dry=True)


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"schema": 2, "parts": {}}', '{"schema": 3, "title": "gpu suite", "parts": {}}',
     '{"schema": 2, "title": "gpu suite", "parts": {"environment": 5}}',
     '{"schema": 2, "title": "gpu suite", "parts": {"environment": {"status": "done"}}}',
     "[" * 100_000],
    ids=["list", "truncated", "no title", "newer", "no part", "half a part", "deep"],
)  # fmt: skip
def test_open_document_refuses_what_is_none_in_one_line(text, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"\Acannot go on with [^\n]*choose another --output\Z"):
        open_document(path, dry=False)


@pytest.mark.parametrize("text", ["[]", "{}", '{"part": "lost", "status": "over"}', "[" * 100_000],
                         ids=["list", "empty", "other", "deep"])  # fmt: skip
def test_drive_passes_over_what_is_no_outcome(text, how):
    partial_path(how.output).write_text(text)
    assert set(driven(how, Part("fine", 9, work))) == {"fine"}


def test_drive_takes_no_outcome_of_another_part(how):
    """A process that a killed command left behind writes to the same place."""
    code = how.command[2].replace('{"part": name', '{"part": "another"')
    other = dataclasses.replace(how, command=(*how.command[:2], code, *how.command[3:]))
    found = driven(other, Part("fine", 9, work))["fine"]
    assert (found["status"], found["reason"]) == ("failed", "it left no outcome")


def test_drive_out_of_time_keeps_what_was_found_under_other_conditions(how):
    driven(how, Part("part", 9, work))
    elsewhere = dataclasses.replace(how, conditions=NOW | {"code": "2"}, seconds=0.0)
    assert driven(elsewhere, Part("part", 9, work))["part"]["data"] == {"found": 1}


PART = {
    "status": "done", "reason": "", "data": None, "seconds": 1, "conditions": {"device": "CPU"},
}  # fmt: skip
DOCUMENT = {"schema": 2, "title": DRY_RUN, "parts": {"environment": PART}}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"schema": 1}, id="older"),
        pytest.param({"title": None}, id="title"),
        pytest.param({"title": "a poem"}, id="foreign title"),
        pytest.param({"parts": []}, id="list"),
        pytest.param({"parts": {"environment": 3}}, id="number"),
        *(pytest.param({"parts": {"environment": PART | {name: []}}}, id=name) for name in PART),
    ],
)
def test_open_document_refuses_what_is_not_whole(change, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(DOCUMENT))
    assert open_document(path, dry=True) == DOCUMENT
    path.write_text(json.dumps(DOCUMENT | change))
    with pytest.raises(FileError, match="cannot go on with"):
        open_document(path, dry=True)


def test_claim_places_takes_its_own_and_refuses_others(tmp_path):
    output, copies = tmp_path / "r.json", tmp_path / "out"
    page = output.with_suffix(".md")
    save(DOCUMENT, output)
    page.write_text(render_document(DOCUMENT))
    claim_places(output, copies, artifacts=tmp_path / "files", dry=True)
    with pytest.raises(FileError, match=r"is the folder of r\.json itself"):
        claim_places(output, tmp_path, artifacts=tmp_path / "files", dry=True)
    with pytest.raises(FileError, match=r"cannot write in .*r\.json: Not a directory"):
        claim_places(output, None, artifacts=output, dry=True)
    copies.mkdir()
    (copies / "r.json").write_text(json.dumps(DOCUMENT | {"title": "gpu suite"}))
    with pytest.raises(FileError, match="holds a real run, this is a dry run"):
        claim_places(output, copies, artifacts=tmp_path / "files", dry=True)
    page.write_text("my notes")
    with pytest.raises(FileError, match=r"r\.md is not a page of this suite"):
        claim_places(output, None, artifacts=tmp_path / "files", dry=True)


def test_drive_leaves_a_foreign_partial_file_alone(how):
    partial_path(how.output).write_text('{"part": "environment"}')
    document = {"parts": {}}
    assert merge_partial(document, how.output) == ""
    assert document["parts"] == {}


def test_conditions_tell_a_dry_run_and_the_code():
    assert conditions(dry=True) != conditions(dry=False)
    assert len(conditions(dry=True)["code"]) == 16


def test_suite_model_has_the_same_weights_on_every_machine(tmp_path):
    """The digests were made with another release of PyTorch than the one that is pinned."""
    setup = Setup(tmp_path, dry=True)
    assert {name: suite_model(name, setup).sha256[:16] for name in (TINY, NOTEBOOK, TINY_V2)} == {
        TINY: "bfcbf4e464319ed1",
        NOTEBOOK: "b3f16bdef39f1916",
        TINY_V2: "22c8026639371aab",
    }


def test_suite_model_is_as_trained_ones_are(tmp_path):
    model = suite_model(TINY, Setup(tmp_path, dry=True)).reference
    values = dict(model.named_parameters())
    assert all(value.std() > 0 for value in values.values() if value.numel() > 1)
    with torch.inference_mode():
        logits = model(torch.from_numpy(seeded_images(model.config, count=4).images))
    assert 0.1 < float(logits.std()) < 10


# what the page says


def row(name, speed, kind, mode="eager", precision="fp16"):
    return {
        "name": name, "images_per_s": speed, "kind": kind, "mode": mode, "precision": precision,
        "batch": 128, "not_run": "", "failed": "", "backend": "B", "iterations": 20,
        "relative_l2": 1e-4,
    }  # fmt: skip


def measured(*rows, title="gpu suite", **others):
    """A document whose throughput part has these rows; other parts have theirs."""
    parts = {f"throughput-{TINY}": rows} | {
        f"{name}-{TINY}": found for name, found in others.items()
    }
    return {
        "title": title,
        "parts": {
            name: {
                "status": "done", "reason": "", "seconds": 1.0, "conditions": {"device": "H200"},
                "data": {"batches": {"128": {"results": list(found)}}},
            }
            for name, found in parts.items()
        },
    }  # fmt: skip


TIMM = row("timm's model, compiled", 8000.0, "original", "compile")
RTX = row("tensorrt-rtx fp16", 10000.0, "engine", "file")


def test_goals_compare_with_what_was_measured():
    document = measured(
        TIMM,
        row("deploy model", 9000.0, "deploy"),
        RTX,
        float32=[
            row("timm's model", 2000.0, "original", precision="fp32"),
            row("tensorrt-rtx fp16, CUDA graph", 9900.0, "engine", "file"),
        ],
        pytorch=[
            row("timm's model", 5000.0, "original"),
            row("timm's model, CUDA graph", 6000.0, "original", "graph"),
            row("deploy model, CUDA graph", 6600.0, "deploy", "graph"),
        ],
    )
    speed, compiled, eager = goals(document)
    assert (speed.verdict, speed.measured.split()[0]) == ("met", "10,000")
    assert (compiled.verdict, compiled.measured.split()[0]) == ("missed", "1.25x")
    assert (eager.verdict, eager.measured.split()[0]) == ("met", "4.95x")
    assert "in the same arithmetic 1.10x" in eager.measured
    assert [goal.verdict for goal in goals(measured())] == ["not measured"] * 3
    dry = goals(document | {"title": DRY_RUN})
    assert {goal.verdict for goal in dry} == {DRY_RUN}


def test_goals_are_of_the_rounds_of_one_process():
    """The best of one part is not held against the best of another."""
    apart = measured(RTX, pytorch=[TIMM])
    assert goals(apart)[1].verdict == "not measured"
    slower = measured(RTX, TIMM, pytorch=[TIMM | {"images_per_s": 1.0}, RTX])
    assert goals(slower)[1].measured.startswith("1.25x")


def test_goals_count_the_compiled_deploy_model_as_ours():
    ours = row("deploy model, compiled", 12000.0, "deploy", "compile")
    assert goals(measured(ours, TIMM))[1].measured.startswith("1.50x")
    assert goals(measured(ours))[1].verdict == "not measured"  # it is no bar for itself


def test_goals_leave_out_rows_that_failed():
    fast = row("deploy model", 99999.0, "deploy") | {"failed": "wrong output"}
    assert goals(measured(fast))[0].verdict == "not measured"


def test_answers_leave_out_rows_whose_output_nothing_was_held_against():
    unchecked = row("deploy model", 99999.0, "deploy") | {"relative_l2": None}
    assert goals(measured(unchecked))[0].verdict == "not measured"
    assert goals(measured(unchecked, TIMM, RTX))[1].measured.startswith("1.25x")


def test_page_of_two_devices_answers_for_the_last_one_and_says_which_is_not(tmp_path):
    document = measured(RTX, pytorch=[RTX | {"images_per_s": 77777.0}])
    document["parts"][f"pytorch-{TINY}"]["conditions"] = {"device": "another"}
    document["conditions"] = {"device": "H200", "code": "2"}
    here = of_this_device(document)
    assert goals(here)[0].measured.startswith("10,000")
    page = render_document(open_document(tmp_path / "r.json", dry=False) | {
        "parts": {
            name: part | {"data": None} for name, part in document["parts"].items()
        },
        "conditions": document["conditions"],
    })  # fmt: skip
    assert "# GPU suite: H200" in page
    assert f"| pytorch-{TINY} | done | 1 | other code, device |" in page
    assert f"| throughput-{TINY} | done | 1 | other code |" in page


HOP = {"passed": True, "results": [{"cosine": 0.9999}], "name": "engine", "located": ""}
RIGHT = {"finite": True, "relative l2": 1e-3}


@pytest.mark.parametrize(
    ("found", "words", "faults"),
    [
        ({"parity": {"hops": [HOP]}}, "within tolerance, smallest cosine 0.9999000", 0),
        ({"parity": {"hops": [HOP, HOP | {"passed": False}]}}, "OUT OF TOLERANCE", 1),
        ({"parity": None, "failed": {"x": "no memory"}}, "NOT JUDGED (no memory)", 1),
        ({"parity": {"hops": [HOP]}, "runs": {"8": RIGHT, "128": RIGHT | {"relative l2": 0.3}}},
         "WRONG at batch 128", 1),
        ({"parity": {"hops": [HOP]}, "as a CUDA graph": {"runs": {"1": RIGHT | {"finite": False}}}},
         "WRONG at batch 1 as a CUDA graph", 1),
    ],
    ids=["right", "out", "not judged", "wrong", "wrong graph"],
)  # fmt: skip
def test_engine_answers_and_faults_are_of_what_was_judged_and_called(found, words, faults):
    part = {"status": "done", "reason": "", "data": found | {"target": "default"}}
    document = {"parts": {"engine-tensorrt-rtx-m": part}}
    (answer,) = engine_answers(document)
    assert answer.startswith(f"tensorrt-rtx, m: runs (target default), {words}")
    assert len(found_faults(document)) == faults


def test_page_shows_what_was_cut_short_without_ratios():
    document = measured(RTX, TIMM)
    part = document["parts"][f"throughput-{TINY}"]
    part["data"]["under way"] = {"1": {"results": [TIMM | {"batch": 1, "iterations": 5}]}}
    assert cut_short(document) == [
        [f"throughput-{TINY}", "1", "timm's model, compiled, fp16", "8,000", "5"]
    ]
    assert [table_row[1] for table_row in speed_table(document)] == ["128"]


@pytest.mark.parametrize(
    ("name", "flavor", "model"),
    [
        ("engine-tensorrt-rtx-notebook-swin-t", "tensorrt-rtx", "notebook-swin-t"),
        ("engine-tensorrt-notebook-swin-t", "tensorrt", "notebook-swin-t"),
    ],
)
def test_engine_answers_say_how_far_a_broken_engine_came(name, flavor, model):
    runs = {"8": {"relative l2": 1e-3, "first call s": 2.0, "finite": True}}
    part = {"status": "failed", "reason": "SIGSEGV", "data": {"runs": runs}}
    (answer,) = engine_answers({"parts": {name: part}})
    assert answer == f"{flavor}, {model}: failed (SIGSEGV); batch 8 ran, relative L2 0.001"


def test_faults_are_failures_and_steps_out_of_tolerance_not_what_is_missing():
    hop = {"name": "ONNX fp16", "passed": False, "located": "stage 1, block 2"}
    document = {
        "title": "gpu suite",
        "parts": {
            "a": {"status": "not run", "reason": "no GPU", "data": None},
            "b": {"status": "failed", "reason": "SIGSEGV", "data": None},
            "c": {"status": "cut short", "reason": "it was ended after 9 s", "data": None},
            "parity-x": {
                "status": "done",
                "reason": "",
                "data": {
                    "parity": {"hops": [hop, hop | {"passed": True}, hop | {"passed": None}]},
                    "failed": {"deploy model": "out of memory"},
                    "not run": {"ONNX fp32": "no onnxruntime"},
                },
            },
        },
    }
    assert found_faults(document) == [
        "b failed: SIGSEGV",
        "parity-x, deploy model failed: out of memory",
        "parity-x, ONNX fp16: out of tolerance (stage 1, block 2)",
    ]


def test_page_of_nothing_says_so(tmp_path):
    page = render_document(open_document(tmp_path / "r.json", dry=False))
    assert "no part done" in page
    assert "not measured" in page


def test_report_of_several_batches_is_taken_apart_with_its_comparisons():
    results = [BenchResult("ONNX fp32", batch, "fp32", "B", kind="onnx") for batch in (8, 1)]
    compared = [Comparison(batch, "original", "a", "b", 1.5) for batch in (8, 1)]
    found = _by_batch(BenchReport("m", 224, tuple(results), {}, tuple(compared)))
    assert list(found) == ["8", "1"]
    for batch, values in found.items():
        assert [one["batch"] for one in values["results"]] == [int(batch)]
        assert [one["batch"] for one in values["comparisons"]] == [int(batch)]
