"""Locks on files, the same on Linux, macOS and Windows. The system frees the locks of a process that ends."""

from __future__ import annotations

import functools
import importlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = ".lock"

#: Seconds between two attempts on a lock that another process holds, mostly for the time of writing a small file.
_PAUSE = 0.01


class Lock:
    """An exclusive lock on a file, which is made if need be. Two locks of one process exclude each other too.

    Parameters
    ----------
    path : Path
        The file. Its content does not matter.

    Raises
    ------
    OSError
        From the methods, if the file cannot be made or opened, or the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: BaseFileLock | None = None

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take the lock. Returns False if it is held elsewhere and `blocking` is False."""
        if not has_locks():
            raise OSError("this Python has no file locks, so memory is not available here")
        from filelock import FileLock, Timeout

        _make(self._path)
        # filelock sets the file's mode to the given one. The file of a store that a group shares keeps its own.
        mode = stat.S_IMODE(os.stat(self._path).st_mode) | stat.S_IRUSR | stat.S_IWUSR
        lock = FileLock(self._path, mode=mode, thread_local=False)
        try:
            lock.acquire(timeout=-1 if blocking else 0, poll_interval=_PAUSE)
        except Timeout:
            return False
        except NotImplementedError as error:
            raise OSError(f"the file system of {self._path.parent} has no file locks") from error
        self._lock = lock
        return True

    def release(self) -> None:
        """Free the lock. The file stays where it is, or goes, as the system has it."""
        if self._lock is not None:
            self._lock.release(force=True)
            self._lock = None

    def forget(self) -> None:
        """Leave the lock to the process that took it, in a child that was forked from that process."""
        context = getattr(self._lock, "_context", None)
        # Newer versions of filelock do this themselves. With older ones the child would keep the lock alive, or free
        # it when it ends: the descriptors of both processes are one to the system.
        descriptor = getattr(context, "lock_file_fd", None)
        if context is not None and descriptor is not None:
            context.lock_file_fd = None
            with suppress(OSError):
                os.close(descriptor)
        self._lock = None


def _make(path: Path) -> None:
    """Make an empty file with the permissions that the user's umask asks for."""
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))


@contextmanager
def mutex(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: one process and thread at a time."""
    lock = Lock(folder / LOCK_FILE)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@functools.cache
def has_locks() -> bool:
    """Whether the system has locks on files. Python in a browser has none, and a stand-in would wait for ever."""
    return any(_importable(name) for name in ("fcntl", "msvcrt"))


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


@functools.cache
def has_fork() -> bool:
    """Whether processes can fork here. They cannot on Windows."""
    return hasattr(os, "fork") and hasattr(os, "register_at_fork")
