"""One BLAS thread per worker, while any worker computes.

Several packs at once on one BLAS thread each are faster than one pack on all threads, and a product's last bits can
depend on the number of threads. The limit is global to the process, so holders are counted: the first sets it, the
last lifts it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


class _OneThread:
    """Counts those who need BLAS on one thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._allowed = 0
        self._limiter: object = None

    def allowed(self) -> int:
        """BLAS threads outside of any hold."""
        with self._lock:
            if self._holders:
                return self._allowed
            return max((info["num_threads"] for info in _blas().info()), default=os.cpu_count() or 1)

    @contextmanager
    def hold(self) -> Iterator[None]:
        allowed = self.allowed()
        with self._lock:
            if not self._holders:
                self._allowed = allowed
                self._limiter = _blas().limit(limits=1)
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._limiter.restore_original_limits()  # type: ignore[attr-defined]  # threadpoolctl is untyped


_one_thread = _OneThread()
one_blas_thread = _one_thread.hold


def default_workers() -> int:
    """Threads that BLAS would use: all cores, or fewer under joblib's workers or OMP_NUM_THREADS.

    Examples
    --------
    >>> default_workers() >= 1
    True
    """
    return _one_thread.allowed()
