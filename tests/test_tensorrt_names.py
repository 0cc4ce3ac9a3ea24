"""Every name that the code takes from a TensorRT module exists in the one installed."""

import ast
import operator
from pathlib import Path

import pytest

import exporters
import swin_deploy

SOURCES = [
    *sorted(Path(exporters.__file__).parent.glob("*.py")),
    Path(swin_deploy.__file__).parent / "runners.py",
]
# Full TensorRT only, before release 11.
FULL_ONLY = {"NetworkDefinitionCreationFlag.STRONGLY_TYPED"}


def dotted(node: ast.expr) -> str | None:
    """``a.b.c`` of an attribute chain on the name ``trt``, without that name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return ".".join(names) if names and isinstance(node, ast.Name) and node.id == "trt" else None


def used_names() -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {name for node in nodes if (name := dotted(node))} - {"__name__", "__version__"}


def exists(module: object, name: str) -> bool:
    try:
        operator.attrgetter(name)(module)
    except AttributeError:
        return False
    return True


def test_tensorrt_names_exist() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    names = used_names()
    assert {"Builder", "OnnxParser", "ILogger.__init__", "ProfilingVerbosity.DETAILED"} <= names
    assert not exists(trt, "ProfilingVerbosity.THOROUGH")
    assert [name for name in sorted(names - FULL_ONLY) if not exists(trt, name)] == []
