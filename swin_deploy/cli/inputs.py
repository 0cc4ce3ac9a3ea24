"""Checks of a command's inputs, which find what is missing before PyTorch loads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import click

from exporters.artifact import read_manifest
from exporters.errors import CheckpointError, ExportError, FileError
from exporters.text_files import listed, shortened
from swin_deploy.artifacts.outputs import is_sizes
from swin_deploy.checkpoints.known import LIBRARIES
from swin_deploy.config import DEFAULT_MODEL, variant
from swin_deploy.config.published import with_fields
from swin_deploy.config.sizes import rounded_up

TO_CHECK = f"{__name__}.to_check"  # in click's notes of one command
Callback = Callable[[click.Context, click.Parameter, Any], Any]


def requiring(require: Callable[[Any], object]) -> Callback:
    """Return a click callback that notes calls of ``require``, one for each path given.

    Args:
        require: Function that refuses a path; called by ``require_inputs``.
    """

    def callback(context: click.Context, _: click.Parameter, value: Any) -> Any:  # noqa: ANN401
        for path in value if isinstance(value, tuple) else (value,):
            if path is not None:
                context.meta.setdefault(TO_CHECK, []).append(functools.partial(require, path))
        return value

    return callback


def require_inputs(context: click.Context) -> None:
    """Make the calls that ``requiring`` noted, once all options of a command are valid.

    Raises:
        DeployError: If an input is missing, or is of another kind.
    """
    for check in context.meta.get(TO_CHECK, ()):
        check()


def require_onnx(path: Path) -> None:
    """Refuse a path that cannot be an ONNX file.

    Raises:
        ExportError: If the path is missing, a folder, or named as an engine.
        FileError: If it is a manifest of sizes.
    """
    if not os.path.isfile(path):
        raise ExportError(f"{path} does not exist, or is not a file; give an ONNX file")
    _refuse_sizes(path, "onnx")
    if path.suffix == ".engine":
        raise ExportError(f"{path} is not a whole ONNX file: its name is that of an engine")


def require_built_from(path: Path) -> None:
    """Refuse what is neither an ONNX file nor a manifest of sizes; raises ``ExportError``."""
    if not is_sizes(path):
        require_onnx(path)


def require_engines(path: Path) -> None:
    """Refuse what is neither an engine nor a manifest of sizes; raises ``FileError``."""
    if not is_sizes(path):
        require_engine(path)


def require_engine(path: Path) -> None:
    """Refuse a file that is not an engine with its manifest; raises ``FileError``."""
    _refuse_sizes(path, "engine")
    read_manifest(path)


def _refuse_sizes(path: Path, kind: Literal["onnx", "engine"]) -> None:
    """Refuse a manifest of sizes where one file is needed; raises ``FileError``."""
    if not is_sizes(path):
        return
    from swin_deploy.artifacts.sizes_file import read_sizes

    found = [getattr(one, kind) for one in read_sizes(path).sizes]
    names = listed([str(path.parent / named.file) for named in found if named])
    what = {"onnx": "ONNX file", "engine": "engine"}[kind]
    raise FileError(
        f"{path} is a manifest of sizes, and the {what} of one size is needed here; "
        + (f"give one of {names}" if names else f"swin-deploy build-trt {path} makes them")
    )


def require_planned(path: Path) -> None:
    """Refuse a file that ``plan`` cannot read; raises ``ExportError`` or ``FileError``."""
    if is_sizes(path):
        return
    if path.suffix == ".json" and os.path.isfile(path):  # not whole, or of another kind
        from swin_deploy.artifacts.sizes_file import read_sizes

        read_sizes(path)
    (require_onnx if path.suffix == ".onnx" else require_engine)(path)


def require_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that does not exist; raises ``CheckpointError``."""
    if not os.path.exists(path):
        raise CheckpointError(f"{path} does not exist; give a checkpoint file")


def require_images(path: Path) -> None:
    """Refuse a folder that does not exist or holds no images; raises ``FileError``."""
    from swin_deploy.images.labelled import find_images

    find_images(path)


def require_listed(path: Path) -> None:
    """Refuse what is neither a folder of images nor a CSV file of them; raises ``FileError``."""
    from swin_deploy.images.labelled import list_images

    list_images(path)


def require_data(path: Path) -> None:
    """Refuse labelled images that do not exist; raises ``FileError``."""
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise FileError(
            f"{path} does not exist; give --data a folder of class folders, or a CSV file"
        )


def require_steps(source: str) -> None:
    """Refuse a preprocessing source that is neither a library nor a path; raises ``FileError``."""
    if source not in LIBRARIES and not os.path.exists(source):
        raise FileError(
            f"{shortened(source)} does not exist; check the path, or name one of "
            f"{', '.join(LIBRARIES)}"
        )


def require_sizes(name: str | None, sizes: Mapping[str, Any]) -> None:
    """Refuse sizes that a variant without a checkpoint cannot have.

    Args:
        name: Name of the variant; None for the default.
        sizes: Fields of ``SwinConfig`` by name, and ``pad_to``; None where the variant decides.

    Raises:
        ConfigError: If the variant cannot have the sizes.
    """
    known, asked = variant(DEFAULT_MODEL if name is None else name), dict(sizes)
    multiple = asked.pop("pad_to", None)
    if multiple is not None:
        size = asked.get("img_size")
        asked["img_size"] = rounded_up(known.img_size if size is None else size, multiple)
    with_fields(known, asked)
