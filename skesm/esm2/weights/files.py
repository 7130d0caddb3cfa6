"""safetensors files as NumPy arrays over a memory map: nothing is copied that need not be.

`safetensors.numpy` reads every tensor into memory of its own and cannot read bfloat16. A map lets processes
share one copy of the weights and pages in only the layers that are used.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skesm.esm2.machine.workers import worker_pool
from skesm.esm2.weights.header import BITS, Entry, parse_header
from skesm.exceptions import CheckpointError, CheckpointNotFoundError
from skesm.outputs.types import FloatArray

_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


class _Mapped(NamedTuple):
    """A file, mapped: the map, a descriptor, and the state when it was opened."""

    path: Path
    data: mmap.mmap
    descriptor: int
    state: tuple[int, int]


class WeightsFiles(Mapping[str, FloatArray]):
    """Tensors of one or several safetensors files by name, as float32.

    float32 tensors are read-only views of the map. float16, bfloat16 and float64 are converted when they are asked for.

    Parameters
    ----------
    paths : sequence of Path
    index : mapping of str to str, optional
        The name of the file that each tensor is read from. Without it, no two files may hold the same tensor.

    Raises
    ------
    CheckpointError
        If a file is truncated or is not a safetensors file, if files and index contradict each other, or if a tensor
        that is asked for does not hold floating-point numbers of 16, 32 or 64 bits.
    """

    def __init__(self, paths: Sequence[Path], index: Mapping[str, str] | None = None) -> None:
        self._entries: dict[str, tuple[mmap.mmap, Entry]] = {}
        self._files: list[_Mapped] = []
        for path in paths:
            self._open(path, index)
        for name, file in (index or {}).items():
            if name not in self._entries:
                raise CheckpointError(f"{paths[0].parent}: the index names tensor {name!r}, which {file} does not hold")

    def _open(self, path: Path, index: Mapping[str, str] | None) -> None:
        mapped = _map(path)
        weakref.finalize(self, os.close, mapped.descriptor)
        self._files.append(mapped)
        for name, entry in parse_header(path, mapped.data).items():
            if index is not None and name not in index:
                raise CheckpointError(f"{path} holds tensor {name!r}, which the index does not name")
            if index is not None and index[name] != path.name:
                continue
            if name in self._entries:
                raise CheckpointError(f"{path} holds tensor {name!r}, which another file holds too")
            self._entries[name] = mapped.data, entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Nothing is read."""
        return self._entries[name][1].shape

    def check_floats(self, name: str) -> None:
        """Refuse a tensor that does not hold floating-point numbers of 16, 32 or 64 bits. Nothing is read."""
        dtype = self._entries[name][1].dtype
        if dtype not in _FLOATS and dtype != "BF16":
            raise CheckpointError(
                f"tensor {name!r} is {dtype}, which is not supported: save the model in float32, float16 or bfloat16"
            )

    def __getitem__(self, name: str) -> FloatArray:
        data, (dtype, shape, begin, end) = self._entries[name]
        self.check_floats(name)
        raw = np.frombuffer(data, dtype=np.uint8, count=end - begin, offset=begin)
        if begin % (BITS[dtype] // 8):
            raw = raw.copy()  # NumPy arrays of wider types must be aligned
        if dtype == "BF16":  # the upper half of a float32
            wide: NDArray[np.uint32] = raw.view(np.uint16).astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32).reshape(shape)
        return raw.view(_FLOATS[dtype]).reshape(shape).astype(np.float32, copy=False)

    def release(self, prefix: str) -> None:
        """Let the system drop the pages of tensors whose names begin so. They are read again if they are used again."""
        if not hasattr(mmap.mmap, "madvise"):  # on Windows
            return
        for name, (data, entry) in self._entries.items():
            first, last = -(-entry.begin // mmap.PAGESIZE), entry.end // mmap.PAGESIZE  # whole pages
            if name.startswith(prefix) and first < last:
                data.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)

    def check_unchanged(self) -> None:
        """Refuse to go on if a mapped file was written to since it was opened.

        A file that was replaced by another of its name is still there, and unchanged, as long as it is mapped.

        Raises
        ------
        CheckpointError
        """
        for path, _, descriptor, state in self._files:
            if _state(descriptor) != state:
                raise CheckpointError(
                    f"{path} was overwritten while it was in use. Run again. To change weights, write a new file and "
                    "rename it to the old name: then running processes keep the old weights"
                )

    def digest(self) -> str:
        """SHA-256 over every tensor's name, type, shape and bytes, in the order of names (hexadecimal).

        Does not depend on how tensors are laid out in files.
        """

        def one(name: str) -> bytes:
            data, (dtype, shape, begin, end) = self._entries[name]
            digest = hashlib.sha256(f"{name} {dtype} {shape}\n".encode())
            with memoryview(data) as view, view[begin:end] as part:
                digest.update(part)
            return digest.digest()

        with worker_pool(4) as pool:  # hashlib releases the GIL
            return hashlib.sha256(b"".join(pool.map(one, sorted(self)))).hexdigest()


def _map(path: Path) -> _Mapped:
    with checked(path, missing=f"{path} does not exist"), path.open("rb") as file:
        state = _state(file.fileno())
        if state[0] == 0:
            raise CheckpointError(f"{path} is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _Mapped(path, data, os.dup(file.fileno()), state)


@contextmanager
def checked(path: Path, *, missing: str) -> Iterator[None]:
    """Check that a file of a checkpoint is a regular one, and make failures to read it a CheckpointError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is not a regular file")  # to open a named pipe would wait for a writer
        yield
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(missing) from error
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _state(descriptor: int) -> tuple[int, int]:
    """Size and time of the last change of a file's content."""
    info = os.fstat(descriptor)
    return info.st_size, info.st_mtime_ns
