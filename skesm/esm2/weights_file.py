"""safetensors files as NumPy arrays over a memory map: nothing is copied that need not be.

`safetensors.numpy` reads every tensor into memory of its own and cannot read bfloat16; a map lets processes
share one copy of the weights and pages in only the layers that are used. The format is eight bytes of
header length, a JSON header, and the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skesm.exceptions import CheckpointError
from skesm.outputs.types import FloatArray

_HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}


class WeightsFiles(Mapping[str, FloatArray]):
    """Tensors of one or several safetensors files by name, as float32.

    float32 tensors are read-only views of the map; float16, bfloat16 and float64 are converted when they are asked for.

    Raises
    ------
    CheckpointError
        If a file is truncated or is not a safetensors file; or KeyError's message if a tensor is missing.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._entries: dict[str, tuple[mmap.mmap, str, tuple[int, ...], int, int]] = {}
        for path in paths:
            self._open(path)

    def _open(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped
            raise CheckpointError(f"{path} is empty") from error
        size = int.from_bytes(data[:8], "little")
        if not 2 <= size <= min(_HEADER_LIMIT, len(data) - 8):
            raise CheckpointError(f"{path} is not a safetensors file, or is truncated")
        try:
            header: dict[str, Any] = json.loads(data[8 : 8 + size])
            header.pop("__metadata__", None)
            for name, entry in header.items():
                shape = tuple(int(n) for n in entry["shape"])
                begin, end = (8 + size + int(offset) for offset in entry["data_offsets"])
                dtype = entry["dtype"]
                if dtype not in _BYTES:
                    raise CheckpointError(f"{path}: tensor {name} is {dtype}, which is not supported")
                if end > len(data):
                    raise CheckpointError(
                        f"{path} is truncated: tensor {name} ends at byte {end}, the file at {len(data)}"
                    )
                if min(shape, default=0) < 0 or begin < 8 + size or end - begin != _BYTES[dtype] * int(np.prod(shape)):
                    raise CheckpointError(f"{path}: the header's entry of tensor {name} contradicts itself")
                self._entries[name] = (data, dtype, shape, begin, end)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path}: the safetensors header cannot be read") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; nothing is read."""
        return self._entries[name][2]

    def __getitem__(self, name: str) -> FloatArray:
        data, dtype, shape, begin, end = self._entries[name]
        raw = np.frombuffer(data, dtype=np.uint8, count=end - begin, offset=begin)
        if begin % _BYTES[dtype]:
            raw = raw.copy()  # NumPy arrays of wider types must be aligned
        if dtype == "BF16":  # the upper half of a float32
            wide: NDArray[np.uint32] = raw.view(np.uint16).astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32).reshape(shape)
        kind = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64}[dtype]
        return raw.view(kind).reshape(shape).astype(np.float32, copy=False)

    def release(self, prefix: str) -> None:
        """Let the system drop the pages of tensors whose names begin so; they are read again if they are used again."""
        if not hasattr(mmap.mmap, "madvise"):  # on Windows
            return
        for name, (data, _, _, begin, end) in self._entries.items():
            first, last = -(-begin // mmap.PAGESIZE), end // mmap.PAGESIZE  # whole pages
            if name.startswith(prefix) and first < last:
                data.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)

    def digest(self) -> str:
        """SHA-256 over every tensor's name, type, shape and bytes, in the order of names (hexadecimal).

        Does not depend on how tensors are laid out in files.
        """

        def one(name: str) -> bytes:
            data, dtype, shape, begin, end = self._entries[name]
            digest = hashlib.sha256(f"{name} {dtype} {shape}\n".encode())
            with memoryview(data) as view, view[begin:end] as part:
                digest.update(part)
            return digest.digest()

        with ThreadPoolExecutor(4) as pool:  # hashlib releases the GIL
            return hashlib.sha256(b"".join(pool.map(one, sorted(self)))).hexdigest()
