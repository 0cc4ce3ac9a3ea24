"""``scripts/gpu_suite``: a dry run of everything, and what it does when a part breaks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_suite.document import (
    DRY_RUN,
    keep_to_itself,
    partial_path,
)
from benchmarks.gpu_suite.models import NOTEBOOK, TINY, Setup
from benchmarks.gpu_suite.parts import parts_of
from benchmarks.gpu_suite.summary import (
    rows_of,
)

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "gpu_suite"

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


@pytest.mark.slow
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
    gone_by = time.monotonic() + 10  # killed at once, but buried by the system
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < gone_by
        time.sleep(0.05)


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_suite_of_full_sizes_without_a_gpu_is_refused(tmp_path):
    ended = suite("--part", "environment", "--output", tmp_path / "r.json", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    (line,) = ended.stderr.splitlines()
    assert "sees no NVIDIA GPU here" in line
    assert line.endswith("or use --dry-run")
    assert not (tmp_path / "r.json").exists()
