import dataclasses
import math

import pytest
from report_samples import (
    DEPLOY,
    DRIFT,
    FAILED,
    FLOOR,
    FP16,
    FP32,
    NOT_FINITE,
    OVERFLOW,
    make_hop,
    make_parity,
    make_report,
    make_result,
)

from swin_deploy.parity import Case, Check, FirstFault, Place, limits
from swin_deploy.report.from_json import read_report
from swin_deploy.report.markdown import render_markdown
from swin_deploy.report.tables import allowed_facts, case_table, hop_table, parity_facts
from swin_deploy.report.words import flip_text, verdict_sentences
from swin_deploy.report.write import write_report

LIMITS = limits(FP16, FLOOR, precision="fp16")
OVERFLOWING = make_result(
    tolerance=dataclasses.replace(FP16, floor=OVERFLOW),
    checks=(Check("max_error", 1.2e-3, None, 2e-2),),
)


def cells(table, row=0):
    return dict(zip((name for name, _ in table.columns), table.rows[row], strict=True))


@pytest.mark.parametrize(
    "result",
    [make_result(tolerance=LIMITS), OVERFLOWING, *FAILED.results],
    ids=["floor", "overflow", "passed", "failed"],
)
def test_read_report_gives_back_every_value_of_a_result(result, tmp_path):
    hop = make_hop(
        results=(result,),
        drift=DRIFT,
        first_fault=FirstFault("part", "embed", Place("embed")),
        drift_not_run="no",
    )
    path = write_report(make_report(make_parity(hop)), tmp_path)[0]
    read = read_report(path).parity
    assert read is not None
    assert read.hops[0] == hop


def test_read_report_gives_back_drift_beyond_any_number(tmp_path):
    lost = dataclasses.replace(DRIFT[0], relative_l2=math.inf, floor=math.inf, passed=False)
    path = write_report(make_report(make_parity(make_hop(drift=(lost,)))), tmp_path)[0]
    parity = read_report(path).parity
    assert parity is not None
    assert parity.hops[0].drift == (lost,)


def test_hop_table_shows_the_deciding_rule_with_its_floor():
    row = cells(hop_table(make_parity(make_hop())))
    assert row["Rule"] == "relative L2, 5 x noise"
    assert (row["Error"], row["Noise"], row["Limit"]) == ("6.1e-04", "6.2e-04", "2.5e-03")


def test_hop_table_shows_a_rule_without_a_floor():
    row = cells(hop_table(make_parity(make_hop(results=(OVERFLOWING,)))))
    assert (row["Rule"], row["Noise"], row["Limit"]) == ("max error, ceiling", "-", "2.0e-02")


def test_case_table_shows_classes():
    row = cells(case_table(make_hop()))
    assert (row["Top-5 agreement"], row["Flips"], row["Near ties"]) == ("75.0%", "0", "2")
    none = cells(case_table(NOT_FINITE))
    assert (none["Top-5 agreement"], none["Flips"], none["Near ties"]) == ("-", "-", "-")


def test_flip_text_counts_an_image_once_though_it_went_through_several_batches():
    results = (
        make_result(inputs="images", batch=1, flips=1, near_ties=0),
        make_result(inputs="images", batch=8, flips=2, near_ties=1),
        make_result(case=Case("images", 8, against="other rows"), flips=0, near_ties=0),
        make_result(inputs="seeded", batch=8, flips=1, near_ties=0),
        make_result(case=Case("seeded", 8, place=Place("block", 1, 1)), flips=None, near_ties=None),
    )
    assert flip_text(make_hop(results=results)) == "3 flips and 1 near tie"
    assert flip_text(NOT_FINITE) == ""


def test_parity_facts_tell_what_was_not_looked_into():
    engine = make_hop("engine fp16", drift_not_run="only its outputs can be read")
    facts = dict(parity_facts(make_parity(DEPLOY, engine)))
    unseen = facts["Not compared block by block"]
    assert unseen == "engine fp16: only its outputs can be read"
    assert facts["Same top-1 on all images"] == (
        "no: deploy 0 flips and 2 near ties, engine fp16 0 flips and 4 near ties"
    )


@pytest.mark.parametrize(
    ("tolerance", "words"),
    [
        (LIMITS, "x for relative L2, at most 0.02 ("),
        (LIMITS, "cosine at least 0.9995; noise: the reference in float16 on this CPU"),
        (FP32, "atol 1.0e-05, rtol 1.0e-05 (four times the measured worst)"),
        (OVERFLOWING.tolerance, "PyTorch itself overflows (the reference in float16 on this CPU)"),
    ],
    ids=["floor", "cosine", "ceiling", "overflow"],
)
def test_allowed_facts_say_where_a_limit_comes_from(tolerance, words):
    hop = make_hop(results=(make_result(tolerance=tolerance),))
    ((name, text),) = allowed_facts(make_parity(hop))
    assert name == "Limit: onnx fp16"
    assert words in text


def test_reports_say_where_a_failed_hop_goes_wrong_first():
    parity = make_parity(FAILED)
    wanted = "onnx broken: first wrong: layers.3 (stage 2, block 1), qkv: max error 12 times"
    assert any(sentence.startswith(wanted) for sentence in verdict_sentences(parity))
    assert "first wrong: layers.3 (stage 2, block 1)" in render_markdown(make_report(parity))
