"""Which GPUs and versions an engine is for, and the options that a flavour lacks."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from exporters import backends
from exporters.backends import Gpu
from exporters.engine.targets import (
    Targets,
    ask_for_targets,
    check_options,
    fp8_targets,
    targets_of,
)
from exporters.errors import BuildError, FileError, MissingBackendError
from exporters.flavors import FLAVORS, refuse_missing
from exporters.spec import CacheFile, EngineOptions, Flavor, HardwareCompatibility

H200 = Gpu("NVIDIA H200", "9.0")
ADA = Gpu("NVIDIA GeForce RTX 4090", "8.9")
BLACKWELL = Gpu("NVIDIA GeForce RTX 5090", "12.0")
TURING = Gpu("NVIDIA T4", "7.5")
RTX = EngineOptions("tensorrt-rtx")
FULL = EngineOptions("tensorrt")
CURRENT = replace(RTX, compute_capabilities=("current",))


@pytest.mark.parametrize(
    ("options", "built_on", "runs", "refused"),
    [
        (RTX, None, [ADA, BLACKWELL, H200], [TURING]),
        (RTX, ADA, [ADA, BLACKWELL, H200], [TURING]),
        (replace(RTX, compute_capabilities=("7.5", "12.0")), None, [TURING, BLACKWELL], [ADA]),
        (CURRENT, H200, [H200], [ADA, BLACKWELL, TURING]),
        (FULL, H200, [H200], [ADA, BLACKWELL, TURING]),
        (replace(FULL, hardware_compatibility="ampere-plus"), H200, [ADA, BLACKWELL], [TURING]),
        (replace(FULL, hardware_compatibility="same-compute-capability"), ADA, [ADA], [H200]),
    ],
)
def test_targets_by_gpu(
    options: EngineOptions, built_on: Gpu | None, runs: list[Gpu], refused: list[Gpu]
) -> None:
    targets = Targets.from_dict(targets_of(options, built_on).to_dict())
    assert targets == targets_of(options, built_on)
    assert [gpu for gpu in (*runs, *refused) if targets.fits_gpu(gpu)] == runs
    here = built_on and (options.flavor == "tensorrt" or options is CURRENT)
    assert targets.built_on == (built_on.name if here and built_on else "")


AMPERE = Gpu("NVIDIA A100", "8.0")
AMPERE_PLUS = replace(FULL, hardware_compatibility="ampere-plus")
SAME = replace(FULL, hardware_compatibility="same-compute-capability")


@pytest.mark.parametrize(
    ("options", "gpu", "lacking"),
    [
        (AMPERE_PLUS, H200, r"ampere-plus, from 8\.0 on \(NVIDIA H200\)"),
        (AMPERE_PLUS, AMPERE, r"ampere-plus, from 8\.0 on \(NVIDIA A100\)"),
        (CURRENT, AMPERE, r"8\.0 \(NVIDIA A100\)"),
        (CURRENT, TURING, r"7\.5 \(NVIDIA T4\)"),
        (FULL, AMPERE, r"8\.0 \(NVIDIA A100\)"),
        (SAME, AMPERE, r"8\.0 \(NVIDIA A100\)"),
        (replace(RTX, compute_capabilities=("7.5", "8.9", "8.6")), None, r"7\.5, 8\.6"),
    ],
    ids=["plus", "plus on 8.0", "current", "current 7.5", "full", "same", "list"],
)
def test_fp8_targets_of_gpus_without_fp8_are_refused(
    options: EngineOptions, gpu: Gpu | None, lacking: str
) -> None:
    with pytest.raises(BuildError, match=rf"8\.9 .* to be for {lacking}; leave") as caught:
        fp8_targets(options, gpu)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "gpu", "runs"),
    [
        (RTX, None, [ADA, H200, BLACKWELL]),
        (RTX, AMPERE, [ADA, H200, BLACKWELL]),  # it builds ahead of time, for other machines too
        (CURRENT, ADA, [ADA]),
        (FULL, H200, [H200]),
        (SAME, ADA, [ADA]),
        (replace(RTX, compute_capabilities=("8.9", "12.0")), None, [ADA, BLACKWELL]),
    ],
    ids=["ahead of time", "on 8.0", "current", "full", "same", "list"],
)
def test_fp8_targets_are_gpus_with_fp8(
    options: EngineOptions, gpu: Gpu | None, runs: list[Gpu]
) -> None:
    found = fp8_targets(options, gpu)
    every = (TURING, AMPERE, ADA, H200, BLACKWELL)
    assert [one for one in every if found.fits_gpu(one)] == runs


@pytest.mark.parametrize(
    ("compatible", "built", "here", "fits"),
    [
        (False, "11.4.0.106", "11.4.0.106", True),
        (False, "11.4.0.106", "11.4.0.107", False),
        (True, "10.13.0.35", "10.13.0.35", True),
        (True, "10.13.0.35", "10.16.1.11", True),
        (True, "10.9.0", "10.13.0", True),  # numbers, not letters
        (True, "10.16.1.11", "10.13.0.35", False),
        (True, "10.16.1.11", "11.4.0.106", False),
    ],
)
def test_targets_by_version(compatible: bool, built: str, here: str, fits: bool) -> None:
    targets = Targets("", (), "8.0", version_compatible=compatible)
    assert targets.fits_version(built, here) == fits


def test_targets_in_words() -> None:
    assert targets_of(RTX, None).describe() == "GPUs of compute capability 8.0 and later"
    one = "GPUs of compute capability 9.0 (built on NVIDIA H200)"
    assert targets_of(FULL, H200).describe() == one


GOOD = {"built_on": "", "capabilities": ["8.6"], "minimum": "", "version_compatible": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"capabilities": ["eight"]},
        {"capabilities": []},
        {"capabilities": 8.6},
        {"minimum": "8"},
        {"minimum": "8.x"},
    ],
    ids=str,
)
def test_targets_from_something_else_are_refused(changes: dict[str, object]) -> None:
    assert Targets.from_dict(GOOD).capabilities == ("8.6",)
    with pytest.raises(FileError, match="targets: "):
        Targets.from_dict(GOOD | changes)


@pytest.mark.parametrize("key", GOOD)
def test_targets_without_a_part_are_refused(key: str) -> None:
    with pytest.raises(FileError, match=f"targets: object missing required field {key}"):
        Targets.from_dict({name: value for name, value in GOOD.items() if name != key})


CHOICES: dict[str, dict[str, Any]] = {
    "timing_cache": {"timings": CacheFile(Path("x"), named=True)},
    "hardware_compatibility": {"hardware_compatibility": "ampere-plus"},
    "version_compatible": {"version_compatible": True},
    "compute_capabilities": {"compute_capabilities": ("8.6",)},
}


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("feature", CHOICES)
def test_an_option_is_taken_or_refused_as_the_table_says(flavor: Flavor, feature: str) -> None:
    options = EngineOptions(flavor, **CHOICES[feature])
    refuse_missing(EngineOptions(flavor))
    if getattr(FLAVORS[flavor], feature):
        refuse_missing(options)
        return
    with pytest.raises(BuildError, match=f"^{flavor} has no --.*: ") as caught:
        refuse_missing(options)
    assert "\n" not in str(caught.value)


class Config:
    """A builder's configuration of full TensorRT, as far as these options go."""

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.hardware_compatibility_level = "NONE"

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)


FULL_TENSORRT = SimpleNamespace(
    __name__="tensorrt",
    __version__="11.4.0.106",
    IBuilderConfig=SimpleNamespace(hardware_compatibility_level=None),
    Runtime=SimpleNamespace(engine_host_code_allowed=None),
    BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE="VERSION_COMPATIBLE"),
    HardwareCompatibilityLevel=SimpleNamespace(
        NONE="NONE",
        AMPERE_PLUS="AMPERE_PLUS",
        SAME_COMPUTE_CAPABILITY="SAME_COMPUTE_CAPABILITY",
    ),
)


@pytest.mark.parametrize("level", get_args(HardwareCompatibility))
@pytest.mark.parametrize("compatible", [False, True])
def test_options_reach_the_builder(level: HardwareCompatibility, compatible: bool) -> None:
    config = Config()
    options = replace(FULL, hardware_compatibility=level, version_compatible=compatible)
    ask_for_targets(FULL_TENSORRT, config, options)
    assert config.hardware_compatibility_level == level.replace("-", "_").upper()
    assert config.flags == ["VERSION_COMPATIBLE"] * compatible


def test_an_option_that_the_version_lacks_is_refused() -> None:
    level = SimpleNamespace(NONE="NONE", AMPERE_PLUS="AMPERE_PLUS")
    old = SimpleNamespace(**vars(FULL_TENSORRT) | {"HardwareCompatibilityLevel": level})
    options = replace(FULL, hardware_compatibility="ampere-plus")
    with pytest.raises(BuildError, match=r"has no .*SAME_COMPUTE_CAPABILITY, .* later version"):
        ask_for_targets(old, Config(), options)


def test_a_target_that_the_builder_does_not_take_is_an_error() -> None:
    """TensorRT says no by returning False, not by raising."""
    trt = pytest.importorskip("tensorrt_rtx")
    config = SimpleNamespace(
        num_compute_capabilities=0, set_compute_capability=lambda capability, index: False
    )
    with pytest.raises(BuildError, match=r"does not take compute capability 8\.6; leave it out"):
        ask_for_targets(trt, config, replace(RTX, compute_capabilities=("8.6",)))


def test_the_current_gpu_is_a_target_of_its_own() -> None:
    check_options(CURRENT, H200)
    check_options(RTX, None)
    with pytest.raises(MissingBackendError, match="current needs an NVIDIA GPU and driver"):
        check_options(CURRENT, None)
    both = replace(RTX, compute_capabilities=("8.6", "current"))
    with pytest.raises(BuildError, match=r"8\.6, current: current stands alone"):
        check_options(both, H200)
    with pytest.raises(BuildError, match=r"^tensorrt has no --compute-capability"):
        check_options(replace(FULL, compute_capabilities=("current",)), H200)


def test_the_current_gpu_reaches_the_builder() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    config = trt.Builder(logger).create_builder_config()
    ask_for_targets(trt, config, CURRENT)
    asked = [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)]
    assert asked == [trt.ComputeCapability.CURRENT]


def test_a_major_version_that_nobody_checked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_import", lambda *_: SimpleNamespace(__version__="12.0.1"))
    with pytest.raises(BuildError, match=r"^tensorrt 12\.0\.1 is .* than 10 and 11, "):
        backends.load_tensorrt("tensorrt")


def test_the_docs_have_the_table() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "tensorrt.md"
    if not page.is_file():
        pytest.skip("the package is installed: there are no docs")
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if "|" in line]
    table = {row[0].strip("`"): row[1:] for row in rows}
    features = {
        "Builds without a GPU": "builds_without_gpu",
        "Timing cache": "timing_cache",
        "Runtime cache": "runtime_cache",
        "--hardware-compatibility": "hardware_compatibility",
        "--version-compatible": "version_compatible",
        "--compute-capability": "compute_capabilities",
    }
    for row, feature in features.items():
        assert table[row] == ["yes" if getattr(t, feature) else "no" for t in FLAVORS.values()]
    graphs = {True: "the runtime captures", False: "the stream is captured"}
    assert table["CUDA graphs"] == [graphs[t.native_cuda_graph] for t in FLAVORS.values()]
