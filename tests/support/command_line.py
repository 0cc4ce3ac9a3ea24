"""Commands for tests: run in this process or in one of their own, and what they wrote."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporters.artifact import manifest_path, sha256_of
from swin_deploy.cli import main
from swin_deploy.config import BUNDLED_IMAGES, BUNDLED_WEIGHTS

DIGITS = BUNDLED_WEIGHTS["notebook-digits"]
IMAGES = BUNDLED_IMAGES["notebook-digits"]
STEM = "notebook-digits-fp32-opset17"
HALF_STEM = "notebook-digits-fp16-opset17"
COMMANDS = [
    "bench", "build-trt", "bundle", "doctor", "evaluate", "export", "export-model", "models",
    "parity", "plan", "precision",
    "predict",
    "report",
    "run",
]  # fmt: skip
PLAN_KEYS = {
    "kernels",
    "attention_blocks",
    "fused_attention",
    "bytes_moved",
    "bytes_moved_per_image",
    "half_byte_share",
    "kernel_types",
}
SMALL_PARITY = ("--model", "notebook-digits", "--limit", "6", "--batches", "1,3")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)

    def assert_done(self) -> "Outcome":
        assert self.status == 0, self.err
        assert "error:" not in self.err
        return self

    def assert_error(self, message: str) -> None:
        """Status 3, one line that says it, no result and no traceback."""
        assert self.status == 3, (self.out, self.err)
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]
        assert self.err.rstrip().endswith(errors[0])
        assert "Traceback" not in self.err
        assert self.out == ""


Command = Callable[..., Outcome]


def call_main(arguments: tuple[object, ...]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["swin-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as info:
            main()
    assert isinstance(info.value.code, int)
    return info.value.code


def listing(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` and its content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def edit_manifest(path: Path, **changes: object) -> None:
    beside = manifest_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changes))


def no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_process(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> Outcome:  # noqa: ANN401
    command = [sys.executable, "-m", "swin_deploy", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    done = subprocess.run(command, check=False, text=True, env=os.environ | (env or {}), **streams)
    return Outcome(done.returncode, done.stdout or "", done.stderr or "")
