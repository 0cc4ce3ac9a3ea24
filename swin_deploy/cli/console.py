"""What commands say, and where: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

QUIET, NORMAL, VERBOSE = 0, 1, 2
REFRESH_S = 0.1


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

    def next_step(self, text: str) -> None:
        """What to do after this command."""
        if self.level > QUIET:
            click.secho(f"next: {text}", fg="cyan", err=True)


class Step:
    """One line of progress: live on a terminal, begin and end elsewhere."""

    def __init__(self, title: str, level: int) -> None:
        self.title = title
        self.level = level
        self.live = level > QUIET and sys.stderr.isatty()
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

    def end(self, *, mark: str) -> None:
        if self.level > QUIET:
            start = "\r\033[K" if self.live else ""
            elapsed = time.monotonic() - self.started
            click.echo(f"{start}{mark} {self.title} ({elapsed:.1f} s)", err=True)


def show_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """A result for scripts, on standard output."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def show_table(renderable: Any) -> None:  # noqa: ANN401 - any rich renderable
    """A result for people, on standard output."""
    from rich.console import Console as RichConsole

    width = None if sys.stdout.isatty() else 100
    RichConsole(width=width, highlight=False).print(renderable)
