"""Published peaks of GPUs, and the least time that a plan takes there.

A kernel takes the longer of two times: its operations at the peak of the units that do them, and
its bytes at the peak of the memory. The sum is a bound, not a measurement. Data that stays in the
L2 cache from one kernel to the next never reaches the memory, so a GPU may beat the bytes; it can
beat the operations only at clocks above those that the peaks were published for.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporters.errors import BuildError
from exporters.plan.kernels import Kernel, KernelPlan
from exporters.plan.totals import require_blocks

LAUNCH_US = 2.0  # a kernel launched by itself: assumed, and not part of the bound


@dataclass(frozen=True)
class Gpu:
    """The peaks of one GPU, without sparsity.

    Attributes:
        name: Name of the GPU, as ``--gpu`` takes it.
        fp16_tflops: Peak of the tensor cores in float16, with the fastest accumulation, in TFLOP/s.
        tf32_tflops: Peak of the tensor cores in TF32, which TensorRT uses for float32 by default,
            in TFLOP/s; None for a GPU without TF32.
        fp32_tflops: Peak in float32 without tensor cores, in TFLOP/s.
        memory_gb_s: Memory bandwidth, in GB/s of 10^9 bytes.
        source: Document that the figures are from.
        fp8_tflops: Peak of the tensor cores in FP8, in TFLOP/s; None for a GPU without FP8.
    """

    name: str
    fp16_tflops: float
    tf32_tflops: float | None
    fp32_tflops: float
    memory_gb_s: float
    source: str
    fp8_tflops: float | None = None


HOPPER = "H100 Tensor Core GPU architecture whitepaper"
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", 312, 156, 19.5, 1555, "NVIDIA A100 datasheet, SXM, 40 GB"),
        Gpu("A100-80GB", 312, 156, 19.5, 2039, "NVIDIA A100 datasheet, SXM, 80 GB"),
        Gpu("H100", 989.4, 494.7, 66.9, 3350, f"NVIDIA H100 datasheet, SXM; {HOPPER}", 1978.9),
        Gpu("H200", 989.4, 494.7, 66.9, 4800, f"NVIDIA H200 datasheet, SXM; {HOPPER}", 1978.9),
        Gpu("L4", 121, 60, 30.3, 300, "NVIDIA L4 datasheet (halves of its sparse figures)", 242.5),
        Gpu("T4", 65, None, 8.1, 320, "NVIDIA T4 datasheet"),
        Gpu("RTX4090", 330.3, 82.6, 82.6, 1008, "NVIDIA Ada GPU architecture whitepaper", 660.6),
        Gpu(
            "RTX5090",
            419,
            104.8,
            104.8,
            1792,
            "NVIDIA RTX Blackwell GPU architecture whitepaper",
            838,
        ),
    )
}


@dataclass(frozen=True)
class Bound:
    """The least time that a plan takes on a GPU.

    Attributes:
        gpu: The GPU.
        batch: Number of images in a launch.
        kernel_us: Least time of each kernel, in launch order, in microseconds.
        compute_us: Least time of each kernel's operations alone, in microseconds.
        launch_ms: Time of separate launches, ``LAUNCH_US`` each, in milliseconds; it is not part
            of the bound.
    """

    gpu: Gpu
    batch: int
    kernel_us: tuple[float, ...]
    compute_us: tuple[float, ...]
    launch_ms: float

    @property
    def latency_ms(self) -> float:
        """Least time of one launch, in milliseconds."""
        return sum(self.kernel_us) / 1e3

    @property
    def compute_ms(self) -> float:
        """Least time of the operations of one launch, which no cache shortens, in milliseconds."""
        return sum(self.compute_us) / 1e3

    @property
    def images_per_s(self) -> float:
        """Largest number of images per second."""
        return self.batch / self.latency_ms * 1e3

    @property
    def memory_share(self) -> float:
        """Share of the time in kernels that the memory bounds, 0 to 1."""
        pairs = zip(self.kernel_us, self.compute_us, strict=True)
        return sum(time for time, compute in pairs if time > compute) / sum(self.kernel_us)


def bound_plan(plan: KernelPlan, gpu: Gpu) -> Bound:
    """Compute the least time that a plan takes on a GPU.

    Args:
        plan: Kernel plan of the engine.
        gpu: Peaks of the GPU.

    Raises:
        BuildError: If the plan is of an older release, without operations of its kernels, or needs
            FP8, which the GPU lacks.
    """
    require_blocks(plan)
    if not can_run(plan, gpu):
        raise BuildError(
            f"{gpu.name} has no FP8, and kernels of this plan read it; leave this GPU out, or plan "
            "a float16 file"
        )
    compute = tuple(_compute_us(kernel, gpu) for kernel in plan.kernels)
    memory = (kernel.bytes_moved / gpu.memory_gb_s / 1e3 for kernel in plan.kernels)
    return Bound(
        gpu=gpu,
        batch=plan.batch,
        kernel_us=tuple(map(max, compute, memory)),
        compute_us=compute,
        launch_ms=plan.kernel_count * LAUNCH_US / 1e3,
    )


def can_run(plan: KernelPlan, gpu: Gpu) -> bool:
    """Tell whether a GPU has the number types that the kernels of a plan read."""
    return gpu.fp8_tflops is not None or not any(one.fp8_inputs for one in plan.kernels)


def _compute_us(kernel: Kernel, gpu: Gpu) -> float:
    """Return the least time of a kernel's operations; a product of two FP8 inputs is in FP8."""
    peak = gpu.fp16_tflops
    if kernel.float32_inputs:
        peak = gpu.tf32_tflops or gpu.fp32_tflops
    elif len(kernel.fp8_inputs) > 1 and gpu.fp8_tflops:
        peak = gpu.fp8_tflops
    return kernel.flops / peak / 1e6
