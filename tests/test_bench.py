import numpy as np
import pytest

from exporters.errors import BuildError, ComparisonError, MissingBackendError
from swin_deploy.bench import MIN_ROUNDS, Effort, time_runners
from swin_deploy.runners import Runner

IMAGES = np.zeros((2, 3, 8, 8), np.float32)
QUICK = Effort(warmup=1, iterations=5, seconds=60.0)


class FakeRunner(Runner):
    """Writes what is done with it into a journal that several can share."""

    def __init__(self, name, journal=None, *, error=None, min_batch=1, max_batch=None):
        self.name = name
        self.precision = "fp32"
        self.backend = "fake, closed"
        self.min_batch, self.max_batch = min_batch, max_batch
        self.journal = [] if journal is None else journal
        self.error = error

    def __enter__(self):
        if self.error:
            raise self.error
        self.backend = "fake, open"
        self.journal.append((self.name, "open"))
        return self

    def __exit__(self, *exc_info):
        self.journal.append((self.name, "close"))

    def prepare(self, images):
        self.journal.append((self.name, images.shape))

    def execute(self):
        self.journal.append((self.name, "execute"))

    def synchronize(self):
        self.journal.append((self.name, "synchronize"))


def timed(*runners, batches=(1,), effort=QUICK):
    return time_runners(runners, IMAGES, model="tiny", batches=batches, effort=effort)


def test_time_runners_interleaves_and_synchronises_on_both_sides():
    journal = []
    timed(FakeRunner("a", journal), FakeRunner("b", journal))
    one_round = [
        (name, step) for name in "ab" for step in ("synchronize", "execute", "synchronize")
    ]
    opening = [("a", "open"), ("b", "open"), ("a", (1, 3, 8, 8)), ("b", (1, 3, 8, 8))]
    assert journal == [*opening, *one_round * 6, ("b", "close"), ("a", "close")]


def test_time_runners_reports_figures_that_belong_together():
    report = timed(FakeRunner("reference"), FakeRunner("other"), batches=(1, 4))
    assert (report.model, report.img_size) == ("tiny", 8)
    assert [(r.batch, r.name) for r in report.results] == [
        (1, "reference"),
        (1, "other"),
        (4, "reference"),
        (4, "other"),
    ]
    for result in report.results:
        assert result.iterations == 5
        assert 0 < result.median_ms <= result.p95_ms
        assert result.images_per_s == pytest.approx(result.batch / result.median_ms * 1e3)
        assert result.backend == "fake, open"
        assert result.not_run == ""
    reference, other = report.results[2:]
    assert reference.ratio == 1.0
    assert other.ratio == pytest.approx(other.images_per_s / reference.images_per_s)


def test_time_runners_repeats_images_to_fill_a_batch():
    runner = FakeRunner("a")
    timed(runner, batches=(5,))
    assert ("a", (5, 3, 8, 8)) in runner.journal


def test_time_runners_spent_budget_still_measures_the_fewest_rounds():
    runner = FakeRunner("a")
    report = timed(runner, effort=Effort(warmup=50, iterations=50, seconds=0.0))
    assert report.results[0].iterations == MIN_ROUNDS
    assert runner.journal.count(("a", "execute")) == MIN_ROUNDS + 1


def test_time_runners_missing_backend_is_listed_with_its_reason():
    missing = FakeRunner("engine", error=MissingBackendError("needs an NVIDIA GPU"))
    reference, engine = timed(FakeRunner("reference"), missing).results
    assert reference.not_run == ""
    assert engine.not_run == "needs an NVIDIA GPU"
    assert (engine.iterations, engine.median_ms, engine.images_per_s, engine.ratio) == (0, 0, 0, 0)
    assert ("engine", "execute") not in missing.journal


def test_time_runners_missing_reference_leaves_no_ratio():
    missing = FakeRunner("reference", error=MissingBackendError("not here"))
    _, other = timed(missing, FakeRunner("other")).results
    assert other.images_per_s > 0
    assert other.ratio == 0.0


def test_time_runners_batch_outside_the_range_is_listed_with_its_reason():
    fixed = FakeRunner("fixed", min_batch=2, max_batch=4)
    results = timed(FakeRunner("reference"), fixed, batches=(1, 4, 8)).results
    reasons = [result.not_run for result in results if result.name == "fixed"]
    assert reasons == [
        "it takes 2 to 4 images a call, not 1",
        "",
        "it takes 2 to 4 images a call, not 8",
    ]


def test_time_runners_unusable_file_is_an_error_and_closes_the_others():
    first = FakeRunner("a")
    with pytest.raises(BuildError, match="other version"):
        timed(first, FakeRunner("b", error=BuildError("other version")))
    assert first.journal == [("a", "open"), ("a", "close")]


@pytest.mark.parametrize(
    ("runners", "images", "batches"),
    [([], IMAGES, (1,)), ([FakeRunner("a")], IMAGES[:0], (1,)), ([FakeRunner("a")], IMAGES, ())],
    ids=["no runner", "no image", "no batch"],
)
def test_time_runners_nothing_to_time_is_an_error(runners, images, batches):
    with pytest.raises(ComparisonError, match="nothing to time"):
        time_runners(runners, images, model="tiny", batches=batches)


def test_time_runners_states_its_conditions_and_no_date():
    conditions = timed(FakeRunner("a")).conditions
    assert {"device", "cpu", "threads", "copies", "order", "warm-up", "iterations"} < set(
        conditions
    )
    assert "torch" in conditions
    assert "not included" in conditions["copies"]
    assert all(conditions.values())
    assert "date" not in conditions
