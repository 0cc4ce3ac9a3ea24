"""``predict --parquet``: answers to a data set as part files, here or on a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from exporters.errors import FileError
from exporters.text_files import listed, shortened
from swin_deploy.cli.console import Console, Step, show_line, show_text
from swin_deploy.cli.values import FILE

if TYPE_CHECKING:
    from swin_deploy.bulk.parts import Part
    from swin_deploy.bulk.sources import Sources
    from swin_deploy.bulk.work import Seen
    from swin_deploy.predict.conditions import Described
    from swin_deploy.predict.predictor import Predictor

    Made = Iterator[tuple[int, Seen]]
    Make = Callable[[Sequence[Part], Callable[[int], None]], Made]
    Counts = tuple[int, int, int]
    Announce = Callable[[Console, Described], None]

Command = TypeVar("Command", bound=Callable[..., Any])
PART_SIZE, MOST_IN_A_PART = 4096, 1 << 20
MOST_WORKERS = 1 << 16


@dataclass(frozen=True)
class BulkRequest:
    """What the options of ``bulk_options`` ask for.

    Attributes:
        parquet: Folder of part files; None for other answers.
        part_size: Number of images a part file at most; None for ``PART_SIZE``.
        image_column: Name of the column of images in Parquet files; None to find it.
        ray: Address of a Ray cluster; None for this process.
        workers: Number of workers on the cluster; None for as many as fit.
    """

    parquet: Path | None
    part_size: int | None
    image_column: str | None
    ray: str | None
    workers: int | None

    def require(self) -> None:
        """Refuse options that mean nothing without another one; raises ``UsageError``."""
        if self.parquet == Path("-"):
            raise click.UsageError("'-' would be a folder of that name; name one for --parquet")
        needs = {"part_size": "parquet", "image_column": "parquet", "ray": "parquet"}
        needs["workers"] = "ray"
        for name, other in needs.items():
            if getattr(self, name) is not None and getattr(self, other) is None:
                words = [f"--{one.replace('_', '-')}" for one in (name, other)]
                raise click.UsageError(f"{words[0]} needs {words[1]}")


def bulk_options(command: Command) -> Command:
    """Add --parquet and what belongs to it to a command, as ``bulk``."""
    options = (
        click.option(
            "--parquet",
            type=FILE,
            metavar="DIR",
            help="Write the answers, or the outputs of a model without classes, as Parquet files: "
            "for any number of images, in folders or in a column of Parquet files.",
        ),
        click.option(
            "--part-size",
            type=click.IntRange(1, MOST_IN_A_PART),
            help=f"Images a file of --parquet at most.  [default: {PART_SIZE:,}]",
        ),
        click.option(
            "--image-column",
            metavar="NAME",
            help="Column of Parquet files that holds the images: bytes, paths, or a struct of "
            "both.  [default: image, else the only one of bytes, else the only one named as "
            "paths are]",
        ),
        click.option(
            "--ray",
            metavar="ADDRESS|local",
            help="Make the files of --parquet on a Ray cluster: auto for the one that this "
            "machine is a node of, its HOST:PORT, or local for this machine's cores.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, MOST_WORKERS),
            help="Workers on the cluster.  [default: one a GPU, else one for every 4 cores]",
        ),
    )
    for option in reversed(options):
        command = option(command)

    @functools.wraps(command)
    def collected(*args: Any, **values: Any) -> Any:  # noqa: ANN401 - any command's values
        bulk = BulkRequest(**{one.name: values.pop(one.name) for one in fields(BulkRequest)})
        bulk.require()
        return command(*args, bulk=bulk, **values)

    return cast("Command", collected)


@dataclass(frozen=True)
class BulkRun:
    """One run of ``predict --parquet``.

    Attributes:
        console: Output of the command.
        asked: The options.
        path: Folder of part files.
        announce: Function that shows the model.
        force: True to begin anew in a folder of another run.
    """

    console: Console
    asked: BulkRequest
    path: Path
    announce: Announce
    force: bool

    def run(self, images: Sequence[str], load: Callable[[], Predictor], *, as_json: bool) -> int:
        """Answer to all images; returns the number of those without an answer.

        Raises:
            DeployError: If the images, the model or the folder cannot be used, or no image has an
                answer.
        """
        from swin_deploy.bulk.libraries import load_pyarrow
        from swin_deploy.bulk.sources import find_sources

        load_pyarrow()
        _require_elsewhere(self.path, images)
        sources = find_sources(images, column=self.asked.image_column)
        for note in sources.notes:
            self.console.note(f"  {note}")
        with contextlib.ExitStack() as stack:
            model, make = self._opened(load, stack)
            self.announce(self.console, model)
            counts, seen = self._made(model, make, sources)
        return self._conclude(counts, seen, as_json=as_json)

    def _opened(
        self, load: Callable[[], Predictor], stack: contextlib.ExitStack
    ) -> tuple[Described, Make]:
        """Open the model here, or a cluster; return what it is, and how parts are made."""
        from swin_deploy.bulk.work import make_part
        from swin_deploy.predict.conditions import described

        if self.asked.ray is None:
            with self.console.step("Loading the model"):
                predictor = stack.enter_context(load())

            def make_here(parts: Sequence[Part], tell: Callable[[int], None]) -> Made:
                for part in parts:
                    yield part.rows, make_part(part, predictor, self.path, tell=tell)

            return described(predictor), make_here
        from swin_deploy.bulk.on_ray import Cluster

        # Ray prints what happens to its workers, and standard output is for results.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        with self.console.step("Starting the workers"):
            cluster = stack.enter_context(
                Cluster(self.asked.ray, load, self.path, workers=self.asked.workers)
            )
            model = cluster.describe()
        self.console.note(f"  Ray: {cluster.text}")
        return model, lambda parts, _: cluster.make(parts, model)

    def _made(self, model: Described, make: Make, sources: Sources) -> tuple[Counts, Seen]:
        """Make the parts that are missing, and check that each image has one row.

        Returns:
            Numbers of part files, of rows, and of rows without an answer; and what was unexpected.
        """
        from swin_deploy.bulk.output import AnswerFolder, key_of

        size = self.asked.part_size or PART_SIZE
        key = key_of(model, sources, size=size)
        with self.console.step("Listing the images"):
            parts = list(sources.parts(size=size, key=key))
        for ending, count in sources.passed_over.items():
            self.console.warn(
                f"{count:,} {ending} files are passed over, next to images of another kind; put "
                "them in a folder of their own"
            )
        total = sum(part.rows for part in parts)
        if not total:
            raise FileError(f"{listed(list(map(str, sources.named)))}: there is no row in it")
        with AnswerFolder(self.path, key, force=self.force) as folder:
            missing, stale = folder.missing(parts)
            left = sum(part.rows for part in missing)
            self._note(total, left, stale)
            seen = self._predicted(missing, make, left)
            counts = folder.count()
            if counts[1] != total:
                raise FileError(
                    f"{self.path} has {counts[1]:,} rows for {total:,} images: something else "
                    "changed it meanwhile; run again"
                )
        return counts, seen

    def _note(self, total: int, left: int, stale: int) -> None:
        self.console.note(f"  {total:,} images")
        if left < total:
            self.console.note(f"  {self.path} has {total - left:,} of them already")
        if stale:
            self.console.note(
                f"  {stale:,} part files are removed: their images changed or are gone, or they "
                "are damaged"
            )

    def _predicted(self, parts: Sequence[Part], make: Make, total: int) -> Seen:
        from swin_deploy.bulk.work import Seen

        seen, before, started = Seen(), 0, time.monotonic()
        if not parts:
            return seen
        with self.console.step("Predicting") as step:

            def tell(done: int) -> None:
                _show(step, before + done, total, started)

            for rows, found in make(parts, tell):
                before += rows
                seen.add(found)
                tell(0)
        return seen

    def _conclude(self, counts: Counts, seen: Seen, *, as_json: bool) -> int:
        files, rows, failed = counts
        for what, count in seen.odd.items():
            names = seen.examples[what]
            more = f" and {count - len(names):,} more" if count > len(names) else ""
            self.console.warn(f"{what}: {listed(names)}{more}")
        for error in seen.errors if failed < rows else ():
            self.console.warn(error)
        if failed == rows:
            last = f"; one of them: {seen.errors[0]}" if seen.errors else ""
            raise FileError(f"none of the {rows:,} images has an answer{last}")
        result = {"folder": str(self.path), "pictures": rows, "failed": failed, "files": files}
        if as_json:
            show_text(json.dumps(result))
        else:
            show_line(
                f"{self.path}: {rows:,} images in {files:,} files, {failed:,} without an answer"
            )
        return failed


def _show(step: Step, done: int, total: int, started: float) -> None:
    rate = done / max(time.monotonic() - started, 1e-9)
    step.update(f"{done:,} of {total:,} images, {rate:,.1f}/s", done / total)


def _require_elsewhere(path: Path, images: Sequence[str]) -> None:
    """Refuse a folder of answers that is among the images, or holds them."""
    place = Path(os.path.realpath(path))
    if os.path.lexists(place) and not place.is_dir():
        raise FileError(f"{path} is not a folder; name a new or empty one for --parquet")
    for one in images:
        source = Path(os.path.realpath(one))
        if place == source or source in place.parents or place in source.parents:
            raise FileError(
                f"{path} and {shortened(one)}, which is read, are in each other; name another "
                "folder"
            )
