"""Progress bars: when they appear, and their content."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

#: The value of `verbose` with which a bar appears by itself.
AUTO = "auto"

#: The unit of downloads, shown as kB or MB.
BYTES = "B"

#: Seconds until it does.
DELAY = 2.0


_listener: ContextVar[Callable[[int], None] | None] = ContextVar("listener", default=None)


class Progress:
    """A progress bar on stderr.

    Parameters
    ----------
    verbose : bool, int or "auto"
        ``"auto"`` shows a bar after two seconds on a terminal or in a notebook, and never in a log file or in a worker
        process. That bar disappears at the end.
    total : int
        How many there are. 0 if that is not known.
    description, unit : str
        The text before the bar, and the name of one counted thing.

    Examples
    --------
    >>> with Progress(False, total=3, description="skesm", unit="seq") as progress:
    ...     progress.update(3)
    """

    def __init__(self, verbose: bool | int | str, *, total: int, description: str, unit: str) -> None:
        self._options = {"total": total or None, "desc": description, "unit": unit, "leave": verbose != AUTO}
        self._options["unit_scale"] = unit == BYTES
        self._bar: tqdm | None = None
        self._done = 0
        self._notes: dict[str, int] = {}
        self._started = time.time()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        if verbose == AUTO:
            if _someone_watches():  # tqdm starts a thread, even for a bar that is disabled, and so does the timer
                self._timer = threading.Timer(DELAY, self._show)
                self._timer.daemon = True
                self._timer.start()
        elif verbose:
            self._show()

    def update(self, count: int, **notes: int) -> None:
        """Count finished things. `notes` stand behind the bar."""
        if (tell := _listener.get()) is not None:
            tell(count)
        with self._lock:
            self._done += count
            self._notes.update(notes)
            if self._bar is not None:
                self._refresh(self._bar, count)

    def _show(self) -> None:
        with self._lock:
            from tqdm import tqdm  # at use: few runs show a bar

            self._bar = bar = tqdm(**self._options)
            bar.start_t = self._started  # for the rate
            self._refresh(bar, self._done)

    def _refresh(self, bar: tqdm, count: int) -> None:
        if self._notes:
            bar.set_postfix(self._notes, refresh=False)
        bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        if self._bar is not None:
            self._bar.close()


@contextmanager
def listening(listener: Callable[[int], None]) -> Iterator[None]:
    """Call a function with each number that a bar counts, shown or not."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def _someone_watches() -> bool:
    """Whether stderr is a terminal or a notebook's, in the process that the user started."""
    if multiprocessing.current_process().name != "MainProcess":
        return False  # the bars of several workers would overwrite one another
    return _is_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _is_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
