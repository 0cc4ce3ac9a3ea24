import dataclasses

import numpy as np
import pytest

from exporters.errors import BuildError, ComparisonError, MissingBackendError
from swin_deploy.candidates import Candidate
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import judge as judging
from swin_deploy.parity.judge import judge
from swin_deploy.parity.reference_run import run_reference
from swin_deploy.runners import Runner

CLASSES = 4
WEIGHTS = np.random.default_rng(0).standard_normal((3 * 2 * 2, CLASSES)).astype(np.float32)


def model(images):
    """Logits [n, CLASSES] of images [n, 3, 2, 2]."""
    return images.reshape(len(images), -1) @ WEIGHTS


def image_set(count=10, name="seeded", labels=None):
    images = np.random.default_rng(1).standard_normal((count, 3, 2, 2)).astype(np.float32)
    names = tuple(str(index) for index in range(count))
    return ImageSet(name, f"{count} images", images, names, labels)


class FakeRunner(Runner):
    def __init__(self, function=model, *, error=None, batches=(1, None), precision="fp32"):
        self.name = f"onnx {precision}"
        self.precision = precision
        self.backend = "fake, closed"
        self.min_batch, self.max_batch = batches
        self.function = function
        self.error = error
        self.calls = []
        self.open = False

    def __enter__(self):
        if self.error:
            raise self.error
        self.backend = "fake, open"
        self.open = True
        return self

    def __exit__(self, *exc_info):
        self.open = False

    def prepare(self, images):
        self.images = images

    def execute(self):
        assert self.open
        self.calls.append(len(self.images))

    def synchronize(self):
        pass

    def fetch(self):
        outputs = self.function(self.images)
        return outputs if isinstance(outputs, tuple) else (outputs,)


def judged(runner, *image_sets, names=("logits",), **options):
    reference = run_reference(FakeRunner(), image_sets or [image_set()], names=names)
    (hop,) = judge(reference, [Candidate(runner, "onnx", "m.onnx")], **options)
    return hop


def failing(hop):
    return [result.inputs for result in hop.results if not result.passed]


def nudge(images):
    logits = model(images).copy()
    logits[0, 0] += 0.05
    return logits


def nan(images):
    logits = model(images).copy()
    logits[-1, -1] = np.nan
    return logits


def swap(images):
    return np.roll(model(images), 1, axis=0)


def batch_mean(images):
    """Every row depends a little on the others in its batch."""
    return model(images + 0.01 * images.mean(axis=0))


def test_judge_right_candidate_passes_on_every_set_and_batch():
    runner = FakeRunner()
    hop = judged(runner, image_set(), image_set(8, "images"))
    assert hop.passed is True
    assert (hop.name, hop.stage, hop.precision) == ("onnx fp32", "onnx", "fp32")
    assert (hop.file, hop.backend) == ("m.onnx", "fake, open")
    assert [(result.inputs, result.batch, result.rows) for result in hop.results[:6]] == [
        ("seeded", 1, 7),
        ("seeded", 2, 2),
        ("seeded", 3, 3),
        ("seeded", 7, 10),
        ("seeded, batch 7 against batch 1", 7, 7),
        ("seeded, rows in another place", 7, 7),
    ]
    assert {result.inputs.split(",")[0] for result in hop.results[6:]} == {"images"}
    assert runner.calls[:12] == [1] * 7 + [2, 3, 7, 7, 7]
    assert hop.drift == ()
    assert hop.drift_not_run == "only its outputs can be read"
    assert not runner.open


@pytest.mark.parametrize("function", [nudge, nan], ids=["nudged", "nan"])
def test_judge_wrong_value_fails_at_every_batch(function):
    hop = judged(FakeRunner(function))
    assert hop.passed is False
    assert failing(hop)[:4] == ["seeded"] * 4
    assert all(result.reason for result in hop.results[:4])


def test_judge_swapped_rows_fail_wherever_there_are_two():
    hop = judged(FakeRunner(swap))
    assert [result.passed for result in hop.results] == [True, False, False, False, False, True]


def test_judge_row_that_depends_on_its_batch_fails():
    hop = judged(FakeRunner(batch_mean), batches=(2, 7))
    assert "seeded, batch 7 against batch 2" in failing(hop)


def test_judge_place_in_the_batch_that_changes_a_row_is_found():
    """Each row lies within tolerance of the reference; the last place of a batch is apart."""
    unit = np.sqrt(np.mean(model(image_set().images) ** 2))

    def last_place_is_off(images):
        logits = model(images) - np.float32(8e-5 * unit)
        logits[-1] += np.float32(16e-5 * unit)
        return logits

    hop = judged(FakeRunner(last_place_is_off), image_set(7), batches=(7,))
    assert failing(hop) == ["seeded, rows in another place"]


def test_judge_batch_dependence_is_found_though_each_batch_is_near_the_reference():
    """Each side lies within tolerance of the reference; together they do not."""
    unit = np.sqrt(np.mean(model(image_set().images) ** 2))

    def offset(images):
        return model(images) + np.float32(8e-5 * unit * (1 if len(images) > 1 else -1))

    hop = judged(FakeRunner(offset), image_set(7))
    assert failing(hop) == ["seeded, batch 7 against batch 1"]
    assert hop.passed is False


@pytest.mark.parametrize(
    ("count", "limits", "expected"),
    [
        (10, (1, None), [1, 2, 3, 7]),
        (5, (1, None), [1, 2, 3, 5]),
        (10, (1, 4), [1, 2, 3, 4]),
        (10, (2, 32), [2, 3, 7, 32]),
        (10, (4, 4), [4]),
        (3, (32, 32), [32]),
        (1, (1, None), [1]),
    ],
    ids=["all", "few images", "profile", "minimum", "fixed", "fixed, few images", "one image"],
)
def test_judge_batches_are_clipped_to_the_candidate_and_the_images(count, limits, expected):
    runner = FakeRunner(batches=limits)
    hop = judged(runner, image_set(count))
    assert hop.passed
    against_reference = [result for result in hop.results if result.inputs == "seeded"]
    assert [result.batch for result in against_reference] == expected
    assert set(runner.calls) == set(expected)
    assert len(hop.results) == len(expected) + (len(expected) > 1) + (expected[-1] > 1)


@pytest.mark.parametrize("bad", range(10))
@pytest.mark.parametrize("limits", [(1, None), (4, 4)], ids=["dynamic", "fixed"])
def test_judge_every_image_is_compared(bad, limits):
    images = image_set()

    def wrong_for_one(batch):
        logits = model(batch).copy()
        same = (batch == images.images[bad]).all(axis=(1, 2, 3))
        logits[same] += 1.0
        return logits

    assert judged(FakeRunner(wrong_for_one, batches=limits), images).passed is False


def test_judge_missing_backend_is_not_run_with_the_reason():
    hop = judged(FakeRunner(error=MissingBackendError("needs an NVIDIA GPU")))
    assert hop.not_run == "needs an NVIDIA GPU"
    assert hop.passed is None
    assert hop.results == ()
    assert hop.backend == "fake, closed"


def test_judge_unusable_file_is_an_error():
    with pytest.raises(BuildError, match="other version"):
        judged(FakeRunner(error=BuildError("other version")))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: model(images)[:, :3], r"onnx fp32 \(m.onnx\), seeded: .* \[7, 3\]"),
        (lambda images: model(images)[:1], "gives 1 rows for 2 images"),
        (lambda images: model(images)[:, :, None], r"\[7, 4, 1\]"),
    ],
    ids=["columns", "missing rows", "rank"],
)
def test_judge_output_of_another_shape_is_an_error(function, message):
    with pytest.raises(ComparisonError, match=message):
        judged(FakeRunner(function))


def test_judge_uses_the_tolerance_of_stage_and_precision():
    assert judged(FakeRunner(nudge, precision="fp32")).passed is False
    assert judged(FakeRunner(lambda x: model(x) * 1.001, precision="fp16")).passed is True
    assert judged(FakeRunner(lambda x: model(x) * 1.001, precision="fp32")).passed is False


def test_judge_counts_accuracy_and_agreement_over_all_images():
    images = image_set()
    labels = model(images.images).argmax(axis=1)
    labels[:2] = (labels[:2] + 1) % CLASSES
    labelled = dataclasses.replace(images, labels=labels)
    reference = run_reference(FakeRunner(), [labelled, image_set(3, "other")], names=("logits",))
    assert reference.top1_accuracy == 0.8
    candidates = [
        Candidate(FakeRunner(), "onnx"),
        Candidate(FakeRunner(lambda x: -model(x)), "onnx"),
    ]
    right, wrong = judge(reference, candidates)
    assert right.top1_accuracy == 0.8
    assert all(result.top1_agreement == 1.0 for result in right.results)
    assert wrong.top1_accuracy is not None
    assert wrong.top1_accuracy < 0.8
    assert wrong.results[0].top1_agreement == 0.0


def test_judge_without_classes_or_labels_counts_nothing():
    labelled = image_set(labels=np.zeros(10, np.int64))
    without_classes = judged(FakeRunner(), labelled, names=("tokens",))
    assert without_classes.top1_accuracy is None
    assert all(result.top1_agreement is None for result in without_classes.results)
    assert judged(FakeRunner()).top1_accuracy is None


def test_judge_polygraphy_that_does_not_agree_fails_the_hop(monkeypatch):
    monkeypatch.setattr(judging, "second_opinion", lambda *arrays: False)
    hop = judged(FakeRunner())
    assert hop.passed is False
    assert hop.results[0].reason == ("Polygraphy finds the values out of tolerance, we within")


def test_judge_polygraphy_that_passes_what_fails_is_said_too(monkeypatch):
    monkeypatch.setattr(judging, "second_opinion", lambda *arrays: True)
    reason = judged(FakeRunner(nudge)).results[0].reason
    assert reason.startswith("max error, ceiling: error")
    assert reason.endswith("Polygraphy finds the values within tolerance, we out of")


def test_judge_device_that_refuses_the_first_call_is_not_run_and_leaves_the_others():
    def refuse(images):
        raise MissingBackendError("no kernel image is available for this GPU")

    reference = run_reference(FakeRunner(), [image_set()], names=("logits",))
    refused, right = judge(
        reference, [Candidate(FakeRunner(refuse), "engine"), Candidate(FakeRunner(), "onnx")]
    )
    assert refused.passed is None
    assert refused.not_run == "no kernel image is available for this GPU"
    assert right.passed


def test_judge_without_a_second_opinion_does_not_ask_polygraphy(monkeypatch):
    monkeypatch.setattr(judging, "second_opinion", lambda *arrays: pytest.fail("was asked"))
    reference = run_reference(FakeRunner(), [image_set()], names=("logits",))
    right, wrong = judge(
        reference,
        [
            Candidate(FakeRunner(), "onnx", second_opinion=False),
            Candidate(FakeRunner(nudge), "onnx", second_opinion=False),
        ],
    )
    assert (right.passed, wrong.passed) == (True, False)


def test_judge_tells_its_progress():
    told = []
    judged(FakeRunner(), progress=lambda *what: told.append(what))
    shares = {1: 0.0, 2: 0.25, 3: 0.5, 7: 0.75}
    assert told == [(f"onnx fp32: seeded, batch {n}", share) for n, share in shares.items()]


def test_run_reference_runs_every_image_once_in_order():
    runner = FakeRunner()
    images = image_set(16)
    reference = run_reference(runner, [images], names=("tokens",))
    assert runner.calls == [8, 8]
    np.testing.assert_allclose(reference.outputs[0][0], model(images.images), rtol=1e-6)
    assert reference.backend == "fake, open"


def test_run_reference_odd_number_of_images_stays_in_order():
    images = image_set(11)
    reference = run_reference(FakeRunner(), [images], names=("tokens",))
    np.testing.assert_allclose(reference.outputs[0][0], model(images.images), rtol=1e-6)


@pytest.mark.parametrize("image_sets", [[], [image_set(0)], [image_set(), image_set(0)]])
def test_run_reference_without_images_is_an_error(image_sets):
    with pytest.raises(ComparisonError, match="no images"):
        run_reference(FakeRunner(), image_sets, names=("tokens",))


def test_judge_compares_each_output_by_name():
    def two(images):
        return model(images), 100 * model(images)

    def second_nudged(images):
        first, second = two(images)
        second = second.copy()
        second[0, 0] += 5
        return first, second

    names = ("stage1", "stage2")
    reference = run_reference(FakeRunner(two), [image_set()], names=names)
    candidates = [Candidate(FakeRunner(function), "onnx") for function in (two, second_nudged)]
    same, nudged = judge(reference, candidates)
    assert same.passed
    assert failing(nudged)
    assert all("stage2" in inputs for inputs in failing(nudged))
    with pytest.raises(ComparisonError, match="stage1, stage2"):
        judge(reference, [Candidate(FakeRunner(), "onnx")])
