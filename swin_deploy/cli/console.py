"""The output of commands: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from exporters.errors import FileError
from exporters.signals import nothing_to_clean
from exporters.text_files import listed, visible
from swin_deploy.cli.heartbeat import CLEAR_LINE, Bar, Heartbeat, Ticker

if TYPE_CHECKING:
    from swin_deploy.checkpoints.load import LoadedModel
    from swin_deploy.images.sets import ImageSet

T = TypeVar("T")
CHECK_FAILED = 1  # exit status
QUIET, NORMAL, VERBOSE = 0, 1, 2
READER_GONE = 141  # 128 and the signal, as shells have it
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
PAGE_WIDTH = 100  # of tables in a file or a pipe, unless $COLUMNS is set


@dataclass
class Console:
    """Output at the level that --quiet and --verbose ask for.

    Attributes:
        level: ``QUIET``, ``NORMAL`` or ``VERBOSE``.
    """

    level: int = NORMAL

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step's progress while the block runs, then its mark and its time."""
        step = Step(title, self.level)
        step.begin()
        try:
            yield step
        except BaseException:
            step.end(mark="✗")
            raise
        step.end(mark="✓")

    @contextlib.contextmanager
    def loading(self, title: str) -> Iterator[Step]:
        """Show a step that only imports and reads, so that an interrupt ends it at once."""
        with self.step(title) as step, nothing_to_clean():
            yield step

    def note(self, text: str) -> None:
        """Show a remark on standard error, except at level ``QUIET``."""
        if self.level > QUIET:
            say(text)

    def warn(self, text: str) -> None:
        """Show a warning on standard error, at every level."""
        say(f"warning: {text}", fg="yellow")

    def next_step(self, *words: object, why: str) -> None:
        """Show a command to run after this one, quoted for a shell, followed by the reason."""
        if self.level > QUIET:
            say(f"next: {command_line(*words)}  # {why}", fg="cyan")

    def again(self, *words: object, why: str) -> None:
        """Show this command with more words, as a next step."""
        self.next_step(*sys.argv[1:], *words, why=why)


def command_line(*words: object) -> str:
    """Return a swin-deploy command quoted for a shell."""
    return shlex.join(["swin-deploy", *map(str, words)])


class Step:
    """Progress of one step: a live line on a terminal, with a bar after a moment; else lines."""

    def __init__(self, title: str, level: int) -> None:
        self.title = title
        self.level = level
        self.live = level > QUIET and _is_terminal(sys.stderr)
        self.started = time.monotonic()
        self._signs: Bar | Heartbeat = Bar(title) if self.live else Heartbeat(title, _say_alive)
        self._ticker: Ticker | None = None

    def begin(self) -> None:
        if self.level == QUIET:
            return
        say(f"  {self.title} ...", nl=not self.live)
        self._ticker = Ticker(self._signs.beat)

    def update(self, detail: str, share: float | None = None, /) -> None:
        """Show what the step is doing, and the share done, 0 to 1; a ``Progress``."""
        if self.level == QUIET:
            return
        if self.level == VERBOSE and not self.live:
            say(f"    {detail}")
        self._signs.update(visible(detail), share)

    def warn(self, text: str) -> None:
        """Show a warning above the line of progress, at every level."""
        self.above(f"warning: {text}", fg="yellow")

    def above(self, text: str, *, fg: str | None = None) -> None:
        """Show a line above the line of progress."""
        say(text, start=CLEAR_LINE if self.live else "", fg=fg)

    def end(self, *, mark: str) -> None:
        if self._ticker is None:
            return
        self._ticker.stop()
        if isinstance(self._signs, Bar):
            self._signs.stop()
        start = CLEAR_LINE if self.live else ""
        elapsed = time.monotonic() - self.started
        say(f"{mark} {self.title} ({elapsed:.1f} s)", start=start)


def _say_alive(text: str) -> None:
    """Show a line from a thread; a reader that has gone is left for the main thread to find."""
    with contextlib.suppress(click.exceptions.Exit):
        say(text)


def show_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Show a result as JSON on standard output; raises as ``show_text`` does."""
    show_text(json.dumps(value, indent=2, allow_nan=False))


def show_result(result: T, render: Callable[[T], Any], *, as_json: bool) -> None:
    """Show a result as JSON, or as ``render`` lays it out; raises as ``show_text`` does."""
    from swin_deploy.report.to_json import to_json

    if as_json:
        show_json(to_json(result))
    else:
        show_table(render(result))


def show_table(renderable: Any) -> None:  # noqa: ANN401 - any rich renderable
    """Show a rich renderable on standard output; raises as ``show_text`` does."""
    from rich.console import Console as RichConsole

    live = _is_terminal(sys.stdout)
    # Rendered to memory first: rich would exit by itself on a broken pipe, with its own status.
    memory, encoding = io.BytesIO(), getattr(sys.stdout, "encoding", "utf-8")
    page = io.TextIOWrapper(memory, encoding, errors="replace", newline="", write_through=True)
    columns = os.environ.get("COLUMNS", "")
    width = None if live else int(columns) if columns.isdecimal() and int(columns) else PAGE_WIDTH
    RichConsole(file=page, force_terminal=live, width=width, highlight=False).print(renderable)
    lines = memory.getvalue().decode(encoding).removesuffix("\n").split("\n")
    _write("\n".join(line if live else line.rstrip() for line in lines))


def show_line(text: str) -> None:
    """Show a result in one line, with line breaks escaped; raises as ``show_text`` does."""
    show_text(visible(text))


def show_text(text: str) -> None:
    """Show a result on standard output, with control characters escaped.

    Raises:
        FileError: If it cannot be written, as on a full disk.
        Exit: If the reader has gone, as ``head`` does when it has enough.
    """
    _write(visible(text, kept="\n"))


def _write(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError as err:
        discard_streams()
        raise click.exceptions.Exit(READER_GONE) from err
    except OSError as err:
        discard_streams()
        raise FileError(
            f"cannot write the result to standard output: {err.strerror or err}; send it elsewhere"
        ) from err


def say(text: str, *, start: str = "", nl: bool = True, fg: str | None = None) -> None:
    """Show a line on standard error; on a full disk the line is lost and the work goes on.

    Args:
        text: The line; control characters are shown as escapes.
        start: Control characters for the terminal, written before the line.
        nl: True to end the line.
        fg: Colour of the line.

    Raises:
        Exit: If the reader has gone.
    """
    try:
        click.secho(start + visible(text), err=True, nl=nl, fg=fg)
    except BrokenPipeError as err:
        discard_streams()
        raise click.exceptions.Exit(READER_GONE) from err
    except OSError:
        discard_streams()


def is_full(err: OSError) -> bool:
    """Tell whether an error is that of a full stream; an error of a file has a file name."""
    return err.filename is None and err.errno in FULL


def discard_streams() -> None:
    """Redirect standard streams that cannot be flushed to nowhere, so that exit does not fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # full or gone, closed, or none at all
            with (
                contextlib.suppress(OSError, ValueError, AttributeError),
                open(os.devnull, "wb") as sink,
            ):
                os.dup2(sink.fileno(), stream.fileno())


def _is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream is a terminal; None stands for a closed stream."""
    return stream is not None and stream.isatty()


def announce(console: Console, loaded: LoadedModel) -> None:
    """Show the loaded model, its weights, notes and assumptions; warn of random weights."""
    config = loaded.config
    console.note(
        f"  {loaded.name}, {config.image_text}, {', '.join(config.output_names)}; {loaded.weights}"
    )
    for note in loaded.notes:
        console.note(f"  {note}")
    for assumption in loaded.assumptions:
        console.warn(assumption.text)
    if loaded.checkpoint is None:
        console.warn("the weights are random; give --checkpoint for a model that means something")


def announce_images(console: Console, sets: Sequence[ImageSet]) -> None:
    """Warn of what is unexpected in the images, and of what is assumed about their labels."""
    for images in sets:
        for note in images.notes:
            console.warn(note)
        for assumption in images.assumptions:
            console.warn(assumption.text)


def say_calibration(console: Console, record: Mapping[str, Any]) -> None:
    """Print what the FP8 scales of a file follow from.

    Args:
        console: The command's output.
        record: The calibration, as manifests have it.
    """
    console.note(
        f"  FP8: {len(record['scales'])} linear layers read it; scales by {record['method']} over "
        f"{record['images']} of {record['found']} images, SHA-256 {record['sha256'][:12]}"
    )


def say_norms(console: Console, folded: Sequence[str], apart: Sequence[str]) -> None:
    """Say how many norms a half-precision graph folds into the MLPs behind them, and which not.

    Args:
        console: Output of the command.
        folded: Linear layers that a norm was folded into.
        apart: Paths of the norms that stand apart.
    """
    if not folded and not apart:
        return
    console.note(f"  norms folded into {len(folded)} of {len(folded) + len(apart)} MLPs")
    if apart:
        reason = "kept in float32, or with weights or an epsilon that half precision cannot hold"
        console.note(f"  {listed(tuple(apart))} not folded: {reason}")
