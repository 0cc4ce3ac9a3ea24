"""What only real processes show: streams, signals, files after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from command_line import PLAN_KEYS, run_process

from exporters.artifact import manifest_path, read_manifest


def test_process_result_and_progress_go_to_their_streams(engine: Path) -> None:
    outcome = run_process("plan", engine, "--json").assert_done()
    assert outcome.json.keys() >= PLAN_KEYS
    assert "Reading the plan" in outcome.err


def test_process_error_is_one_line_and_status_3(tmp_path: Path) -> None:
    outcome = run_process("export", "--checkpoint", "no.pt", cwd=tmp_path)
    outcome.assert_error("no.pt does not exist; give a checkpoint file")
    assert os.listdir(tmp_path) == []


def test_process_name_that_is_no_text_gets_an_answer(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.pt")
    run_process("export", "--checkpoint", name, cwd=tmp_path).assert_error(
        r"\udcff\udcfe.pt does not"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_process_result_that_cannot_be_written_is_status_3() -> None:
    with open("/dev/full", "w") as device:
        outcome = run_process("models", stdout=device)
    outcome.assert_error("cannot write the result to standard output: No space left on device")


def test_process_reader_that_goes_away_is_no_failed_check() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outcome = run_process("models", stdout=writer)
    os.close(writer)
    assert outcome.status == 141
    assert "Traceback" not in outcome.err
    assert "Exception" not in outcome.err


def start_and_wait_for(text: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start a command and wait until it says ``text``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "swin_deploy", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any(text in line for line in process.stderr)
    return process


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["SIGINT", "SIGTERM"],
)
@pytest.mark.parametrize("text", ["Loading ONNX", "Building x.engine"])
def test_process_ended_by_a_signal_cleans_up_and_says_so(
    text: str, number: int, status: int, word: str, full: Path, built: Path, tmp_path: Path
) -> None:
    process = start_and_wait_for(text, "build-trt", full, "--output", "x.engine", cwd=tmp_path)
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status
    assert err.endswith(f"{word}; nothing half-written is left\n")
    assert "Traceback" not in err
    assert out == ""
    assert os.listdir(tmp_path) == []


def assert_whole(folder: Path) -> None:
    """Every file under a final name is complete."""
    for path in folder.iterdir():
        if path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path), full_check=True)
        if path.suffix in (".onnx", ".engine") and manifest_path(path).exists():
            read_manifest(path)
        assert path.name.startswith(".") or path.suffix in (".onnx", ".engine", ".json")


def kill_when_a_file_appears(process: subprocess.Popen[str], folder: Path) -> None:
    before = set(os.listdir(folder))
    while process.poll() is None and set(os.listdir(folder)) == before:
        time.sleep(0.0005)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_process_export_killed_leaves_only_whole_files(tmp_path: Path) -> None:
    arguments = ("export", "--model", "notebook-digits", "--output", "x.onnx")
    process = start_and_wait_for("Exporting", *arguments, cwd=tmp_path)
    kill_when_a_file_appears(process, tmp_path)
    assert_whole(tmp_path)


@pytest.mark.slow
def test_process_build_killed_leaves_only_whole_files(
    full: Path, built: Path, tmp_path: Path
) -> None:
    arguments = ("build-trt", full, "--fp16", "--batch", "1", "--output", "x.engine")
    for text in ("Writing", "Building"):
        process = start_and_wait_for(text, *arguments, cwd=tmp_path)
        kill_when_a_file_appears(process, tmp_path)
        assert_whole(tmp_path)
    process = start_and_wait_for("next:", *arguments, cwd=tmp_path)
    process.communicate()
    assert process.returncode == 0
    assert_whole(tmp_path)
    read_manifest(tmp_path / "x.engine")
