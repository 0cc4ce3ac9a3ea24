"""Small reports made by hand, for the tests of ``swin_deploy.report``."""

import dataclasses
import math

from exporters.plan import Kernel, KernelPlan
from swin_deploy.bench import BenchReport, BenchResult
from swin_deploy.parity import Hop, ParityReport, ParityResult, Tolerance
from swin_deploy.report import Artifact, Report

FP16 = Tolerance(atol=2e-2, rtol=1e-2, min_cosine=0.9995, source="four times the measured worst")
FP32 = Tolerance(atol=1e-5, rtol=1e-5, min_cosine=None, source="four times the measured worst")
HOSTILE = "<script>alert('x')</script> a|b `c` *d* [e](f)\nnew line & \x1b[31m # g"


def make_result(**changes):
    values = {
        "inputs": "images",
        "batch": 8,
        "rows": 24,
        "max_abs": 3.14e-3,
        "mean_abs": 4.2e-4,
        "relative_l2": 6.1e-4,
        "cosine": 0.99999981,
        "sqnr_db": 64.3,
        "needed_atol": 1.234e-3,
        "tolerance": FP16,
        "top1_agreement": 1.0,
        "passed": True,
    }
    return ParityResult(**(values | changes))


def make_hop(name="onnx fp16", *, results=None, **changes):
    values = {
        "stage": "onnx",
        "precision": "fp16",
        "file": "tiny-fp16-opset17.onnx",
        "backend": "ONNX Runtime 1.23.2, CPUExecutionProvider",
        "results": (
            tuple(make_result(inputs=i, batch=b) for i in ("images", "seeded") for b in (1, 8))
            if results is None
            else results
        ),
    }
    return Hop(name=name, **(values | changes))


DEPLOY = make_hop(
    "deploy",
    stage="deploy",
    precision="fp32",
    file="",
    results=(make_result(tolerance=FP32, needed_atol=8e-7, sqnr_db=math.inf),),
    top1_accuracy=0.972,
)
ENGINE_NOT_RUN = make_hop(
    "engine fp16", stage="engine", results=(), not_run="no CUDA device on this machine"
)
FAILED = make_hop(
    "onnx broken",
    results=(
        make_result(),
        make_result(
            inputs="seeded",
            batch=1,
            needed_atol=3.1e-2,
            passed=False,
            reason="needed atol 3.1e-02, allowed 2.0e-02",
        ),
    ),
)
NOT_FINITE = make_hop(
    "onnx nan",
    results=(
        make_result(
            max_abs=math.nan,
            mean_abs=math.nan,
            relative_l2=math.inf,
            cosine=math.nan,
            sqnr_db=-math.inf,
            needed_atol=math.inf,
            top1_agreement=None,
            passed=False,
            reason="7 of 1000 outputs are NaN",
        ),
    ),
)


def make_parity(*hops, **changes):
    values = {
        "model": "swin-t-notebook",
        "weights": "digits.pt, SHA-256 0123456789abcdef",
        "reference_backend": "PyTorch 2.13.0, CPU, float32",
        "inputs": {"images": "24 held-out digits", "seeded": "normal noise, seed 0"},
        "reference_top1_accuracy": 0.972,
    }
    return ParityReport(hops=hops, **(values | changes))


def make_bench():
    run = {"precision": "fp32", "batch": 8, "iterations": 30, "backend": "PyTorch 2.13.0, CPU"}
    return BenchReport(
        model="swin-t-notebook",
        img_size=224,
        results=(
            BenchResult("PyTorch reference", median_ms=412.6, p95_ms=431.9, images_per_s=19.39,
                        ratio=1.0, **run),
            BenchResult("ONNX Runtime fp32", median_ms=193.7, p95_ms=201.0, images_per_s=41.3,
                        ratio=2.13, **(run | {"backend": "ONNX Runtime 1.23.2, CPU"})),
            BenchResult("ONNX Runtime fp16", median_ms=700.1, p95_ms=720.0, images_per_s=11.4,
                        ratio=0.59, **(run | {"backend": "ONNX Runtime 1.23.2, CPU"})),
            BenchResult("engine fp16", 8, "fp16", "", not_run="no CUDA device on this machine"),
        ),
        conditions={"Device": "2 cores of a CPU", "Copies": "included", "Warm-up": "5 calls"},
    )  # fmt: skip


def make_plan():
    def kernel(index, kind, layer_type, bytes_moved):
        nodes = tuple(f"/layers.0/blocks.{index}/attn/MatMul_{i}" for i in range(3))
        name = f"__myl_TranReshMoveMulAddMulFcSoft_0x{index:032x}"
        half = bytes_moved if kind != "other" else bytes_moved // 2
        return Kernel(name, kind, layer_type, bytes_moved, half, (), nodes)

    kernels = [
        *(kernel(i, "attention", "_gemm_mha_v2", 9_600_000 - i) for i in range(12)),
        *(kernel(i, "gemm", "gemm", 12_300_000 - i) for i in range(48)),
        *(kernel(i, "other", "kgen", 4_100_000 - i) for i in range(48)),
    ]
    return KernelPlan(8, 12, tuple(kernels), "tensorrt-rtx", "1.7.1")


def make_report(parity=None, **changes):
    values = {
        "model": "swin-t-notebook",
        "created": "2025-11-22T13:30:00+00:00",
        "parity": parity,
        "bench": make_bench(),
        "plan": make_plan(),
        "artifacts": (
            Artifact("onnx", "swin-t-fp16-opset17.onnx", 57_012_345, "ab" * 32),
            Artifact("engine", "swin-t-fp16-opset17.engine", 58_112_345, "cd" * 32),
        ),
        "conditions": {"Machine": "2 cores, no GPU", "torch": "2.13.0", "TF32": "off"},
    }
    return Report(**(values | changes))


def make_hostile_report():
    hop = make_hop(
        HOSTILE,
        file=HOSTILE,
        backend=HOSTILE,
        results=(make_result(inputs=HOSTILE, passed=False, reason=HOSTILE),),
    )
    parity = make_parity(
        hop,
        make_hop(HOSTILE, results=(), not_run=HOSTILE),
        model=HOSTILE,
        weights=HOSTILE,
        reference_backend=HOSTILE,
        inputs={HOSTILE: HOSTILE},
    )
    bench = dataclasses.replace(
        make_bench(),
        model=HOSTILE,
        results=(
            BenchResult(HOSTILE, 1, HOSTILE, HOSTILE, 1, 1.0, 1.0, 1.0, 1.0),
            BenchResult(HOSTILE, 2, HOSTILE, HOSTILE, not_run=HOSTILE),
        ),
        conditions={HOSTILE: HOSTILE},
    )
    kernel = Kernel(HOSTILE, HOSTILE, HOSTILE, 10, 5, (), (HOSTILE,))
    return make_report(
        parity,
        model=HOSTILE,
        bench=bench,
        plan=KernelPlan(1, 1, (kernel,), HOSTILE, HOSTILE),
        artifacts=(Artifact(HOSTILE, HOSTILE, 1, HOSTILE),),
        conditions={HOSTILE: HOSTILE},
    )


PASSING = make_report(make_parity(DEPLOY, make_hop()))
PARTLY = make_report(make_parity(DEPLOY, make_hop(), ENGINE_NOT_RUN))
FAILING = make_report(make_parity(DEPLOY, FAILED, NOT_FINITE, ENGINE_NOT_RUN))
NOTHING_RAN = make_report(make_parity(ENGINE_NOT_RUN))
NO_RESULTS = make_report(make_parity(make_hop("onnx empty", results=())))
UNJUDGED = make_report(None)
BARE = make_report(None, bench=None, plan=None, artifacts=(), conditions={})
REPORTS = {
    "passing": PASSING,
    "partly": PARTLY,
    "failing": FAILING,
    "nothing-ran": NOTHING_RAN,
    "no-results": NO_RESULTS,
    "unjudged": UNJUDGED,
    "bare": BARE,
    "hostile": make_hostile_report(),
}
