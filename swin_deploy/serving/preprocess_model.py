"""Triton's model of the preprocessing: encoded pictures in, a model's input out.

A bundle has this file as a ``model.py`` of its own, see ``standalone``.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import FileError
from swin_deploy.images.decode import MOST_PIXELS, denormalise, load_pixels, normalise
from swin_deploy.images.opening import size_of_picture
from swin_deploy.images.pages import Page
from swin_deploy.images.preprocessing import Preprocessing

STEPS_FILE = "preprocessing.json"  # next to model.py
THREADS = 4  # of one instance: Pillow and NumPy leave Python's lock while they work


class TritonPythonModel:
    """The preprocessing of pictures, as Triton's Python backend runs it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the steps; Triton calls it once.

        Args:
            args: Strings from Triton: the place of the model, and its configuration as JSON.
        """
        import triton_python_backend_utils as triton

        self._triton = triton
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"]) / args["model_version"] / STEPS_FILE
        self._steps = steps_of(json.loads(path.read_text(encoding="utf-8")))
        self._most = int(config["parameters"]["most_pixels"]["string_value"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        kind = triton.triton_string_to_numpy(config["output"][0]["data_type"])
        self._kind = np.dtype(kind).name
        self._pool = ThreadPoolExecutor(THREADS)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Prepare the pictures of some requests; one that cannot be read fails its own alone.

        Args:
            requests: Requests of Triton, each with pictures [B, 1] of bytes.
        """
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _answer(self, request: Any) -> Any:  # noqa: ANN401 - Triton's own objects
        pictures = self._triton.get_input_tensor_by_name(request, self._input).as_numpy()
        try:
            images = list(self._pool.map(self._prepared, pictures.reshape(-1)))
        except FileError as err:
            error = self._triton.TritonError(str(err), self._triton.TritonError.INVALID_ARG)
            return self._triton.InferenceResponse(error=error)
        tensor = self._triton.Tensor(self._output, np.stack(images))
        return self._triton.InferenceResponse(output_tensors=[tensor])

    def _prepared(self, picture: bytes) -> NDArray[Any]:
        return prepared(picture, self._steps, most_pixels=self._most, kind=self._kind)


def prepared(picture: bytes, steps: Preprocessing, *, most_pixels: int, kind: str) -> NDArray[Any]:
    """Decode an encoded picture and prepare it for a model.

    Args:
        picture: Bytes of an image file, or of a `.npy` file.
        steps: Preprocessing of the picture.
        most_pixels: Number of pixels above which a picture is refused before it is decoded.
        kind: Type of the model's input; `uint8` for one that normalises pixels itself.

    Returns:
        Normalised image [channels, rows, columns], or pixels [rows, columns, channels], uint8.

    Raises:
        FileError: If it cannot be read, or is too large.
    """
    given = size_of_picture(picture, channels=steps.channels, turn=False, name="in the request")
    if given.area > most_pixels:
        raise FileError(
            f"image in the request has {given.sides} pixels, more than the {most_pixels:,} that "
            "this server decodes; make it smaller"
        )
    image = normalise(load_pixels(picture, steps, name="in the request"), steps)
    return denormalise(image, steps) if kind == "uint8" else image.astype(kind, copy=False)


def prepare(picture: bytes, *, kind: str) -> NDArray[Any]:
    """Prepare an encoded picture by the steps in the file next to this one.

    Args:
        picture: Bytes of an image file, or of a `.npy` file.
        kind: Type of the model's input, as ``prepared`` takes it.

    Returns:
        A batch of one image, as ``prepared`` makes it.

    Raises:
        FileError: If it cannot be read, or is too large.
    """
    path = Path(__file__).with_name(STEPS_FILE)
    steps = steps_of(json.loads(path.read_text(encoding="utf-8")))
    return prepared(picture, steps, most_pixels=MOST_PIXELS, kind=kind)[None]


def steps_of(values: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing of a bundle's JSON values, whose lists are tuples here."""
    fields: dict[str, Any] = {
        name: tuple(one) if isinstance(one, list) else one for name, one in values.items()
    }
    if fields.get("page"):
        fields["page"] = Page(**fields["page"])
    return Preprocessing(**fields)
