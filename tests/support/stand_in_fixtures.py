"""Engines for stand-ins of TensorRT and CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from cuda_stand_in import World
from small_engine import GRAPH
from trt_stand_in import stand_in, write_stand_in

from exporters.spec import Flavor


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    monkeypatch.setenv("SWIN_DEPLOY_CACHE", str(tmp_path / "caches"))
    return stand_in(monkeypatch)


@pytest.fixture(params=get_args(Flavor))
def flavor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path, flavor: str) -> Path:
    return write_stand_in(tmp_path / "m.engine", GRAPH, flavor=flavor)


@pytest.fixture
def rtx(tmp_path: Path) -> Path:
    return write_stand_in(tmp_path / "m.engine", GRAPH, flavor="tensorrt-rtx")
