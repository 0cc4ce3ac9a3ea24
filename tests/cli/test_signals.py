"""Interrupts and requests to end, at moments that an audit hook or a text on stderr tells."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Outcome, run_process

ENDS = [
    pytest.param(signal.SIGINT, 130, "interrupted; nothing half-written is left", id="SIGINT"),
    pytest.param(signal.SIGTERM, 143, "terminated; nothing half-written is left", id="SIGTERM"),
]
# Runs the console script, and sends the process a signal when a module is imported.
AT_IMPORT = """
import os, sys
number, at = int(sys.argv[1]), sys.argv[2]
def hook(event, arguments):
    if event == "import" and arguments[0] == at:
        os.kill(os.getpid(), number)
sys.addaudithook(hook)
sys.argv = ["swin-deploy", *sys.argv[3:]]
from swin_deploy.__main__ import main
main()
"""


def run_code(code: str, *arguments: object, cwd: Path | None = None) -> Outcome:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def assert_ended(outcome: Outcome, status: int, line: str) -> None:
    assert outcome.status == status, outcome.err
    assert outcome.err.splitlines()[-1] == line
    assert outcome.err.count("nothing half-written") == 1
    assert "Traceback" not in outcome.err
    assert "ignored" not in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(("number", "status", "line"), ENDS)
@pytest.mark.parametrize("module", ["swin_deploy.cli", "click.core", "exporters.errors"])
def test_signal_while_the_command_line_is_imported(
    module: str, number: int, status: int, line: str, tmp_path: Path
) -> None:
    outcome = run_code(AT_IMPORT, number, module, "models", cwd=tmp_path)
    assert_ended(outcome, status, line)


@pytest.mark.parametrize(("number", "status", "line"), ENDS)
@pytest.mark.parametrize("module", ["torch", "onnxscript"])
def test_signal_while_a_command_imports(
    module: str, number: int, status: int, line: str, tmp_path: Path
) -> None:
    """In its loading, which is left at once, and later, when there may be files to remove."""
    arguments = ("export", "--model", "notebook-digits", "--output", "x.onnx")
    outcome = run_code(AT_IMPORT, number, module, *arguments, cwd=tmp_path)
    assert_ended(outcome, status, line)
    assert os.listdir(tmp_path) == []


SWALLOWED = """
import signal, sys
import swin_deploy.artifacts.onnx_file
from exporters.errors import ExportError
def write(*_, **__):
    try:
        signal.raise_signal(int(number))
    except BaseException:
        raise {error} from None
swin_deploy.artifacts.onnx_file.write_onnx = write
number, sys.argv = sys.argv[1], ["swin-deploy", "export", "--model", "notebook-digits"]
from swin_deploy.__main__ import main
main()
"""


@pytest.mark.parametrize(("number", "status", "line"), ENDS)
@pytest.mark.parametrize("error", ['ExportError("no")', 'RuntimeError("no")'])
def test_signal_that_a_library_turns_into_an_error(
    error: str, number: int, status: int, line: str, tmp_path: Path
) -> None:
    outcome = run_code(SWALLOWED.replace("{error}", error), number, cwd=tmp_path)
    assert_ended(outcome, status, line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_the_interpreter_shuts_down_changes_nothing(number: int) -> None:
    code = """
import atexit, os, sys
atexit.register(os.kill, os.getpid(), int(sys.argv[1]))
sys.argv = ["swin-deploy", "--version"]
from swin_deploy.__main__ import main
main()
"""
    outcome = run_code(code, number).assert_done()
    assert outcome.out.startswith("swin-deploy, version ")
    assert outcome.err == ""


def test_signal_that_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """It is with nohup, or in the background of a script."""
    code = "import signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)" + AT_IMPORT
    outcome = run_code(code, int(signal.SIGINT), "click", "models", cwd=tmp_path)
    assert outcome.assert_done().err.count("\n") == 1


def test_signal_sent_twice_does_not_cut_cleaning_short() -> None:
    """timeout(1) sends its signal to the process, and then to its group."""
    code = """
import os, signal, time
from exporters import signals
signals.unwind()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt as err:
    os.kill(os.getpid(), signal.SIGTERM)
    print("cleaned", *signals.farewell(err))
    signals.GRACE_S = 0
    os.kill(os.getpid(), signal.SIGTERM)
    print("never")
"""
    outcome = run_code(code)
    assert outcome.status == 143
    assert "never" not in outcome.out
    outcome = run_code(code.replace("signals.GRACE_S = 0", "raise SystemExit(0)"))
    assert outcome.status == 0
    assert outcome.out == "cleaned terminated; nothing half-written is left 143\n"


def test_interrupt_through_exec_is_status_130() -> None:
    """CPython would kill itself with the signal at exit: shells say 130 then, Popen -2."""
    code = """
import signal, sys
from exporters import signals
from swin_deploy import cli
def interrupted(**_):
    exec("signal.raise_signal(signal.SIGINT)")
cli.cli = interrupted
signals.unwind()
cli.main()
"""
    outcome = run_code(code)
    assert_ended(outcome, 130, "interrupted; nothing half-written is left")


# Streams that fail


@pytest.mark.parametrize("arguments", ["--help", "--version", "export --help", "-h"])
def test_help_with_a_reader_that_is_gone_is_status_141(arguments: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outcome = run_process(*arguments.split(), stdout=writer)
    os.close(writer)
    assert (outcome.status, outcome.err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "--version", "export --help"])
def test_help_to_a_full_disk_is_status_3(arguments: str) -> None:
    with open("/dev/full", "w") as device:
        outcome = run_process(*arguments.split(), stdout=device)
    outcome.assert_error("cannot write to standard output")
    assert outcome.err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("arguments", "status"), [("models", 0), ("nonsense", 2), ("plan x", 3)])
def test_progress_and_errors_to_a_full_disk_keep_the_status(arguments: str, status: int) -> None:
    with open("/dev/full", "w") as device:
        outcome = run_process(*arguments.split(), stderr=device)
    assert outcome.status == status
    assert bool(outcome.out) is (status == 0)


@pytest.mark.parametrize(("arguments", "status"), [("models", 141), ("nonsense", 2)])
def test_standard_error_without_a_reader_gives_no_failed_check(arguments: str, status: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outcome = run_process(*arguments.split(), stderr=writer)
    os.close(writer)
    assert outcome.status == status
