"""The command line: validate, call the library, print; statuses 0, 1, 2 and 3.

==================  ============================================================================
``auto``            ``--auto``: the first precision that is right, and why not those before
``bench``           ``swin-deploy bench``: is it faster, and than what
``build_trt``       ``swin-deploy build-trt``: an ONNX file to an engine
``command``         what every command has: its levels of talk, and variables for options
``console``         what commands say, and where
``engine_options``  options about an engine's life
``evaluate``        ``swin-deploy evaluate``: accuracy on labelled images
``export``          ``swin-deploy export``: a checkpoint to an ONNX file
``failures``        what a command says where something else goes wrong than an error of its own
``heartbeat``       signs of life of a step
``inputs``          inputs at the border of the commands
``options``         options that several commands share
``outputs``         outputs at the border of the commands
``parity``          ``swin-deploy parity``: is it equal
``plan``            ``swin-deploy plan``: the kernels that TensorRT launches
``precision``       ``swin-deploy precision``: what half precision does to each part
``predict``         ``swin-deploy predict``: what is in a picture
``report``          ``swin-deploy report``: render a report again, or compare two
``run``             ``swin-deploy run``: the whole line in one command
``doctor``          ``swin-deploy doctor``: what this machine can do
``models``          ``swin-deploy models``: the variants, and where checkpoints may come from
``values``          what the values of options may be
==================  ============================================================================

0: done, and within tolerance.  1: a check failed.  2: wrong usage.  3: could not run.
70: a bug of this program, with its traceback.
130: interrupted.  141: whoever read the output has gone.  143: terminated.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings

import click

from exporters import __version__
from exporters.errors import DeployError
from exporters.signals import farewell, received
from swin_deploy.cli.bench import bench
from swin_deploy.cli.build_trt import build_trt
from swin_deploy.cli.command import level_options
from swin_deploy.cli.console import READER_GONE, discard_streams, is_full, say
from swin_deploy.cli.doctor import doctor
from swin_deploy.cli.evaluate import evaluate
from swin_deploy.cli.export import export
from swin_deploy.cli.failures import BUG, MOST_OF_USAGE, bug_report, explain, one_line
from swin_deploy.cli.models import models
from swin_deploy.cli.parity import parity
from swin_deploy.cli.plan import plan
from swin_deploy.cli.precision import precision
from swin_deploy.cli.predict import predict
from swin_deploy.cli.report import report
from swin_deploy.cli.run import run

COULD_NOT_RUN = 3

EPILOG = """\b
Examples:
  swin-deploy run --checkpoint swin.pt --images photos/
  swin-deploy export --checkpoint swin.pt --opset 17
  swin-deploy build-trt --fp16
  swin-deploy parity --checkpoint swin.pt --engine engines/swin.engine

\b
Exit status: 0 done and within tolerance, 1 a check failed, 2 wrong usage,
3 could not run, 70 a bug of swin-deploy; 130 interrupted, 143 terminated.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="swin-deploy")
def cli() -> None:
    """From a Swin Transformer checkpoint to a verified FP16 TensorRT engine."""


cli.params += level_options(envvars=True)
LINE = (run, export, precision, build_trt, plan, parity, bench, evaluate, predict, report)
for command in (*LINE, models, doctor):
    cli.add_command(command)


def main() -> None:
    """Run the command line; a DeployError becomes one line and exit status 3."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a sign is no reason to fail
    warnings.filterwarnings("ignore", module="PIL")  # an image that cannot be read is an error
    try:
        status = _run()
    except SystemExit:  # Click's, where the reader of a help text has gone
        status = READER_GONE
        discard_streams()
    except OSError as err:
        if not is_full(err):
            raise
        discard_streams()
        _show_error(
            f"error: cannot write to standard output, or a temporary file: {err.strerror}; "
            "free some space"
        )
        status = COULD_NOT_RUN
    sys.exit(status)


def _run() -> int:
    try:
        status = cli(standalone_mode=False)
    except click.ClickException as err:
        # It repeats what the user typed; the attribute is declared final.
        vars(err)["message"] = one_line(err.message, most=MOST_OF_USAGE)
        with contextlib.suppress(OSError):  # nobody listens
            err.show()
        return err.exit_code
    except click.Abort as err:
        return _say_farewell(err.__cause__)
    except KeyboardInterrupt as err:
        return _say_farewell(err)
    except Exception as err:  # the border: it becomes a line or the report of a bug
        if received():
            return _say_farewell(received())
        if isinstance(err, OSError) and is_full(err):
            raise
        return _end_of(err)
    return status if isinstance(status, int) else 0


def _say_farewell(err: BaseException | None) -> int:
    line, status = farewell(err)
    _show_error(line)
    return status


def _end_of(err: Exception) -> int:
    """Say in one line what went wrong, or show the bug; the exit status."""
    reason = str(err) if isinstance(err, DeployError) else explain(err)
    if reason:
        _show_error(f"error: {reason}")
        return COULD_NOT_RUN
    with contextlib.suppress(click.exceptions.Exit):  # nobody listens
        for line in bug_report(err).splitlines():
            say(line, fg="red")
    return BUG


def _show_error(text: str) -> None:
    """One line, whatever a file or a key is called."""
    with contextlib.suppress(click.exceptions.Exit):  # nobody listens
        say(one_line(text), fg="red")
