"""The version of TensorRT that is recorded is that of the module that runs."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from exporters.backends import tensorrt_version
from swin_deploy.bench.conditions import package_versions


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that comes before installed packages, as PYTHONPATH does."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # as it was afterwards, also if absent
    del sys.modules["tensorrt_rtx"]
    return tmp_path


def give_module(folder: Path, text: str) -> None:
    module = folder / "tensorrt_rtx"
    module.mkdir()
    (module / "__init__.py").write_text(text)


def give_metadata(folder: Path, name: str, version: str) -> None:
    entry = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    "distributions",
    [(), ("tensorrt-rtx-cu13-bindings",), ("tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings")],
    ids=str,
)
def test_version_is_the_modules_own(distributions: tuple[str, ...], packed: Path) -> None:
    """The metadata of packages may be of others than the module, or not there."""
    give_module(packed, '__version__ = "1.6.1.120"\n')
    for name in distributions:
        give_metadata(packed, name, "1.2.3")
        assert metadata.version(name) == "1.2.3"
    assert tensorrt_version("tensorrt-rtx") == "1.6.1.120"
    assert package_versions()["tensorrt-rtx"] == "1.6.1.120"
    assert "1.2.3" not in package_versions().values()


@pytest.mark.parametrize("text", ["raise OSError('no libcudart')", "x = 1", "import torc_rtx"])
def test_version_of_a_module_that_does_not_load_is_left_out(text: str, packed: Path) -> None:
    give_module(packed, text)
    give_metadata(packed, "tensorrt-rtx-cu13", "1.7.1.116")
    assert tensorrt_version("tensorrt-rtx") == ""
    assert "tensorrt-rtx" not in package_versions()


def test_version_of_a_module_that_is_not_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert tensorrt_version("tensorrt-rtx") == ""
    assert "tensorrt-rtx" not in package_versions()


def test_version_that_is_installed_is_recorded() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert package_versions()["tensorrt-rtx"] == trt.__version__
