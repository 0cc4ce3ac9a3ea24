import dataclasses

import numpy as np
import pytest

from exporters.errors import BuildError, ComparisonError, MissingBackendError
from swin_deploy.bench import Effort
from swin_deploy.bench.contenders import Contender
from swin_deploy.bench.timing import time_in_steps, time_runners
from swin_deploy.runners import Runner

IMAGES = np.zeros((2, 3, 8, 8), np.float32)
QUICK = Effort(warmup=1, iterations=5, seconds=60.0)
ONE_CALL = ["synchronize", "execute", "synchronize"]


class FakeRunner(Runner):
    """Writes what is done with it into a journal that several can share."""

    def __init__(self, name, journal=None, *, error=None, fails_at=None, output=1.0, **limits):
        self.name = name
        self.precision = "fp32"
        self.backend = "fake, closed"
        self.min_batch, self.max_batch = limits.get("min_batch", 1), limits.get("max_batch")
        self.journal = [] if journal is None else journal
        self.error, self.fails_at, self.output = error, fails_at, output

    def __enter__(self):
        if self.error:
            raise self.error
        self.backend = "fake, open"
        self.journal.append((self.name, "open"))
        return self

    def __exit__(self, *exc_info):
        self.journal.append((self.name, "close"))

    def prepare(self, images):
        self.batch = len(images)
        self.journal.append((self.name, images.shape))

    def execute(self):
        self.journal.append((self.name, "execute"))
        if self.journal.count((self.name, "execute")) == self.fails_at:
            raise RuntimeError("out of\nmemory")

    def synchronize(self):
        self.journal.append((self.name, "synchronize"))

    def fetch(self):
        return (np.full((self.batch, 4), self.output, np.float32),)


def contender(name, journal=None, *, kind="reference", mode="eager", **options):
    return Contender(FakeRunner(name, journal, **options), kind=kind, mode=mode)


def timed(*contenders, batches=(1,), effort=QUICK):
    return time_runners(contenders, IMAGES, model="tiny", batches=batches, effort=effort)


def test_time_runners_interleaves_and_synchronises_on_both_sides():
    journal: list[tuple[str, object]] = []
    timed(contender("a", journal), contender("b", journal))
    ready = [
        (name, step) for name in "ab" for step in ((1, 3, 8, 8), *ONE_CALL, *ONE_CALL)
    ]  # the second call is for its memory
    one_round = [(name, step) for name in "ab" for step in ONE_CALL]
    opening = [("a", "open"), ("b", "open")]
    assert journal == [*opening, *ready, *one_round * 6, ("b", "close"), ("a", "close")]


def test_time_runners_reports_figures_that_belong_together():
    report = timed(contender("reference"), contender("other"), batches=(1, 4))
    assert (report.model, report.img_size) == ("tiny", 8)
    assert [(r.batch, r.name) for r in report.results] == [
        (1, "reference"),
        (1, "other"),
        (4, "reference"),
        (4, "other"),
    ]
    for result in report.results:
        assert result.timed
        assert result.iterations == 5
        assert 0 < result.median_ms <= result.p95_ms
        assert result.images_per_s == pytest.approx(result.batch / result.median_ms * 1e3)
        assert result.backend == "fake, open"
        assert (result.relative_l2, result.copies_ms, result.peak_mb) == (0.0, None, None)
    reference, other = report.results[2:]
    assert reference.ratio == 1.0
    assert other.ratio == pytest.approx(other.images_per_s / reference.images_per_s)


def test_time_runners_batch_that_comes_again_is_timed_once():
    report = timed(contender("reference"), batches=(2, 1, 2, 1))
    assert [result.batch for result in report.results] == [2, 1]


def test_time_runners_gives_an_interval_to_what_has_rounds_enough():
    few = timed(contender("a"), contender("b")).results
    assert [(r.ratio_low, r.ratio_high) for r in few] == [(0, 0), (0, 0)]
    many = Effort(warmup=1, iterations=20, seconds=60.0)
    base, other = timed(contender("a"), contender("b"), effort=many).results
    assert (base.ratio_low, base.ratio_high) == (0, 0)  # of itself
    assert 0 < other.ratio_low <= other.ratio <= other.ratio_high


def test_time_runners_repeats_images_to_fill_a_batch():
    one = contender("a")
    timed(one, batches=(5,))
    assert ("a", (5, 3, 8, 8)) in one.runner.journal


def test_time_runners_spent_budget_still_measures_the_fewest_rounds():
    one = contender("a")
    report = timed(one, effort=Effort(warmup=50, iterations=50, seconds=0.0))
    assert report.results[0].iterations == Effort().min_iterations
    assert one.runner.journal.count(("a", "execute")) == Effort().min_iterations + 3


def test_time_runners_transfers_are_timed_on_top():
    effort = Effort(warmup=1, iterations=5, seconds=60.0, transfers=True)
    report = timed(contender("a"), effort=effort)
    assert report.results[0].copies_ms > 0
    assert "from host memory" in report.conditions["copies"]


def test_time_runners_warms_up_until_latencies_settle():
    one = contender("a")
    report = timed(one, effort=Effort(warmup=2000, iterations=3, seconds=60.0))
    warmed = one.runner.journal.count(("a", "execute")) - 2 - 3
    assert warmed >= 10
    assert report.results[0].stable == ("all settled" in report.conditions["warm-up"])
    unsettled = timed(contender("a"), effort=Effort(warmup=3, iterations=3, seconds=60.0))
    assert not unsettled.results[0].stable
    assert "nothing had settled" in unsettled.conditions["warm-up"]


# what is not timed


def test_time_runners_missing_backend_is_listed_with_its_reason():
    missing = contender("engine", error=MissingBackendError("needs an NVIDIA GPU"))
    reference, engine = timed(contender("reference"), missing).results
    assert reference.timed
    assert engine.not_run == "needs an NVIDIA GPU"
    assert (engine.iterations, engine.median_ms, engine.images_per_s, engine.ratio) == (0, 0, 0, 0)
    assert ("engine", "execute") not in missing.runner.journal


def test_time_runners_known_absence_is_not_even_opened():
    runner = FakeRunner("engine")
    absent = Contender(runner, not_run="it crashed before")
    _, engine = timed(contender("reference"), absent).results
    assert engine.not_run == "it crashed before"
    assert runner.journal == []


def test_time_runners_missing_reference_leaves_no_ratio():
    missing = contender("reference", error=MissingBackendError("not here"))
    _, other = timed(missing, contender("other")).results
    assert other.images_per_s > 0
    assert (other.ratio, other.relative_l2) == (0.0, None)


def test_time_runners_batch_outside_the_range_is_listed_with_its_reason():
    some = contender("some", min_batch=2, max_batch=4)
    one = contender("one", max_batch=1)
    results = timed(contender("reference"), some, one, batches=(1, 4, 8)).results
    reasons = {(result.name, result.batch): result.not_run for result in results if result.not_run}
    assert reasons == {
        ("some", 1): "it takes batches of 2 to 4, not 1",
        ("some", 8): "it takes batches of 2 to 4, not 8",
        ("one", 4): "it takes batches of 1, not 4",
        ("one", 8): "it takes batches of 1, not 8",
    }


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"error": BuildError("other version")}, "BuildError: other version"),
        ({"fails_at": 1}, "RuntimeError: out of memory"),
        ({"fails_at": 5}, "RuntimeError: out of memory"),
        ({"output": 1.01}, "its output is wrong"),
        ({"output": float("nan")}, "its output is wrong"),
    ],
    ids=["opening", "first call", "timed call", "other output", "NaN"],
)
def test_time_runners_failure_is_a_row_and_leaves_the_others(broken, reason):
    report = timed(contender("a"), contender("b", kind="onnx", **broken), contender("c"))
    first, failed, last = report.results
    assert first.timed
    assert last.timed
    assert not failed.timed
    assert failed.failed.startswith(reason)
    assert report.failures == (failed,)


def test_time_runners_rounding_is_no_failure_and_is_shown():
    _, other = timed(contender("a"), contender("b", output=1.0001)).results
    assert other.timed
    assert other.relative_l2 == pytest.approx(1e-4, rel=1e-2)


def test_time_runners_failed_baseline_is_no_fault():
    report = timed(contender("a"), contender("b", kind="original", fails_at=1))
    assert report.results[1].failed
    assert report.failures == ()


def test_time_runners_compiling_stops_when_its_time_is_spent():
    effort = Effort(warmup=1, iterations=3, seconds=60.0, compile_seconds=0.0)
    compiled = contender("compiled", mode="compile")
    _, out, file = timed(
        contender("a"), compiled, contender("file", mode="file"), effort=effort
    ).results
    assert out.not_run == "the time for compiling was spent before its turn"
    assert file.timed
    assert ("compiled", "execute") not in compiled.runner.journal


def test_time_runners_graph_of_what_is_compiled_by_then_takes_no_time_for_compiling():
    effort = Effort(warmup=1, iterations=3, seconds=60.0, compile_seconds=1e-9)
    first, second = (contender(name, mode="compile") for name in ("compiled", "another"))
    graphs = [
        dataclasses.replace(
            contender(f"{one.runner.name}, CUDA graph", mode="compile"), shares_code=True
        )
        for one in (first, second)
    ]
    rows = timed(contender("a"), first, graphs[0], second, graphs[1], effort=effort).results
    assert [row.timed for row in rows] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("contenders", "images", "batches"),
    [
        ([], IMAGES, (1,)),
        ([contender("a")], IMAGES[:0], (1,)),
        ([contender("a")], IMAGES, ()),
    ],
    ids=["no runner", "no image", "no batch"],
)
def test_time_runners_nothing_to_time_is_an_error(contenders, images, batches):
    with pytest.raises(ComparisonError, match="nothing to time"):
        time_runners(contenders, images, model="tiny", batches=batches)


def test_time_runners_takes_at_least_the_rounds_it_must():
    effort = Effort(warmup=1, iterations=5, min_iterations=20, seconds=0.0)
    assert timed(contender("a"), effort=effort).results[0].iterations == 20


def test_time_runners_first_that_is_not_timed_only_judges_the_others():
    judge = dataclasses.replace(contender("float32"), timed=False)
    report = timed(judge, contender("a"), contender("wrong", output=2.0))
    assert [row.name for row in report.results] == ["a", "wrong"]
    assert report.results[0].ratio == 1.0
    assert "its output is wrong" in report.results[1].failed
    with pytest.raises(ComparisonError, match="nothing to time"):
        timed(judge)


@pytest.mark.parametrize("broken", [{"fails_at": 1}, {"error": MissingBackendError("no GPU")}])
def test_time_runners_says_that_nothing_was_checked_where_the_judge_fails(broken):
    judge = dataclasses.replace(contender("float32", **broken), timed=False)
    report = timed(judge, contender("wrong", output=2.0))
    reason = "no GPU" if "error" in broken else "RuntimeError: out of memory"
    assert report.conditions["outputs not checked"] == f"batch 1, float32: {reason}"
    assert report.results[0].relative_l2 is None
    right = dataclasses.replace(contender("float32"), timed=False)
    assert "outputs not checked" not in timed(right, contender("a")).conditions
    assert "outputs not checked" not in timed(contender("a", fails_at=4), contender("b")).conditions


def test_time_runners_that_cannot_be_closed_keep_their_figures(caplog):
    class Stuck(FakeRunner):
        def __exit__(self, *exc_info):
            raise RuntimeError("an illegal memory access was encountered")

    other = contender("b")
    report = timed(Contender(Stuck("a")), other)
    assert [row.timed for row in report.results] == [True, True]
    assert ("b", "close") in other.runner.journal
    assert "a did not close: RuntimeError: an illegal memory access" in caplog.text


def test_time_in_steps_keeps_each_lane_before_the_next_can_take_the_process_down():
    class Crash(FakeRunner):
        def prepare(self, images):
            raise KeyboardInterrupt  # nothing that the rows catch

    runners = [contender("a"), contender("b"), Contender(Crash("c"))]
    effort = dataclasses.replace(QUICK, alone=2)
    steps = time_in_steps(runners, IMAGES, model="tiny", batches=(1,), effort=effort)
    next(steps)
    kept = next(steps)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    rows = {row.name: row for row in kept.results}
    assert (rows["a"].iterations, rows["b"].iterations, rows["c"].iterations) == (2, 2, 0)
    assert rows["b"].images_per_s > 0
    assert rows["b"].ratio == 0  # nothing was raced yet


def test_time_in_steps_ends_with_the_rounds_alone():
    effort = dataclasses.replace(QUICK, alone=2)
    *_, last = time_in_steps(
        [contender("a"), contender("b")], IMAGES, model="tiny", batches=(1, 2), effort=effort
    )
    assert [row.iterations for row in last.results] == [5] * 4
    assert last.results[1].ratio > 0


def test_time_runners_states_its_conditions_and_no_date():
    conditions = timed(contender("a")).conditions
    wanted = {"device", "cpu", "threads", "copies", "order", "interval", "warm-up", "iterations"}
    assert wanted < set(conditions)
    assert "torch" in conditions
    assert "not included" in conditions["copies"]
    assert all(conditions.values())
    assert "date" not in conditions
