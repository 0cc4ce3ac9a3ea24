"""pyarrow and Ray, each imported inside a function: nothing else needs them."""

from __future__ import annotations

from typing import Any

from exporters.backends import import_package

INSTALL_PYARROW = 'pip install "swin-deploy[bulk]"'
INSTALL_RAY = 'pip install "swin-deploy[ray]"'


def load_pyarrow() -> Any:
    """Import ``pyarrow`` with its module of Parquet files.

    Raises:
        MissingBackendError: If it is not installed, or does not load.
    """
    arrow = import_package("pyarrow", name="pyarrow", install=INSTALL_PYARROW)
    import_package("pyarrow.parquet", name="pyarrow", install=INSTALL_PYARROW)
    return arrow


def load_ray() -> Any:
    """Import ``ray`` with its module of data sets.

    Raises:
        MissingBackendError: If it is not installed, or does not load.
    """
    ray = import_package("ray", name="Ray", install=INSTALL_RAY, has="init")
    import_package("ray.data", name="Ray", install=INSTALL_RAY)
    return ray
