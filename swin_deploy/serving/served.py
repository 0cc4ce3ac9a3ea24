"""The file that is to be served: its facts, tensors and batches, from an ONNX file or an engine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from exporters.artifact import sha256_of
from exporters.engine.to_engine import fixed_batch
from exporters.errors import ConfigError, FileError
from exporters.precisions import PRECISIONS
from exporters.spec import DEFAULT_BATCH_OPT, BatchProfile, Precision
from exporters.text_files import shortened, typed
from swin_deploy.artifacts.facts import ModelFacts, facts_in_manifest
from swin_deploy.artifacts.onnx_file import read_onnx
from swin_deploy.config.names import find_variant
from swin_deploy.predict.forms import form_of
from swin_deploy.runners.engine_manifest import EngineManifest, read_engine_manifest

Kind = Literal["onnx", "tensorrt"]
TensorType = Literal["float32", "float16", "uint8", "object"]  # texts and bytes are objects
MOST_BATCH = 32  # images of a call of an ONNX file, which takes any number
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
MOST_NAME = 60


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a model.

    Attributes:
        name: Name in the graph.
        type: NumPy's name of the type.
        dims: Sizes of the axes, without the batch.
    """

    name: str
    type: TensorType
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Served:
    """A file to serve.

    Attributes:
        path: Path of the ONNX file or engine.
        kind: Library that runs it: ONNX Runtime or TensorRT.
        facts: Facts of the model.
        precision: Precision of the file.
        sha256: Digest of the file.
        input: The model's input.
        outputs: The model's outputs.
        batches: Images of a call: the fewest, the usual number, and the most.
        fixed: Whether the number of images is fixed in the graph, be it 1.
        engine: Manifest of the engine; None for an ONNX file.
        source: ONNX file that it is, or that the engine was built from; None if that is not there.
    """

    path: Path
    kind: Kind
    facts: ModelFacts
    precision: Precision
    sha256: str
    input: Tensor
    outputs: tuple[Tensor, ...]
    batches: BatchProfile
    fixed: bool
    engine: EngineManifest | None
    source: Path | None

    @property
    def classifies(self) -> bool:
        """Whether the model gives class logits, and nothing else."""
        return [one.name for one in self.outputs] == ["logits"]

    @property
    def takes_pixels(self) -> bool:
        """Whether the model normalises pixels itself."""
        return self.input.type == "uint8"

    @property
    def needs_gpu(self) -> bool:
        """Whether ONNX Runtime runs the file on a GPU alone."""
        return self.kind == "onnx" and not PRECISIONS[self.precision].ort_cpu

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and those that hold its weights apart."""
        return (self.path, *(_weights_apart(self.path) if self.kind == "onnx" else ()))

    @property
    def name(self) -> str:
        """Name of the model for a server: letters, digits, dots, dashes and underscores."""
        plain = NOT_IN_NAMES.sub("-", Path(self.facts.model).name).strip("-._")
        return plain[:MOST_NAME] or "swin"


def read_served(artifact: Path) -> Served:
    """Read an ONNX file or an engine that is to be served.

    Raises:
        ConfigError: If it is of another kind, of another tool, or takes no batch of one image.
        DeployError: If it cannot be read.
    """
    if not (os.path.lexists(artifact) or find_variant(str(artifact))):
        raise FileError(
            f"{artifact} does not exist; give the ONNX file of swin-deploy export, or an engine"
        )
    form = form_of(artifact)
    if form not in ("onnx", "engine"):
        if form == "sizes":
            raise ConfigError(
                f"{artifact} is a manifest of sizes, and a server loads one file; give one of its"
            )
        raise ConfigError(
            f"{artifact} is neither an ONNX file nor an engine with its manifest, which servers "
            "load; export a checkpoint with swin-deploy export"
        )
    served = _served_onnx(artifact) if form == "onnx" else _served_engine(artifact)
    if served.batches.min > 1:
        raise ConfigError(
            f"{artifact} takes {served.batches.min} images or more a call, and a server forms "
            "batches of any number up to the most; export it with --batch dynamic, or build it "
            "with --batch 1,8,32"
        )
    if served.facts.preprocessing.refusal:
        raise ConfigError(served.facts.preprocessing.refusal)
    return served


def _served_onnx(path: Path) -> Served:
    file = read_onnx(path)
    facts, body = _required(file.facts, path), file.graph.graph
    fixed = fixed_batch(file.graph)
    dynamic = BatchProfile(1, DEFAULT_BATCH_OPT, MOST_BATCH)
    return Served(
        path=path,
        kind="onnx",
        facts=facts,
        precision=file.precision,
        sha256=file.sha256,
        input=_tensor(body.input[0], path),
        outputs=tuple(_tensor(value, path) for value in body.output),
        batches=BatchProfile(fixed, fixed, fixed) if fixed else dynamic,
        fixed=fixed is not None,
        engine=None,
        source=path,
    )


def _served_engine(path: Path) -> Served:
    engine = read_engine_manifest(path)
    facts = _required(facts_in_manifest(engine.values, path), path)
    profile = typed(engine.values.get("profile"), BatchProfile, where="profile")
    source, fixed = _built_from(engine), profile.min == profile.max
    if source is not None:
        graph = read_onnx(source).graph
        body, fixed = graph.graph, fixed_batch(graph) is not None
        given, outputs = _tensor(body.input[0], path), [_tensor(v, path) for v in body.output]
    else:
        given, outputs = _tensors_of_facts(engine, facts)
    return Served(
        path=path,
        kind="tensorrt",
        facts=facts,
        precision=engine.precision,
        sha256=engine.sha256,
        input=given,
        outputs=tuple(outputs),
        batches=profile,
        fixed=fixed,
        engine=engine,
        source=source,
    )


def _tensors_of_facts(engine: EngineManifest, facts: ModelFacts) -> tuple[Tensor, list[Tensor]]:
    """Return input and output of a classifier's engine whose ONNX file is not there."""
    config = facts.config
    # Pixels tell nothing of the outputs' type, which a half file may have in half.
    unsure = engine.input_type == "uint8" and engine.precision != "fp32"
    if config.output_names != ("logits",) or unsure:
        raise FileError(
            f"{engine.path} was built from {_source_name(engine)}, which says the sizes and types "
            "of its outputs and is not next to it; put it there"
        )
    rows, columns = config.image
    dims = (config.in_channels, rows, columns)
    if engine.input_type == "uint8":
        dims = (rows, columns, config.in_channels)
    name = typed(engine.values.get("input"), str, where="input")
    given = typed({"name": name, "type": engine.input_type, "dims": dims}, Tensor, where="input")
    kind: TensorType = "float16" if given.type == "float16" else "float32"
    return given, [Tensor("logits", kind, (config.num_classes,))]


def _source_name(engine: EngineManifest) -> str:
    source = engine.values.get("source")
    name = source.get("file") if isinstance(source, dict) else None
    return Path(name).name if isinstance(name, str) else ""


def _built_from(engine: EngineManifest) -> Path | None:
    """Return the ONNX file that an engine was built from, if it is next to it, unchanged."""
    name = _source_name(engine)
    path = engine.path.parent / name
    if not name or not path.is_file():
        return None
    return path if sha256_of(path) == engine.values["source"].get("sha256") else None


def _required(facts: ModelFacts | None, path: Path) -> ModelFacts:
    if facts is None:
        raise ConfigError(
            f"{path} says neither how its pictures are prepared nor what it gives: it was not "
            "exported by swin-deploy; export its checkpoint with swin-deploy export"
        )
    return facts


def _tensor(value: onnx.ValueInfoProto, path: Path) -> Tensor:
    """Return an input or output of a graph without its batch."""
    kind = value.type.tensor_type
    dims = tuple(one.dim_value for one in kind.shape.dim[1:])
    if not kind.shape.dim or not all(size > 0 for size in dims):
        raise ConfigError(
            f"{shortened(path)}: {value.name} has no fixed sizes after the batch; export it again"
        )
    name = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return typed({"name": value.name, "type": name, "dims": dims}, Tensor, where=str(path))


def _weights_apart(path: Path) -> tuple[Path, ...]:
    """Return the files next to an ONNX file that hold its weights.

    Raises:
        FileError: If one of them is not in the same folder, or is missing.
    """
    graph = onnx.load(path, load_external_data=False)
    names = {
        entry.value
        for tensor in graph.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in names:
        if Path(name).name != name or not (path.parent / name).is_file():
            raise FileError(f"{path} keeps weights in {shortened(name)}, which is not next to it")
    return tuple(path.parent / name for name in sorted(names))
