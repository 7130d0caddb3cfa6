"""One thread of BLAS, or of torch, per worker, while any worker computes.

Several packs at once on one BLAS thread each are faster than one pack on all threads, and a product's last bits can
depend on the number of threads. The limit is global to the process, so holders are counted: the first sets it, the
last lifts it.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Protocol, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")


class _Blas(Protocol):
    """A BLAS library in this process, as threadpoolctl controls it."""

    @property
    def num_threads(self) -> int: ...

    def set_num_threads(self, num_threads: int, /) -> object: ...


@cache
def _libraries() -> Sequence[_Blas]:
    libraries: Sequence[_Blas] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def _release_control() -> None:
    """Let any thread set the limits, this one first.

    threadpoolctl 3.8 obeys, for all of OpenBLAS, only the first thread that ever set a limit, and ignores others
    silently. Estimators are used from any thread.
    """
    for library in _libraries():
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


class _Limit(ABC):
    """A limit of the process, with its holders counted: the first one sets it, the last one lifts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        with self._lock:
            if not self._holders:
                self._set()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._lift()

    @abstractmethod
    def _set(self) -> None: ...

    @abstractmethod
    def _lift(self) -> None: ...


class _OneThread(_Limit):
    """BLAS on one thread."""

    def __init__(self) -> None:
        super().__init__()
        self._allowed: list[int] = []

    def allowed(self) -> int:
        """BLAS threads outside of any hold."""
        with self._lock:
            allowed = self._allowed if self._holders else [library.num_threads for library in _libraries()]
            return max(allowed, default=os.cpu_count() or 1)

    def _set(self) -> None:
        self._allowed = [library.num_threads for library in _libraries()]
        _release_control()
        for library in _libraries():
            library.set_num_threads(1)  # and keep control: no other thread can lift the limit

    def _lift(self) -> None:
        _release_control()
        for library, allowed in zip(_libraries(), self._allowed, strict=True):
            library.set_num_threads(allowed)
        _release_control()


_one_thread = _OneThread()
one_blas_thread = _one_thread.hold


def limit_own_thread() -> None:
    """Set the limit in a worker thread too: a BLAS on OpenMP (conda's on macOS) keeps one for each thread."""
    for library in _libraries():
        if getattr(library, "threading_layer", None) == "openmp":
            library.set_num_threads(1)


def default_workers() -> int:
    """Threads that BLAS would use: all cores, or fewer under joblib's workers or OMP_NUM_THREADS.

    Examples
    --------
    >>> default_workers() >= 1
    True
    """
    return _one_thread.allowed()


@cache
def has_small_products() -> bool:
    """Whether NumPy's BLAS has a faster way for small products: OpenBLAS's kernels for AVX-512."""
    architectures = {getattr(library, "architecture", None) for library in _libraries()}
    return bool(architectures & {"SkylakeX", "Cooperlake", "SapphireRapids"})


class _OneTorchThread(_Limit):
    """torch on one thread, in each thread that starts to use it.

    torch's number of threads is one value for the process, taken by each thread at its first use, and kept. The worker
    threads of a run are new and take 1. It is set from a passing thread: set by the holder, it would slow the
    holder's own use of torch too, and stay there if another holder is the last to leave.
    """

    def __init__(self) -> None:
        super().__init__()
        self._allowed = 1

    @contextmanager
    def hold(self) -> Iterator[None]:
        import torch

        torch.get_num_threads()  # this thread takes its number before the limit
        with super().hold():
            yield

    def _set(self) -> None:
        import torch

        self._allowed = _in_new_thread(torch.get_num_threads)
        _in_new_thread(lambda: torch.set_num_threads(1))

    def _lift(self) -> None:
        import torch

        _in_new_thread(lambda: torch.set_num_threads(self._allowed))


def _in_new_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


_one_torch_thread = _OneTorchThread()
one_torch_thread = _one_torch_thread.hold
