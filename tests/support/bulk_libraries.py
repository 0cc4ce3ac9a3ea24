"""pyarrow and Ray for tests: those that are installed, else from a cache folder of their own.

Once for each set of pins pip loads 55 MB for pyarrow (170 MB unpacked) and 92 MB for Ray and what
it needs (334 MB).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from typing import Any

import pytest
from cached_wheels import cached

PYARROW = ("pyarrow==26.0.1",)
RAY = (
    "ray==2.60.0",
    "pandas==3.1.1",
    "certifi==2026.5.20",
    "charset-normalizer==3.5.3",
    "idna==3.20",
    "msgpack==1.2.4",
    "python-dateutil==4.0.0",
    "requests==2.34.2",
    "tzdata==2026.6",
    "urllib3==2.8.0",
)


@functools.cache
def _folder(module: str, wheels: tuple[str, ...]) -> str:
    """The folder of some wheels; empty if the module is installed; a reason to skip after ``!``."""
    if importlib.util.find_spec(module):
        return ""
    found = cached(module, wheels)
    return f"!{found}" if isinstance(found, str) else str(found)


def _found(module: str, wheels: tuple[str, ...]) -> str:
    folder = _folder(module, wheels)
    if folder.startswith("!"):
        pytest.skip(folder[1:])
    return folder


def import_pyarrow() -> Any:  # noqa: ANN401 - a module found at run time
    """The module ``pyarrow``, with ``pyarrow.parquet``; a skip without it."""
    folder = _found("pyarrow", PYARROW)
    if folder:
        sys.path.append(folder)
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    finally:
        if folder:
            sys.path.remove(folder)


def pyarrow_environment() -> dict[str, str]:
    """Variables for a process that uses pyarrow; a skip without it."""
    return _environment(_found("pyarrow", PYARROW))


def ray_environment() -> dict[str, str]:
    """Variables for a process that uses Ray and pyarrow; a skip without them.

    The cluster is this process's own: it needs no token, which Ray would keep in the home folder.
    """
    paths = _environment(_found("ray", RAY), _found("pyarrow", PYARROW))
    return {**paths, "RAY_AUTH_MODE": "disabled"}


def _environment(*folders: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (*folders, os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
