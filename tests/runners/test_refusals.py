"""Which refusals mean that an engine is not run, and which that something is wrong."""

from __future__ import annotations

import pytest

from exporters.errors import BuildError, MissingBackendError
from swin_deploy.runners.refusals import Validity, refusal

CAPABILITY = "TensorRT-RTX does not support this compute capability"


@pytest.mark.parametrize(
    "line",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "Error Code 2: OutOfMemory (Requested size was 1 bytes.)",
        "insufficient GPU memory",
        "cudaError 2: out of memory",
    ],
)
def test_refusal_for_want_of_memory_is_never_not_run(line: str) -> None:
    said = [CAPABILITY, line]
    err = refusal("x", lines=said, validity=Validity(), otherwise=MissingBackendError)
    assert isinstance(err, BuildError)


@pytest.mark.parametrize(
    "line",
    [
        "The engine does not support the current compute capability 9.0",
        "Unsupported SM: 90",
        "sm_90 is not supported",
        "nvrtc: error: invalid value for --gpu-architecture (-arch)",
        "CUDA error: no kernel image is available for execution on the device",
        "cudaError 222: the provided PTX was compiled with an unsupported toolchain",
    ],
)
def test_refusal_of_the_gpu_is_not_run(line: str) -> None:
    err = refusal("x", lines=[line], validity=Validity(), otherwise=BuildError)
    assert isinstance(err, MissingBackendError)


@pytest.mark.parametrize(
    "line",
    [
        "cudaError 700: illegal address",
        "cudaError 2090",
        "sm80_xmma_gemm_f16f16_f16f16_f16_tn_n failed: cudaError 700",
        "assertion",
    ],
)
def test_refusal_for_another_reason_is_what_the_caller_says(line: str) -> None:
    for otherwise in (BuildError, MissingBackendError):
        err = refusal("x", lines=[line], validity=Validity("INVALID"), otherwise=otherwise)
        assert type(err) is otherwise
