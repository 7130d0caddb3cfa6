"""Tokens that are alive exactly as long as the claim that holds them, in whatever process or thread that is.

A token is a file with a lock on it. The system frees the lock when the process ends, however it ends, and forked
children let go of it, so no claim survives its holder.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from skesm.cache.disk.locks import Lock, has_fork, mutex

TOKENS = "claims"

_TOKEN = re.compile(r"\d+-[0-9a-f]{16}")

#: The locks of the tokens that this process holds.
_held: dict[str, Lock] = {}


def acquire(folder: Path) -> str:
    """Make a token in `folder`. `release` it in the end.

    Raises
    ------
    OSError
        If the folder cannot be written, or the file system offers no locks.
    """
    _forget_after_forks()
    (folder / TOKENS).mkdir(exist_ok=True)
    token = f"{os.getpid()}-{secrets.token_hex(8)}"
    lock = Lock(folder / TOKENS / token)
    _held[token] = lock  # before the file is there, so that no other thread of ours takes it for a dead one
    try:
        with mutex(folder):  # nobody removes the file before it is locked
            lock.acquire()
    except BaseException:
        release(folder, token)
        raise
    return token


def release(folder: Path, token: str) -> None:
    """End a token of this process."""
    path = folder / TOKENS / token
    with suppress(OSError):  # before the lock goes where that is possible, so that nobody meets a dead token
        path.unlink()
    lock = _held.pop(token, None)
    if lock is not None:
        with suppress(OSError):
            lock.release()
    with suppress(OSError):  # gone with the folder, or for others to remove
        path.unlink()


def alive(folder: Path, token: str) -> bool:
    """Whether the token's holder still holds it. The file of a dead token is removed."""
    if token in _held and token.startswith(f"{os.getpid()}-"):  # a forked child inherits `_held`, but no lock
        return True
    path = folder / TOKENS / token
    if not _TOKEN.fullmatch(token) or not path.exists():
        return False
    try:
        if not _is_free(path):
            return True
        with mutex(folder):  # its holder may have been about to lock it
            if path.exists() and not _is_free(path):
                return True
            with suppress(OSError):  # whoever may write here removes it another time
                path.unlink()
    except FileNotFoundError:
        return False
    except OSError:  # of another user: for that user's processes to judge
        return path.exists()
    return False


def _is_free(path: Path) -> bool:
    lock = Lock(path)
    free = lock.acquire(blocking=False)
    lock.release()
    return free


def tokens(folder: Path) -> list[str]:
    """All tokens that have a file, alive or dead."""
    try:
        return os.listdir(folder / TOKENS)
    except FileNotFoundError:
        return []


@functools.cache
def _forget_after_forks() -> None:
    if has_fork():
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for lock in _held.values():
        lock.forget()
    _held.clear()
