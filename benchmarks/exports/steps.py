"""Everything that is measured, step by step, each kept when it is done."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from benchmarks.exports.models import (
    FOR_CPUS,
    INT8,
    PLAIN,
    PLANNED,
    Images,
    Model,
    Ours,
    held_out,
    trained_like,
    write_ours,
)
from benchmarks.exports.plans import plan_of, plan_of_peer
from benchmarks.exports.routes import OURS, ROUTES, Route, export_peer, make_module, noted
from benchmarks.exports.timing import relative_error, time_files
from exporters.artifact import write_atomic
from exporters.spec import Precision
from swin_deploy.runners.base import Runner
from swin_deploy.runners.openvino import OpenvinoRunner, OpenvinoWay
from swin_deploy.runners.ort import OrtRunner

Entry = Ours | Route
# The older exporter's files are the faster ones of each library; "eager" is faster than "sdpa".
TIMED = tuple(one for one in ROUTES if one.exporter == "TorchScript" and one.attention != "sdpa")
RUN: tuple[Entry, ...] = (PLAIN, FOR_CPUS, INT8, *TIMED)
BUILT: tuple[Entry, ...] = (*PLANNED, *TIMED)
OPENVINO: dict[str, OpenvinoWay] = {"OpenVINO f32": "openvino", "OpenVINO bf16": "openvino-bf16"}
ORT = "ONNX Runtime"
THREADS = (1, 2)


@dataclass
class Run:
    """A run: what is known, where it is kept, and where files are.

    Attributes:
        document: Conditions and the results of the steps that are done.
        path: Path of the file that ``document`` is kept in.
        folder: Folder of the ONNX files, made anew if they are gone.
        seconds: Time of the rounds of each table of times.
        say: Function that is told what is done.
    """

    document: dict[str, Any]
    path: Path
    folder: Path
    seconds: float
    say: Callable[[str], None]

    def step(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Do a step that is not done yet, and keep its result with the load of the machine."""
        if name in self.document["steps"]:
            return
        self.say(name)
        start = time.monotonic()
        found = measure()
        took = {"load": os.getloadavg()[0], "took_s": time.monotonic() - start}
        self.document["steps"][name] = found | took
        write_atomic(self.path, json.dumps(self.document, indent=1).encode())

    def place(self, model: Model, title: str) -> Path:
        """Return the path of a file, which need not be there."""
        return self.folder / model.name / f"{title}.onnx"


def measure(run: Run, model: Model, *, engines: bool) -> None:
    """Do every step of a model but ``measure_others``: files and errors, then engines and times."""
    for one in dict.fromkeys((*RUN, *BUILT)):
        _file(run, model, one)
    for one in BUILT if engines else ():
        _plan(run, model, one)
    images = held_out(model, run.folder / model.name)
    for batch in model.batches:
        for threads in THREADS:
            name = f"{model.name} / times / batch {batch}, threads {threads}"
            run.step(name, functools.partial(_times, run, model, images[:batch], threads))


def measure_others(run: Run, model: Model, *, engines: bool) -> None:
    """Do the steps of the exports that are not timed: files and errors, then engines."""
    others = [one for one in ROUTES if one not in TIMED]
    for one in others:
        _file(run, model, one)
    for one in others if engines else ():
        _plan(run, model, one)


def _file(run: Run, model: Model, one: Entry) -> None:
    name = f"{model.name} / file / {one.title}"
    run.step(
        name,
        lambda: of_ours(run, model, one) if isinstance(one, Ours) else of_peer(run, model, one),
    )


def _plan(run: Run, model: Model, one: Entry) -> None:
    if "mb" not in run.document["steps"][f"{model.name} / file / {one.title}"]:
        return
    run.step(f"{model.name} / plan / {one.title}", lambda: _planned(run, model, one))


def _planned(run: Run, model: Model, one: Entry) -> dict[str, Any]:
    path = path_of(run, model, one)
    if isinstance(one, Ours):
        return plan_of(onnx.load(path), model.batch)
    return plan_of_peer(model, one, path, held_out(model, path.parent))


def path_of(run: Run, model: Model, one: Entry) -> Path:
    """Return the path of a file, which is made if it is not there."""
    path = run.place(model, one.title)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(one, Ours):
            write_ours(model, one, path)
        else:
            example = torch.from_numpy(held_out(model, run.folder / model.name))
            part = path.with_suffix(".part")
            onnx.save(export_peer(trained_like(model), one, example, dynamic=True), part)
            part.rename(path)  # so that a file that is there is whole
    return path


def of_ours(run: Run, model: Model, ours: Ours) -> dict[str, Any]:
    """Return what is known of a file of ours without an engine."""
    return facts(path_of(run, model, ours), model, Route(OURS, "dynamo"), ours.precision)


def of_peer(run: Run, model: Model, route: Route) -> dict[str, Any]:
    """Return what is known of a library's file without an engine, or why there is none."""
    notes: list[str] = []
    with noted(notes, "export"):
        return facts(path_of(run, model, route), model, route, "fp32")
    return {"notes": notes}


def facts(path: Path, model: Model, route: Route, precision: Precision) -> dict[str, Any]:
    """Return opset, nodes and size of a file, and its error against the module in float32."""
    graph = onnx.load(path)
    images = held_out(model, path.parent)
    with torch.no_grad():
        wanted = make_module(trained_like(model), route)(torch.from_numpy(images)).numpy()
    with OrtRunner(path, precision) as runner:
        (found,) = runner.run(images)
    return {
        "opset": max(one.version for one in graph.opset_import if one.domain in ("", "ai.onnx")),
        "nodes": len(graph.graph.node),
        "mb": path.stat().st_size / 1e6,
        "error": relative_error(found, wanted),
    }


def _times(run: Run, model: Model, images: Images, threads: int) -> dict[str, Any]:
    runners = dict(_runners(run, model))
    return {"times": time_files(runners, images, seconds=run.seconds, threads=threads)}


def _runners(run: Run, model: Model) -> Iterator[tuple[str, Runner]]:
    """Make the contenders; the first is our plain float32 file on ONNX Runtime."""
    for one in RUN:
        if "mb" not in run.document["steps"][f"{model.name} / file / {one.title}"]:
            continue
        path = path_of(run, model, one)
        precision: Precision = one.precision if isinstance(one, Ours) else "fp32"
        yield f"{one.title} / {ORT}", OrtRunner(path, precision)
        for name, way in OPENVINO.items():
            if precision == "fp32" or way == "openvino":
                yield f"{one.title} / {name}", OpenvinoRunner(path, precision, way=way)
