"""Pictures in, classes with probabilities or features out."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from exporters.errors import ComparisonError, ConfigError, FileError
from exporters.text_files import shortened
from swin_deploy.checkpoints.load import LoadedModel, LoadOptions
from swin_deploy.config import Size
from swin_deploy.config.sizes import size_for
from swin_deploy.images.arrays import is_npy
from swin_deploy.images.batches import decode_ahead
from swin_deploy.images.decode import Pixels, load_pixels, normalise
from swin_deploy.images.opening import size_of_picture
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.scores import TAG_THRESHOLD, scores_of
from swin_deploy.predict.opened import open_artifact
from swin_deploy.predict.pictures import NamedPicture, Picture, named_picture
from swin_deploy.runners import Way
from swin_deploy.runners.base import Outputs, run_images

Tell = Callable[[str, str], None]
TOP = 5
BATCH = 32
NOT_A_NUMBER = "the model gives no number for it: an overflow, try another precision"


@dataclass(frozen=True)
class Scored:
    """One class of an answer.

    Attributes:
        index: Index of the class in the model's logits.
        name: Name of the class; empty if it is not known.
        probability: Softmax or sigmoid of the logits, 0 to 1; the logit itself with scores
            ``none``.
    """

    index: int
    name: str
    probability: float

    @property
    def label(self) -> str:
        """The name of the class; if it has none, ``class`` and the index."""
        return self.name or f"class {self.index}"


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one picture.

    Attributes:
        image: Path of the picture, or its name.
        top: Classes, the most probable first; none if the model has no classifier. Of a model with
            a sigmoid, those whose probability reaches the threshold.
        outputs: The model's outputs for this picture by name, without the batch dimension.
        error: The reason why there is no answer; empty if there is one.
        size: Rows and columns that the picture was prepared for, chosen among several image sizes;
            None for a model of one size, and for a picture that cannot be read.
    """

    image: str
    top: tuple[Scored, ...] = ()
    outputs: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    error: str = ""
    size: Size | None = None


class Predictor:
    """A model that takes pictures as they are.

    It prepares a picture as the checkpoint's own library does and names the classes; both come
    from the file. Use it with ``with``, or ``close`` it. Threads may share it: they take turns.

    Args:
        artifact: An ONNX file, an engine, a checkpoint, the name of a model, or a loaded one; or
            a manifest of sizes, of which each picture gets the size of the nearest ratio of rows to
            columns, the smallest that holds it, else the largest.
        top: Number of classes to name, the most probable first; by default 5, and all that reach
            the threshold where any number of classes may be right.
        threshold: Least score of a class to be named; by default 0.35 with a sigmoid, else none.
        batch: Number of pictures a call, clipped to the batches that the file takes.
        runner: The way that PyTorch runs a checkpoint's deploy model, ``torch`` or
            ``torch-max-autotune``: compiled, for batches of powers of two; or the way that OpenVINO
            runs an ONNX file, ``openvino`` or ``openvino-bf16``. None runs the reference as it is,
            and an ONNX file in ONNX Runtime.
        asked: Options of ``LoadOptions`` for a checkpoint, such as ``img_size``; ``classes`` and
            ``scores`` only for an ONNX file or an engine, and ``img_size`` to take one of several
            sizes.

    Attributes:
        name: Name of the file, or of the model.
        facts: Facts of the model in the file: sizes, weights, preprocessing, class names.
        runner: The runner, open; ``runner.backend`` names the library and the device.
        sha256: SHA-256 digest of the file; empty for random weights.
        notes: Remarks on what was found, skipped or changed while loading.
        sizes: Preprocessing for each image size; empty if there is only that of ``facts``.
        top: Number of classes to name; None for all that reach the threshold.
        threshold: Least score of a class to be named; None for any.

    Raises:
        ConfigError: If an option is unknown, or can no longer be changed in this file.
        FileError: If the file is missing or damaged.
        MissingBackendError: If this machine cannot run it.

    Example:
        >>> import swin_deploy
        >>> with swin_deploy.Predictor("notebook-digits") as predict:
        ...     (answer,) = predict(example_picture)
        >>> answer.top[0].label, answer.top[0].probability > 0.9, len(answer.top)
        ('3', True, 5)
    """

    def __init__(
        self,
        artifact: str | Path | LoadedModel,
        *,
        top: int | None = None,
        threshold: float | None = None,
        batch: int = BATCH,
        runner: Way | None = None,
        **asked: Unpack[LoadOptions],
    ) -> None:
        for what, value in (("top", TOP if top is None else top), ("batch", batch)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"{what} {value!r}: a whole number of at least 1 is needed")
        if threshold is not None and not math.isfinite(threshold):
            raise ConfigError(f"threshold {threshold}: a finite number is needed")
        opened = open_artifact(_artifact(artifact), runner=runner, **asked)
        self.name, self.facts, self.sha256 = opened.name, opened.facts, opened.sha256
        self.notes = opened.notes
        self.runner = opened.runner
        self.sizes = opened.sizes
        self._closed = False
        self._turn = threading.Lock()
        several = self.facts.scores == "sigmoid"
        self.threshold = TAG_THRESHOLD if threshold is None and several else threshold
        self.top = None if top is None and several else top or TOP
        self._names = self.facts.class_names
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self.runner)
        self._batch = max(min(batch, self.runner.max_batch or batch), self.runner.min_batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the model and its memory."""
        with self._turn:
            self._closed = True
            self._stack.close()

    @property
    def classifies(self) -> bool:
        """Whether the model gives class logits."""
        return "logits" in self.facts.config.output_names

    def __call__(self, pictures: Picture | Iterable[Picture]) -> list[Prediction]:
        """Answer to pictures.

        Args:
            pictures: One picture or several: the path of an image or `.npy` file, the bytes of one,
                a Pillow image, or an array [height, width, channels]: pixels of 0 to 255, uint8, or
                as in a `.npy` file.

        Returns:
            One answer a picture, in order.

        Raises:
            ComparisonError: If the outputs are not those that the file's facts name.
            ConfigError: If ``pictures`` is something else, or the predictor is closed.
            FileError: If a picture cannot be read, or its outputs are not finite.
        """
        if isinstance(pictures, str | Path | bytes | Image.Image | np.ndarray):
            pictures = (pictures,)
        if not isinstance(pictures, Iterable):
            raise ConfigError(
                f"{pictures!r} is no picture; give paths, bytes, Pillow images or arrays of pixels"
            )
        if self._closed:
            raise ConfigError(f"the predictor of {self.name} is closed; make another one")
        answers = []
        for answer in self.stream(pictures):
            if answer.error:
                raise FileError(answer.error)
            answers.append(answer)
        return answers

    def stream(
        self,
        pictures: Iterable[Picture | NamedPicture],
        *,
        tell: Tell = lambda name, what: None,
    ) -> Generator[Prediction]:
        """Answer to any number of pictures, a batch at a time, as they come.

        Args:
            pictures: Pictures as ``__call__`` takes them, drawn as they are needed; a
                ``NamedPicture`` has its name in the answers.
            tell: Function that is told the name of a picture and what is unexpected about it;
                called from several threads.

        Yields:
            One answer a picture, in order; one with an ``error`` for a picture that cannot be read.
        """

        def decode(named: NamedPicture) -> NDArray[np.float32]:
            steps = self._steps_for(named)
            pixels = _pixels(named, steps, lambda what: tell(named.name, what))
            return normalise(pixels, steps)

        items = itertools.starmap(named_picture, enumerate(pictures))
        with contextlib.closing(decode_ahead(items, decode, batch=self._batch)) as batches:
            for decoded in batches:
                yield from self._answers(decoded)

    def _answers(
        self, decoded: list[tuple[NamedPicture, NDArray[np.float32] | FileError]]
    ) -> Iterator[Prediction]:
        images = {
            place: image
            for place, (_, image) in enumerate(decoded)
            if not isinstance(image, FileError)
        }
        rows: dict[int, dict[str, NDArray[np.float32]]] = {}
        for shape in dict.fromkeys(image.shape for image in images.values()):
            places = [place for place, image in images.items() if image.shape == shape]
            outputs = self._run(np.stack([images[place] for place in places]))
            rows |= zip(places, self._rows(outputs), strict=True)
        for place, (named, image) in enumerate(decoded):
            if isinstance(image, FileError):
                yield Prediction(named.name, error=str(image))
            else:
                size = Size(*image.shape[-2:]) if self.sizes else None
                yield dataclasses.replace(self._answer(named, rows[place]), size=size)

    def _steps_for(self, named: NamedPicture) -> Preprocessing:
        """Return the preprocessing of a picture, which may depend on its size.

        Raises:
            FileError: If it cannot be read, or is an array of a size that the model does not have.
        """
        steps = self.facts.preprocessing
        if not self.sizes:
            return steps
        picture = _source(named)
        name = named.short_name
        size = size_of_picture(picture, channels=steps.channels, turn=steps.turn, name=name)
        whole = isinstance(picture, np.ndarray) or is_npy(picture)
        if whole and size not in self.sizes:
            raise FileError(
                f"image {shortened(name)} is an array of {size.sides}, and {self.name} has sizes "
                f"{', '.join(map(str, self.sizes))}; give it one of these, or a picture"
            )
        return self.sizes[size_for(size, tuple(self.sizes))]

    def _run(self, images: NDArray[np.float32]) -> Outputs:
        """Run normalised images; a runner has room for one call, so threads take turns."""
        with self._turn:
            if self._closed:
                raise ConfigError(f"the predictor of {self.name} is closed; make another one")
            return run_images(self.runner, images)

    def _rows(self, outputs: Outputs) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yield the outputs of one picture after the other, by name, without the batch dimension.

        Raises:
            ComparisonError: If the outputs are not those that the facts name.
        """
        names = self.facts.config.output_names
        if len(outputs) != len(names):
            raise ComparisonError(
                f"{self.name} gives {len(outputs)} outputs, its facts name {', '.join(names)}; "
                "export it again"
            )
        wanted = (len(outputs[0]), self.facts.config.num_classes)
        for name, output in zip(names, outputs, strict=True):
            if name == "logits" and output.shape != wanted:
                raise ComparisonError(
                    f"{self.name} gives logits of shape {list(output.shape)}, its facts say "
                    f"{list(wanted)}; export it again"
                )
        for row in zip(*outputs, strict=True):
            yield dict(zip(names, row, strict=True))

    def _answer(self, named: NamedPicture, outputs: dict[str, NDArray[np.float32]]) -> Prediction:
        if not all(np.isfinite(one).all() for one in outputs.values()):
            error = f"image {named.short_name}: {NOT_A_NUMBER}"
            return Prediction(named.name, outputs=outputs, error=error)
        if not self.classifies:
            return Prediction(named.name, outputs=outputs)
        shares = scores_of(outputs["logits"], self.facts.scores)
        best = np.argsort(-shares, kind="stable")
        if self.threshold is not None:
            best = best[shares[best] >= self.threshold]
        best = best[: self.top]
        top = tuple(Scored(int(i), self._name(int(i)), float(shares[i])) for i in best)
        return Prediction(named.name, top, outputs)

    def _name(self, index: int) -> str:
        return self._names[index] if index < len(self._names) else ""


def _artifact(given: str | Path | LoadedModel) -> Path | LoadedModel:
    """Return a path or a model as given by a caller; a text becomes a path.

    Raises:
        ConfigError: If it is neither.
    """
    if isinstance(given, LoadedModel):
        return given
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(
            f"{given!r} is neither a path nor a model; of what export and build return, give .path"
        )
    return Path(given)


def _pixels(named: NamedPicture, steps: Preprocessing, tell: Callable[[str], None]) -> Pixels:
    """Return the model's pixels, [rows, columns, channels], of a picture in any of its forms."""
    return load_pixels(_source(named), steps, name=named.short_name, tell=tell)


def _source(named: NamedPicture) -> Path | bytes | Image.Image | NDArray[Any]:
    """Return a picture in a form that can be read; raises ``FileError`` for another object."""
    picture = named.picture
    if isinstance(picture, str):
        return Path(picture)
    if isinstance(picture, FileError):
        raise picture
    if not isinstance(picture, Path | bytes | Image.Image | np.ndarray):
        raise FileError(
            f"{named.name} is a {type(picture).__name__}; give a path, bytes, a Pillow image or an "
            "array of pixels"
        )
    return picture
