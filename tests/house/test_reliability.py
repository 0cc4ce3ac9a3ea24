"""The checks of scripts/try_reliability notice what they are for."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from reliability import all_wrong

DAMAGED = {
    "r/report.md": b"# cut",
    "r/report.json": b'{"schema": 3',
    "x.onnx": b"without a manifest",
    "p.csv": b"image,error\nb.png,\n",
    "p.npz": b"PK",
    ".x.onnx.1a2b3c4d.tmp": b"left",
}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    clean = tmp_path / "clean"
    clean.mkdir()
    (clean / "p.csv").write_bytes(b"image,error\na.png,\n")
    np.savez(clean / "p.npz", images=["a.png"])
    shutil.copytree(clean, tmp_path / "out")
    (tmp_path / "out" / "e.md").write_bytes(b"whole\n<!-- made by swin-deploy: report -->\n")
    return tmp_path


def test_all_wrong_of_whole_files_is_nothing(scratch: Path) -> None:
    assert all_wrong(scratch) == ""


@pytest.mark.parametrize("name", DAMAGED)
def test_all_wrong_names_a_damaged_file(name: str, scratch: Path) -> None:
    path = scratch / "out" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(DAMAGED[name])
    assert path.name in all_wrong(scratch)
