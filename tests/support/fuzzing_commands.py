"""A fuzz example through the command line, in this process."""

import contextlib
import io

from command_line import call_main

MOST_LETTERS = 500


def ends_well(*arguments: object, statuses: tuple[int, ...] = (0, 1, 2, 3)) -> int:
    """Run a command; it must succeed, or say in one line why not. Returns its status."""
    memory = io.BytesIO()
    out, err = io.TextIOWrapper(memory, encoding="utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = call_main(("-q", *arguments))
    out.flush()
    text = err.getvalue()
    assert status in statuses, text
    assert "Traceback" not in text
    if status == 3:
        lines = text.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert len(lines[-1]) <= MOST_LETTERS
        assert memory.getvalue() == b""
    return status
