"""Files of one model at several image sizes: ONNX files that share their weights, and engines.

The sizes' manifest ``x-sizes.json`` names, for each size, the ONNX file and, once it is built, the
engine, with their SHA-256. All of them and the data file ``x.weights`` lie in its folder.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from exporters.artifact import NewArtifact, read_manifest, sha256_of, write_artifacts
from exporters.errors import ConfigError, FileError
from exporters.shared_weights import SharedWeights
from exporters.text_files import read_json, shortened, typed
from swin_deploy.artifacts.facts import ModelFacts
from swin_deploy.artifacts.onnx_file import OnnxFile, new_graph
from swin_deploy.artifacts.outputs import SIZES, sizes_output
from swin_deploy.config import Size
from swin_deploy.config.sizes import MOST_SIDE

SCHEMA = 1
ENDING = "-sizes"  # of the manifest's name, before .json
Plain = Annotated[str, msgspec.Meta(pattern=r"^[^/\\\0]+$")]  # no path leads out of the folder
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class NamedFile:
    """A file next to the manifest: its name and its SHA-256."""

    file: Plain
    sha256: Digest


@dataclass(frozen=True)
class OneSize:
    """The files of one image size.

    Attributes:
        image_size: Side of a square in pixels, or rows and columns.
        onnx: The ONNX file.
        engine: The engine; None before it is built.
    """

    # msgspec 0.22: bounds on both forms read past the end of its own memory; checked in read_sizes.
    image_size: int | tuple[int, int]
    onnx: NamedFile
    engine: NamedFile | None = None

    @property
    def size(self) -> Size:
        """Rows and columns."""
        return Size.of(self.image_size)


@dataclass(frozen=True)
class SizesFile:
    """The manifest of one model at several sizes.

    Attributes:
        path: Path of the manifest.
        model: Name of the model.
        precision: Precision of weights and activations, of all sizes.
        weights: The data file that the ONNX files share.
        saved_bytes: Number of bytes that weights of their own would take more.
        sizes: The files of each size, in the order in which they were asked for.
        created: Time of the export.
    """

    path: Path
    model: str
    precision: str
    weights: NamedFile
    saved_bytes: int
    sizes: tuple[OneSize, ...]
    created: str = ""

    @property
    def names(self) -> str:
        """The sizes in words: ``1024, 512``."""
        return ", ".join(str(one.size) for one in self.sizes)

    @property
    def has_engines(self) -> bool:
        """Whether every size has an engine."""
        return all(one.engine for one in self.sizes)

    def at(self, image_size: int | tuple[int, int]) -> OneSize:
        """Return the files of a size; raises ``ConfigError`` with the names of those there are."""
        for one in self.sizes:
            if image_size in (one.size, one.size.plain):
                return one
        raise ConfigError(
            f"{self.path} has no files for {shortened(image_size)} px; its sizes are "
            f"{self.names}: give one of them, or export this size too"
        )

    def onnx(self, one: OneSize) -> Path:
        """Return the path of a size's ONNX file, which is the one that was written.

        Raises:
            FileError: If it is missing or has changed.
        """
        return self._verified(one.onnx, sha256_of)

    def engine(self, one: OneSize) -> Path:
        """Return the path of a size's engine, which is the one that was built.

        Raises:
            FileError: If there is none, or it is missing or has changed.
        """
        if one.engine is None:
            raise FileError(
                f"{self.path} has no engine for {one.size} px; build them with swin-deploy "
                f"build-trt {self.path}"
            )
        return self._verified(one.engine, lambda path: str(read_manifest(path)["sha256"]))

    def _verified(self, named: NamedFile, digest: Callable[[Path], str]) -> Path:
        path = self.path.parent / named.file
        if not path.is_file():
            raise FileError(
                f"{self.path} names {shortened(named.file)}, which is not there; keep its files "
                "together, or export the sizes again"
            )
        if digest(path) != named.sha256:
            raise FileError(
                f"{path} is not the file that {self.path.name} describes (SHA-256 differs); export "
                "or build the sizes again"
            )
        return path


def read_sizes(path: Path) -> SizesFile:
    """Read a manifest of sizes; the files that it names are checked when they are used.

    Raises:
        FileError: If it is missing, of another kind or version, or names a size or file twice.
    """
    values = typed(read_json(path), dict[str, object], where=str(path))
    if values.get("kind") != SIZES:
        raise FileError(f"{path} is no manifest of sizes; make one with swin-deploy export")
    if values.get("schema") != SCHEMA:
        raise FileError(
            f"{path} is of schema {shortened(values.get('schema'))}, this version reads {SCHEMA}; "
            "export the sizes again"
        )
    found = typed(values | {"path": path}, SizesFile, where=str(path))
    sizes = [one.size for one in found.sizes]
    if not all(1 <= side <= MOST_SIDE for size in sizes for side in size):
        raise FileError(f"{path} names a size that no image has; export the sizes again")
    files = [named.file for one in found.sizes for named in (one.onnx, one.engine) if named]
    if not sizes or len(set(sizes)) < len(sizes) or len(set(files)) < len(files):
        what = "names a size or a file twice" if sizes else "names no size"
        raise FileError(f"{path} {what}; export the sizes again")
    return found


def sizes_name(stem: str) -> str:
    """Return the name of the manifest of the sizes of an export, such as ``x-sizes.json``."""
    return f"{stem}{ENDING}.json"


def file_beside(path: Path, size: Size, suffix: str) -> Path:
    """Return the path of a size's file: ``x-512.onnx`` for the manifest ``x-sizes.json``."""
    return path.with_name(f"{path.stem.removesuffix(ENDING)}-{size}{suffix}")


def weights_beside(path: Path) -> Path:
    """Return the path of the data file of a manifest of sizes."""
    return path.with_name(f"{path.stem.removesuffix(ENDING)}.weights")


def share_weights(
    files: Iterable[OnnxFile], path: Path
) -> tuple[tuple[NewArtifact, ...], SizesFile]:
    """Take the weights out of ONNX files of several sizes; nothing is written yet.

    Args:
        files: Exports of one model that are not written yet, each of another size; they are drawn
            one by one, and their graphs lose their weights.
        path: Path that the manifest of sizes is to have.

    Returns:
        The data file and the ONNX files, to write in this order; and the manifest.

    Raises:
        ConfigError: If two files are of the same size or of different models.
    """
    place = weights_beside(path)
    shared = SharedWeights(place.name)
    taken: list[OnnxFile] = []
    for file in files:
        _require_fitting(taken, file)
        shared.take_out(file.graph)
        taken.append(file)
    if not taken:
        raise ConfigError(f"{path}: there is no model to export; give it at each size")
    weights = {"file": place.name, "bytes": shared.size, "sha256": shared.sha256}
    ours = {"weights": weights, "sizes": path.name}
    graphs, entries = [], []
    for file in taken:
        shared.sign(file.graph)
        new = new_graph(file)
        graphs.append(dataclasses.replace(new, facts=new.facts | ours))
        named = NamedFile(file.path.name, graphs[-1].sha256)
        entries.append(OneSize(_facts(file).config.image.plain, named))
    data = NewArtifact(place, shared.pieces, {"kind": "weights"})
    sizes = SizesFile(
        path,
        model=_facts(taken[0]).model,
        precision=taken[0].precision,
        weights=NamedFile(place.name, data.sha256),
        saved_bytes=shared.asked - shared.size,
        sizes=tuple(entries),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return (data, *graphs), sizes


def _facts(file: OnnxFile) -> ModelFacts:
    if file.facts is None:
        raise ConfigError(f"{file.path} does not say its size; export it with swin-deploy")
    return file.facts


def _require_fitting(taken: Sequence[OnnxFile], file: OnnxFile) -> None:
    """Refuse a file of another model than those taken, or of the same size as one of them."""
    require_each_once([_facts(one).config.image for one in (*taken, file)])
    for name in ("model", "checkpoint_sha256", "weights_key"):
        theirs = getattr(_facts(file), name)
        if taken and getattr(_facts(taken[0]), name) != theirs:
            raise ConfigError(
                f"{file.path.name} is of another model ({name} {theirs or 'empty'}) than "
                f"{taken[0].path.name}; give the sizes of one model"
            )


def require_each_once(sizes: Sequence[Size]) -> None:
    """Refuse sizes that are named twice; raises ``ConfigError``."""
    for place, size in enumerate(sizes):
        if size in sizes[:place]:
            raise ConfigError(f"image size {size} is given twice; give each size once")


def write_sizes(
    artifacts: Sequence[NewArtifact], sizes: SizesFile, *, force: bool = False
) -> SizesFile:
    """Write artefacts and the manifest of sizes that names them, all or none; return the manifest.

    Args:
        artifacts: The artefacts, without those that are there already.
        sizes: The manifest.
        force: True to replace files that this program did not make.

    Raises:
        FileError: If a file cannot be written, or one is there that is not ours.
    """
    text = json.dumps(to_dict(sizes), indent=2) + "\n"
    write_artifacts(artifacts, last=(sizes_output(sizes.path), text.encode()), force=force)
    return sizes


def to_dict(sizes: SizesFile) -> dict[str, Any]:
    """Return a manifest of sizes as JSON values."""
    values = dataclasses.asdict(sizes)
    del values["path"]
    return {"schema": SCHEMA, "kind": SIZES, **values}
