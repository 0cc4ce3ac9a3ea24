"""The GPU as the driver tells it, with a driver library made here: the real calls, and no GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ASK = "from exporters.backends import *; print(cuda_device_count(), current_gpu())"
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return %(init)d; }
int cuDeviceGetCount(int *count) { *count = %(count)d; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40; return ordinal < %(count)d ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device)
{ strncpy(name, device == 40 ? "NVIDIA Test 3000" : "wrong device", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{ *value = attribute == 75 ? 12 : attribute == 76 ? 1 : -1; return device == 40 ? 0 : 101; }
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc to make a driver library")
@pytest.mark.parametrize(
    ("init", "count", "said"),
    [
        (0, 2, "2 Gpu(name='NVIDIA Test 3000', capability='12.1')"),
        (0, 0, "0 None"),
        (100, 2, "0 None"),  # a driver without a device
    ],
    ids=["gpus", "none", "does not start"],
)
def test_the_driver_tells_name_and_compute_capability(
    init: int, count: int, said: str, tmp_path: Path
) -> None:
    library = tmp_path / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=DRIVER % {"init": init, "count": count}, text=True, check=True)
    env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == said
