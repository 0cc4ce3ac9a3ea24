"""Choose a few images to show, with the reference's and each candidate's answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.scores import Scores, scores_of
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import Answer, Guess, NoiseFloor, Sample
from swin_deploy.parity.compare import TOP, margins, top_changes
from swin_deploy.parity.reference_run import ReferenceOutputs
from swin_deploy.parity.samples import Change
from swin_deploy.runners import Outputs

MOST_SAMPLES = 6
ALIKE = 0.02  # relative L2 of two rows of logits
THUMBNAIL = 112  # pixels at most
JPEG_QUALITY = 85


def sampled_set(reference: ReferenceOutputs) -> int | None:
    """Return the index of the set of real images; None without such a set or without logits."""
    names = [images.name for images in reference.image_sets]
    return names.index("images") if "images" in names and "logits" in reference.names else None


def sample_rows(logits: NDArray[np.float32]) -> list[int]:
    """Choose rows of logits [n, classes] to show: half with small margins, half spread over all.

    Rows that nearly equal another chosen row, as for one picture in two files, are skipped.

    Returns:
        At most ``MOST_SAMPLES`` row numbers, ascending.
    """
    rows = list(range(len(logits)))
    chosen: list[int] = []
    _choose(logits, chosen, np.argsort(margins(logits), kind="stable"), MOST_SAMPLES // 2)
    others = [row for row in rows if row not in chosen]
    count = min(len(others), MOST_SAMPLES - len(chosen))
    evenly = [others[index * len(others) // count] for index in range(count)]
    _choose(logits, chosen, [*evenly, *others], MOST_SAMPLES)
    return sorted(chosen)


def _choose(logits: NDArray[np.float32], chosen: list[int], rows: Iterable[int], most: int) -> None:
    """Add rows that differ from those chosen, until there are ``most``."""
    for row in map(int, rows):
        if len(chosen) < most and not any(_alike(logits[row], logits[one]) for one in chosen):
            chosen.append(row)


def _alike(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    apart = float(np.linalg.norm(a - b)) / (float(np.linalg.norm(b)) or 1.0)
    return not apart > ALIKE  # NaN is like anything


def make_samples(reference: ReferenceOutputs, steps: Preprocessing) -> tuple[Sample, ...]:
    """Make the samples to show, with the reference's answers.

    Args:
        reference: The reference's outputs.
        steps: Preprocessing with which the images were normalised.

    Returns:
        At most ``MOST_SAMPLES`` samples; none without real images or without logits.
    """
    number = sampled_set(reference)
    if number is None:
        return ()
    images = reference.image_sets[number]
    logits = reference.outputs[number][reference.names.index("logits")]
    rows = sample_rows(logits)
    labels = [None if images.labels is None else int(images.labels[row]) for row in rows]
    return tuple(
        Sample(
            name=images.names[row],
            thumbnail=_thumbnail(images.images[row], steps),
            label=label,
            label_name="" if label is None else _name(images, label),
            reference=Answer(_guesses(logits[row], images, reference.scores)),
        )
        for row, label in zip(rows, labels, strict=True)
    )


def answer_samples(
    reference: ReferenceOutputs, outputs: list[Outputs], floors: list[NoiseFloor | None]
) -> tuple[Answer, ...]:
    """Return a candidate's answers to the images to show.

    Args:
        reference: The reference's outputs.
        outputs: Outputs of the candidate: for each image set, one array [n, ...] for each output.
        floors: Noise floor of the first output for each image set; a model with logits has no
            other output.

    Returns:
        One answer for each sample, in order; none without real images or without logits.
    """
    number = sampled_set(reference)
    if number is None:
        return ()
    images, place = reference.image_sets[number], reference.names.index("logits")
    expected, actual = reference.outputs[number][place], outputs[number][place]
    flipped, tied = top_changes(actual, expected, floors[number])
    return tuple(
        Answer(
            _guesses(actual[row], images, reference.scores),
            _change(bool(flipped[row]), bool(tied[row])),
        )
        for row in sample_rows(expected)
    )


def _change(flipped: bool, tied: bool) -> Change:
    if not flipped:
        return "same"
    return "near tie" if tied else "flip"


def _guesses(logits: NDArray[np.float32], images: ImageSet, scores: Scores) -> tuple[Guess, ...]:
    """Return the likeliest classes of one row of logits; none unless all logits are finite."""
    if not np.isfinite(logits).all():
        return ()
    shares = scores_of(logits, "sigmoid" if scores == "sigmoid" else "softmax")
    top = np.argsort(-logits, kind="stable")[:TOP]
    return tuple(Guess(int(i), _name(images, int(i)), float(shares[i])) for i in top)


def _name(images: ImageSet, index: int) -> str:
    return images.classes[index] if index < len(images.classes) else ""


def _thumbnail(image: NDArray[np.float32], steps: Preprocessing) -> str:
    """Encode a normalised image [channels, H, W] as a small JPEG in base64.

    RGB is shown, or the first three channels, or the first alone if there are fewer.
    """
    from PIL import Image

    mean, std = (np.array(values, np.float32)[:, None, None] for values in (steps.mean, steps.std))
    levels = (image * std + mean) / np.float32(steps.rescale)
    pixels = np.clip(levels, 0, 255).round().astype(np.uint8)
    pixels = pixels[::-1] if steps.channel_order == "bgr" else pixels
    shown = pixels[:3].transpose(1, 2, 0) if len(pixels) >= 3 else pixels[0]
    picture = Image.fromarray(np.ascontiguousarray(shown))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(memory.getvalue()).decode("ascii")
