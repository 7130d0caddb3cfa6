"""Ending a pass between two layers: a pass of a long sequence takes minutes, and Ctrl-C should take seconds."""

from __future__ import annotations

import threading

_of_thread = threading.local()


class Stopped(Exception):
    """Nobody waits for the results of this pass any more."""


def obey(stop: threading.Event) -> None:
    """Let the passes of the calling thread end early once `stop` is set."""
    _of_thread.stop = stop


def check_stop() -> None:
    """End the pass of the calling thread if it is to stop.

    Raises
    ------
    Stopped
        If so.

    Examples
    --------
    >>> check_stop()  # a thread that obeys nobody goes on
    """
    stop = getattr(_of_thread, "stop", None)
    if stop is not None and stop.is_set():
        raise Stopped
