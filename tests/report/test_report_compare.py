import dataclasses
import io
import json
import math

import pytest
from command_line import Command
from report_samples import (
    BARE,
    DEPLOY,
    FAILING,
    HALF,
    PASSING,
    REPORTS,
    UNJUDGED,
    make_bench,
    make_evaluation,
    make_hop,
    make_parity,
    make_plan,
    make_report,
    make_result,
)
from rich.console import Console

from exporters.errors import ComparisonError
from swin_deploy.evaluate.accuracy import Score
from swin_deploy.parity import Check, ComparedImages
from swin_deploy.report.compare import Limits, compare_reports
from swin_deploy.report.compare.pages import runs_to_markdown, runs_to_terminal
from swin_deploy.report.compare.words import comparison_headline, comparison_to_dict
from swin_deploy.report.to_json import to_json
from swin_deploy.report.write import write_report


def verdicts(before, now, limits=None):
    found = compare_reports(before, now, limits or Limits())
    return {change.what: change.verdict for change in found.changes}


def with_hop(**changes):
    return make_report(make_parity(DEPLOY, dataclasses.replace(HALF, **changes)))


def with_needed(needed, floor=4e-3):
    check = Check("max_error", needed, floor, 2e-2, 12)
    return make_report(make_parity(make_hop(results=(make_result(checks=(check,)),))))


def with_plan(**changes):
    return make_report(make_parity(DEPLOY), plan=dataclasses.replace(make_plan(), **changes))


def with_speed(ratio, low, high, **conditions):
    bench = make_bench()
    first, second, *rest = bench.results
    timed = dataclasses.replace(second, ratio=ratio, ratio_low=low, ratio_high=high)
    found = dataclasses.replace(bench.comparisons[0], ratio=ratio, low=low, high=high)
    bench = dataclasses.replace(
        bench,
        results=(first, timed, *rest),
        comparisons=(found,),
        conditions=bench.conditions | conditions,
    )
    return make_report(make_parity(DEPLOY), bench=bench)


def with_right(right, lost):
    made = make_evaluation()
    one = dataclasses.replace(made.candidates[0], top1=Score(360, right, lost=lost))
    return make_report(None, evaluation=dataclasses.replace(made, candidates=(one,)))


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_a_report_is_no_worse_than_itself(report):
    found = compare_reports(report, report)
    assert found.regressions == ()
    assert {change.verdict for change in found.changes} <= {"same", "not comparable"}
    assert found.conditions == ()


DIGITS = (ComparedImages("images", "24"),)
FLIP = (make_result(flips=1, passed=True),)
KERNELS = make_plan().kernels
SPLIT = (*KERNELS[1:], dataclasses.replace(KERNELS[0], kind="gemm"))
TIMED = "ONNX Runtime fp32, fp32, batch 8"
CASES = {
    "fails now": (PASSING, FAILING, "Verdict", "worse"),
    "passes now": (FAILING, PASSING, "Verdict", "better"),
    "not judged now": (PASSING, UNJUDGED, "Verdict", "worse"),
    "parity missing": (PASSING, UNJUDGED, "Parity", "missing"),
    "hop missing": (with_hop(), make_report(make_parity(DEPLOY)), "onnx fp16", "missing"),
    "hop not run now": (with_hop(), with_hop(not_run="no GPU", results=()), "onnx fp16", "missing"),
    "hop runs now": (with_hop(not_run="no GPU", results=()), with_hop(), "onnx fp16", "better"),
    "hop is new": (make_report(make_parity(DEPLOY)), with_hop(), "onnx fp16", "new"),
    "hop is new and fails": (PASSING, FAILING, "onnx broken", "worse"),
    "hop needs far more": (with_needed(1e-3), with_needed(3.1e-3), "onnx fp16: error, max error",
                           "worse"),
    "hop needs a little more": (with_needed(1e-3), with_needed(2.9e-3),
                                "onnx fp16: error, max error", "same"),
    "hop needs less": (with_needed(4e-3), with_needed(1e-3), "onnx fp16: error, max error",
                       "better"),
    "without a floor, more": (with_needed(1e-3, None), with_needed(3.1e-3, None),
                              "onnx fp16: error, max error", "worse"),
    "without a floor, little": (with_needed(1e-3, None), with_needed(2.9e-3, None),
                                "onnx fp16: error, max error", "same"),
    "flips": (with_hop(), with_hop(results=FLIP), "onnx fp16: flips", "worse"),
    "images missing": (PASSING, make_report(make_parity(DEPLOY, HALF, image_sets=DIGITS)),
                       "Images: seeded", "missing"),
    "top-1 of a hop": (with_hop(top1_accuracy=0.97), with_hop(top1_accuracy=0.88),
                       "onnx fp16: top-1", "worse"),
    "one image of 24": (with_hop(top1_accuracy=23 / 24), with_hop(top1_accuracy=22 / 24),
                        "onnx fp16: top-1", "same"),
    "evaluation missing": (PASSING, make_report(PASSING.parity), "Accuracy on labelled images",
                           "missing"),
    "loss found": (with_right(350, 0), with_right(330, 20), "Accuracy on labelled images", "worse"),
    "labelled, two images": (with_right(350, 0), with_right(348, 2), "ONNX fp16: top-1, labelled",
                             "worse"),
    "labelled, one image": (with_right(350, 0), with_right(349, 1), "ONNX fp16: top-1, labelled",
                            "same"),
    "attention not fused": (with_plan(), with_plan(kernels=SPLIT), "Fused attention", "worse"),
    "fewer kernels": (with_plan(), with_plan(kernels=KERNELS[:60]), "Kernels", "better"),
    "more kernels": (with_plan(kernels=KERNELS[:60]), with_plan(), "Kernels", "worse"),
    "more bytes": (with_plan(kernels=KERNELS[:60]), with_plan(), "MB moved per image", "worse"),
    "float32 attention": (with_plan(), with_plan(float32_compute=("mha",)),
                          "GEMM, attention in float32", "worse"),
    "other batch": (with_plan(), with_plan(batch=16), "Kernel plan", "not comparable"),
    "other flavour": (with_plan(), with_plan(flavor="tensorrt"), "Kernel plan", "not comparable"),
    "no plan": (PASSING, make_report(PASSING.parity, plan=None), "Kernel plan", "missing"),
    "file missing": (PASSING, make_report(PASSING.parity, artifacts=PASSING.artifacts[:1]),
                     PASSING.artifacts[1].file, "missing"),
    "file larger": (PASSING, make_report(PASSING.parity, artifacts=tuple(
        dataclasses.replace(one, bytes=2 * one.bytes) for one in PASSING.artifacts)),
        PASSING.artifacts[0].file, "worse"),
    "slower": (with_speed(2.1, 2.0, 2.2), with_speed(1.8, 1.7, 1.9), TIMED, "worse"),
    "slower than eager": (with_speed(2.1, 2.0, 2.2), with_speed(1.8, 1.7, 1.9),
                          "Fastest shipped vs eager, batch 8", "worse"),
    "intervals overlap": (with_speed(2.1, 2.0, 2.2), with_speed(1.8, 1.6, 2.0), TIMED, "same"),
    "faster": (with_speed(1.8, 1.7, 1.9), with_speed(2.1, 2.0, 2.2), TIMED, "better"),
    "no interval": (with_speed(2.1, 0.0, 0.0), with_speed(1.8, 1.7, 1.9), TIMED, "not comparable"),
    "other machine": (with_speed(2.1, 2.0, 2.2), with_speed(1.0, 0.9, 1.1, device="a GPU"),
                      "Throughput", "not comparable"),
    "other torch": (with_speed(2.1, 2.0, 2.2), with_speed(1.0, 0.9, 1.1, torch="9"),
                    "Throughput", "not comparable"),
    "other warm-up": (with_speed(2.1, 2.0, 2.2), with_speed(1.8, 1.7, 1.9, **{"warm-up": "none"}),
                      TIMED, "worse"),
    "no throughput": (PASSING, make_report(PASSING.parity, bench=None), "Throughput", "missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_change_has_its_verdict(case):
    before, now, what, verdict = case
    assert verdicts(before, now)[what] == verdict


def test_allowed_loss_of_speed_is_no_regression():
    pair = with_speed(2.1, 2.0, 2.2), with_speed(1.8, 1.7, 1.9)
    assert verdicts(*pair, Limits(slower=0.04))[TIMED] == "worse"
    assert verdicts(*pair, Limits(slower=0.06))[TIMED] == "same"


def test_a_runner_that_is_not_timed_any_more_is_missing_on_another_machine_too():
    before = with_speed(2.1, 2.0, 2.2)
    bench = dataclasses.replace(
        before.bench, results=before.bench.results[:1], conditions={"device": "a GPU"}
    )
    assert verdicts(before, dataclasses.replace(before, bench=bench))[TIMED] == "missing"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"weights": "other.pt"}, "other weights"),
        ({"image_sets": (ComparedImages("images", "64 of 360 image files"),)}, "other images"),
    ],
)
def test_figures_on_other_weights_or_images_are_not_compared(changes, note):
    now = make_report(make_parity(DEPLOY, dataclasses.replace(HALF, results=FLIP), **changes))
    found = {one.what: one for one in compare_reports(with_hop(), now).changes}
    flips = found["onnx fp16: flips"]
    assert (flips.verdict, flips.note) == ("not comparable", note)
    assert found["onnx fp16"].verdict == "same"


def test_the_folder_of_the_images_does_not_matter():
    sets = (ComparedImages("images", "24 of 360 image files", name) for name in "ab")
    before, now = (make_report(make_parity(HALF, image_sets=(one,))) for one in sets)
    assert verdicts(before, now)["onnx fp16: flips"] == "same"


def test_other_models_and_sizes_cannot_be_compared():
    with pytest.raises(ComparisonError, match="model swin-t-notebook before, other now"):
        compare_reports(PASSING, dataclasses.replace(PASSING, model="other"))
    before, now = (
        dataclasses.replace(BARE, made_from={"image size": s}) for s in ("56 px", "224 px")
    )
    with pytest.raises(ComparisonError, match="image size 56 px before, 224 px now"):
        compare_reports(before, now)


@pytest.mark.parametrize(
    ("before", "now", "verdict"), [("", "guessing", "worse"), ("guessing", "", "better")]
)
def test_a_verdict_that_shows_nothing_is_between_fail_and_pass(before, now, verdict):
    reports = (make_report(make_parity(DEPLOY, doubt=doubt)) for doubt in (before, now))
    assert verdicts(*reports)["Verdict"] == verdict


def test_parts_that_are_new_are_listed():
    found = verdicts(BARE, dataclasses.replace(BARE, evaluation=make_evaluation()))
    assert found["Accuracy on labelled images"] == "new"


def test_accuracy_on_other_images_is_not_comparable():
    lost = make_evaluation(images=60)
    pair = (dataclasses.replace(BARE, evaluation=one) for one in (make_evaluation(), lost))
    assert verdicts(*pair)["Accuracy on labelled images"] == "not comparable"


def test_renderers_say_what_got_worse_first_and_escape_it():
    found = compare_reports(PASSING, FAILING)
    text = runs_to_markdown(found)
    assert text.startswith(f"## {comparison_headline(found)}: swin-t-notebook")
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows[0].startswith("| Verdict | pass | fail | **worse** |")
    assert "**worse**" in rows[1]
    values = comparison_to_dict(found)
    assert values == json.loads(json.dumps(values, allow_nan=False))
    assert values["regressions"] == len(found.regressions) > 2
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(runs_to_terminal(found))
    assert max(map(len, console.export_text().splitlines())) <= 100


def test_hostile_reports_are_compared_and_shown_literally():
    hostile = REPORTS["hostile"]
    worse = dataclasses.replace(hostile, parity=None, plan=None, bench=None, artifacts=())
    text = runs_to_markdown(compare_reports(hostile, worse))
    assert "<script" not in text
    assert "\x1b" not in text


# --- the command


@pytest.fixture
def folders(tmp_path):
    for name, report in {"good": PASSING, "bad": FAILING, "other": UNJUDGED}.items():
        write_report(report, tmp_path / name)
    write_report(dataclasses.replace(PASSING, model="another"), tmp_path / "another")
    return tmp_path


@pytest.mark.parametrize(
    ("pair", "status"), [(("good", "good"), 0), (("good", "bad"), 1), (("bad", "good"), 1)]
)
def test_report_of_two_has_the_exit_status_of_what_it_found(swin: Command, folders, pair, status):
    outcome = swin("report", folders / pair[0], folders / pair[1] / "report.json", "--json")
    assert outcome.status == status
    assert (outcome.json["regressions"] > 0) is (status == 1)


def test_report_of_two_writes_markdown(swin: Command, folders):
    path = folders / "new" / "comment.md"
    outcome = swin("report", folders / "good", folders / "bad", "--markdown", path)
    assert outcome.status == 1
    assert "worse" in outcome.out
    assert path.read_text().startswith("## Worse: ")


def test_report_of_two_models_could_not_run(swin: Command, folders):
    outcome = swin("report", folders / "good", folders / "another")
    outcome.assert_error("the reports cannot be compared")


def test_report_of_one_is_rendered_again(swin: Command, folders):
    out = folders / "again"
    swin("report", folders / "good" / "report.json", "--output", out).assert_done()
    for name in ("report.json", "report.md", "report.html"):
        assert (out / name).read_bytes() == (folders / "good" / name).read_bytes()


def test_report_takes_in_an_evaluation_of_the_same_model(swin: Command, folders):
    path = folders / "evaluation.json"
    path.write_text(json.dumps(to_json(make_evaluation(weights="model.pt"))))
    outcome = swin("report", folders / "other", "--evaluation", path, "--json").assert_done()
    assert outcome.json["evaluation"]["images"] == 360
    outcome = swin("report", folders / "another", "--evaluation", path)
    outcome.assert_error("is of swin-t-notebook, not another")
    path.write_text(json.dumps(to_json(make_evaluation(weights="finetuned.pt"))))
    outcome = swin("report", folders / "other", "--evaluation", path)
    outcome.assert_error("is of other weights (finetuned.pt) than the report (model.pt)")


def test_report_prints_the_schema(swin: Command):
    values = swin("report", "--schema").assert_done().json
    assert values["title"] == "swin-deploy report"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a", "b", "c"),
        ("a", "--schema"),
        ("a", "--allow-slower", "5"),
        ("a", "b", "--output", "x"),
        ("a", "b", "--allow-slower", "nan"),
        ("a", "b", "--allow-slower", "100"),
    ],
)
def test_report_rejects_wrong_usage(swin: Command, arguments):
    assert swin("report", *arguments).status == 2


def test_report_of_nothing_gives_one_line(swin: Command, tmp_path):
    swin("report", tmp_path / "missing.json").assert_error("cannot read")
    swin("report", tmp_path).assert_error("cannot read")


def test_needed_beyond_any_number_is_worse():
    now = with_needed(math.inf)
    assert verdicts(with_needed(1e-3), now)["onnx fp16: error, max error"] == "worse"
