"""The outputs of a model for many pictures, as one NPZ file."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from exporters.errors import FileError
from exporters.staging import real_path, temporary_folder
from swin_deploy.predict.predictor import Prediction

FLOAT32 = np.lib.format.dtype_to_descr(np.dtype(np.float32))


class FeatureFile:
    """An NPZ file: ``images``, ``errors`` and one array [n, ...] for each output.

    The rows of a picture that cannot be read are NaN. Rows go to the disk as they come, so that
    memory does not grow with their number, and the file takes its name when it is whole. Open with
    ``with``; nothing is left of one that is not finished.

    Args:
        path: The file.
        names: Names of the pictures, in the order they come.

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
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._folder = self._stack.enter_context(temporary_folder(self._place.parent))
        except OSError as err:
            raise self._failure(err) from err
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def add(self, answer: Prediction) -> None:
        """Keep the outputs of the next picture."""
        try:
            for name, row in answer.outputs.items():
                if name not in self._streams:
                    self._begin(name, row.shape)
            for name, stream in self._streams.items():
                stream.write(answer.outputs.get(name, self._missing[name]).tobytes())
        except OSError as err:
            raise self._failure(err) from err
        self._errors.append(answer.error)

    def finish(self) -> None:
        """Write the file."""
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
        """Open the array of an output; the pictures before it have none."""
        stream = (self._folder / f"{name}.npy").open("wb")
        self._streams[name] = self._stack.enter_context(stream)
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
