import dataclasses
import importlib
import math

import numpy as np
import pytest

from exporters.errors import ComparisonError
from exporters.precisions import PRECISIONS
from exporters.spec import Stage
from swin_deploy.parity import (
    TOLERANCES,
    Case,
    Hop,
    NoiseFloor,
    ParityReport,
    Tolerance,
    compare,
    limits,
    measure_floor,
    second_opinion,
)

comparing = importlib.import_module("swin_deploy.parity.compare")  # the package has its function
TOLERANCE = Tolerance(atol=1e-3, rtol=1e-3, min_cosine=None, source="test")


def outputs(shape=(4, 10), scale=1.0):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) * np.float32(scale)


def compared(actual, reference, tolerance=TOLERANCE, classes=False):
    return compare(actual, reference, tolerance, Case("seeded", 2), classes=classes)


def edge(reference, factor):
    """A copy whose first value lies ``factor`` times the allowance away."""
    exact = reference.astype(np.float64)
    unit = math.sqrt(np.mean(exact**2))
    allowed = TOLERANCE.atol * unit + TOLERANCE.rtol * abs(exact.flat[0])
    exact.flat[0] += factor * allowed
    return exact


def swap_rows(values):
    return values[[1, 0, *range(2, len(values))]]


def with_value(values, value):
    changed = values.copy()
    changed[1, 3] = value
    return changed


def test_compare_equal_outputs_passes_with_no_error():
    result = compared(outputs(), outputs())
    assert result.passed
    assert result.reason == ""
    assert (result.rows, result.batch, result.inputs) == (4, 2, "seeded")
    assert result.max_abs == result.mean_abs == result.relative_l2 == result.needed_atol == 0.0
    assert result.cosine == pytest.approx(1.0)
    assert result.sqnr_db == math.inf
    assert result.top1_agreement is None


@pytest.mark.parametrize(("factor", "passed"), [(0.99, True), (1.01, False)])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_compare_nudged_value_is_judged_at_the_allowance(factor, passed, scale):
    reference = outputs(scale=scale)
    actual = edge(reference, factor)
    result = compared(actual, reference)
    assert result.passed is passed
    assert (result.needed_atol <= TOLERANCE.atol) is passed
    assert second_opinion(actual, reference, TOLERANCE) is passed


def test_compare_reason_shows_needed_beside_allowed():
    reason = compared(edge(outputs(), 3.0), outputs()).reason
    assert reason.startswith("max error, ceiling: error 0.003, limit 0.001")


def test_compare_known_arrays_gives_figures_in_units_of_the_rms():
    reference = np.array([[3.0, -3.0], [3.0, -3.0]])
    actual = np.array([[3.3, -3.0], [3.0, -3.0]])
    result = compared(actual, reference, Tolerance(1.0, 0.05, None, "test"))
    assert result.max_abs == pytest.approx(0.1)
    assert result.mean_abs == pytest.approx(0.025)
    assert result.relative_l2 == pytest.approx(0.05)
    assert result.sqnr_db == pytest.approx(26.0206, abs=1e-4)
    assert result.needed_atol == pytest.approx(0.1 / 1.05)
    assert result.cosine == pytest.approx(6.3 / math.sqrt(2 * (3.3**2 + 9)) / 1.0, rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["output", "reference", "both"])
def test_compare_not_finite_fails_and_names_the_side(value, side):
    reference = outputs()
    broken = with_value(reference, value)
    actual = reference if side == "reference" else broken
    expected = reference if side == "output" else broken
    result = compared(actual, expected, Tolerance(1e9, 1e9, None, "test"))
    assert not result.passed
    named = "reference" if side == "reference" else "output"
    assert result.reason == f"1 of 40 values of the {named} are NaN or infinite"
    assert result.needed_atol == math.inf
    assert not second_opinion(actual, expected, TOLERANCE)


def test_compare_swapped_rows_fails():
    reference = outputs()
    result = compared(swap_rows(reference), reference)
    assert not result.passed
    assert result.cosine < 0.9


def test_compare_low_cosine_fails_though_every_value_is_within_tolerance():
    tolerance = Tolerance(atol=10.0, rtol=0.0, min_cosine=0.9995, source="test")
    actual = outputs() + 0.2 * swap_rows(outputs())
    result = compared(actual, outputs(), tolerance)
    assert not result.passed
    assert result.reason.startswith("1 - cosine, ceiling: error 0.0")
    assert result.reason.endswith("limit 0.0005")
    assert dataclasses.replace(tolerance, min_cosine=None).min_cosine is None
    assert compared(actual, outputs(), dataclasses.replace(tolerance, min_cosine=None)).passed


def test_compare_one_bad_row_is_not_hidden_by_the_others():
    tolerance = Tolerance(atol=10.0, rtol=0.0, min_cosine=0.9995, source="test")
    actual = np.concatenate([outputs((63, 10)), -outputs((1, 10))])
    reference = np.concatenate([outputs((63, 10)), outputs((1, 10))])
    assert compared(actual, reference, tolerance).cosine == pytest.approx(-1.0)


@pytest.mark.parametrize(("actual", "passed"), [(0.0, True), (1e-4, True), (2e-3, False)])
def test_compare_zero_reference_is_judged_in_absolute_terms(actual, passed):
    result = compared(np.full((2, 5), actual), np.zeros((2, 5)))
    assert result.passed is passed
    assert result.max_abs == pytest.approx(actual)
    assert result.cosine == float(actual == 0.0)
    assert second_opinion(np.full((2, 5), actual), np.zeros((2, 5)), TOLERANCE) is passed


@pytest.mark.parametrize(
    ("actual", "reference", "message"),
    [
        (outputs((4, 9)), outputs(), r"shape \[4, 9\], the reference \[4, 10\]"),
        (outputs((1, 10)), outputs(), r"shape \[1, 10\]"),
        (outputs((4, 10, 1)), outputs(), r"shape \[4, 10, 1\]"),
        (outputs((0, 10)), outputs((0, 10)), "nothing to compare"),
    ],
    ids=["columns", "broadcastable", "rank", "empty"],
)
def test_compare_other_shapes_cannot_be_compared(actual, reference, message):
    with pytest.raises(ComparisonError, match=message):
        compared(actual, reference)


def test_compare_classes_counts_agreeing_rows():
    reference = np.eye(4, 10) * 10
    actual = reference.copy()
    actual[2] = reference[3]
    assert compared(actual, reference, classes=True).top1_agreement == 0.75


def test_compare_classes_of_tokens_cannot_be_compared():
    tokens = outputs((2, 4, 8))
    with pytest.raises(ComparisonError, match="no top class"):
        compared(tokens, tokens, classes=True)


@pytest.mark.parametrize(
    ("logits", "flips", "near_ties"),
    [
        ([[1.0, 0.0, -1.0]], 0, 0),
        ([[0.0, 1.0, -1.0]], 1, 0),
        ([[0.9, 0.91, -1.0]], 0, 1),
    ],
    ids=["same", "flip", "near tie"],
)
def test_compare_tells_flips_from_near_ties(logits, flips, near_ties):
    """The reference's margin is 0.01 in the last case, less than twice the floor."""
    reference = np.array([[1.0, 0.99, -1.0]]) if near_ties else np.array([[1.0, 0.0, -1.0]])
    tolerance = dataclasses.replace(TOLERANCE, floor=NoiseFloor(0.01, 0.01, "test"))
    result = compared(np.array(logits), reference, tolerance, classes=True)
    assert (result.flips, result.near_ties) == (flips, near_ties)
    assert result.top1_agreement == float(not flips and not near_ties)


def test_compare_top5_is_of_sets():
    reference = np.tile(np.arange(10.0), (2, 1))
    actual = reference.copy()
    actual[0, [9, 8]] = actual[0, [8, 9]]  # the same five
    actual[1, 0] = 20.0  # another one
    assert compared(actual, reference, classes=True).top5_agreement == 0.5


CEILING = Tolerance(atol=1e-2, rtol=5e-3, min_cosine=None, source="test")
FLOOR = NoiseFloor(atol=1e-4, relative_l2=5e-5, source="test")


def test_limits_are_multiples_of_the_floor_below_the_ceiling():
    allowed = limits(CEILING, FLOOR, precision="fp32")
    assert FLOOR.atol < allowed.atol < CEILING.atol
    assert allowed.rtol / allowed.atol == pytest.approx(CEILING.rtol / CEILING.atol)
    assert allowed.relative_l2 is not None
    assert FLOOR.relative_l2 < allowed.relative_l2 < allowed.atol
    assert allowed.atol_rule == "12 x noise"
    assert allowed.l2_rule == "5 x noise"


def test_limits_are_wider_for_images_that_scatter_more():
    usual, wide = (limits(CEILING, FLOOR, precision="fp32", spread=s) for s in (1.0, 4.0))
    assert wide.atol == 4 * usual.atol
    assert usual.relative_l2 is not None
    assert wide.relative_l2 == 4 * usual.relative_l2
    assert wide.l2_rule == "20 x noise"


@pytest.mark.parametrize(("precision", "times"), [("fp32", 12), ("fp16", 6)])
def test_limits_of_few_values_allow_l2_the_multiple_of_a_value(precision, times):
    floor = NoiseFloor(1e-3, 1e-3, "test")
    ceiling = dataclasses.replace(CEILING, atol=1.0)
    few, many = (limits(ceiling, floor, precision=precision, values=n) for n in (31, 32))
    assert few.relative_l2 == pytest.approx(times * 1e-3)
    assert many.relative_l2 is not None
    assert few.relative_l2 is not None
    assert many.relative_l2 < few.relative_l2
    assert many.atol == few.atol
    assert not compared(outputs() * (1 + 1.01 * times * 1e-3), outputs(), few).passed


def test_limits_never_exceed_the_ceiling():
    allowed = limits(CEILING, NoiseFloor(1e-2, 1e-2, "test"), precision="fp16")
    assert (allowed.atol, allowed.rtol, allowed.relative_l2) == (1e-2, 5e-3, 1e-2)
    assert allowed.atol_rule == allowed.l2_rule == "ceiling"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_limits_leave_room_for_one_rounding_where_the_floor_is_zero(precision):
    unit = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}[precision]
    allowed = limits(
        dataclasses.replace(CEILING, atol=1.0), NoiseFloor(0, 0, "test"), precision=precision
    )
    assert allowed.relative_l2 is not None
    assert unit < allowed.relative_l2 < allowed.atol < 20 * unit


@pytest.mark.parametrize("floor", [None, NoiseFloor(math.inf, math.inf, "test")])
def test_limits_without_a_floor_are_the_ceiling(floor):
    allowed = limits(CEILING, floor, precision="fp16")
    assert (allowed.atol, allowed.rtol, allowed.relative_l2) == (1e-2, 5e-3, None)
    result = compared(edge(outputs(), 1.01), outputs(), dataclasses.replace(allowed, atol=1e-3))
    assert [check.rule for check in result.checks] == ["max error, ceiling"]
    assert result.checks[0].floor is None


def test_measure_floor_is_in_the_units_of_needed_atol():
    actual = edge(outputs(), 1.0)
    floor = measure_floor(actual, outputs(), TOLERANCE, source="test")
    result = compared(actual, outputs())
    assert (floor.atol, floor.relative_l2) == (result.needed_atol, result.relative_l2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_measure_floor_of_what_overflows_is_infinite(value):
    floor = measure_floor(with_value(outputs(), value), outputs(), TOLERANCE, source="test")
    assert floor.atol == floor.relative_l2 == math.inf
    assert not floor.is_finite


def test_compare_small_error_everywhere_fails_on_relative_l2_alone():
    allowed = limits(CEILING, FLOOR, precision="fp32")
    assert allowed.relative_l2 is not None
    actual = outputs() * (1 + 1.5 * allowed.relative_l2)
    result = compared(actual, outputs(), allowed)
    assert [check.passed for check in result.checks] == [True, False]
    assert result.deciding.rule == "relative L2, 5 x noise"
    assert result.reason.startswith("relative L2, 5 x noise: error 0.000375, limit 0.00025")
    assert second_opinion(actual, outputs(), allowed)


def test_compare_one_bad_value_fails_on_the_max_error_alone():
    allowed = limits(CEILING, FLOOR, precision="fp32")
    reference = outputs((400, 100))
    actual = reference.astype(np.float64)
    actual[5, 5] += 2 * allowed.atol * (1 + abs(actual[5, 5]))
    result = compared(actual, reference, allowed)
    assert [check.passed for check in result.checks] == [False, True]
    assert result.deciding.rule == "max error, 12 x noise"


@pytest.mark.parametrize("chunk", [1, 100, 250, 1000])
@pytest.mark.parametrize("bad", [None, 0, 3, 6])
def test_compare_in_parts_is_compare_of_the_whole(chunk, bad, monkeypatch):
    reference = outputs((7, 10, 10))
    actual = reference + np.float32(1e-5) * outputs((7, 10, 10))[::-1]
    if bad is not None:
        actual[bad, 4, 4] += 0.1
    whole = compared(actual, reference)
    monkeypatch.setattr(comparing, "CHUNK", chunk)
    parts = compared(actual, reference)
    figures = ("max_abs", "mean_abs", "relative_l2", "cosine", "sqnr_db", "needed_atol")
    for name in figures:
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12), name
    assert parts.passed is whole.passed is (bad is None)
    assert second_opinion(actual, reference, TOLERANCE) is (bad is None)


def test_compare_not_finite_in_another_part_fails(monkeypatch):
    monkeypatch.setattr(comparing, "CHUNK", 10)
    broken = with_value(outputs(), math.nan)
    assert not compared(broken, outputs()).passed
    assert not second_opinion(broken, outputs(), TOLERANCE)


def test_compare_leaves_its_inputs_alone():
    actual, reference = outputs(), outputs()
    compared(actual, reference)
    second_opinion(actual, reference, TOLERANCE)
    np.testing.assert_array_equal(actual, outputs())
    np.testing.assert_array_equal(reference, outputs())


def test_second_opinion_says_nothing(capfd):
    second_opinion(edge(outputs(), 5.0), outputs(), TOLERANCE)
    assert capfd.readouterr() == ("", "")


def test_tolerances_cover_every_stage_and_precision():
    stages: tuple[Stage, ...] = ("deploy", "onnx", "engine")
    # The original library's model runs in float32 alone, and no engine in int8.
    every = {(s, p) for s in stages for p in PRECISIONS} | {("original", "fp32")}
    every.remove(("engine", "int8"))
    assert set(TOLERANCES) == every
    assert all(tolerance.source for tolerance in TOLERANCES.values())
    for stage in stages:
        half = TOLERANCES[stage, "fp16"]
        assert half.atol > TOLERANCES[stage, "fp32"].atol
        assert half.min_cosine is not None


def hop(*results, not_run=""):
    return Hop("onnx fp32", "onnx", "fp32", "m.onnx", "ONNX Runtime", results, not_run)


def report(*hops):
    return ParityReport("model", "random", "PyTorch", (), None, hops)


def test_hop_that_did_not_run_has_no_verdict_and_no_results_do_not_pass():
    good, bad = compared(outputs(), outputs()), compared(-outputs(), outputs())
    assert hop(good).passed is True
    assert hop(good, bad).passed is False
    assert hop(good, bad).worst is bad
    assert hop().passed is False
    assert hop(not_run="no GPU").passed is None


def test_report_passes_only_if_something_ran_and_nothing_failed():
    good, bad = compared(outputs(), outputs()), compared(-outputs(), outputs())
    assert report(hop(good), hop(not_run="no GPU")).passed
    assert not report(hop(not_run="no GPU")).passed
    assert not report(hop(good), hop(bad)).passed
    assert not report().passed
