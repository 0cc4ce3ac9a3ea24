"""Messages for exceptions that are not a ``DeployError``.

A lack of memory, input that is nested too deeply or is not text, errors of the operating system,
and packages that do not load get one line, as a ``DeployError`` does. Everything else is a bug: it
keeps its traceback, and has its own exit status.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from exporters import __version__
from exporters.text_files import shortened, visible

BUG = 70  # EX_SOFTWARE of sysexits.h: no check failed, and no input is to blame
MOST_LETTERS = 500
MOST_OF_USAGE = 400  # of Click's messages, which have the option's name before them
HEAD, GAP = 300, " ... "  # the remedy is at the end
# Messages of failed allocations in PyTorch, C++, CUDA, ONNX Runtime and NumPy.
NO_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "Failed to allocate memory",
    "OutOfMemory",
    "Unable to allocate",
)
OURS = ("swin_deploy", "exporters", "__main__")


def one_line(text: str, *, most: int = MOST_LETTERS) -> str:
    """Return a message as one line, escaped, and cut in the middle to ``most`` characters."""
    if len(text) > 2 * most:
        text = text[:most] + text[-most:]  # escapes may be long; it is cut below
    shown = visible(text)
    if len(shown) <= most:
        return shown
    return f"{shown[:HEAD]}{GAP}{shown[HEAD + len(GAP) - most :]}"


def explain(err: Exception) -> str:
    """Return why a command could not run, and what to do; empty for a bug."""
    text = str(err)
    reason = shortened(" ".join(text[:1000].split()))
    if isinstance(err, MemoryError) or any(sign in text for sign in NO_MEMORY):
        return "not enough memory; use a smaller batch or image size"
    if isinstance(err, RecursionError):
        return "something that was given nests too deeply to be read; check the files named"
    if isinstance(err, UnicodeError):
        return f"something that was given is no text ({reason}); check the files named"
    if isinstance(err, OSError) and err.strerror:
        return f"{err.strerror}: {shortened(err.filename or 'a file that was given')}"
    package = _broken_package(err)
    if package:
        return (
            f"the package {package} does not load ({type(err).__name__}: {reason}); install it "
            f"again: pip install --force-reinstall {package}"
        )
    return ""


def bug_report(err: Exception) -> str:
    """Return the traceback of a bug, and how to report it."""
    lines = "".join(traceback.format_exception(err))
    return (
        f"{lines}error: this is a bug in swin-deploy {__version__}; please report it with the "
        "lines above, the command, and what 'swin-deploy doctor --json' prints"
    )


def _broken_package(err: Exception) -> str:
    """Return the package that failed during its import; empty if none did."""
    for frame, _ in traceback.walk_tb(err.__traceback__):
        root = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and root not in OURS:
            return root
    root = ""
    if isinstance(err, ImportError):
        root = (err.name or "").partition(".")[0]
    elif isinstance(err, SyntaxError):
        root = _package_of(err.filename or "")
    return "" if root in OURS else root


def _package_of(file: str) -> str:
    """Return the package that a source file belongs to; empty if it is not on the path."""
    path = Path(file)
    folders = [folder for folder in filter(None, sys.path) if path.is_relative_to(folder)]
    if not folders:
        return ""
    return path.relative_to(max(folders, key=len)).parts[0].removesuffix(".py")
