"""Every exception and warning of skesm, in one tree.

::

    SkesmError
    ├── InvalidSequenceError    a row of X is not a sequence           (ValueError)
    ├── InputFileError          a file cannot be read, or has bad rows (ValueError)
    ├── CheckpointError         a checkpoint cannot be used            (ValueError)
    │   └── CheckpointNotFoundError  it is not there        (FileNotFoundError)
    ├── MissingDependencyError  an extra is not installed             (ImportError)
    ├── DatasetError            a data set cannot be fetched, or is wrong (OSError)
    ├── StoreError              the record store cannot be used           (OSError)
    └── BackendError            the backend failed                   (RuntimeError)
        ├── AuthenticationError      credentials are missing or refused
        ├── RateLimitError           the service asks for too long a wait
        ├── ServiceUnavailableError  the service cannot be reached, or keeps failing
        ├── RequestRejectedError     the service refuses the request
        ├── InvalidAnswerError       the answer does not fit the request
        └── PartialResultError       some rows failed, all others are finished
    SkesmWarning                (UserWarning)
    ├── StoreWarning               the store is damaged or cannot be written
    ├── DemoModelWarning           features come from the bundled demo model
    ├── UntrainedHeadWarning       outputs come from a head that was never trained
    ├── LearntDigestWarning        a file's digest was not known before
    ├── SlowNumericsWarning        the processor is slow in the chosen dtype
    ├── SuspiciousSequenceWarning  rows look like DNA, RNA or a missing value
    ├── TruncationWarning          sequences were cut to max_length
    └── PartialResultWarning       some rows are NaN: the backend failed on them

Messages hold row numbers, positions and lengths. They never hold sequences, which are confidential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class SkesmError(Exception):
    """Base class of the errors that skesm raises itself."""


class InvalidSequenceError(SkesmError, ValueError):
    """Some rows of X are not sequences that the model can read.

    Parameters
    ----------
    message : str
        The problem, the first rows that have it, and the remedy.
    rows : sequence of int
        The numbers of all rows that have a problem, counted from 0.
    """

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)

    def __reduce__(self) -> tuple[type[InvalidSequenceError], tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.rows)


class InputFileError(SkesmError, ValueError):
    """A table or FASTA file cannot be read, lacks a column, or has rows that cannot be used.

    Parameters
    ----------
    message : str
        The problem, the first lines that have it, and the remedy.
    lines : sequence of int
        All lines of the file that have a problem, counted from 1. For a spreadsheet, rows of the sheet.
    """

    def __init__(self, message: str, lines: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines)

    def __reduce__(self) -> tuple[type[InputFileError], tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.lines)


class CheckpointError(SkesmError, ValueError):
    """A checkpoint is there but is damaged, incomplete or not an ESM-2 model."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A checkpoint is not on this machine and could not be fetched."""


class MissingDependencyError(SkesmError, ImportError):
    """An optional dependency is not installed. The message has the command that installs it."""


class DatasetError(SkesmError, OSError):
    """A data set could not be fetched, or its bytes are not the expected ones."""


class StoreError(SkesmError, OSError):
    """The record store cannot be opened, read or written."""


class BackendError(SkesmError, RuntimeError):
    """A backend failed, or its answer does not fit the request."""


class AuthenticationError(BackendError):
    """A service's credentials are missing, refused, or could not be refreshed."""


class RateLimitError(BackendError):
    """A service asks for too long a wait, or turns every attempt away.

    Parameters
    ----------
    message : str
        The wait that the service asked for.
    retry_after : float or None
        Seconds to wait, as the service stated them.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServiceUnavailableError(BackendError):
    """A service cannot be reached, or kept failing until the retries were used up."""


class RequestRejectedError(BackendError):
    """A service refuses a request, and would refuse it again.

    Parameters
    ----------
    message : str
        The service's reason, without sequences.
    status : int or None
        HTTP status of the refusal. None if nothing was sent.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class InvalidAnswerError(BackendError):
    """A service's answer does not fit the request: its count, order, layers, shapes, columns or values are wrong."""


class PartialResultError(BackendError):
    """Some sequences failed. All others were finished first.

    Parameters
    ----------
    message : str
        How many failed, the first rows and the reasons.
    causes : mapping of int to BackendError
        The reason for each failed row, counted from 0.
    results : object, default=None
        The finished results. An estimator gives its features, an ndarray of shape (n, n_features) with NaN in the
        failed rows. A backend gives None, because it has yielded its results.

    Attributes
    ----------
    rows : tuple of int
        The failed rows, ascending.
    """

    def __init__(self, message: str, causes: Mapping[int, BackendError], results: Any = None) -> None:
        super().__init__(message)
        self.causes = dict(causes)
        self.rows = tuple(sorted(self.causes))
        self.results = results

    def __reduce__(self) -> tuple[type[PartialResultError], tuple[str, dict[int, BackendError], object]]:
        return type(self), (str(self), self.causes, self.results)


class SkesmWarning(UserWarning):
    """Base class of the warnings that skesm raises itself."""


class DemoModelWarning(SkesmWarning):
    """The features come from `skesm-mini`, the bundled demo model."""


class UntrainedHeadWarning(SkesmWarning):
    """Logits or contacts come from a head of the checkpoint that was initialised but never trained."""


class LearntDigestWarning(SkesmWarning):
    """Nobody published the digest of a fetched file. It was learnt from the file, and another one will be refused."""


class SlowNumericsWarning(SkesmWarning):
    """The processor has no instructions for the chosen dtype, which is much slower here than float32."""


class StoreWarning(SkesmWarning):
    """The record store is damaged or cannot be written. Values are computed again. They are never wrong."""


class SuspiciousSequenceWarning(SkesmWarning):
    """Rows can be read as proteins, but look like DNA, RNA or a missing value."""


class TruncationWarning(SkesmWarning):
    """Sequences were cut to `max_length`, as ``long_sequences="truncate"`` asks for."""


class PartialResultWarning(SkesmWarning):
    """The backend failed on some rows, which are NaN, as ``on_error="nan"`` asks for."""
