"""Every name that the code takes from TensorRT is in every release that it supports.

``tests/tensorrt_names`` lists the names of releases that are not installed here, made with
``scripts/list_tensorrt_names``. A name that one of them lacks belongs to a feature of
``exporters/flavors.py``, and the file that uses it asks for that feature first.
"""

import ast
import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import swin_deploy
from exporters.flavors import FEATURE_NAMES, FLAVORS, major_of
from exporters.precisions import PRECISIONS
from exporters.spec import Flavor

ROOT = Path(swin_deploy.__file__).parent.parent
LISTS = Path(__file__).parent.parent / "tensorrt_names"
LISTED = {path.stem: json.loads(path.read_text()) for path in sorted(LISTS.glob("*.json"))}
RELEASES = {name: entry["classes"] for name, entry in LISTED.items()}

# Variables and attributes of these names, with or without an underscore, hold these objects.
VARIABLES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "network": "INetworkDefinition",
    "optimization_profile": "IOptimizationProfile",
    "other_timing_cache": "ITimingCache",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "runtime": "Runtime",
    "runtime_cache": "IRuntimeCache",
    "runtime_config": "IRuntimeConfig",
    "tensor": "ITensor",
    "timing_cache": "ITimingCache",
}
# What methods return; their result goes to a variable of that name, or is used at once.
RETURNS = {
    "create_builder_config": "IBuilderConfig",
    "create_execution_context": "IExecutionContext",
    "create_network": "INetworkDefinition",
    "create_optimization_profile": "IOptimizationProfile",
    "create_runtime_cache": "IRuntimeCache",
    "create_runtime_config": "IRuntimeConfig",
    "create_timing_cache": "ITimingCache",
    "deserialize_cuda_engine": "ICudaEngine",
    "get_error": "ParserError",
    "get_input": "ITensor",
}
OVERRIDDEN = {
    "ILogger": {"log"},
    "IProgressMonitor": {"phase_start", "step_complete", "phase_finish"},
}
MODULE_NAMES = {"__name__", "__version__"}


def files() -> dict[str, str]:
    """The sources in which something is called ``trt``, by path."""
    found = {}
    for package in ("exporters", "swin_deploy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            names = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
            if "trt" in names:
                found[path.relative_to(ROOT).as_posix()] = text
    return found


def class_of(node: ast.expr) -> str | None:
    """The TensorRT class of an expression, as far as its names tell; ``""`` is the module."""
    if isinstance(node, ast.Name):
        return "" if node.id == "trt" else VARIABLES.get(node.id.lstrip("_"))
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Attribute):
            return None
        owner = class_of(node.func.value)
        if owner == "":
            return node.func.attr
        return RETURNS.get(node.func.attr) if owner else None
    if isinstance(node, ast.Attribute):
        owner = class_of(node.value)
        if owner == "":
            return node.attr
        if owner and node.attr[:1].isupper():
            return f"{owner}.{node.attr}"
        return VARIABLES.get(node.attr.lstrip("_")) if owner is None else None
    return None


def names_in(text: str) -> set[str]:
    """Names used in a source, such as ``Builder.create_network`` and ``DataType.HALF``."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and (owner := class_of(node.value)) is not None:
            found.add(f"{owner}.{node.attr}".lstrip("."))
    return found - MODULE_NAMES


def has(classes: dict[str, list[str]], name: str) -> bool:
    """Whether a release has a class, or a member of a class; ``__init__`` and the like always."""
    owner, _, member = name.rpartition(".")
    if member.startswith("__"):
        return owner in classes
    return name in classes or member in classes.get(owner, ())


def mistakes(texts: dict[str, str]) -> list[str]:
    """Names that a release lacks, though nothing asks for the feature they belong to."""
    found = []
    for path, text in texts.items():
        asked = {n for f, names in FEATURE_NAMES.items() if f'"{f}")' in text for n in names}
        asked |= {name.rpartition(".")[0] for name in asked}
        for name in sorted(names_in(text) - asked):
            lacking = [release for release, classes in RELEASES.items() if not has(classes, name)]
            if lacking:
                found.append(f"{path}: {name} is not in {', '.join(lacking)}")
        found += [f"{path}: {line}" for line in misnamed(ast.parse(text))]
    return found


def misnamed(tree: ast.AST) -> Iterator[str]:
    """Objects of TensorRT in variables that do not tell their class, and overrides of nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made, target = class_of(node.value), node.targets[0]
            name = getattr(target, "attr", getattr(target, "id", "")).lstrip("_")
            if made in VARIABLES.values() and VARIABLES.get(name) != made:
                yield f"{name} holds {made}"
        elif isinstance(node, ast.ClassDef):
            methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            for base in filter(None, map(class_of, node.bases)):
                yield from (f"{base}.{name}?" for name in OVERRIDDEN[base] - methods)


def test_the_code_uses_names_that_every_release_has() -> None:
    texts = files()
    assert {
        "exporters/engine/to_engine.py",
        "exporters/engine/targets.py",
        "exporters/engine/timing_cache.py",
        "swin_deploy/runners/trt.py",
        "swin_deploy/runners/refusals.py",
        "swin_deploy/runners/runtime_cache.py",
        "swin_deploy/runners/tensors.py",
    } <= texts.keys()
    used = {name for text in texts.values() for name in names_in(text)}
    assert {
        "Builder.build_serialized_network",
        "ILogger.Severity.ERROR",
        "ITimingCache.serialize",
        "IRuntimeConfig.create_runtime_cache",
        "IExecutionContext.execute_async_v3",
        "Runtime.engine_host_code_allowed",
        "Runtime.get_engine_validity",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
        "ParserError.node_name",
        "ITensor.shape",
        "DataType.UINT8",
    } <= used
    assert mistakes(texts) == []


TO_ENGINE = "exporters/engine/to_engine.py"


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (TO_ENGINE, "builder.build_serialized_network", "builder.build_network"),
        (TO_ENGINE, "trt.MemoryPoolType.WORKSPACE", "trt.MemoryPoolType.SCRATCH"),
        (TO_ENGINE, "parser_error.node_name()", "parser_error.title()"),
        (TO_ENGINE, "config.progress_monitor", "config.int8_calibrator"),
        (TO_ENGINE, "def phase_start(", "def phase_begin("),
        (TO_ENGINE, "    parser = trt", "    reader = trt"),
        ("exporters/engine/targets.py", "config.set_flag(", "config.set_flags("),
        ("exporters/engine/targets.py", 'require(trt, "compute_capabilities")', "pass"),
        ("exporters/engine/timing_cache.py", "timing_cache.combine(", "timing_cache.merge("),
        ("exporters/engine/timing_cache.py", '(b"").serialize()', '(b"").save()'),
        ("swin_deploy/runners/trt.py", "_context.execute_async_v3", "_context.execute_async_v9"),
        ("swin_deploy/runners/tensors.py", "trt.DataType.UINT8", "trt.DataType.BYTE"),
        ("swin_deploy/runners/tensors.py", "engine.get_tensor_mode", "engine.get_binding_mode"),
        ("swin_deploy/runners/refusals.py", "trt.ILogger.ERROR", "trt.ILogger.MISTAKE"),
        ("swin_deploy/runners/refusals.py", 'require(trt, "engine_validity")', "pass"),
        ("swin_deploy/runners/trt.py", 'require(trt, "native_cuda_graph")', "pass"),
        ("swin_deploy/runners/trt.py", 'require(trt, "eager_kernels")', "pass"),
        ("swin_deploy/runners/trt.py", "_config.dynamic_shapes_kernel", "_config.static_kernel"),
        ("swin_deploy/runners/runtime_cache.py", "runtime_cache.deserialize", "runtime_cache.load"),
        ("swin_deploy/runners/runtime_cache.py", 'require(trt, "runtime_cache")', "pass"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_noticed(path: str, old: str, new: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert old in text
    assert mistakes({path: text}) == []
    assert mistakes({path: text.replace(old, new)}) != []


@pytest.mark.parametrize("release", RELEASES)
def test_features_of_the_table_are_what_the_release_has(release: str) -> None:
    """A flavour without a feature may have its names, but never the other way round."""
    flavor: Flavor = "tensorrt-rtx" if release.startswith("tensorrt-rtx") else "tensorrt"
    traits, major = FLAVORS[flavor], major_of(LISTED[release]["version"])
    assert major in traits.majors
    for feature, names in FEATURE_NAMES.items():
        value = getattr(traits, feature)
        if major in value if isinstance(value, tuple) else value:
            assert [name for name in names if not has(RELEASES[release], name)] == [], feature


@pytest.mark.parametrize("release", RELEASES)
def test_types_and_levels_that_are_looked_up_by_name_are_in_the_release(release: str) -> None:
    """The code asks for these with names from tables, which its sources do not show."""
    types = {f"DataType.{traits.engine_type}" for traits in PRECISIONS.values()}
    assert "DataType.FP8" in types
    assert [name for name in sorted(types) if not has(RELEASES[release], name)] == []
    assert not has(RELEASES[release], "DataType.FP6")
    if not release.startswith("tensorrt-rtx"):
        assert has(RELEASES[release], "HardwareCompatibilityLevel.AMPERE_PLUS")


def test_every_major_version_of_the_table_is_listed() -> None:
    for flavor, traits in FLAVORS.items():
        listed = {name.removeprefix(f"{flavor}-").split(".")[0] for name in RELEASES}
        assert set(map(str, traits.majors)) <= listed
    assert FEATURE_NAMES.keys() <= {field.name for field in dataclasses.fields(FLAVORS["tensorrt"])}


def test_releases_differ_where_the_table_says() -> None:
    """What makes the lists worth having: names that one release has and another lacks."""
    graph, flag = "IRuntimeConfig.cuda_graph_strategy", "BuilderFlag.FP16"
    assert {name for name in RELEASES if has(RELEASES[name], graph)} == {
        "tensorrt-rtx-1.6",
        "tensorrt-rtx-1.7",
    }
    assert {name for name in RELEASES if has(RELEASES[name], flag)} == {"tensorrt-10.16"}


def test_no_branch_on_a_flavor_outside_the_table() -> None:
    """Code asks the table what a flavour has; it never compares its name."""
    for package in ("exporters", "swin_deploy"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            compared = [n for node in ast.walk(tree) if isinstance(node, ast.Compare)
                        for n in ast.walk(node) if isinstance(n, ast.Constant)]  # fmt: skip
            assert not [n for n in compared if n.value in FLAVORS], path


def test_list_of_the_installed_release_is_what_the_script_makes() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    script = ROOT / "scripts" / "list_tensorrt_names"
    done = subprocess.run(
        [sys.executable, str(script), "tensorrt_rtx"], capture_output=True, text=True, check=True
    )
    made = json.loads(done.stdout)
    listed = next((entry for entry in LISTED.values() if entry["version"] == made["version"]), None)
    if listed is None:
        pytest.skip(f"no list of TensorRT-RTX {made['version']}")
    assert made == listed
    assert mistakes(files()) == []


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["no_such_module"], 3)], ids=str)
def test_list_script_that_cannot_run_says_so(arguments: list[str], status: int) -> None:
    script = ROOT / "scripts" / "list_tensorrt_names"
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert "Traceback" not in done.stderr
