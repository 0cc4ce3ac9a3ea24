"""Bundles for each target: the files, the model that clients call, and what is said of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.errors import ConfigError
from exporters.precisions import FP8_FORMS
from exporters.text_files import shortened
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.serving.bundle import (
    Bundle,
    Endpoint,
    Preparation,
    Service,
    Target,
    read_bundle,
    write_bundle,
)
from swin_deploy.serving.containers import (
    MATRIX,
    image_of,
    release_for,
    require_backend,
    short_version,
)
from swin_deploy.serving.golden import Golden, make_golden
from swin_deploy.serving.optimum import optimum_files
from swin_deploy.serving.ovms import ovms_files
from swin_deploy.serving.protocol import DATATYPES
from swin_deploy.serving.served import Served
from swin_deploy.serving.texts import kserve_text, plain_name, text_of
from swin_deploy.serving.triton import (
    Decoder,
    Files,
    answer_count,
    labels_of,
    names_of,
    picture_tensor,
    score_tensors,
    triton_files,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


@dataclass(frozen=True)
class Wish:
    """What a bundle is to be.

    Attributes:
        target: The server that it is for.
        name: Name of the model for clients.
        decoder: Library that prepares pictures in Triton.
        reference: File that gives the golden outputs; None for the file itself.
        images: Pictures to compare with; none to make some.
    """

    target: Target
    name: str
    decoder: Decoder = "pillow"
    reference: Path | None = None
    images: Sequence[Path] = ()


@dataclass(frozen=True)
class Made:
    """A bundle that was written.

    Attributes:
        bundle: The bundle.
        manifest: Its manifest.
        notes: Remarks for its user.
        warnings: Matters to be settled before it is used.
    """

    bundle: Bundle
    manifest: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def make_bundle(served: Served, folder: Path, wish: Wish, *, force: bool = False) -> Made:
    """Write the bundle of a file for a server.

    Args:
        served: The file to serve.
        folder: Folder of the bundle.
        wish: Wishes of the user.
        force: True to replace a bundle that was changed since it was made.

    Raises:
        ConfigError: If the server cannot load the file, or do its preprocessing.
        DeployError: If the reference cannot run, or the folder cannot be written.
    """
    if not NAME.fullmatch(wish.name):
        raise ConfigError(
            f"{shortened(repr(wish.name))} is no name of a model: use up to 60 letters, digits, "
            "'.', '_' and '-', and start with a letter or a digit"
        )
    require_target(served, wish)
    files = _files(served, wish)
    service = Service(wish.target)
    if wish.target != "optimum":
        golden = make_golden(served, reference=wish.reference, images=wish.images)
        service = Service(wish.target, _endpoint(served, wish), golden)
    files["README.md"] = text_of("readme.md", _facts(served, wish, service.golden)).encode()
    manifest = write_bundle(folder, served, files, service, force=force)
    warnings = _warnings(served, wish)
    return Made(read_bundle(folder), manifest, _notes(served, wish), warnings)


def require_target(served: Served, wish: Wish) -> None:
    """Refuse what a server does not load; raises ``ConfigError``."""
    triton = wish.target in ("triton", "kserve")
    if served.engine is not None and triton:
        require_backend(served.engine)
    if served.fixed and triton:
        raise ConfigError(
            f"{served.path} takes exactly {served.batches.max} image a call, and Triton's backends "
            "form batches of files with a free number alone; export it with --batch dynamic"
        )
    if served.kind != "onnx" and wish.target in ("ovms", "optimum"):
        raise ConfigError(f"{served.path} is an engine, and {wish.target} loads an ONNX file")
    if served.kind == "onnx" and wish.target != "ovms":
        _require_runtime(served, wish)
    if wish.target == "optimum" and (wish.reference or wish.images):
        raise ConfigError(
            "a folder for Optimum has no golden pictures; leave out --reference and --images"
        )
    if wish.decoder != "pillow" and not triton:
        raise ConfigError(f"--preprocessing {wish.decoder} is Triton's; leave it out")


def _require_runtime(served: Served, wish: Wish) -> None:
    """Refuse an ONNX file that ONNX Runtime does not load in a server; raises ``ConfigError``."""
    precision = served.precision
    if precision in FP8_FORMS:
        raise ConfigError(
            f"{served.path} is in {precision}, which ONNX Runtime does not load by itself; build "
            "an engine of it with swin-deploy build-trt --flavor tensorrt, or give a file in fp16"
        )
    if wish.target == "optimum" and served.needs_gpu:
        raise ConfigError(
            f"{served.path} is in {precision}, which ONNX Runtime does not load on a CPU, where "
            "Optimum runs by default; give a file in fp32 or fp16"
        )


def _files(served: Served, wish: Wish) -> Files:
    if wish.target == "optimum":
        return optimum_files(served)
    facts = _facts(served, wish, None)
    if wish.target == "ovms":
        client = text_of("client_images.py.j2", facts).encode()
        return ovms_files(served, wish.name) | {"client.py": client}
    files = triton_files(served, wish.name, decoder=wish.decoder)
    files["client.py"] = text_of("client.py.j2", facts).encode()
    files["Dockerfile"] = text_of("Dockerfile", facts).encode()
    if wish.target == "kserve":
        engine = served.engine is not None
        files["inferenceservice.yaml"] = kserve_text(
            wish.name,
            engine=engine,
            gpu=engine or served.needs_gpu,
            compatible=facts["compatible"],
        )
    return files


def _endpoint(served: Served, wish: Wish) -> Endpoint:
    """Return the model that clients call."""
    name, batch = wish.name, served.batches.max
    if wish.target == "ovms":
        return Endpoint(name, name, served.input, served.outputs, "images", batch)
    own = (*score_tensors(served), *served.outputs) if served.classifies else served.outputs
    labels = tuple(labels_of(served)) if served.classifies else ()
    given = picture_tensor(wish.decoder)
    dali = wish.decoder == "dali"
    return Endpoint(
        name,
        f"{name}-model",
        given,
        own,
        "bytes" if dali else "pictures",
        batch,
        labels,
        served.facts.scores,
        None if dali else Preparation(f"{name}-preprocess", served.input),
    )


def _facts(served: Served, wish: Wish, golden: Golden | None) -> dict[str, Any]:
    """Return what the texts of a bundle say."""
    triton = wish.target in ("triton", "kserve")
    release = release_for(served.engine) if triton else ""
    engine = served.engine
    return {
        "served": served,
        "facts": served.facts,
        "wish": wish,
        "tag": plain_name(wish.name),
        "datatype": DATATYPES[served.input.type],
        "golden": golden,
        "picture": "" if golden is None else next(iter(golden.pictures)),
        "engine": engine,
        "compatible": engine is not None and engine.targets.version_compatible,
        "image": image_of(release) if release else "",
        "matrix": MATRIX,
        "version": engine.version if engine else "",
        "short": short_version(engine.version) if engine else "",
        "major": engine.version.split(".")[0] if engine else "",
        "answers": answer_count(served) if served.classifies else 0,
        "outputs": [one.name for one in served.outputs],
    }


def _notes(served: Served, wish: Wish) -> tuple[str, ...]:
    if wish.target not in ("triton", "kserve"):
        return ()
    batches = served.batches
    origin = "of the engine's profile" if served.engine else (
        "this program's choice: an ONNX file takes any number"
    )  # fmt: skip
    notes = [f"batches of up to {batches.max}, preferred {batches.opt} ({origin})"]
    release = release_for(served.engine)
    if release:
        notes.append(f"container: {image_of(release)}")
    return tuple(notes)


def _warnings(served: Served, wish: Wish) -> tuple[str, ...]:
    found = []
    engine = served.engine
    if engine is not None and not release_for(engine):
        found.append(
            f"no container with TensorRT {engine.version} is known here, and the engine runs in "
            f"this version alone; find the one that has it at {MATRIX}, and name it in Dockerfile"
        )
    if served.needs_gpu and wish.target != "ovms":
        found.append(f"ONNX Runtime runs {served.precision} on a GPU alone: give the server one")
    if wish.decoder == "dali":
        found.append(
            "DALI's pipeline was not run in Triton, and its images are near Pillow's, not equal to "
            "them: check the server with swin-deploy bundle DIR --check URL"
        )
    if wish.target == "optimum":
        found += _other_pictures(served.facts.preprocessing)
    elif served.classifies:
        found += _changed_names(served)
    if not served.facts.checkpoint_sha256:
        found.append("the weights are random: the answers mean nothing")
    return (*found, *(one.text for one in served.facts.assumptions))


def _other_pictures(steps: Preprocessing) -> list[str]:
    """Return what is said of pictures that transformers prepares in another way than predict."""
    found = []
    if steps.resize_mode == "shortest" and steps.crop_rounding != "huggingface":
        found.append(
            "transformers rounds odd margins of the centre crop in another way than "
            f"{steps.crop_rounding}: some pictures are cut one pixel apart from predict's"
        )
    if not steps.turn:
        found.append("pipeline turns pictures by their EXIF, and this model's own steps do not")
    if steps.on_white:
        found.append(
            "pictures with a transparent colour are on white in predict, and not in pipeline"
        )
    return found


def _changed_names(served: Served) -> list[str]:
    """Return what is said of class names that are other ones in the server."""
    pairs = zip(names_of(served), labels_of(served), strict=True)
    changed = [(name, label) for name, label in pairs if name != label]
    if not changed:
        return []
    name, label = changed[0]
    return [
        "labels are single lines of signs that are shown, so the server has other names than "
        f"predict for {len(changed)} of the classes: {shortened(ascii(name))} is {label!r}"
    ]
