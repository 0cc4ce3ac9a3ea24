"""Text and JSON that somebody else wrote: bounded, typed, and refused in one line.

Files are regular files of a bounded size, JSON is of a bounded depth, and values are checked
against types before anything computes with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from exporters.errors import DeployError, FileError, MissingBackendError

MOST_BYTES = 64 << 20  # a list of all images of ImageNet-1k has two thirds of that
MOST_JSON = 16 << 20  # letters; brackets take 30 times that in memory, a report has a hundredth
SHOWN = 200  # letters of a foreign text that a message repeats
LISTED = 8  # names that a message lists
NAME = 100  # letters of each of them
ROOM = 300  # letters after which no further name is listed

NOT_PLAIN = re.compile(r"[^ -~]")
HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # in JSON; two of them may well be one letter

T = TypeVar("T")


def read_text(path: Path, *, most_bytes: int = MOST_BYTES) -> str:
    """Read a UTF-8 text file.

    Args:
        path: Path of the file.
        most_bytes: Number of bytes above which it is refused.

    Returns:
        The text without a byte order mark; every line ends with a line feed.

    Raises:
        FileError: If the file is missing, a folder, a device or a pipe, too large, unreadable or
            not UTF-8.
    """
    try:
        text = read_bytes(path, most_bytes=most_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise FileError(f"{shortened(path)} is not UTF-8 text; name the right file") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")


def as_utf8(text: str) -> str:
    r"""Return a text as UTF-8 can hold it: a name's bytes that are none are shown as ``\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_bytes(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a regular file; raises ``FileError`` as ``read_text`` does, but for the encoding."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileError(f"{shortened(path)} is not a file; name a text file")
        if found.st_size > most_bytes:
            raise FileError(
                f"{shortened(path)} has {found.st_size:,} bytes, more than the {most_bytes:,} that "
                "are read; name the right file"
            )
        return path.read_bytes()
    except FileNotFoundError as err:
        raise FileError(f"{shortened(path)} does not exist; check the path") from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        reason = getattr(err, "strerror", None) or err
        raise FileError(f"{shortened(path)} cannot be read ({reason})") from err


def read_json(path: Path) -> Any:  # noqa: ANN401 - a JSON value of any type
    """Read and parse a JSON file; raises ``FileError`` as ``read_text`` and ``parse_json`` do."""
    return parse_json(read_text(path), where=str(shortened(path)))


def parse_json(text: str, *, where: str) -> Any:  # noqa: ANN401 - a JSON value of any type
    """Parse JSON text.

    Args:
        text: The text; NaN and Infinity are accepted, which Python's writers make.
        where: Name of the place that it comes from, for messages.

    Raises:
        FileError: If it is too long, is not JSON, nests too deeply, or has a number of too many
            digits or half a surrogate pair.
    """
    if len(text) > MOST_JSON:
        raise FileError(
            f"{where} has {len(text):,} letters, more than the {MOST_JSON:,} of any JSON"
        )
    try:
        values = json.loads(text)
        if HALF_A_PAIR.search(text):
            json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as err:
        raise FileError(f"{where} is not usable JSON: it nests too deeply") from err
    except UnicodeEncodeError as err:
        raise FileError(f"{where} is not usable JSON: it has half a surrogate pair") from err
    except ValueError as err:
        raise FileError(f"{where} is not JSON ({err})") from err
    return values


def typed(values: Any, wanted: type[T], *, where: str = "") -> T:  # noqa: ANN401 - a JSON value
    """Convert parsed JSON to a type, and check every value.

    Args:
        values: The parsed JSON.
        wanted: A dataclass, a ``msgspec.Struct`` or any type that ``msgspec.convert`` takes. Keys
            that it does not name are ignored.
        where: Name of the place that the values come from, to start messages with.

    Raises:
        FileError: If a value is missing or of another type or range; the message says where.
    """
    import msgspec  # here, not above: --help needs none of it

    try:
        return msgspec.convert(values, wanted, str_keys=True)
    except (msgspec.ValidationError, RecursionError, UnicodeError, OverflowError) as err:
        raise FileError(f"{where}: {_plain(err)}" if where else _plain(err)) from err


def _plain(err: Exception) -> str:
    """Word a message without msgspec's notation: ``size.height: expected int, got str``."""
    if isinstance(err, RecursionError):
        return "it nests too deeply"
    what, _, path = str(err).replace("`", "").partition(" - at ")
    what = shortened(what[:1].lower() + what[1:])
    place = shortened(path.removeprefix("$").removeprefix("."))
    return f"{place}: {what}" if place else what


@contextlib.contextmanager
def naming(path: os.PathLike[str]) -> Iterator[None]:
    """Put a file's name before the message of an error that does not have it.

    A backend that is missing is not the file's fault.
    """
    try:
        yield
    except MissingBackendError:
        raise
    except DeployError as err:
        if Path(path).name in str(err):
            raise
        raise type(err)(f"{shortened(path)}: {err}") from err


def shortened(text: object, most: int = SHOWN) -> str:
    """Shorten a foreign text for a message to its two ends.

    Args:
        text: Any object; its ``str`` is used.
        most: Number of letters up to which it stays whole.
    """
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[: most // 2]}...{whole[-most // 2 :]}"


def error_words(err: BaseException) -> str:
    """Return a foreign error in one bounded line: its class and its text."""
    text = " ".join(str(err).split())
    return shortened(f"{type(err).__name__}: {text}" if text else type(err).__name__)


def visible(text: str, *, kept: str = "") -> str:
    """Escape what a terminal would obey or hide, in the notation of Python's source.

    Args:
        text: Text of any origin, such as a file's name.
        kept: Letters that stay as they are.
    """

    def shown(found: re.Match[str]) -> str:
        letter = found.group()
        if letter.isprintable() or letter in kept or unicodedata.category(letter) == "Zs":
            return letter
        return letter.encode("unicode_escape").decode()

    return NOT_PLAIN.sub(shown, text)


def listed(names: list[str] | tuple[str, ...], *, between: str = ", ") -> str:
    """Join names for a message: the first few, and the number of further ones.

    Args:
        names: The names; each is shortened to ``NAME`` letters, and ``LISTED`` are shown at most.
        between: Text between two names.
    """
    shown: list[str] = []
    for name in names[:LISTED]:
        shown.append(shortened(name, NAME))
        if sum(map(len, shown)) > ROOM:
            break
    more = len(names) - len(shown)
    return between.join(shown) + (f" and {more:,} more" if more else "")
