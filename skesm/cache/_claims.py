"""Tokens that are alive exactly as long as the claim that holds them, in whatever process or thread that is.

A token is a file with a POSIX record lock on it. The kernel frees the lock when the process ends, however it ends, and
does not hand it to forked children (it would with ``flock``), so no claim survives its holder.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

TOKENS = "claims"

#: Tokens this process holds, with their file descriptors. A process cannot ask about its own record locks, and would
#: lose one by closing any other descriptor of the same file; so it never opens the files of its own tokens again.
_held: dict[str, int] = {}


def acquire(folder: Path) -> str:
    """Make a token in `folder`; `release` it in the end.

    Raises
    ------
    OSError
        If the folder cannot be written, or the file system offers no locks.
    """
    import fcntl

    (folder / TOKENS).mkdir(exist_ok=True)
    while True:
        token = f"{os.getpid()}-{secrets.token_hex(8)}"
        path = folder / TOKENS / token
        _held[token] = -1  # before the file is there, so that no other thread of ours takes it for a dead one
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            _held[token] = fd
            fcntl.lockf(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return token
        except BaseException:
            release(folder, token)
            raise
        release(folder, token)  # another process took the file, not yet locked, for a dead one and removed it


def release(folder: Path, token: str) -> None:
    """End a token of this process."""
    with suppress(OSError):  # gone with the folder, or for others to remove
        (folder / TOKENS / token).unlink()
    fd = _held.pop(token, -1)
    if fd >= 0:
        os.close(fd)


def alive(folder: Path, token: str) -> bool:
    """Whether the token's holder still holds it. The file of a dead token is removed."""
    import fcntl

    if token in _held and token.startswith(f"{os.getpid()}-"):  # a forked child inherits `_held`, but no lock
        return True
    path = folder / TOKENS / token
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with suppress(OSError):  # whoever may write here removes it another time
            path.unlink()
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(fd)
    return False


def tokens(folder: Path) -> list[str]:
    """All tokens that have a file, alive or dead."""
    try:
        return os.listdir(folder / TOKENS)
    except FileNotFoundError:
        return []
