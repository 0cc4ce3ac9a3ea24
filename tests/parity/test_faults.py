import pytest
from fault_models import MODELS, judge_fault, judge_faultless
from faults import FAULTS, AbsentPartError, Fault

from exporters.spec import Precision


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_parity_rejects(fault: Fault, kind: str) -> None:
    try:
        report = judge_fault(fault, kind)
    except AbsentPartError as err:
        pytest.skip(str(err))
    assert not report.passed
    assert report.hops[0].located


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("stage", ["deploy", "onnx"])
@pytest.mark.parametrize("kind", MODELS)
def test_parity_accepts_a_model_without_faults(kind: str, stage: str, precision: Precision) -> None:
    hop = judge_faultless(kind, 0, stage=stage, precision=precision).hops[0]
    assert hop.passed, hop.worst


def test_there_are_forty_faults_for_every_model() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mask missing", "first wrong: layers.4 (stage 2, block 2), attention bias and mask: "),
        ("scale twice", "first wrong: layers.4 (stage 2, block 2), qkv: "),
        ("merge order row by row", "first wrong: layers.2 (merge behind stage 1), token order: "),
        ("colours in the order BGR", "first wrong: embed (embedding), linear layer: "),
        ("two classes swapped", "every part of the model is within its noise: wrong behind the "),
        ("rows of a batch exchanged", "within its noise; it shows only on batches of 3"),
        ("NaN for an image that is zero everywhere", "it shows only on the extreme inputs"),
    ],
)
def test_parity_says_where_it_goes_wrong(name: str, words: str) -> None:
    fault = next(fault for fault in FAULTS if fault.name == name)
    assert words in judge_fault(fault, "trained").hops[0].located
