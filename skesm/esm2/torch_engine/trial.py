"""Which of two ways to compute the same is faster on this processor: a trial of milliseconds, once a process.

A table of processors would be wrong for the next one. But a measurement has noise, and the ways differ in the last
bits. So one of them is expected to win by the processor's instructions, and the other has to be clearly faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

from skesm.esm2.machine.threads import has_small_products, one_torch_thread
from skesm.outputs.types import FloatArray

#: The unexpected way has to be so many times as fast as the other.
_MARGIN = 1.4
_ROUNDS = 5
_ELEMENTS = 1 << 16


def is_faster(other: Callable[[], object], expected: Callable[[], object]) -> bool:
    """Whether `other` is clearly faster than `expected`, on one thread of torch."""

    def compare() -> bool:
        best = [float("inf"), float("inf")]
        for _ in range(_ROUNDS):
            for i, call in enumerate((other, expected)):
                start = time.perf_counter()
                call()
                best[i] = min(best[i], time.perf_counter() - start)
        return _MARGIN * best[0] < best[1]

    with one_torch_thread(), ThreadPoolExecutor(1) as pool:
        return pool.submit(compare).result()


@cache
def choose_exponential() -> Callable[[FloatArray], None]:
    """The faster of `exp2_by_numpy` and `exp2_by_torch`: NumPy's is slow without AVX-512."""
    values = np.linspace(-20, 0, _ELEMENTS, dtype=np.float32)
    ways = exp2_by_numpy, exp2_by_torch
    expected, other = ways if has_small_products() else ways[::-1]
    return other if is_faster(lambda: other(values.copy()), lambda: expected(values.copy())) else expected


def exp2_by_numpy(scores: FloatArray) -> None:
    """2^x in place."""
    np.exp2(scores, out=scores)


def exp2_by_torch(scores: FloatArray) -> None:
    """2^x in place."""
    tensor = torch.from_numpy(scores)
    torch.exp2(tensor, out=tensor)


def has_wide_vectors() -> bool:
    """Whether torch uses AVX-512."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
