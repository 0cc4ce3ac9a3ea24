import pytest
from fault_models import MODELS, judge_fault, judge_faultless
from faults import FAULTS, AbsentPartError, Fault


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
def test_parity_accepts_a_model_without_faults(kind: str, stage: str, precision: str) -> None:
    hop = judge_faultless(kind, 0, stage=stage, precision=precision).hops[0]
    assert hop.passed, hop.worst


def test_there_are_forty_faults_for_every_model() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40
