"""What commands say, and where: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import click

from exporters.errors import FileError
from exporters.signals import nothing_to_clean
from exporters.text_files import visible
from swin_deploy.cli.heartbeat import CLEAR_LINE, Bar, Heartbeat, Ticker

if TYPE_CHECKING:
    from swin_deploy.checkpoints.load import LoadedModel
    from swin_deploy.images.sets import ImageSet

CHECK_FAILED = 1  # exit status
QUIET, NORMAL, VERBOSE = 0, 1, 2
READER_GONE = 141  # 128 and the signal, as shells have it
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
PAGE_WIDTH = 100  # of tables that go to a file or a pipe, where $COLUMNS says no other


@dataclass
class Console:
    """Speaks at the level that --quiet and --verbose ask for."""

    level: int = NORMAL

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show that something is under way, for as long as the block runs."""
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
        """A step that only imports and reads: an interrupt ends it at once."""
        with self.step(title) as step, nothing_to_clean():
            yield step

    def note(self, text: str) -> None:
        """A remark on progress, on standard error."""
        if self.level > QUIET:
            say(text)

    def warn(self, text: str) -> None:
        """Something the user must know, on standard error at every level."""
        say(f"warning: {text}", fg="yellow")

    def next_step(self, *words: object, why: str) -> None:
        """Show a command to run after this one, as a shell takes it, with the reason behind it."""
        if self.level > QUIET:
            say(f"next: {command_line(*words)}  # {why}", fg="cyan")

    def again(self, *words: object, why: str) -> None:
        """Show this command with something more."""
        self.next_step(*sys.argv[1:], *words, why=why)


def command_line(*words: object) -> str:
    """Return a command of ours as a shell takes it."""
    return shlex.join(["swin-deploy", *map(str, words)])


class Step:
    """One line of progress: live on a terminal, with a bar after a moment; lines elsewhere."""

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
        """Say what the step is at, and how far; a ``Progress``."""
        if self.level == QUIET:
            return
        if self.level == VERBOSE and not self.live:
            say(f"    {detail}")
        self._signs.update(visible(detail), share)

    def warn(self, text: str) -> None:
        """Something the user must know, at every level, above the line of progress."""
        self.above(f"warning: {text}", fg="yellow")

    def above(self, text: str, *, fg: str | None = None) -> None:
        """A line above that of progress."""
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
    """A line from a thread: where nobody reads any more, the command itself finds out."""
    with contextlib.suppress(click.exceptions.Exit):
        say(text)


def show_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """A result for scripts, on standard output."""
    show_text(json.dumps(value, indent=2, allow_nan=False))


def show_table(renderable: Any) -> None:  # noqa: ANN401 - any rich renderable
    """A result for people, on standard output."""
    from rich.console import Console as RichConsole

    live = _is_terminal(sys.stdout)
    # Rendered first, written then: rich would leave by itself, with a status of its own.
    memory, encoding = io.BytesIO(), getattr(sys.stdout, "encoding", "utf-8")
    page = io.TextIOWrapper(memory, encoding, errors="replace", newline="", write_through=True)
    columns = os.environ.get("COLUMNS", "")
    width = None if live else int(columns) if columns.isdecimal() and int(columns) else PAGE_WIDTH
    RichConsole(file=page, force_terminal=live, width=width, highlight=False).print(renderable)
    lines = memory.getvalue().decode(encoding).removesuffix("\n").split("\n")
    _write("\n".join(line if live else line.rstrip() for line in lines))


def show_line(text: str) -> None:
    """A result in one line, whatever a file or a class is called; raises as ``show_text`` does."""
    show_text(visible(text))


def show_text(text: str) -> None:
    """A result on standard output; what a terminal would obey is shown as an escape.

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
    """A line on standard error; where its disk is full it is lost, and the work goes on.

    Args:
        text: The line; what a terminal would obey is shown as an escape.
        start: Letters for the terminal to obey before it.
        nl: Whether the line ends.
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
    """Whether an error is that of a stream that takes no more: files have names, streams none."""
    return err.filename is None and err.errno in FULL


def discard_streams() -> None:
    """Let what is left in the buffers of streams that fail go nowhere, and not fail at exit."""
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
    """Whether ``stream`` is one; Python has None for a closed one."""
    return stream is not None and stream.isatty()


def announce(console: Console, loaded: LoadedModel) -> None:
    """Say which model and weights were loaded, and warn of random ones."""
    config = loaded.config
    console.note(
        f"  {loaded.name}, {config.img_size} px, {', '.join(config.output_names)}; {loaded.weights}"
    )
    for note in loaded.notes:
        console.note(f"  {note}")
    for assumption in loaded.assumptions:
        console.warn(assumption.text)
    if loaded.checkpoint is None:
        console.warn("the weights are random; give --checkpoint for a model that means something")


def announce_images(console: Console, sets: Sequence[ImageSet]) -> None:
    """Say what a user may not expect of the images, and what is assumed of their labels."""
    for images in sets:
        for note in images.notes:
            console.warn(note)
        for assumption in images.assumptions:
            console.warn(assumption.text)
