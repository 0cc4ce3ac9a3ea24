"""What commands say, and where: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
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

if TYPE_CHECKING:
    from swin_deploy.images.sets import ImageSet
    from swin_deploy.load import LoadedModel

CHECK_FAILED = 1  # exit status
QUIET, NORMAL, VERBOSE = 0, 1, 2
REFRESH_S = 0.1
READER_GONE = 141  # 128 and the signal, as shells have it
PAGE_WIDTH = 100  # of tables that go to a file or a pipe


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

    def note(self, text: str) -> None:
        """A remark on progress, on standard error."""
        if self.level > QUIET:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Something the user must know, on standard error at every level."""
        click.secho(f"warning: {text}", fg="yellow", err=True)

    def next_step(self, *words: object, why: str) -> None:
        """Show a command to run after this one, as a shell takes it, with the reason behind it."""
        if self.level > QUIET:
            click.secho(f"next: {command_line(*words)}  # {why}", fg="cyan", err=True)

    def again(self, *words: object, why: str) -> None:
        """Show this command with something more."""
        self.next_step(*sys.argv[1:], *words, why=why)


def command_line(*words: object) -> str:
    """Return a command of ours as a shell takes it."""
    return shlex.join(["swin-deploy", *map(str, words)])


class Step:
    """One line of progress: live on a terminal, begin and end elsewhere."""

    def __init__(self, title: str, level: int) -> None:
        self.title = title
        self.level = level
        self.live = level > QUIET and _is_terminal(sys.stderr)
        self.started = self.shown = time.monotonic()

    def begin(self) -> None:
        if self.live:
            click.echo(f"  {self.title} ...", nl=False, err=True)
        elif self.level > QUIET:
            click.echo(f"  {self.title} ...", err=True)

    def update(self, detail: str) -> None:
        """Say what the step is at; at most ten times a second on a terminal."""
        now = time.monotonic()
        if self.level == VERBOSE and not self.live:
            click.echo(f"    {detail}", err=True)
        elif self.live and now - self.shown >= REFRESH_S:
            self.shown = now
            click.echo(f"\r\033[K  {self.title}: {detail[:60]}", nl=False, err=True)

    def warn(self, text: str) -> None:
        """Something the user must know, at every level, above the line of progress."""
        start = "\r\033[K" if self.live else ""
        click.secho(f"{start}warning: {text}", fg="yellow", err=True)

    def end(self, *, mark: str) -> None:
        if self.level > QUIET:
            start = "\r\033[K" if self.live else ""
            elapsed = time.monotonic() - self.started
            click.echo(f"{start}{mark} {self.title} ({elapsed:.1f} s)", err=True)


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
    width = None if live else PAGE_WIDTH
    RichConsole(file=page, force_terminal=live, width=width, highlight=False).print(renderable)
    show_text(memory.getvalue().decode(encoding).removesuffix("\n"))


def show_text(text: str) -> None:
    """A result on standard output.

    Raises:
        FileError: If it cannot be written, as on a full disk.
        Exit: If the reader has gone, as ``head`` does when it has enough.
    """
    try:
        click.echo(text)
    except BrokenPipeError as err:
        _discard_output()
        raise click.exceptions.Exit(READER_GONE) from err
    except OSError as err:
        _discard_output()
        raise FileError(
            f"cannot write the result to standard output: {err.strerror or err}; send it elsewhere"
        ) from err


def _discard_output() -> None:
    """Let what is left in the buffer of standard output go nowhere, and not fail again at exit."""
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), sys.stdout.fileno())


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
