"""Whatever the memory of an array looks like, the libraries that it is handed to take it."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, build_reference
from exported import write_doubler
from layouts import LAYOUTS, Array
from numpy.typing import NDArray
from torch import nn

from exporters.arrays import plain_array
from exporters.errors import ComparisonError
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.deploy.fold import fold
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import Case, Tolerance, compare, second_opinion
from swin_deploy.parity.run import reference_outputs
from swin_deploy.precision.ranges import measure_ranges
from swin_deploy.runners import OrtRunner, Runner, TorchRunner

TOLERANCE = Tolerance(atol=1e-3, rtol=1e-3, min_cosine=None, source="test")
VALUES = np.random.default_rng(0).standard_normal((3, 8, 4, 4)).astype(np.float32)
IMAGES = np.random.default_rng(1).standard_normal((2, 3, 2, 2)).astype(np.float32)
SIDES = [*((name, name) for name in LAYOUTS), *itertools.permutations(("permuted", "fortran"))]
ONE_SIDE = [pair for name in LAYOUTS for pair in ((name, ""), ("", name))]


def laid_out(name: str, values: Array) -> Array:
    changed = LAYOUTS[name](values) if name else values
    np.testing.assert_array_equal(changed, values)
    return changed


@pytest.fixture(autouse=True)
def _no_warning() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", LAYOUTS)
def test_plain_array_of_any_layout_is_row_major_native_and_writable(name: str) -> None:
    plain = plain_array(laid_out(name, VALUES), np.float32)
    assert plain.flags.c_contiguous
    assert plain.flags.aligned
    assert plain.flags.writeable
    assert plain.dtype.isnative
    np.testing.assert_array_equal(plain, VALUES)


def test_plain_array_that_is_plain_is_not_copied() -> None:
    assert plain_array(VALUES, np.float32) is VALUES


def test_plain_array_leaves_what_it_was_given_alone() -> None:
    kept = LAYOUTS["read-only"](VALUES)
    plain_array(kept, np.float32)[:] = 0
    np.testing.assert_array_equal(kept, VALUES)


@pytest.mark.parametrize(("actual", "reference"), [*SIDES, *ONE_SIDE])
@pytest.mark.parametrize(("factor", "passed"), [(0.5, True), (3.0, False)])
def test_second_opinion_is_of_the_values_and_not_of_their_layout(
    actual: str, reference: str, factor: float, passed: bool
) -> None:
    nudged = VALUES.astype(np.float64)
    nudged[1, 2, 3, 0] += factor * (TOLERANCE.atol + TOLERANCE.rtol * abs(nudged[1, 2, 3, 0]))
    sides = laid_out(actual, nudged), laid_out(reference, VALUES)
    assert second_opinion(*sides, TOLERANCE) is passed
    result = compare(*sides, TOLERANCE, Case("", 3))
    assert result.passed is passed
    assert result == compare(nudged, VALUES, TOLERANCE, Case("", 3))


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (3, 0, 4, 4)], ids=["no image", "no channel"])
@pytest.mark.parametrize("name", ["", "permuted"])
def test_second_opinion_of_nothing_cannot_be_given(shape: tuple[int, ...], name: str) -> None:
    empty = laid_out(name, np.empty(shape, np.float32))
    with pytest.raises(ComparisonError, match="nothing to compare"):
        second_opinion(empty, empty, TOLERANCE)


def test_second_opinion_of_other_shapes_cannot_be_given() -> None:
    with pytest.raises(ComparisonError, match="the output has shape"):
        second_opinion(VALUES[:1], VALUES, TOLERANCE)


class _Turned(nn.Module):
    """Twice the images, the channels last in memory: what a model of maps gives."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (2 * images.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)


@pytest.fixture(params=["PyTorch", "PyTorch baseline", "ONNX Runtime"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    if request.param == "PyTorch":
        return TorchRunner("turned", _Turned())
    if request.param == "PyTorch baseline":
        return TorchRunner("turned", _Turned)
    pytest.importorskip("onnxruntime")
    return OrtRunner(write_doubler(tmp_path / "twice.onnx"), "fp32")


@pytest.mark.parametrize("name", ["", *LAYOUTS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_runner_takes_any_layout_and_gives_plain_arrays(
    runner: Runner, name: str, dtype: type
) -> None:
    images: NDArray[Any] = IMAGES.astype(np.float16).astype(dtype)
    with runner:
        (output,) = runner.run(laid_out(name, images))
    assert output.flags.c_contiguous
    assert output.flags.writeable
    assert output.dtype == np.float32
    np.testing.assert_array_equal(output, 2 * images)


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (3, 2, 2), (2, 3, 0, 2)])
def test_runner_without_an_image_is_an_error(runner: Runner, shape: tuple[int, ...]) -> None:
    with runner, pytest.raises(ComparisonError, match=r"takes images of shape .* at least one"):
        runner.run(np.empty(shape, np.float32))


def test_runner_outputs_outlive_the_next_call(runner: Runner) -> None:
    with runner:
        (first,) = runner.run(IMAGES)
        runner.run(-IMAGES)
    np.testing.assert_array_equal(first, 2 * IMAGES)


@pytest.mark.parametrize("name", LAYOUTS)
def test_reference_and_ranges_take_images_of_any_layout(name: str) -> None:
    reference = build_reference(TINY)
    loaded = LoadedModel("tiny", TINY, reference, None, "", library_steps(TINY))
    plain = np.random.default_rng(2).standard_normal((2, 3, 56, 56)).astype(np.float32)
    images = ImageSet("seeded", "two images", plain, ("a", "b"))
    turned = dataclasses.replace(images, images=laid_out(name, plain))
    first, second = (
        reference_outputs(loaded, [one], precisions=["fp32"]) for one in (images, turned)
    )
    np.testing.assert_array_equal(first.outputs[0][0], second.outputs[0][0])
    assert first.trace is not None
    assert second.trace is not None
    assert first.trace.noise["fp32"].trace == second.trace.noise["fp32"].trace
    model = fold(reference)
    assert measure_ranges(model, turned.images) == measure_ranges(model, plain)
