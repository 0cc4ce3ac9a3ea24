import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import exporters
import swin_deploy

ROOT = Path(swin_deploy.__file__).parent.parent
PACKAGES = (exporters, swin_deploy)
HEAVY = {
    "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx",
    "polygraphy", "rich", "numpy", "PIL", "safetensors", "einops", "timm", "torchvision",
    "transformers",
    "pyarrow", "ray",
}  # fmt: skip
BACKENDS = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "polygraphy"}
KERNEL = "swin_deploy.runners.window_triton"  # it needs Triton, and loads where that is
PEERS = {"timm", "torchvision", "transformers"}  # their checkpoints are read without them
SUBPACKAGES = {
    *("api", "artifacts", "bench", "bulk", "calibration", "checkpoints", "cli", "config", "deploy"),
    *("evaluate", "images"),
    *("original", "parity", "precision", "predict", "reference", "report", "runners"),
    *("serving", "swap"),
}
MODULES = sorted(
    name
    for package in PACKAGES
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not name.endswith(".__main__")
)


def loaded_by(statement: str) -> set[str]:
    """Top level modules that a fresh process has after ``statement``."""
    there = "[name for name, module in sys.modules.items() if module]"
    code = f"{statement}\nimport json, sys\nprint(json.dumps({there}))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in json.loads(found.stdout)}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top level names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {entry.name.split(".")[0] for entry in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize(
    "statement",
    [
        "import swin_deploy",
        "import swin_deploy; dir(swin_deploy)",
        "import swin_deploy.api",
        "import exporters",
        "import swin_deploy.cli",
        "from exporters import artifact, backends, errors, spec",
        "from swin_deploy import config",
        "import swin_deploy.checkpoints",
    ],
)
def test_import_is_light(statement: str) -> None:
    assert loaded_by(statement) & HEAVY == set()


@pytest.mark.parametrize("arguments", ["['--help']", "['export', '--help']", "['--version']"])
def test_help_is_light(arguments: str) -> None:
    code = f"""
import contextlib, io
from swin_deploy.cli import cli
with contextlib.redirect_stdout(io.StringIO()):
    cli({arguments}, standalone_mode=False)"""
    assert loaded_by(code) & HEAVY == set()


def test_light_check_notices_heavy_imports() -> None:
    assert loaded_by("import numpy") & HEAVY == {"numpy"}


def test_stages_need_no_backend_to_be_imported() -> None:
    statement = "\n".join(f"import {name}" for name in MODULES if name != KERNEL)
    assert loaded_by(statement) & (BACKENDS | PEERS) == set()


def test_subpackages_are_these() -> None:
    ours = (name.split(".") for name in MODULES if name.startswith("swin_deploy."))
    found = {parts[1] for parts in ours if len(parts) == 3}
    assert found == SUBPACKAGES
    assert {f"swin_deploy.{name}" for name in SUBPACKAGES} <= set(MODULES)


def test_modules_are_all_found() -> None:
    files = {path for package in ("exporters", "swin_deploy") for path in sources(package)}
    packages = {path for path in files if path.name == "__init__.py"}
    assert len(MODULES) == len(files) - len(PACKAGES) - 1  # two top packages and __main__
    assert {path.parent for path in files} == {path.parent for path in packages}


@pytest.mark.parametrize("path", sources("exporters"), ids=lambda path: path.stem)
def test_exporters_know_nothing_of_swin(path: Path) -> None:
    assert "swin_deploy" not in imported(path)
    assert "tests" not in imported(path)


@pytest.mark.parametrize("package", ["exporters", "swin_deploy"])
def test_backends_are_imported_in_one_place(package: str) -> None:
    found = {
        path.relative_to(ROOT).as_posix() for path in sources(package) if imported(path) & BACKENDS
    }
    assert found == set()  # exporters/backends.py imports them by name, with importlib


def test_triton_is_imported_in_one_place() -> None:
    found = {path.stem for package in ("exporters", "swin_deploy") for path in sources(package)
             if "triton" in imported(path)}  # fmt: skip
    assert found == {KERNEL.rpartition(".")[2]}


@pytest.mark.parametrize("package", ["exporters", "swin_deploy"])
def test_peers_are_imported_nowhere(package: str) -> None:
    assert [path.name for path in sources(package) if imported(path) & PEERS] == []


def test_files_import_no_tests() -> None:
    """A file of tests is found only where its folder is collected; helpers are in tests/support."""
    files = sources("tests")
    tests = {path.stem for path in files if path.stem.startswith("test_")}
    assert len(tests) > 100
    assert [path.name for path in files if imported(path) & tests] == []


def test_import_walk_notices_an_import_inside_a_function(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from swin_deploy.cli import cli\n    import onnxruntime.capi\n")
    assert imported(path) == {"swin_deploy", "onnxruntime"}
