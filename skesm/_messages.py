"""Parts of messages that several modules share, and warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches

#: The number of rows, lines or causes that a message names.
MOST_SHOWN = 5


def first_and_more(items: Iterable[object], separator: str, *, last: str | None = None, most: int = MOST_SHOWN) -> str:
    """Join the first items, and say how many more there are.

    Parameters
    ----------
    items : iterable
    separator : str
        Stands between items.
    last : str, optional
        Stands before the number of further items, if it differs from the separator.
    most : int
        The number of items that are shown.

    Examples
    --------
    >>> first_and_more([3, 5, 8, 9, 12, 40, 41], ", ")
    '3, 5, 8, 9, 12, and 2 more'
    >>> first_and_more([3, 5], ", ")
    '3, 5'
    """
    texts = [str(item) for item in items]
    shown = separator.join(texts[:most])
    if len(texts) <= most:
        return shown
    return f"{shown}{separator if last is None else last}and {len(texts) - most} more"


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """A number and its noun, in the plural but for one.

    Examples
    --------
    >>> plural(1, "row"), plural(1200, "row"), plural(2, "pass", "passes")
    ('1 row', '1,200 rows', '2 passes')
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known name that is like it, if there is one.

    Examples
    --------
    >>> did_you_mean("mutatd", ["mean", "mutated"]), did_you_mean("x", ["mean"])
    (": did you mean 'mutated'?", '')
    """
    close = get_close_matches(str(name).lower(), list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""


#: Packages whose lines are between the user's line and the place where we warn.
_BETWEEN = frozenset({"skesm", "sklearn", "joblib", "contextlib"})


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called skesm, itself or through scikit-learn."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
