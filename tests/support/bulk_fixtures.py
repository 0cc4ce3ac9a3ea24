"""Pictures for runs of ``predict --parquet``; a file takes them with ``pytest_plugins``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import bulk_libraries
import pytest
from command_line import IMAGES, Command
from photographs import write_photographs

from swin_deploy.images.labelled import find_images


@pytest.fixture
def pyarrow() -> Any:  # noqa: ANN401 - a module found at run time
    """The module, or a skip without it."""
    return bulk_libraries.import_pyarrow()


@pytest.fixture
def photos(swin: Command) -> Path:
    """Sixteen photographs in a folder and its subfolder."""
    paths = write_photographs(Path("photos"))
    Path("photos/more").mkdir()
    for path in paths[:5]:
        path.rename(path.parent / "more" / path.name)
    return Path("photos")


@pytest.fixture
def digits(swin: Command) -> Path:
    """Sixty digits in class folders."""
    for one in find_images(IMAGES)[::6]:
        Path("digits", one).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(IMAGES / one, Path("digits", one))
    return Path("digits")
