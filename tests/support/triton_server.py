"""A real Triton Inference Server for tests, from nvidia-pytriton in an environment of its own.

pip installs it into the user's cache, once for each set of pins; where that fails the tests are
skipped with the reason. Its package has the server and the Python backend. In the place of the ONNX
Runtime and TensorRT backends stands ``stand_in_backend.py``, which runs the file of a repository in
ONNX Runtime on the CPU; the repository is loaded as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import pytest

from exporters.caches import cache_folder

# NumPy 2 in the server's processes makes every output empty, without an error.
PINS = (
    "nvidia-pytriton==0.7.0",
    "numpy==1.26.4",
    "onnxruntime==1.23.2",
    "pillow==13.0.0",
    "protobuf==6.33.6",
    "tritonclient[grpc,http]==2.73.0",
)
STAND_IN = Path(__file__).parent / "stand_in_backend.py"
STOOD_IN = ("onnxruntime", "tensorrt")
PATIENCE = ("--retries", "1", "--timeout", "20")
MOST_SECONDS = 420
START_SECONDS = 90
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Triton:
    """A running server.

    Attributes:
        http: Port of HTTP on 127.0.0.1.
        grpc: Port of gRPC.
        metrics: Port of the metrics.
        process: The server.
        python: Python of an environment with tritonclient.
        log: File of what the server prints.
    """

    http: int
    grpc: int
    metrics: int
    process: subprocess.Popen[bytes]
    python: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def memory_mib(self) -> float:
        """Memory of the server and the processes that it started, shared pages counted once."""
        return sum(map(_own_mib, [self.process.pid, *_children(self.process.pid)]))


def environment() -> Path:
    """The environment of the server, installed if it is not there; a skip where that fails."""
    found = _installed()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@functools.cache
def _installed() -> Path | str:
    """The folder of the environment, or the reason why there is none."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "nvidia-pytriton has a server for Linux on x86-64 alone"
    digest = hashlib.sha256(" ".join((*PINS, PYTHON)).encode()).hexdigest()[:12]
    base = cache_folder() / "test-servers"
    base.mkdir(parents=True, exist_ok=True)
    folder = base / digest
    with filelock.FileLock(base / f"{digest}.lock"):
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            reason = _install(folder)
            if reason:
                return reason
            (folder / "whole").touch()
    return folder


def _install(folder: Path) -> str:
    """Make the environment; the reason if that fails, else an empty text."""
    commands = (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [
            *(sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")),
            *("install", "-q", *PATIENCE, *PINS),
        ],
    )
    for command in commands:
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            return f"pip did not install nvidia-pytriton within {MOST_SECONDS} s"
        if run.returncode:
            last = [text for text in run.stderr.splitlines() if text.startswith("ERROR")][-1:]
            return f"pip cannot install nvidia-pytriton: {' '.join(last) or run.stderr[-200:]}"
    return _make_backends(folder)


def _make_backends(folder: Path) -> str:
    """Put the Python backend and the stand-ins into one folder, as the server wants them."""
    site = next(folder.glob("lib/python*/site-packages"))
    carried = site / "pytriton" / "tritonserver"
    stub = carried / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        return f"nvidia-pytriton has no Python backend for Python {PYTHON}"
    python = folder / "backends" / "python"
    shutil.copytree(carried / "backends" / "python", python)
    shutil.copy(stub, python)
    for name in STOOD_IN:
        (folder / "backends" / name).mkdir()
    return ""


@contextlib.contextmanager
def serving(
    repository: Path, folder: Path, *, extra: Sequence[str] = (), wait: bool = True
) -> Iterator[Triton]:
    """A server of a model repository on loopback, ended with its processes.

    Args:
        repository: Folder of the models.
        folder: Folder for what it prints.
        extra: Further arguments of the server.
        wait: False for a repository that it is to refuse.
    """
    home = environment()
    for name in STOOD_IN:  # the newest one, whichever was there when the server was installed
        shutil.copy(STAND_IN, home / "backends" / name / "model.py")
    site = next(home.glob("lib/python*/site-packages"))
    http, grpc, metrics = _free_ports(3)
    log = folder / "triton.log"
    command = [
        str(site / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={home / 'backends'}",
        f"--cache-directory={site / 'pytriton' / 'tritonserver' / 'caches'}",
        *("--http-address=127.0.0.1", f"--http-port={http}"),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--metrics-address=127.0.0.1", f"--metrics-port={metrics}"),
        *("--allow-gpu-metrics=false", "--exit-timeout-secs=5", *extra),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=_variables(home, site),
            start_new_session=True, preexec_fn=_end_with_parent, cwd=folder,
        )  # fmt: skip
    triton = Triton(http, grpc, metrics, process, home / "bin" / "python", log)
    try:
        if wait:
            _wait_until_ready(triton)
        yield triton
    finally:
        _end(process)


def _end_with_parent() -> None:
    """Ask Linux to end the server when the tests are killed, which ends nothing else by itself."""
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _variables(home: Path, site: Path) -> dict[str, str]:
    libraries = [sysconfig.get_config_var("LIBDIR"), site / "nvidia_pytriton.libs"]
    return os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PYTHONPATH": str(site),
        "PYTHONHOME": sys.base_prefix,
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "OMP_NUM_THREADS": "1",
    }


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_until_ready(triton: Triton) -> None:
    deadline, ready = time.monotonic() + START_SECONDS, f"{triton.url}/v2/health/ready"
    while time.monotonic() < deadline:
        if triton.process.poll() is not None:
            raise AssertionError(triton.log.read_text(errors="replace")[-4000:])
        with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(triton.log.read_text(errors="replace")[-4000:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server with the processes of its models; a server that ends frees what they shared."""
    family = _children(process.pid)
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_children(child)]
    return found


def _own_mib(pid: int) -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
    return 0.0
