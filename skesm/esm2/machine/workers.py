"""Pools of worker threads, and a stand-in where no thread can start, as in a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cache
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@cache
def threads_start() -> bool:
    """Whether threads can start in this process."""
    thread = threading.Thread(target=lambda: None, name="skesm-probe", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return False
    thread.join()
    return True


class InlineExecutor(Executor):
    """Does each task at once, in the thread that submits it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the task, and return its finished future."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def worker_pool(
    n_workers: int, name: str = "", *, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Executor:
    """A pool of threads. Where none can start, an executor that works inline, with the same results."""
    if threads_start():
        return ThreadPoolExecutor(n_workers, name, initializer=initializer, initargs=initargs)
    return InlineExecutor()  # the initializer is for threads that end with the pool: the caller's goes on
