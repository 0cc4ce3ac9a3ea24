"""Small reports made by hand, for the tests of ``swin_deploy.report``."""

import base64
import dataclasses
import io
import math
from typing import Any, Literal

from PIL import Image

from exporters.plan import Block, Kernel, KernelPlan
from exporters.spec import Stage
from swin_deploy.bench import BenchReport, BenchResult, Comparison
from swin_deploy.config.assumptions import Assumption
from swin_deploy.evaluate.accuracy import BackendAccuracy, Evaluation, Score
from swin_deploy.parity import (
    Answer,
    Case,
    Check,
    ComparedImages,
    DriftPoint,
    FirstFault,
    Guess,
    Hop,
    NoiseFloor,
    ParityReport,
    ParityResult,
    Place,
    Sample,
    Tolerance,
)
from swin_deploy.parity.samples import Change
from swin_deploy.report.results import Artifact, Report

FP16 = Tolerance(atol=2e-2, rtol=1e-2, min_cosine=0.9995, source="four times the measured worst")
OVERFLOW = NoiseFloor(math.inf, math.inf, "the reference in float16 on this CPU")
FP32 = Tolerance(atol=1e-5, rtol=1e-5, min_cosine=None, source="four times the measured worst")
HOSTILE = "<script>alert('x')</script> a|b `c` *d* [e](f)\nnew line & \x1b[31m # g"


FLOOR = NoiseFloor(4e-3, 6.2e-4, "the reference in float16 on this CPU")
CHECKS = (
    Check("max_error", 1.234e-3, 4e-3, 2e-2, 12.0),
    Check("relative_l2", 6.1e-4, 6.2e-4, 2.5e-3, 5.0),
)
PLACES = (
    ("embed", Place("embed")),
    *((f"layers.{index}", Place("block", index // 2 + 1, index % 2 + 1)) for index in range(8)),
    ("norm", Place("features")),
)


def make_drift(
    scale: float, *, wrong_from: int = 99, inputs: str = "images"
) -> tuple[DriftPoint, ...]:
    """Tokens that lose ``scale`` times more at each place, and a hundred times from one on."""
    return tuple(
        DriftPoint(
            inputs,
            module,
            place,
            relative_l2=scale * (1 + 0.4 * index) * (100 if index >= wrong_from else 1),
            floor=scale * (0.9 + 0.38 * index),
            allowed=5 * scale * (0.9 + 0.38 * index),
            passed=index < wrong_from,
        )
        for index, (module, place) in enumerate(PLACES)
    )


DRIFT = make_drift(1e-4)[:2]


def make_thumbnail(step: int) -> str:
    memory = io.BytesIO()
    Image.frombytes("L", (28, 28), bytes(step * i % 256 for i in range(784))).save(memory, "JPEG")
    return base64.b64encode(memory.getvalue()).decode()


def make_answer(*shares: float, change: Change = "same", first: int = 3) -> Answer:
    classes = [first, *(index for index in range(10) if index != first)]
    guesses = zip(classes, shares, strict=False)
    return Answer(tuple(Guess(index, f"class {index}", s) for index, s in guesses), change)


ANSWER = make_answer(0.91, 0.05, 0.02, 0.01, 0.004)
CLOSE = make_answer(0.46, 0.45, 0.05, 0.02, 0.01)
SAMPLES = (
    Sample("3/0045.png", make_thumbnail(5), 3, "class 3", ANSWER),
    Sample("unlabelled.png", make_thumbnail(3), None, "", CLOSE),
)
SAME = (ANSWER, CLOSE)
FLIPPED = (
    make_answer(0.88, 0.07, 0.03, 0.01, 0.004, first=8, change="flip"),
    make_answer(0.47, 0.44, 0.05, 0.02, 0.01, first=0, change="near tie"),
)
LOST = (Answer((), "flip"), Answer((), "flip"))


def make_result(*, inputs: str = "images", batch: int = 8, **changes: object) -> ParityResult:
    values: dict[str, Any] = {
        "case": Case(inputs, batch),
        "rows": 24,
        "max_abs": 3.14e-3,
        "mean_abs": 4.2e-4,
        "relative_l2": 6.1e-4,
        "cosine": 0.99999981,
        "sqnr_db": 64.3,
        "needed_atol": 1.234e-3,
        "tolerance": FP16,
        "checks": CHECKS,
        "top1_agreement": 1.0,
        "top5_agreement": 0.75,
        "flips": 0,
        "near_ties": 2,
        "passed": True,
    }
    return ParityResult(**(values | changes))


def make_hop(
    name: str = "onnx fp16", *, results: tuple[ParityResult, ...] | None = None, **changes: object
) -> Hop:
    values: dict[str, Any] = {
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
    results=(
        make_result(
            tolerance=FP32,
            needed_atol=8e-7,
            max_abs=0.0,
            sqnr_db=math.inf,
        ),
    ),
    top1_accuracy=0.972,
    drift=make_drift(2e-7),
    answers=SAME,
)
HALF = make_hop(drift=(*make_drift(3e-4), *make_drift(4e-4, inputs="seeded")), answers=SAME)
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
            checks=(Check("max_error", 3.1e-2, 4e-3, 2e-2, 12.0), CHECKS[1]),
            passed=False,
            reason="max error, 12 x noise: error 0.031, limit 0.02",
        ),
    ),
    first_fault=FirstFault(
        "part", "layers.3", Place("block", 2, 1), "qkv", Check("max_error", 4.8e-2, 4e-3, 2e-2)
    ),
    drift=make_drift(3e-4, wrong_from=4),
    answers=FLIPPED,
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
            checks=(),
            top1_agreement=None,
            top5_agreement=None,
            flips=None,
            near_ties=None,
            passed=False,
            reason="7 of 1000 outputs are NaN",
        ),
    ),
    drift=tuple(
        dataclasses.replace(point, relative_l2=math.inf, floor=math.inf, passed=False)
        if index > 2
        else point
        for index, point in enumerate(make_drift(3e-4))
    ),
    answers=LOST,
)


def make_parity(*hops: Hop, **changes: object) -> ParityReport:
    values: dict[str, Any] = {
        "model": "swin-t-notebook",
        "weights": "digits.pt, SHA-256 0123456789abcdef",
        "reference_backend": "PyTorch 2.13.0, CPU, float32",
        "image_sets": (
            ComparedImages("images", "24 held-out digits"),
            ComparedImages("seeded", "normal noise, seed 0"),
        ),
        "reference_top1_accuracy": 0.972,
        "samples": SAMPLES,
    }
    return ParityReport(hops=hops, **(values | changes))


def make_bench() -> BenchReport:
    run: dict[str, Any] = {
        "precision": "fp32",
        "batch": 8,
        "iterations": 30,
        "backend": "PyTorch 2.13.0, CPU",
    }
    return BenchReport(
        model="swin-t-notebook",
        img_size=224,
        results=(
            BenchResult("PyTorch reference", median_ms=412.6, p95_ms=431.9, images_per_s=19.39,
                        ratio=1.0, **run),
            BenchResult("ONNX Runtime fp32", median_ms=193.7, p95_ms=201.0, images_per_s=41.3,
                        ratio=2.13, ratio_low=1.95, ratio_high=2.31, kind="onnx", mode="file",
                        **(run | {"backend": "ONNX Runtime 1.23.2, CPU"})),
            BenchResult("ONNX Runtime fp16", median_ms=700.1, p95_ms=720.0, images_per_s=11.4,
                        ratio=0.59, kind="onnx", mode="file",
                        **(run | {"backend": "ONNX Runtime 1.23.2, CPU"})),
            BenchResult("engine fp16", 8, "fp16", "", not_run="no CUDA device on this machine"),
        ),
        conditions={"device": "2 cores of a CPU", "copies": "included", "warm-up": "5 calls"},
        comparisons=(
            Comparison(
                8, "eager", "ONNX Runtime fp32", "PyTorch reference, fp32", 2.13, 1.95, 2.31
            ),
        ),
    )  # fmt: skip


def make_evaluation(**changes: object) -> Evaluation:
    def backend(
        name: str,
        stage: Literal["reference"] | Stage,
        score: Score | None,
        **more: Any,  # noqa: ANN401 - its fields
    ) -> BackendAccuracy:
        return BackendAccuracy(name, stage, "fp16", f"{stage}.onnx", "CPU", score, **more)

    values: dict[str, Any] = {
        "model": "swin-t-notebook",
        "weights": "digits.pt, SHA-256 0123456789abcdef",
        "created": "2025-11-22T14:00:00+00:00",
        "data": "360 images in 10 classes",
        "classes": "folder names in sorted order",
        "images": 360,
        "skipped": 0,
        "num_classes": 10,
        "max_drop": None,
        "reference": backend("PyTorch reference", "reference", Score(360, 350)),
        "candidates": (
            backend("ONNX fp16", "onnx", Score(360, 349, lost=1), agreed=358, top5=Score(360, 360)),
            backend("engine fp16", "engine", None, not_run="no CUDA device on this machine"),
        ),
    }
    return Evaluation(**(values | changes))


def make_plan() -> KernelPlan:
    def kernel(index: int, kind: str, layer_type: str, bytes_moved: int) -> Kernel:
        nodes = tuple(f"/layers.0/blocks.{index}/attn/MatMul_{i}" for i in range(3))
        name = f"__myl_TranReshMoveMulAddMulFcSoft_0x{index:032x}"
        half = bytes_moved if kind != "copy" else bytes_moved // 2
        placed = Kernel(name, kind, layer_type, bytes_moved, half, (), nodes)
        return dataclasses.replace(placed, flops=10**9, block=f"blocks.{index}")

    kernels = [
        *(kernel(i, "attention", "_gemm_mha_v2", 9_600_000 - i) for i in range(12)),
        *(kernel(i, "gemm", "gemm", 12_300_000 - i) for i in range(48)),
        *(kernel(i, "copy", "kgen", 4_100_000 - i) for i in range(48)),
    ]
    blocks = tuple(Block(f"blocks.{index}", 1, 12_000_000) for index in range(48))
    return KernelPlan(8, 12, tuple(kernels), "tensorrt-rtx", "1.7.1", blocks=blocks)


def make_report(parity: ParityReport | None = None, **changes: object) -> Report:
    values: dict[str, Any] = {
        "model": "swin-t-notebook",
        "created": "2025-11-22T13:30:00+00:00",
        "parity": parity,
        "bench": make_bench(),
        "plan": make_plan(),
        "artifacts": (
            Artifact("onnx", "swin-t-fp16-opset17.onnx", 57_012_345, "ab" * 32),
            Artifact("engine", "swin-t-fp16-opset17.engine", 58_112_345, "cd" * 32),
        ),
        "assumptions": (Assumption("image size", "224 px", "nothing tells it", "--image-size"),),
        "made_from": {"weights": "model.pt", "preprocessing": "squash to 224"},
        "next_command": "swin-deploy parity --engine a.engine",
        "conditions": {"Machine": "2 cores, no GPU", "torch": "2.13.0", "TF32": "off"},
    }
    return Report(**(values | changes))


def make_hostile_report() -> Report:
    hop = make_hop(
        HOSTILE,
        file=HOSTILE,
        backend=HOSTILE,
        results=(make_result(inputs=HOSTILE, passed=False, reason=HOSTILE),),
        drift=(DriftPoint(HOSTILE, HOSTILE, Place("embed"), 1.0, 0.0, 0.0, passed=False),),
        answers=(Answer((Guess(0, HOSTILE, 1.0),), "flip"),),
        first_fault=FirstFault("error", detail=HOSTILE),
    )
    parity = make_parity(
        hop,
        make_hop(HOSTILE, results=(), not_run=HOSTILE),
        model=HOSTILE,
        weights=HOSTILE,
        reference_backend=HOSTILE,
        image_sets=(ComparedImages(HOSTILE, HOSTILE),),
        samples=(Sample(HOSTILE, "", 0, HOSTILE, Answer((Guess(1, HOSTILE, 0.5),))),),
    )
    bench = dataclasses.replace(
        make_bench(),
        model=HOSTILE,
        results=(
            BenchResult(HOSTILE, 1, HOSTILE, HOSTILE, 1, 1.0, 1.0, 1.0, 1.0),
            BenchResult(HOSTILE, 2, HOSTILE, HOSTILE, not_run=HOSTILE),
        ),
        comparisons=(Comparison(1, "original", HOSTILE, HOSTILE, 1.0),),
        conditions={HOSTILE: HOSTILE},
    )
    kernel = Kernel(HOSTILE, "other", HOSTILE, 10, 5, (), (HOSTILE,), block=HOSTILE)
    return make_report(
        parity,
        model=HOSTILE,
        made_from={HOSTILE: HOSTILE},
        next_command=HOSTILE,
        assumptions=(Assumption(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        bench=bench,
        plan=KernelPlan(1, 1, (kernel,), HOSTILE, HOSTILE, blocks=(Block(HOSTILE, 1, 5),)),
        artifacts=(Artifact(HOSTILE, HOSTILE, 1, "ef" * 32),),
        conditions={HOSTILE: HOSTILE},
        evaluation=make_evaluation(
            model=HOSTILE,
            data=HOSTILE,
            candidates=(
                BackendAccuracy(HOSTILE, "onnx", "fp16", HOSTILE, HOSTILE, not_run=HOSTILE),
            ),
            doubt=HOSTILE,
            assumptions=(Assumption(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        ),
    )


PASSING_PARITY = make_parity(DEPLOY, HALF)
PASSING = make_report(PASSING_PARITY, evaluation=make_evaluation())
PARTLY = make_report(make_parity(DEPLOY, HALF, ENGINE_NOT_RUN))
FAILING_PARITY = make_parity(DEPLOY, FAILED, NOT_FINITE, ENGINE_NOT_RUN)
FAILING = make_report(FAILING_PARITY)
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
