"""The command line: validate, call the library, print; statuses 0, 1, 2 and 3.

==================  ============================================================================
``auto``            ``--auto``: the search for the first precision within tolerance
``bench``           ``swin-deploy bench``: latency and throughput next to PyTorch
``bundle``          ``swin-deploy bundle``: the folder that a server loads, and checks of servers
``build_trt``       ``swin-deploy build-trt``: an ONNX file to an engine
``bulk``            ``predict --parquet``: answers to a data set as part files
``command``         the class of every command: -q and -v, and options from variables
``console``         the output of commands: results on stdout, progress on stderr
``engine_options``  engine build options: timing cache, target GPUs, version compatibility
``evaluate``        ``swin-deploy evaluate``: accuracy on labelled images
``export``          ``swin-deploy export``: a checkpoint to an ONNX file
``export_model``    ``swin-deploy export-model``: a whole model around the deploy model to ONNX
``failures``        messages for exceptions that are not a ``DeployError``
``heartbeat``       progress of a step: lines in a log, a bar on a terminal
``inputs``          checks of a command's inputs, before PyTorch loads
``options``         options that several commands share
``outputs``         checks of a command's outputs: what may be replaced, and file endings
``parity``          ``swin-deploy parity``: the comparison of every step with the reference
``plan``            ``swin-deploy plan``: the kernels that TensorRT launches
``precision``       ``swin-deploy precision``: ranges, and the noise of half precision by part
``predict``         ``swin-deploy predict``: the classes or features of pictures
``report``          ``swin-deploy report``: render a report again, or compare two
``run``             ``swin-deploy run``: the whole line in one command
``run_cpu``         ``run --for cpu``: the fastest right way to run a model on a CPU
``run_steps``       steps that ``run`` has for every runtime
``sizes``           one model at several image sizes: exported, built, and run size by size
``doctor``          ``swin-deploy doctor``: the packages, runtimes and GPUs of this machine
``models``          ``swin-deploy models``: the variants, and the sources of checkpoints
``values``          values of options: paths, batches, times and lists of numbers
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
from swin_deploy.cli.bundle import bundle
from swin_deploy.cli.command import level_options
from swin_deploy.cli.console import READER_GONE, discard_streams, is_full, say
from swin_deploy.cli.doctor import doctor
from swin_deploy.cli.evaluate import evaluate
from swin_deploy.cli.export import export
from swin_deploy.cli.export_model import export_model
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
LINE = (
    run,
    export,
    export_model,
    precision,
    build_trt,
    plan,
    parity,
    bench,
    evaluate,
    predict,
    bundle,
    report,
)
for command in (*LINE, models, doctor):
    cli.add_command(command)


def main() -> None:
    """Run the command line; a DeployError becomes one line and exit status 3."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # no failure where a terminal lacks a sign
    warnings.filterwarnings("ignore", module="PIL")  # an image that cannot be read is an error
    try:
        status = _run()
    except SystemExit:  # raised by Click when the reader of a help text has gone
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
        # The message repeats the user's input; the attribute is declared final.
        vars(err)["message"] = one_line(err.message, most=MOST_OF_USAGE)
        with contextlib.suppress(OSError):  # the reader has gone
            err.show()
        return err.exit_code
    except click.Abort as err:
        return _say_farewell(err.__cause__)
    except KeyboardInterrupt as err:
        return _say_farewell(err)
    except Exception as err:  # the outermost frame: it becomes a line or a bug report
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
    """Show an error in one line, or a bug with its traceback, and return the exit status."""
    reason = str(err) if isinstance(err, DeployError) else explain(err)
    if reason:
        _show_error(f"error: {reason}")
        return COULD_NOT_RUN
    with contextlib.suppress(click.exceptions.Exit):  # the reader has gone
        for line in bug_report(err).splitlines():
            say(line, fg="red")
    return BUG


def _show_error(text: str) -> None:
    """Show an error in red on standard error, escaped and cut to one line."""
    with contextlib.suppress(click.exceptions.Exit):  # the reader has gone
        say(one_line(text), fg="red")
