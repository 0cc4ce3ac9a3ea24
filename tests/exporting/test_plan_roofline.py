"""The time that a plan takes at least, by published peaks."""

import dataclasses

import pytest

from exporters.errors import BuildError
from exporters.plan import Block, Kernel, KernelPlan
from exporters.plan.roofline import GPUS, LAUNCH_US, Gpu, bound_plan, can_run
from swin_deploy.cli.plan import GPU_NAMES
from swin_deploy.report.to_json import bound_to_dict

# 100 operations and 10 bytes a picosecond in half, 10 operations in TF32.
ROUND = Gpu("round", 100, 10, 1, 10_000, "made up")


def plan_of(*kernels):
    made = tuple(
        Kernel(f"k{index}", "gemm", "gemm", moved, 0, wide, (), flops=flops, block="all")
        for index, (flops, moved, wide) in enumerate(kernels)
    )
    return KernelPlan(4, 0, made, "tensorrt-rtx", "1.7.1", blocks=(Block("all", 0, 1),))


@pytest.mark.parametrize(
    ("flops", "moved", "wide", "us"),
    [
        (0, 10**7, (), 1.0),
        (10**8, 0, (), 1.0),
        (10**8, 10**7, (), 1.0),
        (3 * 10**8, 10**7, (), 3.0),
        (10**8, 2 * 10**7, (), 2.0),
        (10**8, 0, ("x",), 10.0),
        (0, 0, (), 0.0),
    ],
    ids=["bytes", "operations", "both", "compute binds", "memory binds", "float32", "nothing"],
)
def test_a_kernel_takes_the_longer_of_its_operations_and_its_bytes(flops, moved, wide, us):
    (time,) = bound_plan(plan_of((flops, moved, wide)), ROUND).kernel_us
    assert time == pytest.approx(us)


def test_float32_without_tf32_is_at_the_peak_of_float32():
    old = dataclasses.replace(ROUND, tf32_tflops=None)
    assert bound_plan(plan_of((10**8, 0, ("x",))), old).kernel_us == pytest.approx((100.0,))


def test_a_plan_takes_the_sum_of_its_kernels():
    plan = plan_of((10**8, 2 * 10**7, ()), (3 * 10**8, 10**7, ()), (0, 10**7, ()))
    bound = bound_plan(plan, ROUND)
    assert bound.latency_ms == pytest.approx(6e-3)
    assert bound.images_per_s == pytest.approx(4 / 6e-6)
    assert bound.memory_share == pytest.approx(3 / 6)
    assert bound.compute_ms == pytest.approx(4e-3)
    assert bound.launch_ms == pytest.approx(3 * LAUNCH_US / 1e3)
    values = bound_to_dict(bound)
    assert values["latency_ms_at_least"] == bound.latency_ms
    assert values["gpu"]["source"] == "made up"


def test_launches_of_an_engine_for_a_range_are_its_own():
    plan = dataclasses.replace(plan_of((1, 1, ())), range_kernels=5)
    assert bound_plan(plan, ROUND).launch_ms == pytest.approx(5 * LAUNCH_US / 1e3)


def test_a_plan_that_does_not_tell_operations_is_refused():
    with pytest.raises(BuildError, match="older release"):
        bound_plan(dataclasses.replace(plan_of((1, 1, ())), blocks=()), ROUND)


def test_the_command_offers_every_gpu():
    assert tuple(GPUS) == GPU_NAMES


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_peaks_are_dense_and_have_a_source(gpu):
    """A sparse peak would be twice as high."""
    assert gpu.fp16_tflops / gpu.fp32_tflops < 17
    assert gpu.tf32_tflops is None or gpu.fp16_tflops / gpu.tf32_tflops in (
        pytest.approx(2, rel=0.02),  # data centre
        pytest.approx(4, rel=0.01),  # GeForce: float16 is faster with float16 accumulation
    )
    assert "datasheet" in gpu.source or "whitepaper" in gpu.source


def fp8_plan(*read: str) -> KernelPlan:
    plan = plan_of((10**8, 0, ()))
    return dataclasses.replace(
        plan, kernels=(dataclasses.replace(plan.kernels[0], fp8_inputs=read),)
    )


def test_a_product_is_in_fp8_where_both_its_inputs_are() -> None:
    gpu = dataclasses.replace(ROUND, fp8_tflops=200)
    times = [bound_plan(fp8_plan(*read), gpu).kernel_us[0] for read in ((), ("x",), ("x", "w"))]
    assert times == pytest.approx([1.0, 1.0, 0.5])


def test_a_plan_that_reads_fp8_is_refused_for_a_gpu_without_it() -> None:
    with pytest.raises(BuildError, match="T4 has no FP8, and kernels of this plan read it"):
        bound_plan(fp8_plan("x"), GPUS["T4"])
    without = {name for name, gpu in GPUS.items() if not can_run(fp8_plan("x"), gpu)}
    assert without == {"A100-40GB", "A100-80GB", "T4"}
    assert all(can_run(fp8_plan(), gpu) for gpu in GPUS.values())
