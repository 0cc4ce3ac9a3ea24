"""Build a TensorRT engine from an ONNX graph: one path for full TensorRT and TensorRT-RTX.

Networks are strongly typed: precision comes from the graph alone, never from builder flags, which
TensorRT 11 and TensorRT-RTX do not have.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from exporters.artifact import write_atomic
from exporters.backends import cuda_device_count, load_tensorrt
from exporters.errors import BuildError, MissingBackendError
from exporters.plan import KernelPlan, read_plan
from exporters.spec import BatchProfile, EngineOptions

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in memory.

    Attributes:
        data: The serialised engine.
        plan: Its kernels; shapes and bytes hold at the profile's ``opt`` batch.
        flavor: TensorRT flavour.
        version: Its version.
        build_s: Time the builder took, in seconds.
    """

    data: bytes
    plan: KernelPlan
    flavor: str
    version: str
    build_s: float


def build_engine(
    graph: onnx.ModelProto,
    profile: BatchProfile,
    *,
    options: EngineOptions,
    progress: Progress = lambda _: None,
) -> BuiltEngine:
    """Build an engine, and read its kernel plan from the builder's log.

    A range of batches leaves sizes open in the log, so the plan's sizes then come from a second
    build of the same graph for the ``opt`` batch alone; the number of kernels, fused attention and
    float32 kernels are those of the engine itself.

    Args:
        graph: The network, its batch fixed or dynamic.
        profile: Batches that the engine must accept.
        options: Flavour and builder settings.
        progress: Called with a line at each step of the builder.

    Raises:
        MissingBackendError: If the flavour is not installed, or needs a GPU that is not there.
        BuildError: If the network cannot be parsed or built, or the plan cannot be read.
    """
    trt = load_tensorrt(options.flavor)
    if options.flavor == "tensorrt" and not cuda_device_count():
        raise MissingBackendError(
            "tensorrt needs an NVIDIA GPU to build and none is here; "
            "use --flavor tensorrt-rtx, which builds without one"
        )
    check_profile(graph, profile)
    started = time.perf_counter()
    data, log = _build(trt, graph, profile, options=options, progress=progress)
    build_s = time.perf_counter() - started
    source = (graph, options.flavor, str(trt.__version__))
    plan = read_plan(log, profile.opt, source=source)
    if profile.min != profile.max:
        progress(f"reading the plan at batch {profile.opt}")
        fixed = BatchProfile(profile.opt, profile.opt, profile.opt)
        _, fixed_log = _build(trt, graph, fixed, options=options, progress=progress)
        plan = read_plan(fixed_log, profile.opt, source=source).with_range(plan)
    return BuiltEngine(data, plan, options.flavor, str(trt.__version__), build_s)


def check_profile(graph: onnx.ModelProto, profile: BatchProfile) -> None:
    """Raise BuildError unless ``1 <= min <= opt <= max`` and the graph takes these batches."""
    if not 1 <= profile.min <= profile.opt <= profile.max:
        raise BuildError(
            f"batches {profile.min},{profile.opt},{profile.max} are not in order; "
            "give minimum,optimum,maximum, such as 1,8,32"
        )
    fixed = fixed_batch(graph)
    if fixed and (profile.min, profile.max) != (fixed, fixed):
        raise BuildError(
            f"the ONNX file takes batch {fixed} only; use --batch {fixed}, "
            "or export it with --batch dynamic"
        )


def fixed_batch(graph: onnx.ModelProto) -> int | None:
    """The batch that the graph's input is fixed to, or None if it is dynamic."""
    return graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None


def _build(
    trt: Any,
    graph: onnx.ModelProto,
    profile: BatchProfile,
    *,
    options: EngineOptions,
    progress: Progress,
) -> tuple[bytes, list[str]]:
    """The serialised engine and the builder's messages.

    TensorRT swallows what its callbacks raise, an interrupt too. So the builder works in a thread
    of its own and this one waits: an interrupt stops the builder at its next step.
    """
    logger, monitor = _make_logger(trt), _make_monitor(trt, progress)
    with ThreadPoolExecutor(max_workers=1) as pool:
        work = pool.submit(
            _build_in_thread, trt, graph, profile, options=options, watch=(logger, monitor)
        )
        try:
            data = work.result()
        except BaseException as err:
            monitor.stopped = err
            wait((work,))
            _let_go_of_frames(err)
            _let_go_of_frames(work.exception())
            raise
    return data, logger.messages


def _let_go_of_frames(err: BaseException | None) -> None:
    """Free the builder that a traceback still holds, here and now.

    Left to the garbage collector, it may be freed while the next builder logs its first message:
    TensorRT then holds a lock that freeing a builder needs, and both wait for ever.
    """
    if err is not None:
        traceback.clear_frames(err.__traceback__)


def _build_in_thread(
    trt: Any,
    graph: onnx.ModelProto,
    profile: BatchProfile,
    *,
    options: EngineOptions,
    watch: tuple[Any, Any],
) -> bytes:
    """The serialised engine; ``watch`` is the logger and the progress monitor."""
    logger, monitor = watch
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.SerializeToString()):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        causes = "; ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors)
        raise BuildError(f"TensorRT cannot read the ONNX graph: {' '.join(causes.split())}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = monitor
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    config.add_optimization_profile(_make_profile(builder, network, profile))
    cache = _attach_timing_cache(config, options)
    serialized = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if serialized is None:
        raise BuildError(f"TensorRT could not build the engine: {_last_error(logger.errors)}")
    if cache is not None and options.timing_cache_path:
        write_atomic(Path(options.timing_cache_path), bytes(cache.serialize()))
    return bytes(serialized)


def _make_profile(builder: Any, network: Any, profile: BatchProfile) -> Any:
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        row = tuple(tensor.shape)[1:]
        ends = [(batch, *row) for batch in (profile.min, profile.opt, profile.max)]
        try:
            shapes.set_shape(tensor.name, *ends)
        except RuntimeError as err:
            raise BuildError(
                f"TensorRT takes no input {tensor.name} of shapes {ends} ({err}); only the batch "
                "may be dynamic, and within memory"
            ) from err
    return shapes


def _network_flags(trt: Any) -> int:
    """Strong typing where it is an option (TensorRT 10); later releases have nothing else."""
    if trt.__name__ == "tensorrt" and int(trt.__version__.split(".")[0]) < 11:
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 0


def _attach_timing_cache(config: Any, options: EngineOptions) -> Any:
    """The timing cache in use, or None; TensorRT-RTX compiles at run time and times nothing."""
    if options.timing_cache_path is None:
        return None
    if options.flavor == "tensorrt-rtx":
        raise BuildError("tensorrt-rtx times no kernels when it builds; leave --timing-cache out")
    path = Path(options.timing_cache_path)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise BuildError(
            f"{path} is no timing cache of this TensorRT and this GPU; delete it, or name another"
        )
    return cache


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # trt is a module found at run time
        """Keep the builder's messages: its plan is read from them, and its reasons to fail."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append(message)
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _make_monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        """Tell the caller each phase; the builder stops once there is a reason in ``stopped``."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.stopped: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self.tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.tell(f"{phase_name} {step + 1}/{self.steps.get(phase_name, 0)}")
            return self.stopped is None

        def tell(self, line: str) -> None:
            if self.stopped is None:
                try:
                    progress(line)
                except BaseException as err:  # noqa: BLE001 - raised again after the build
                    self.stopped = err

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _last_error(errors: list[str]) -> str:
    return " ".join(errors[-1].split()) if errors else "it gave no reason"
