"""Locks on open files: the system releases a lock when the process that holds it ends."""

from __future__ import annotations

import errno

from filelock import lock_descriptor

# Answers of file systems without locks, and of NFS for a file that is open for reading only.
NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def take_lock(file: int) -> bool | None:
    """Take the exclusive lock of an open file or folder, without waiting.

    Args:
        file: Descriptor of the file or folder; closing it releases the lock.

    Returns:
        Whether it was taken; None where there are no locks (some network file systems).
    """
    try:
        return lock_descriptor(file, blocking=False)
    except OSError as err:
        if err.errno in NO_LOCKS:
            return None
        raise
