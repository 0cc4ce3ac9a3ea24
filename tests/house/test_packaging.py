import shutil
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import swin_deploy

ROOT = Path(swin_deploy.__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources, so that the checkout gets no build folder."""
    if not PYPROJECT.is_file():
        pytest.skip("the package is installed: there are no sources to build a wheel from")
    build_meta = pytest.importorskip("setuptools.build_meta", reason="needs setuptools to build")
    folder = tmp_path_factory.mktemp("sources")
    for name in ("swin_deploy", "exporters", "tests", "scripts", "examples", "engines"):
        unwanted = shutil.ignore_patterns("__pycache__", "data")
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "README.md").write_text("the readme\n")
    (folder / "engines" / "model.engine").write_bytes(b"not to be shipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        name = build_meta.build_wheel(str(folder))
    return zipfile.ZipFile(folder / name)


def test_wheel_top_level_is_the_two_packages(wheel: zipfile.ZipFile) -> None:
    top = {PurePosixPath(name).parts[0] for name in wheel.namelist()}
    assert top == {"swin_deploy", "exporters", f"swin_deploy-{swin_deploy.__version__}.dist-info"}


def test_wheel_has_every_module_and_asset(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("swin_deploy", "exporters")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - set(wheel.namelist()) == set()


@pytest.mark.parametrize(
    "pattern",
    [
        "swin_deploy/py.typed",
        "exporters/py.typed",
        "swin_deploy/assets/digits/checkpoint.safetensors",
        "swin_deploy/assets/digits/images/*/*.png",
        "swin_deploy-*.dist-info/licenses/LICENSE",
    ],
)
def test_wheel_has(pattern: str, wheel: zipfile.ZipFile) -> None:
    assert any(PurePosixPath(name).match(pattern) for name in wheel.namelist())


@pytest.mark.parametrize("folder", ["engines", "tests", "scripts", "examples"])
def test_wheel_lacks(folder: str, wheel: zipfile.ZipFile) -> None:
    assert not [name for name in wheel.namelist() if folder in PurePosixPath(name).parts]


def test_wheel_assets_are_the_files_themselves(wheel: zipfile.ZipFile) -> None:
    name = "swin_deploy/assets/digits/checkpoint.safetensors"
    assert wheel.read(name) == (ROOT / name).read_bytes()


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    entry = f"swin_deploy-{swin_deploy.__version__}.dist-info/entry_points.txt"
    assert "swin-deploy = swin_deploy.__main__:main" in wheel.read(entry).decode()


def test_every_folder_of_modules_is_a_package_of_the_wheel() -> None:
    setuptools = pytest.importorskip("setuptools")
    find = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    packages = setuptools.find_packages(str(ROOT), include=find["find"]["include"])
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("swin_deploy", "exporters")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sorted(packages) == sorted(folders)
    assert {"swin_deploy.checkpoints", "swin_deploy.deploy", "exporters.engine"} <= folders


def test_version_is_the_packages() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    assert project["version"] == swin_deploy.__version__


def test_every_python_script_is_linted_and_typed() -> None:
    """Neither ruff nor mypy finds a file without a suffix by itself."""
    scripts = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "scripts").iterdir()
        if path.is_file() and path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3")
    }
    tool = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]
    assert len(scripts) > 5
    assert set(tool["ruff"]["extend-include"]) == scripts
    assert {name for name in tool["mypy"]["files"] if name.startswith("scripts/")} == scripts
