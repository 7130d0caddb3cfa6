"""Fits in threads of this process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

#: scikit-learn says this of itself when another thread has emptied the list of filters at the wrong moment.
_COMPLAINT = "`sklearn.utils.parallel.delayed` should be used with"


@contextmanager
def one_complaint_less() -> Iterator[None]:
    """Show all warnings but scikit-learn's about its own jobs.

    Jobs inside an estimator empty Python's list of filters and fill it again. Other threads share the list, and if one
    begins jobs while it is empty, scikit-learn takes it for an error of the caller. The filter is the first of the
    list, so that the list never has others without it. It does not help while the list is empty: then the warning is
    shown, and is stopped there.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_COMPLAINT)
        show = warnings.showwarning

        def show_others(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not str(message).startswith(_COMPLAINT):
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_others
        yield
