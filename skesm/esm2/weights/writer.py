"""torch's tensors to a safetensors file, one tensor in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

#: torch's names of types, as safetensors calls them.
DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
}


def can_write(value: object) -> bool:
    """Whether a value is a dense tensor of a type that safetensors files of models hold."""
    strided = str(getattr(value, "layout", "")) == "torch.strided"
    return strided and str(getattr(value, "dtype", "")) in DTYPES


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """Write tensors, the widest types first so that all are aligned. Returns the number of bytes of the tensors."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # without it transformers does not read the file
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.element_size() * tensor.numel()
        header[name] = {
            "dtype": DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in names:
            file.write(_bytes_of(tensors[name]))
        file.flush()
        os.fsync(file.fileno())
    return end


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    raw: NDArray[np.uint8] = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.data
