import base64
import dataclasses
import io
import math

import numpy as np
import pytest
from PIL import Image
from report_samples import (
    DEPLOY,
    FAILED,
    FAILING,
    FAILING_PARITY,
    HALF,
    NOT_FINITE,
    PASSING,
    make_drift,
    make_hop,
    make_parity,
    make_report,
    make_result,
)

from swin_deploy.checkpoints.load import load_model
from swin_deploy.config import BUNDLED_IMAGES
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.sets import ImageSet, load_images
from swin_deploy.parity import NoiseFloor
from swin_deploy.parity.reference_run import ReferenceOutputs
from swin_deploy.parity.sample_images import MOST_SAMPLES, answer_samples, make_samples, sample_rows
from swin_deploy.report.drift_svg import render_drift, worst_points
from swin_deploy.report.html import render_html
from swin_deploy.report.markdown import LONGEST_COMMENT, render_markdown
from swin_deploy.report.sample_cards import sample_cards, sample_sentence

# --- Markdown that fits


def many_cases(count):
    results = tuple(make_result(inputs="x" * 90, batch=batch) for batch in range(1, 60))
    hops = (make_hop(f"onnx {number}", results=results) for number in range(count))
    return make_report(make_parity(*hops))


def test_markdown_names_what_does_not_fit_into_a_comment():
    short, long = render_markdown(many_cases(2)), render_markdown(many_cases(12))
    assert "Too long for a comment" not in short
    assert len(long) <= LONGEST_COMMENT
    assert "Too long for a comment, and in report.html: onnx" in long
    assert long.count("<details>") == long.count("</details>")
    assert long.startswith("## ONNX verified: ")


def test_markdown_with_endless_names_fits():
    endless = "x" * 100_000
    hops = [make_hop(endless, results=(make_result(inputs=endless),)) for _ in range(3)]
    text = render_markdown(make_report(make_parity(*hops), model=endless))
    assert len(text) <= LONGEST_COMMENT


def test_markdown_is_short_before_what_is_folded():
    text = render_markdown(PASSING).partition("<details>")[0]
    assert len(text.splitlines()) < 28
    for start in (
        "- **Accuracy**: No loss found",
        "- **Plan**: 108 kernels",
        "- **Throughput**: B",
    ):
        assert start in text
    assert "ONNX fp16 96.9% (-" in text
    assert "engine fp16 not run" in text


# --- along the model


def test_drift_is_drawn_for_the_hops_that_were_looked_into():
    page = render_drift(make_parity(DEPLOY, FAILED, make_hop("unseen")))
    assert page.count("<svg") == 2
    assert "<b>onnx broken</b> 6 of 10 places beyond the limit" in page
    assert page.count('class="beyond"') == 6
    assert "stage 2, block 1: 1.5e-03" not in page.partition("onnx broken")[0]
    assert render_drift(make_parity(make_hop())) == ""


def test_drift_takes_at_each_place_the_images_nearest_to_the_limit():
    better, worse = make_drift(1e-4), make_drift(1e-4, inputs="seeded", wrong_from=3)
    found = worst_points(make_hop(drift=(*better, *worse)))
    assert [point.inputs for point in found[3:]] == ["seeded"] * 7
    assert len(found) == len(better)


def test_drift_beyond_any_number_is_at_the_top_and_in_no_line():
    page = render_drift(make_parity(NOT_FINITE))
    assert ",nan" not in page
    assert 'cy="nan"' not in page
    assert page.count('cy="12.0"') == 7
    assert page.count('class="hop"') == 1


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300, math.inf, math.nan])
def test_drift_of_any_value_stays_inside_the_chart(value):
    drift = tuple(dataclasses.replace(point, relative_l2=value) for point in make_drift(1e-4))
    page = render_drift(make_parity(make_hop(drift=drift)))
    heights = [float(part.partition('"')[0]) for part in page.split('cy="')[1:]]
    assert len(heights) == len(drift)
    assert all(0 <= height <= 200 for height in heights)


# --- what each model sees


def test_sample_grid_marks_what_differs_and_flips():
    page = render_html(FAILING)
    assert page.count('<figure class="sample"') == 2
    assert page.count('<mark class="flip">class 8</mark>') == 1
    assert page.count('<b class="fail">flip</b>') == 3
    assert page.count('<b class="quiet">near tie</b>') == 1
    assert page.count("NaN or infinite") == 2
    assert "is class 3" in page
    assert "<mark" not in render_html(make_report(make_parity(DEPLOY, HALF)))


def test_sample_sentence_counts():
    assert sample_sentence(make_parity(DEPLOY)).endswith("every top class is the reference's.")
    assert sample_sentence(FAILING_PARITY).endswith("3 flips, 1 near tie.")
    assert sample_cards(make_parity(DEPLOY, samples=())) == ()


@pytest.fixture(scope="module")
def digits():
    loaded = load_model("notebook-digits")
    return load_images(
        BUNDLED_IMAGES["notebook-digits"], loaded.preprocessing, num_classes=10, limit=20
    ), loaded


@pytest.fixture(scope="module")
def outputs(digits):
    images, _ = digits
    logits = np.random.default_rng(0).standard_normal((20, 10), dtype=np.float32)
    return ReferenceOutputs("CPU", (images,), ((logits,),), ("logits",), None)


def test_samples_have_names_labels_and_pictures_of_what_the_model_got(digits, outputs):
    samples = make_samples(outputs, digits[1].preprocessing)
    assert len(samples) == MOST_SAMPLES
    for sample in samples:
        assert sample.label_name == sample.name.split("/")[0] == str(sample.label)
        shares = [guess.probability for guess in sample.reference.guesses]
        assert shares == sorted(shares, reverse=True)
        with Image.open(io.BytesIO(base64.b64decode(sample.thumbnail))) as picture:
            assert picture.format == "JPEG"
            assert picture.size == (56, 56)


def test_thumbnail_is_the_image_and_never_large():
    steps = Preprocessing(crop=384, resize=384)
    grey = np.full((1, 3, 384, 384), 0.0, np.float32)  # the mean of the preprocessing
    images = ImageSet("images", "", grey, ("grey",))
    reference = ReferenceOutputs(
        "", (images,), ((np.eye(1, 10, dtype=np.float32),),), ("logits",), None
    )
    thumbnail = make_samples(reference, steps)[0].thumbnail
    with Image.open(io.BytesIO(base64.b64decode(thumbnail))) as picture:
        assert picture.size == (112, 112)
        shown = np.asarray(picture).mean(axis=(0, 1)) / 255
    assert shown == pytest.approx(steps.mean, abs=0.02)
    assert len(thumbnail) < 20_000


def test_sample_rows_are_the_closest_calls_and_some_others():
    logits = np.zeros((30, 4), np.float32)
    logits[:, 0] = 1 + np.arange(30)
    rows = sample_rows(logits)
    assert {0, 1, 2} < set(rows)
    assert len(rows) == len(set(rows)) == MOST_SAMPLES
    assert sample_rows(logits[:2]) == [0, 1]


def test_answers_tell_flips_from_near_ties(outputs):
    logits = outputs.outputs[0][0]
    row = sample_rows(logits)[0]
    changed = logits.copy()
    changed[row, logits[row].argmin()] = 99.0
    quiet, loud = NoiseFloor(0.0, 0.0, ""), NoiseFloor(99.0, 0.0, "")
    assert answer_samples(outputs, [(changed,)], [quiet])[0].change == "flip"
    assert answer_samples(outputs, [(changed,)], [loud])[0].change == "near tie"
    assert {one.change for one in answer_samples(outputs, [(logits,)], [None])} == {"same"}


def test_answers_that_are_not_finite_have_no_guesses(outputs):
    broken = np.full_like(outputs.outputs[0][0], np.nan)
    answers = answer_samples(outputs, [(broken,)], [None])
    assert all(answer.guesses == () for answer in answers)


@pytest.mark.parametrize(
    "changes", [{"names": ("features",)}, {"image_sets": ()}], ids=["no classes", "no images"]
)
def test_without_classes_or_images_there_are_no_samples(outputs, changes):
    other = dataclasses.replace(outputs, **changes)
    assert make_samples(other, Preprocessing(crop=56, resize=56)) == ()
    assert answer_samples(other, [()], [None]) == ()
