"""Standard output while TensorRT works."""

import os
import subprocess
import sys

import pytest

from exporters.engine.stdout import stdout_to_stderr

PRINTS = """
import ctypes, os, sys
from exporters.engine.stdout import stdout_to_stderr

library = ctypes.CDLL(None)
print("before")
with stdout_to_stderr():
    os.write(1, b"bytes\\n")
    library.puts(b"held back by C")
print("after")
"""


def printed(code: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code]
    return subprocess.run(line, text=True, check=True, capture_output=True)


@pytest.mark.skipif(os.name == "nt", reason="puts of this process is found another way there")
def test_stdout_to_stderr_moves_what_libraries_print():
    run = printed(PRINTS)
    assert run.stdout == "before\nafter\n"
    assert run.stderr == "bytes\nheld back by C\n"


@pytest.mark.parametrize("closed", [1, 2])
def test_stdout_to_stderr_takes_a_closed_stream(closed):
    other = 3 - closed
    run = printed(
        f"import os; os.close({closed})\n"
        "from exporters.engine.stdout import stdout_to_stderr\n"
        f"with stdout_to_stderr(): os.write({other}, b'here')\n"
    )
    assert run.stdout + run.stderr == "here"


def test_stdout_to_stderr_gives_it_back_after_an_error(capfd):
    def stop() -> None:
        os.write(1, b"to stderr")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), stdout_to_stderr():
        stop()
    os.write(1, b"to stdout")
    assert capfd.readouterr() == ("to stdout", "to stderr")
