"""Requests that are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skesm.protocol.shapes import Errors, Problem


class Refusal(Exception):
    """A request that is answered with an error.

    Parameters
    ----------
    status : int
        HTTP status.
    body : mapping
        The JSON answer. It repeats nothing that was sent, only places and lengths.
    headers : mapping of str to str, default=None
        Further headers of the answer.
    """

    def __init__(self, status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def refusal(errors: Errors, status: int, reason: str, *, code: str = "", **headers: str) -> Refusal:
    """Refuse a request as a whole."""
    return Refusal(status, errors.whole(status, reason, code), headers)


def refusal_of(errors: Errors, problems: Sequence[Problem]) -> Refusal:
    """Refuse a request because of faults in its body."""
    return Refusal(errors.status, errors.listed(problems))
