"""The outputs of a model for many pictures, as one NPZ file."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from exporters.errors import FileError
from exporters.staging import made_folder, real_path, temporary_folder
from exporters.text_files import shortened
from swin_deploy.predict.predictor import Prediction

FLOAT32 = np.lib.format.dtype_to_descr(np.dtype(np.float32))


class FeatureFile:
    """An NPZ file: ``images``, ``errors`` and one array [n, ...] for each output.

    The rows of a picture that cannot be read are NaN. Rows go to the disk as they come, so that
    memory does not grow with their number, and the file takes its name when it is complete. Open it
    with ``with``; a file that is not finished leaves nothing on the disk.

    Args:
        path: Path of the NPZ file.
        names: Names of the pictures, in the order in which they come.

    Raises:
        FileError: If it cannot be written.
    """

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self._path = path
        self._place = real_path(path)
        self._names = names
        self._errors: list[str] = []
        self._streams: dict[str, IO[bytes]] = {}
        self._missing: dict[str, NDArray[np.float32]] = {}  # the row of a picture without outputs

    def __enter__(self) -> Self:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(made_folder(self._place.parent))
                self._folder = stack.enter_context(temporary_folder(self._place.parent))
                self._stack = stack.pop_all()
        except OSError as err:
            raise self._failure(err) from err
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, answer: Prediction) -> None:
        """Append the outputs of the next picture.

        Raises:
            FileError: If they cannot be written, or are of another shape than those before.
        """
        try:
            for name, row in answer.outputs.items():
                if name not in self._streams:
                    self._begin(name, row.shape)
                _require_shape(self._missing[name].shape, name, answer, self._path)
            for name, stream in self._streams.items():
                stream.write(answer.outputs.get(name, self._missing[name]).tobytes())
        except OSError as err:
            raise self._failure(err) from err
        self._errors.append(answer.error)

    def finish(self) -> None:
        """Write the file under its name, from the rows added.

        Raises:
            FileError: If it cannot be written.
        """
        texts = {"images": np.array(self._names), "errors": np.array(self._errors)}
        whole = self._folder / self._place.name
        try:
            with zipfile.ZipFile(whole, "w", allowZip64=True) as archive:
                for name, values in texts.items():
                    with archive.open(f"{name}.npy", "w") as entry:
                        np.lib.format.write_array(entry, values, allow_pickle=False)
                for name, stream in self._streams.items():
                    stream.flush()
                    archive.write(self._folder / f"{name}.npy", f"{name}.npy")
            os.replace(whole, self._place)
        except OSError as err:
            raise self._failure(err) from err

    def _begin(self, name: str, shape: tuple[int, ...]) -> None:
        """Start the array of an output, with rows of NaN for the pictures before this one."""
        self._streams[name] = stream = (self._folder / f"{name}.npy").open("wb")
        self._stack.callback(_close, stream)
        header = {"descr": FLOAT32, "fortran_order": False, "shape": (len(self._names), *shape)}
        np.lib.format.write_array_header_2_0(stream, header)
        self._missing[name] = np.full(shape, np.nan, np.float32)
        for _ in self._errors:
            stream.write(self._missing[name].tobytes())

    def _failure(self, err: OSError) -> FileError:
        return FileError(
            f"cannot write {self._path}: {err.strerror or err}; choose another place, or free some "
            "space"
        )


def _require_shape(shape: tuple[int, ...], name: str, answer: Prediction, path: Path) -> None:
    """Refuse an output of another shape than the array that it belongs to."""
    found = answer.outputs[name].shape
    if found != shape:
        raise FileError(
            f"{path} has one array for {name}, of {list(shape)}, and image "
            f"{shortened(answer.image)} gives {list(found)} at {answer.size} px; choose one size "
            "with --image-size"
        )


def _close(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # a failed write is reported already
        stream.close()
