import os
import re
import signal
import sys
import traceback
from types import SimpleNamespace

import numpy as np
import pytest
from exported import copy_of, exported, make_graph, needs_rtx
from onnx import helper

from exporters.backends import Gpu, cuda_device_count, tensorrt_version
from exporters.engine import to_engine
from exporters.engine.to_engine import build_engine, check_profile, fixed_batch
from exporters.errors import BuildError, MissingBackendError
from exporters.half_precision import to_half
from exporters.spec import BatchProfile, CacheFile, EngineOptions

RTX = EngineOptions("tensorrt-rtx")
AT_2 = BatchProfile(2, 2, 2)
FIXED = (4, 3, 8, 8)
DYNAMIC_GRAPH = make_graph(helper.make_node("Relu", ["images"], ["y"]))
FIXED_GRAPH = make_graph(
    helper.make_node("Relu", ["images"], ["y"]), inputs={"images": FIXED}, outputs={"y": FIXED}
)


def linear_graph():
    weights = {"w": np.ones((8, 8), np.float32)}
    return make_graph(helper.make_node("MatMul", ["images", "w"], ["y"]), weights=weights)


@pytest.mark.parametrize(
    "batches", [(2, 1, 3), (1, 4, 3), (3, 3, 2), (0, 1, 1), (-1, 1, 1)], ids=str
)
def test_check_profile_batches_out_of_order_are_refused(batches):
    shown = ",".join(map(str, batches))
    with pytest.raises(BuildError, match=f"batches {shown} are not in order; give .* 1,8,32"):
        check_profile(DYNAMIC_GRAPH, BatchProfile(*batches))


@pytest.mark.parametrize("batches", [(1, 1, 1), (1, 8, 32), (3, 3, 3)], ids=str)
def test_check_profile_dynamic_graph_takes_any_order(batches):
    check_profile(DYNAMIC_GRAPH, BatchProfile(*batches))


@pytest.mark.parametrize("batches", [(1, 4, 4), (4, 4, 8), (8, 8, 8), (1, 8, 32)], ids=str)
def test_check_profile_fixed_graph_takes_its_batch_only(batches):
    check_profile(FIXED_GRAPH, BatchProfile(4, 4, 4))
    with pytest.raises(BuildError, match=r"takes batch 4 only; use --batch 4, or export it with"):
        check_profile(FIXED_GRAPH, BatchProfile(*batches))


def test_fixed_batch_reads_the_input():
    assert fixed_batch(FIXED_GRAPH) == 4
    assert fixed_batch(DYNAMIC_GRAPH) is None


@needs_rtx
def test_build_engine_twice_gives_the_same_plan_and_leaves_the_graph():
    graph = exported("blocks", precision="fp16")
    before = copy_of(graph)
    first, second = (build_engine(graph, AT_2, options=RTX) for _ in range(2))
    assert graph == before
    assert first.plan == second.plan
    assert len(first.data) > 10_000
    assert isinstance(first.data, bytes)
    assert (first.flavor, first.plan.flavor) == ("tensorrt-rtx", "tensorrt-rtx")
    assert first.version == first.plan.version != ""
    assert first.build_s > 0
    assert first.plan.batch == 2
    assert first.plan.range_kernels is None


@needs_rtx
def test_build_engine_for_a_range_reads_sizes_at_its_optimum():
    lines: list[str] = []
    graph = exported("blocks", precision="fp16")
    wide = build_engine(graph, BatchProfile(1, 2, 5), options=RTX, progress=lines.append)
    fixed = build_engine(graph, AT_2, options=RTX)
    assert "reading the plan at batch 2" in lines
    assert wide.data != fixed.data
    assert wide.plan.batch == 2
    assert wide.plan.bytes_moved == fixed.plan.bytes_moved
    assert wide.plan.range_kernels == wide.plan.kernel_count > 0
    assert wide.plan.fused_attention == 2


@needs_rtx
def test_build_engine_of_a_fixed_batch():
    assert build_engine(FIXED_GRAPH, BatchProfile(4, 4, 4), options=RTX).plan.batch == 4
    with pytest.raises(BuildError, match="takes batch 4 only"):
        build_engine(FIXED_GRAPH, AT_2, options=RTX)


@needs_rtx
@pytest.mark.parametrize(
    "choices",
    [{"workspace_mib": 256}, {"optimization_level": 0}, {"optimization_level": 5}],
    ids=str,
)
def test_build_engine_takes_its_options(choices):
    options = EngineOptions("tensorrt-rtx", **choices)
    assert build_engine(linear_graph(), AT_2, options=options).plan.kernel_count > 0


@needs_rtx
def test_build_engine_without_enough_workspace_says_so_in_one_line():
    graph = exported("digits", precision="fp16")
    options = EngineOptions("tensorrt-rtx", workspace_mib=1)
    with pytest.raises(BuildError, match=r"could not build the engine: .*workspace") as caught:
        build_engine(graph, BatchProfile(8, 8, 8), options=options)
    assert "\n" not in str(caught.value)


@needs_rtx
def test_build_engine_refuses_a_timing_cache_where_nothing_is_timed(tmp_path):
    path = tmp_path / "timings"
    options = EngineOptions("tensorrt-rtx", timings=CacheFile(path, named=True))
    with pytest.raises(BuildError, match="times no kernels when it builds; leave --timing-cache"):
        build_engine(linear_graph(), AT_2, options=options)
    assert not path.exists()


@needs_rtx
def test_build_engine_is_for_the_gpus_asked_for():
    """Real engines, built without a GPU: the targets are in the file, and it says them."""

    def build(*capabilities):
        options = EngineOptions("tensorrt-rtx", compute_capabilities=capabilities)
        return build_engine(linear_graph(), AT_2, options=options)

    default, one, again, several = build(), build("8.6"), build("8.6"), build("8.6", "8.9", "12.0")
    assert one.data == again.data
    assert len({default.data, one.data, several.data}) == 3
    assert default.plan == one.plan == several.plan
    assert default.targets.minimum == "8.0"
    assert one.targets.capabilities == ("8.6",)
    assert several.targets.capabilities == ("8.6", "8.9", "12.0")


@needs_rtx
@pytest.mark.parametrize(
    ("capabilities", "message"),
    [
        (("9.0",), r"builds for no GPU of compute capability 9\.0; it has 7\.5, 8\.0, "),
        (("8.6", "3.5", "99.9"), r"compute capability 3\.5, 99\.9; it has .*, and current for "),
        (("7.5",), r"could not build the engine: .*Turing"),  # which has no float32 product there
    ],
    ids=str,
)
def test_build_engine_for_gpus_that_it_cannot_is_one_line(capabilities, message):
    if capabilities == ("7.5",) and tensorrt_version("tensorrt-rtx").startswith("1.6."):
        pytest.skip("TensorRT-RTX 1.6 builds float32 products for Turing")
    options = EngineOptions("tensorrt-rtx", compute_capabilities=capabilities)
    with pytest.raises(BuildError, match=message) as caught:
        build_engine(linear_graph(), AT_2, options=options)
    assert "\n" not in str(caught.value)


UNREADABLE = {
    "an operator of another domain": (
        make_graph(
            helper.make_node("Swin", ["images"], ["y"], name="stem/Swin", domain="nobody"),
            domains=["nobody"],
        ),
        "cannot read the ONNX graph: Swin .*(Plugin not found|is not supported)",
    ),
    "an operator that it lacks": (
        make_graph(
            helper.make_node("Det", ["images"], ["y"], name="stem/Det"),
            outputs={"y": ("batch", 3)},
        ),
        "cannot read the ONNX graph: Det ",
    ),
    "an input that nothing makes": (
        make_graph(helper.make_node("Relu", ["nothing"], ["y"])),
        "cannot read the ONNX graph: ",
    ),
    "a dynamic image size": (
        make_graph(
            helper.make_node("Relu", ["images"], ["y"]),
            inputs={"images": ("batch", 3, "height", "width")},
            outputs={"y": ("batch", 3, "height", "width")},
        ),
        r"takes no input images of shapes .*3, -1, -1.* only the batch may be dynamic",
    ),
}


@needs_rtx
@pytest.mark.parametrize(("graph", "message"), UNREADABLE.values(), ids=list(UNREADABLE))
def test_build_engine_of_a_graph_it_cannot_take_says_why_in_one_line(graph, message):
    with pytest.raises(BuildError, match=message) as caught:
        build_engine(graph, AT_2, options=RTX)
    assert "\n" not in str(caught.value)


def half_of_a_map(*between):
    """The half form of a graph with a map as an output, which a convolution reads, too."""
    weights = {
        "turned": np.roll(np.arange(16), 3),
        "map_shape": np.array([1, 32, 4, 4]),
        "w": np.ones((8, 32, 1, 1), np.float32),
    }
    convolution = helper.make_node("Conv", ["map", "w"], ["y"])
    graph = make_graph(
        *between,
        convolution,
        inputs={"images": (16, 1, 32)},
        outputs={"map": (1, 32, 4, 4), "y": (1, 8, 4, 4)},
        weights=weights,
    )
    return to_half(graph, io_precision="fp32")


@needs_rtx
def test_build_engine_where_the_compiler_fails_says_what_may_help(capfd):
    graph = half_of_a_map(
        helper.make_node("Exp", ["images"], ["tokens"]),
        helper.make_node("Gather", ["tokens", "turned"], ["rows"], axis=0),
        helper.make_node("Transpose", ["rows"], ["channels"], perm=[1, 2, 0]),
        helper.make_node("Reshape", ["channels", "map_shape"], ["map"]),
    )
    expected = (
        r"\ATensorRT could not build the engine: its compiler failed and names no operator "
        r"\(Myelin\w+: [^()]*\(\w+\) failed\); it may build the graph in float32[^\n]*size\Z"
    )
    with pytest.raises(BuildError, match=expected):
        build_engine(graph, BatchProfile(16, 16, 16), options=RTX)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([], "it gave no reason"),
        (["first", "Error Code 2:  no\nmemory"], "Error Code 2: no memory"),
        (["Myelin (x MyelinTypeException: a.cpp:3: CHECK(b) failed.  In run at /c:1)"],
         "its compiler failed and names no operator (MyelinTypeException: a.cpp:3: CHECK(b) failed)"
         "; it may build the graph in float32, with fewer outputs or at another image size"),
    ],
    ids=["none", "the last", "its compiler's"],
)  # fmt: skip
def test_last_error_is_one_line(errors, told):
    assert to_engine._last_error(errors) == told


@needs_rtx
def test_build_engine_leaves_standard_output_alone(capfd):
    """TensorRT's compiler warns there of the smallest divisor of a normalisation."""
    graph = make_graph(
        helper.make_node("MatMul", ["images", "w"], ["a"]),
        helper.make_node("ReduceL2", ["a"], ["length"], axes=[-1], keepdims=1),
        helper.make_node("Clip", ["length", "least"], ["divisor"]),
        helper.make_node("Div", ["a", "divisor"], ["y"]),
        weights={"w": np.ones((8, 8), np.float32), "least": np.array(1e-12, np.float32)},
    )
    build_engine(to_half(graph, io_precision="fp32"), AT_2, options=RTX)
    assert capfd.readouterr().out == ""


@needs_rtx
def test_build_engine_batch_beyond_every_device_is_refused():
    with pytest.raises(BuildError, match=r"takes no input images of shapes .*2147483648"):
        build_engine(DYNAMIC_GRAPH, BatchProfile(1, 1, 1 << 31), options=RTX)


@needs_rtx
def test_build_engine_tells_each_step():
    lines: list[str] = []
    build_engine(linear_graph(), AT_2, options=RTX, progress=lines.append)
    assert len(lines) > 3
    assert any(line.endswith("1/1") for line in lines)
    assert all(lines)


@needs_rtx
@pytest.mark.parametrize("error", [ValueError, BrokenPipeError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 3], ids=["first line", "third line"])
def test_build_engine_stops_where_progress_fails(error, at, capfd):
    lines: list[str] = []

    def progress(line):
        lines.append(line)
        if len(lines) == at:
            raise error("the terminal has gone")

    with pytest.raises(error, match="the terminal has gone"):
        build_engine(linear_graph(), BatchProfile(1, 2, 3), options=RTX, progress=progress)
    assert len(lines) == at
    assert capfd.readouterr() == ("", "")


@needs_rtx
def test_build_engine_interrupt_by_signal_ends_the_build(capfd):
    lines: list[str] = []

    def progress(line):
        lines.append(line)
        if len(lines) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_engine(linear_graph(), BatchProfile(1, 2, 3), options=RTX, progress=progress)
    assert "reading the plan at batch 2" not in lines
    assert capfd.readouterr() == ("", "")
    assert build_engine(linear_graph(), AT_2, options=RTX).data


@needs_rtx
def test_build_engine_for_the_current_gpu_where_the_driver_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(to_engine, "current_gpu", lambda: Gpu("NVIDIA H200", "9.0"))
    options = EngineOptions("tensorrt-rtx", compute_capabilities=("current",))
    if cuda_device_count():
        pytest.skip("here the build works")
    with pytest.raises(
        BuildError, match=r"\ATensorRT could not build the engine: [^\n]*Cuda[^\n]*"
    ):
        build_engine(DYNAMIC_GRAPH, AT_2, options=options)


@needs_rtx
def test_build_engine_without_a_builder_is_one_line(monkeypatch):
    """Full TensorRT does so on a machine whose driver is too old."""
    import tensorrt_rtx

    def builder(logger):
        logger.log(tensorrt_rtx.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(tensorrt_rtx, "Builder", builder)
    message = r"starts no builder here \(CUDA initialization failure with error: 35\); mend"
    with pytest.raises(MissingBackendError, match=message):
        build_engine(DYNAMIC_GRAPH, AT_2, options=RTX)


def test_build_engine_full_tensorrt_not_installed_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    message = "^tensorrt is not installed; install it: pip install tensorrt$"
    with pytest.raises(MissingBackendError, match=message):
        build_engine(DYNAMIC_GRAPH, AT_2, options=EngineOptions("tensorrt"))


def test_build_engine_full_tensorrt_without_a_gpu_names_the_other_flavor(monkeypatch):
    monkeypatch.setattr(to_engine, "load_tensorrt", lambda _: SimpleNamespace())
    monkeypatch.setattr(to_engine, "current_gpu", lambda: None)
    with pytest.raises(MissingBackendError, match="none is here; use --flavor tensorrt-rtx"):
        build_engine(DYNAMIC_GRAPH, AT_2, options=EngineOptions("tensorrt"))


@pytest.mark.parametrize(
    ("name", "version", "flags"),
    [("tensorrt", "10.13.0.35", 2), ("tensorrt", "11.0.0.5", 0), ("tensorrt_rtx", "1.7.1.116", 0)],
)
def test_networks_are_strongly_typed_in_every_version(name, version, flags):
    flag = SimpleNamespace(STRONGLY_TYPED=1)
    trt = SimpleNamespace(__name__=name, __version__=version, NetworkDefinitionCreationFlag=flag)
    options = EngineOptions(name.replace("_", "-"))
    assert to_engine._network_flags(trt, options) == flags


def test_strong_typing_that_the_version_lacks_is_refused():
    flag = SimpleNamespace()
    trt = SimpleNamespace(
        __name__="tensorrt", __version__="10.0.1", NetworkDefinitionCreationFlag=flag
    )
    with pytest.raises(BuildError, match=r"10\.0\.1 has no .*STRONGLY_TYPED.* later version"):
        to_engine._network_flags(trt, EngineOptions("tensorrt"))


@needs_rtx
@pytest.mark.parametrize(("graph", "message"), UNREADABLE.values(), ids=list(UNREADABLE))
def test_build_engine_leaves_no_builder_behind(graph, message):
    """One that the garbage collector frees while another builder logs would hang both."""
    with pytest.raises(BuildError) as caught:
        build_engine(graph, AT_2, options=RTX)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert "_build_in_thread" in [frame.f_code.co_name for frame in frames]
    kinds = [repr(type(value)) for frame in frames for value in frame.f_locals.values()]
    held = [kind for kind in kinds if re.search(r"\.I?(Builder|Network|OnnxParser|Config)", kind)]
    assert not held


def test_set_options_switches_tf32_off():
    """Float32 means float32; TensorRT's default is TF32, a tenth of the digits."""
    rtx = pytest.importorskip("tensorrt_rtx")
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    config = builder.create_builder_config()
    assert config.get_flag(rtx.BuilderFlag.TF32)
    to_engine._set_options(rtx, config, EngineOptions(flavor="tensorrt-rtx"))
    assert not config.get_flag(rtx.BuilderFlag.TF32)
