"""Files that get their names when they are whole, and what killed processes left of them.

A file is written as ``.name.1a2b3c4d.tmp`` next to its place, and renamed. A living process holds a
lock on its temporary files and folders; the next process that writes in the same folder removes
those whose lock is free.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from exporters.errors import FileError
from exporters.locks import take_lock

# Content of a file: its bytes, or a function that returns them piece by piece, at each call anew.
Content = bytes | Callable[[], Iterable[bytes]]

# The second form of folders is that of versions without locks.
LEFT_OVER_FILE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
LEFT_OVER_FOLDER = re.compile(r"\.swin-deploy\.[0-9a-f]{8}\.tmp|\.attempt-[a-z0-9_]{8}")
NAME_KEPT = 60  # characters of a name in that of its temporary file: 255 bytes are allowed
NAME_LOCK = "0" * 8  # in place of random digits: taken while names change
WAIT_S = 30.0
POLL_S = 0.01
OUR_OUTPUT = (1, 2)  # descriptors of standard output and standard error


def real_path(path: Path) -> Path:
    """Follow links to the file that writing to ``path`` changes; it need not exist.

    Raises:
        FileError: If it is a folder, a device or a pipe, if the process's own output goes there,
            or if it cannot be looked up.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.path.realpath(path))
    except OSError as err:
        raise cannot_write(path, err) from err
    if stat.S_ISDIR(found.st_mode):
        raise FileError(f"{path} is a folder; name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise FileError(f"{path} is a device or a pipe; name a file")
    if any(_is_open_as(found, number) for number in OUR_OUTPUT):
        raise FileError(f"{path} is where this command's own output goes; name another file")
    place = Path(os.path.realpath(path))
    if not place.exists():  # as /proc/self/fd/3 leads to a file that was removed
        raise FileError(f"{path} leads to a file without a name; name a file")
    return place


def _is_open_as(found: os.stat_result, number: int) -> bool:
    try:
        return os.path.samestat(found, os.fstat(number))
    except OSError:  # closed
        return False


def cannot_write(path: Path, err: OSError) -> FileError:
    """Return the error for a file that cannot be written, with the system's reason in one line."""
    reason = err.strerror or str(err)
    return FileError(f"cannot write {path}: {reason}; choose another place, or free some space")


def replace_files(files: Mapping[Path, Content]) -> None:
    """Write files that belong together: none takes its name before all are on the disk.

    Raises:
        FileError: If a file cannot be written; no file has changed then.
    """
    with staged_together(files) as staged, name_locks([*staged][:1]), undisturbed():
        for place, temporary in staged.items():
            os.replace(temporary, place)


@contextlib.contextmanager
def staged_together(files: Mapping[Path, Content]) -> Iterator[dict[Path, Path]]:
    """Write files under temporary names, for the block to rename.

    Args:
        files: Content by path; links are followed.

    Yields:
        Path of the temporary file by path of the file. Temporary files that are not renamed are
        removed at the end; folders made for them are removed if the block fails.

    Raises:
        FileError: If a file cannot be written, or the block raises an OSError.
    """
    places = {path: real_path(path) for path in files}
    path = next(iter(files))
    with contextlib.ExitStack() as stack:
        try:
            for folder in dict.fromkeys(place.parent for place in places.values()):
                stack.enter_context(made_folder(folder))
                remove_left_over(folder)
            staged = {}
            for path, place in places.items():
                staged[place] = stack.enter_context(staged_file(place, files[path]))
            path = next(iter(files))
            yield staged
        except OSError as err:
            raise cannot_write(path, err) from err


@contextlib.contextmanager
def staged_file(place: Path, data: Content) -> Iterator[Path]:
    """Write ``data`` to a locked temporary file next to ``place``, which is removed at the end.

    Args:
        place: Path that the file is to get, links followed.
        data: Content of the file.

    Yields:
        Path of the temporary file.

    Raises:
        OSError: If it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with undisturbed():
            temporary, stream = _create_locked(place)
            stack.enter_context(stream)
            stack.callback(_remove, temporary)
        stream.writelines(pieces(data))
        stream.flush()
        os.fsync(stream.fileno())
        if os.name == "nt":  # an open file cannot be renamed there
            stream.close()
        yield temporary


def pieces(content: Content) -> Iterable[bytes]:
    """Return the content of a file, piece by piece."""
    return (content,) if isinstance(content, bytes) else content()


def _remove(temporary: Path) -> None:
    with undisturbed():
        temporary.unlink(missing_ok=True)


def _create_locked(place: Path) -> tuple[Path, IO[bytes]]:
    """Create a temporary file and lock it; try again if it was removed between the two steps."""
    while True:
        temporary = _temporary(place, secrets.token_hex(4))
        stream = temporary.open("xb")
        if take_lock(stream.fileno()) is not False and _has_name(stream, temporary):
            return temporary, stream
        stream.close()


def _temporary(place: Path, digits: str) -> Path:
    # No artefact has this suffix: the file of a killed process is never taken for one.
    return place.with_name(f".{place.name[:NAME_KEPT]}.{digits}.tmp")


def _has_name(stream: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it, and remove the ones made if the block fails.

    Raises:
        OSError: If a folder cannot be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    made: list[Path] = []
    try:
        for one in reversed(missing):
            with undisturbed():
                one.mkdir(exist_ok=True)
                made.append(one)
        yield
    except BaseException:
        for one in reversed(made):
            with contextlib.suppress(OSError):  # something else is in it
                one.rmdir()
        raise


@contextlib.contextmanager
def name_locks(places: Sequence[Path]) -> Iterator[None]:
    """Keep other processes from renaming some files and the files that belong to them.

    Args:
        places: Paths of the files, links followed.

    Raises:
        FileError: If another process holds a lock for longer than ``WAIT_S`` seconds.
        OSError: If a lock's file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        for place in sorted(places):  # one order for all, or two wait for each other
            stack.enter_context(_name_lock(place))
        yield


@contextlib.contextmanager
def _name_lock(place: Path) -> Iterator[None]:
    path = _temporary(place, NAME_LOCK)
    deadline = time.monotonic() + WAIT_S
    with contextlib.ExitStack() as stack:
        while True:
            with undisturbed():
                stream = _open_lock(path)
                stack.enter_context(stream)
                if take_lock(stream.fileno()) is not False and _has_name(stream, path):
                    stack.callback(_remove_lock, path, stream)
                    break
                stream.close()
            if time.monotonic() > deadline:
                raise FileError(f"another process is writing {place}; end it, or name another file")
            time.sleep(POLL_S)
        yield


def _remove_lock(path: Path, stream: IO[bytes]) -> None:
    if os.name == "nt":  # an open file cannot be removed there
        stream.close()
    with contextlib.suppress(PermissionError):  # another user's, in a sticky folder
        _remove(path)


def _open_lock(path: Path) -> IO[bytes]:
    # For reading: it may be another user's, left by a process that was killed.
    flags = os.O_RDONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(os.open(path, flags, 0o666), "rb")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold interrupts back until the end of the block, so that files are renamed together."""
    held: list[int] = []
    handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # the only one that gets them
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for held_number in held:
            signal.raise_signal(held_number)


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a locked folder for temporary files, and remove it with them at the end.

    Args:
        parent: The folder above it; by default the system's folder for temporary files.

    Yields:
        Path of the folder.

    Raises:
        FileError: If it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            parent = parent or Path(tempfile.gettempdir())
            remove_left_over(parent)
            with undisturbed():
                folder, lock = _make_locked_folder(parent)
                stack.callback(_remove_folder, folder, lock)
        except OSError as err:
            raise FileError(
                f"cannot make a temporary folder in {parent or 'any place'}: "
                f"{err.strerror or err}; free some space, or name another with TMPDIR"
            ) from err
        yield folder


def _remove_folder(folder: Path, lock: int | None) -> None:
    with undisturbed():
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make_locked_folder(parent: Path) -> tuple[Path, int | None]:
    while True:
        folder = parent / f".swin-deploy.{secrets.token_hex(4)}.tmp"
        folder.mkdir(mode=0o700)
        if os.name == "nt":  # folders cannot be opened there
            return folder, None
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            if take_lock(lock) is not False and folder.exists():
                return folder, lock
            os.close(lock)


def remove_left_over(folder: Path) -> None:
    """Remove the temporary files and folders in ``folder`` whose processes are gone.

    Those that cannot be removed, or have no lock that tells, stay.
    """
    if os.name == "nt":  # a file is closed there, and so not locked, before it is renamed
        return
    found: Sequence[os.DirEntry[str]] = ()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.startswith(".")]
    for entry in found:
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                if LEFT_OVER_FOLDER.fullmatch(entry.name):
                    _remove_dead(Path(entry.path), os.O_RDONLY)
            elif entry.is_file(follow_symlinks=False) and LEFT_OVER_FILE.fullmatch(entry.name):
                _remove_dead(Path(entry.path), os.O_RDWR)


def _remove_dead(path: Path, flags: int) -> None:
    # Not blocking: what was a file may be a pipe by now.
    file = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if take_lock(file):
            shutil.rmtree(path) if flags == os.O_RDONLY else path.unlink()
    finally:
        os.close(file)
