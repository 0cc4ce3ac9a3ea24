"""A model in any form of file, ready to run, with its facts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from exporters.backends import current_gpu
from exporters.errors import ConfigError
from swin_deploy.artifacts.facts import (
    ModelFacts,
    facts_in_manifest,
    facts_of,
)
from swin_deploy.artifacts.onnx_file import read_onnx
from swin_deploy.artifacts.sizes_file import read_sizes
from swin_deploy.checkpoints.load import LoadedModel, LoadOptions, load_model, require_known
from swin_deploy.config import Size
from swin_deploy.images.class_names import read_class_names
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.predict.forms import form_of
from swin_deploy.runners import (
    OPENVINO_WAYS,
    TORCH_WAYS,
    WAYS,
    OpenvinoRunner,
    OpenvinoWay,
    OrtRunner,
    Runner,
    SizesRunner,
    TorchRunner,
    TrtRunner,
    Way,
    deploy_runner,
)
from swin_deploy.runners.engine_manifest import read_engine_manifest

NO_GPU = "no NVIDIA GPU is here: the ONNX files run, not the engines"
CHOICE = (
    "a picture is prepared for the size of the nearest ratio of rows to columns, the smallest that "
    "holds it, else the largest"
)
OF_ANSWERS = ("classes", "scores")  # options that a file of any form can take


@dataclass(frozen=True)
class Opened:
    """A model to run.

    Attributes:
        name: Name of the file, or of the model.
        facts: Facts of the model: sizes, weights, preprocessing, class names.
        runner: The runner of the model, not open yet.
        sha256: SHA-256 digest of the file; empty for random weights.
        notes: Remarks on what was found, skipped or changed while loading.
        sizes: Preprocessing of each image size, where the runner has several; else empty.
    """

    name: str
    facts: ModelFacts
    runner: Runner
    sha256: str
    notes: tuple[str, ...] = ()
    sizes: Mapping[Size, Preprocessing] = field(default_factory=dict)


def open_artifact(
    artifact: Path | LoadedModel, *, runner: Way | None = None, **asked: Unpack[LoadOptions]
) -> Opened:
    """Read a model and its facts; an ONNX file or engine carries them.

    Args:
        artifact: A model, a checkpoint, the name of a model, an ONNX file, an engine or a manifest
            of sizes.
        runner: The way that PyTorch runs the deploy model of a checkpoint, or OpenVINO an ONNX
            file; None for the reference, and for the file's own runtime.
        asked: Options of ``load_model``, for a checkpoint or a name; ``classes`` and ``scores``
            only for anything else, and ``img_size`` to take one of several sizes.

    Raises:
        ConfigError: If an option is unknown, or can no longer be changed in this file.
        DeployError: If the file cannot be read, or was not exported by swin-deploy.
    """
    require_known(asked)
    if runner not in (None, *WAYS):
        raise ConfigError(f"runner {runner!r} is not known; use one of {', '.join(WAYS)}")
    if isinstance(artifact, LoadedModel):
        _require_nothing_but_classes(artifact.name, asked, since="when it was loaded")
        return _named(_opened_model(artifact, runner), asked)
    form = form_of(artifact)
    if form == "checkpoint":
        name = str(artifact) if not artifact.exists() else None
        return _opened_model(load_model(name, None if name else artifact, **asked), runner)
    way = _of_files(artifact.name, runner)
    if form == "engine" and way is not None:
        raise ConfigError(f"{artifact.name} is run by TensorRT; runner {way} takes an ONNX file")
    answers: Mapping[str, Any] = asked
    if form == "sizes":
        answers = {name: value for name, value in asked.items() if name != "img_size"}
    _require_nothing_but_classes(artifact.name, answers, since="from its export")
    if form == "sizes":
        return _named(_opened_sizes(artifact, asked.get("img_size"), way), asked)
    opened = _opened_onnx(artifact, way) if form == "onnx" else _opened_engine(artifact)
    return _named(opened, asked)


def _of_files(name: str, runner: Way | None) -> OpenvinoWay | None:
    """Return the way to run a file; raises ``ConfigError`` for one that takes a checkpoint."""
    if runner is None or runner in OPENVINO_WAYS:
        return runner
    raise ConfigError(f"{name} is run by a runtime of its own; runner {runner} takes a checkpoint")


def _named(opened: Opened, asked: LoadOptions) -> Opened:
    """Return the model with the class names and scores of ``asked`` in place of its own."""
    facts = opened.facts
    scores, classes = asked.get("scores"), asked.get("classes")
    if scores is not None:
        open_still = tuple(one for one in facts.assumptions if one.subject != "scores")
        facts = dataclasses.replace(facts, scores=scores, assumptions=open_still)
    if classes is not None:
        names = read_class_names(Path(classes), facts.config.num_classes)
        facts = dataclasses.replace(facts, class_names=names.shown, class_names_source=names.source)
    return dataclasses.replace(opened, facts=facts)


def _opened_model(loaded: LoadedModel, way: Way | None) -> Opened:
    runner = TorchRunner("PyTorch reference", loaded.reference)
    if way in OPENVINO_WAYS:
        raise ConfigError(
            f"runner {way} takes an ONNX file; make one of {loaded.name} with swin-deploy export, "
            "and give it instead"
        )
    if way in TORCH_WAYS:
        runner = deploy_runner(loaded.config, lambda: loaded.deploy, way)
    return Opened(loaded.name, facts_of(loaded), runner, loaded.sha256, loaded.notes)


def _opened_onnx(path: Path, way: OpenvinoWay | None) -> Opened:
    file = read_onnx(path)
    facts = _required(file.facts, path)
    runner: Runner = OrtRunner(path, file.precision, steps=facts.preprocessing)
    if way is not None:
        runner = OpenvinoRunner(path, file.precision, way=way, steps=facts.preprocessing)
    return Opened(path.name, facts, runner, file.sha256)


def _opened_engine(path: Path) -> Opened:
    engine = read_engine_manifest(path)
    facts = _required(facts_in_manifest(engine.values, path), path)
    runner = TrtRunner(engine, steps=facts.preprocessing)
    return Opened(path.name, facts, runner, engine.sha256)


def _opened_sizes(
    path: Path, picked: int | tuple[int, int] | None, way: OpenvinoWay | None
) -> Opened:
    """Open one size of a manifest, or all of them behind one runner."""
    sizes = read_sizes(path)
    engines = sizes.has_engines and current_gpu() is not None and way is None
    chosen = sizes.sizes if picked is None else (sizes.at(picked),)
    each = [
        _opened_engine(sizes.engine(one)) if engines else _opened_onnx(sizes.onnx(one), way)
        for one in chosen
    ]
    notes = [NO_GPU] if sizes.has_engines and not engines and way is None else []
    if picked is not None:
        return dataclasses.replace(each[0], notes=tuple(notes))
    return Opened(
        path.name,
        each[0].facts,
        SizesRunner({one.facts.config.image: one.runner for one in each}),
        hashlib.sha256("".join(one.sha256 for one in each).encode()).hexdigest(),
        (*notes, f"sizes {sizes.names} px: {CHOICE}"),
        {one.facts.config.image: one.facts.preprocessing for one in each},
    )


def _required(facts: ModelFacts | None, path: Path) -> ModelFacts:
    if facts is None:
        raise ConfigError(
            f"{path} says neither how its pictures are prepared nor what it gives: it was not "
            "exported by swin-deploy; export its checkpoint with swin-deploy export"
        )
    return facts


def _require_nothing_but_classes(name: str, asked: Mapping[str, Any], *, since: str) -> None:
    """Refuse options that only a checkpoint can take."""
    said = [key for key, value in asked.items() if value is not None and key not in OF_ANSWERS]
    fixed = [key for key in said if not _is_default(key, asked[key])]
    if fixed:
        raise ConfigError(
            f"{name} has its {fixed[0].replace('_', ' ')} {since}; ask for another one there, or "
            "give the checkpoint instead"
        )


def _is_default(name: str, value: object) -> bool:
    return name == "preprocessing" and value == type(value)()
