"""Build a TensorRT engine from an ONNX graph: one path for full TensorRT and TensorRT-RTX.

Networks are strongly typed: precision comes from the graph alone, never from builder flags, which
TensorRT 11 and TensorRT-RTX do not have.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx

from exporters.backends import current_gpu, load_tensorrt
from exporters.engine.stdout import stdout_to_stderr
from exporters.engine.targets import (
    Targets,
    ask_for_targets,
    check_options,
    fp8_targets,
    targets_of,
)
from exporters.engine.timing_cache import attach_timing_cache, keep_timing_cache
from exporters.errors import BuildError, MissingBackendError
from exporters.flavors import FLAVORS, major_of, require
from exporters.plan import KernelPlan, read_plan
from exporters.quantisation import fp8_form
from exporters.spec import BatchProfile, EngineOptions
from exporters.text_files import shortened

Tell = Callable[[str], None]
# TensorRT-RTX 1.7.1: "Error Code 1: Myelin ([...] MyelinCheckException: formats.cpp:3118:
# CHECK(def_tactic_desc) failed. In compileGraph at ...)".
COMPILER_FAILED = re.compile(r"\b(Myelin\w*Exception: .*?)\.? *(?:\bIn \w+ at |\)?$)")


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in memory.

    Attributes:
        data: The serialised engine.
        plan: Kernel plan of the engine; shapes and bytes hold at the profile's ``opt`` batch.
        flavor: TensorRT flavour.
        version: Version of the flavour.
        targets: GPUs and versions that it is for.
        build_s: Time that the builder took, in seconds.
    """

    data: bytes
    plan: KernelPlan
    flavor: str
    version: str
    targets: Targets
    build_s: float


@dataclass(frozen=True)
class _Watch:
    """Observers of a build: its logger, its progress monitor and the function told of warnings."""

    logger: Any
    monitor: Any
    warn: Tell


def build_engine(
    graph: onnx.ModelProto,
    profile: BatchProfile,
    *,
    options: EngineOptions,
    progress: Tell = lambda _: None,
    warn: Tell = lambda _: None,
) -> BuiltEngine:
    """Build an engine, and read its kernel plan from the builder's log.

    A range of batches leaves sizes open in the log, so the plan's sizes then come from a second
    build of the same graph for the ``opt`` batch alone; the number of kernels, fused attention and
    float32 kernels are those of the engine itself.

    Args:
        graph: The network, its batch fixed or dynamic.
        profile: Batches that the engine must accept.
        options: Flavour and builder settings.
        progress: Function that is told of each step of the builder, in one line.
        warn: Function that is told, in one line, what the build goes on without, such as its cache.

    Raises:
        MissingBackendError: If the flavour is not installed, or needs a GPU that is not there, or
            the engine is to be for that GPU.
        BuildError: If the flavour lacks an option, a GPU lacks FP8 that the graph needs, the
            network cannot be parsed or built, or the plan cannot be read.
        FileError: If a timing cache was named that cannot be read or written.
    """
    gpu = current_gpu()
    check_options(options, gpu)
    trt = load_tensorrt(options.flavor)
    if gpu is None and not FLAVORS[options.flavor].builds_without_gpu:
        others = [name for name, traits in FLAVORS.items() if traits.builds_without_gpu]
        raise MissingBackendError(
            f"{options.flavor} needs an NVIDIA GPU to build and none is here; "
            f"use --flavor {others[0]}, which builds without one"
        )
    check_profile(graph, profile)
    targets = fp8_targets(options, gpu) if fp8_form(graph) else targets_of(options, gpu)
    tell = {"progress": progress, "warn": warn}
    started = time.perf_counter()
    data, log = _build(trt, graph, profile, options=options, **tell)
    build_s = time.perf_counter() - started
    source = (graph, options.flavor, str(trt.__version__))
    plan = read_plan(log, profile.opt, source=source)
    if profile.min != profile.max:
        progress(f"reading the plan at batch {profile.opt}")
        fixed = BatchProfile(profile.opt, profile.opt, profile.opt)
        _, fixed_log = _build(trt, graph, fixed, options=options, **tell)
        plan = read_plan(fixed_log, profile.opt, source=source).with_range(plan)
    return BuiltEngine(data, plan, options.flavor, str(trt.__version__), targets, build_s)


def check_profile(graph: onnx.ModelProto, profile: BatchProfile) -> None:
    """Refuse a profile that is not in order, or has batches that the graph does not take.

    Args:
        graph: The network.
        profile: Batches that the engine must accept.

    Raises:
        BuildError: Unless ``1 <= min <= opt <= max`` and the graph takes these batches.
    """
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
    """Return the batch that the graph's input is fixed to, or None if it is dynamic."""
    return graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None


def _build(
    trt: Any,
    graph: onnx.ModelProto,
    profile: BatchProfile,
    *,
    options: EngineOptions,
    progress: Tell,
    warn: Tell,
) -> tuple[bytes, list[str]]:
    """Build an engine; return it, serialised, and the builder's messages.

    TensorRT swallows exceptions of its callbacks, interrupts too. So the builder works in a thread
    of its own and this one waits: an interrupt stops the builder at its next step.
    """
    logger, monitor = _make_logger(trt), _make_monitor(trt, progress)
    watch = _Watch(logger, monitor, warn)
    with stdout_to_stderr(), ThreadPoolExecutor(max_workers=1) as pool:
        work = pool.submit(_build_in_thread, trt, graph, profile, options=options, watch=watch)
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
    watch: _Watch,
) -> bytes:
    try:
        builder = trt.Builder(watch.logger)
    except TypeError as err:  # the bindings' way to say that the library made none
        raise MissingBackendError(
            f"{options.flavor} {trt.__version__} starts no builder here "
            f"({_last_error(watch.logger.errors)}); mend the GPU's driver, or build elsewhere"
        ) from err
    network = builder.create_network(_network_flags(trt, options))
    parser = trt.OnnxParser(network, watch.logger)
    if not parser.parse(graph.SerializeToString()):
        raise BuildError(f"TensorRT cannot read the ONNX graph: {_causes(parser)}")
    config = builder.create_builder_config()
    _set_options(trt, config, options)
    config.progress_monitor = watch.monitor
    config.add_optimization_profile(_make_profile(builder, network, profile))
    timing_cache = None
    if options.timings is not None:
        timing_cache = attach_timing_cache(trt, config, options.timings, warn=watch.warn)
    serialized = builder.build_serialized_network(network, config)
    if watch.monitor.stopped is not None:
        raise watch.monitor.stopped
    if serialized is None:
        raise BuildError(f"TensorRT could not build the engine: {_last_error(watch.logger.errors)}")
    if options.timings is not None:
        path, tell = options.timings.path, partial(_tell_or_stop, watch.monitor)
        keep_timing_cache(config, timing_cache, path, progress=tell, warn=watch.warn)
    return bytes(serialized)


def _tell_or_stop(monitor: Any, line: str) -> None:
    """Pass on a line of progress, and raise what the listener raised, which stops the build."""
    monitor.tell(line)
    if monitor.stopped is not None:
        raise monitor.stopped


def _set_options(trt: Any, config: Any, options: EngineOptions) -> None:
    # On by default, and on an H200 the largest error of a float32 engine is then 2.5e-3 of the RMS.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    ask_for_targets(trt, config, options)


def _causes(parser: Any) -> str:
    """Join the parser's first three reasons for refusing the graph, in one line."""
    causes = []
    for index in range(parser.num_errors):
        parser_error = parser.get_error(index)
        node = f"{parser_error.node_operator()} {parser_error.node_name()}"
        causes.append(f"{node}: {parser_error.desc()}")
    return shortened(" ".join("; ".join(causes[:3]).split()), 300)


def _make_profile(builder: Any, network: Any, profile: BatchProfile) -> Any:
    optimization_profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        row = tuple(tensor.shape)[1:]
        ends = [(batch, *row) for batch in (profile.min, profile.opt, profile.max)]
        try:
            optimization_profile.set_shape(tensor.name, *ends)
        except RuntimeError as err:
            raise BuildError(
                f"TensorRT takes no input {tensor.name} of shapes {ends} ({err}); only the batch "
                "may be dynamic, and within memory"
            ) from err
    return optimization_profile


def _network_flags(trt: Any, options: EngineOptions) -> int:
    """Return the flag for strong typing, or 0 for versions whose networks are always typed."""
    if major_of(trt.__version__) in FLAVORS[options.flavor].typing_flag_majors:
        require(trt, "typing_flag_majors")
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 0


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # trt is a module found at run time
        """A log of the builder's messages, from which its plan and its errors are read."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append(message)
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _make_monitor(trt: Any, progress: Tell) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        """A listener that passes on each phase, and stops the builder once ``stopped`` is set."""

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
    """Return the builder's last error in one line, and what may help against its compiler's own."""
    if not errors:
        return "it gave no reason"
    line = " ".join(errors[-1].split())
    failed = COMPILER_FAILED.search(line)
    if failed is None:
        return shortened(line, 300)
    return (
        f"its compiler failed and names no operator ({shortened(failed[1], 200)}); it may build "
        "the graph in float32, with fewer outputs or at another image size"
    )
