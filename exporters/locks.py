"""Locks on open files: the system releases a lock when the process that holds it ends."""

from __future__ import annotations

import errno

# Answers of file systems without locks, and of NFS for a file that is open for reading only.
NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def take_lock(file: int) -> bool | None:
    """Take the exclusive lock of an open file or folder, without waiting.

    Args:
        file: Descriptor of the file or folder; closing it releases the lock.

    Returns:
        True if the lock was taken, False if another process holds it; None on systems without
        locks (Windows, some network file systems).

    Raises:
        OSError: If the lock fails for another reason.
    """
    try:
        import fcntl
    except ImportError:  # no POSIX
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        if err.errno in NO_LOCKS:
            return None
        raise
    return True
