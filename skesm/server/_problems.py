"""What is wrong with a request, told as each dialect tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from skesm.protocol.errors import encode_error


class Refusal(Exception):
    """A request that gets an error for its answer.

    Parameters
    ----------
    status : int
        HTTP status.
    body : mapping
        JSON to answer. Holds nothing that was sent but places and lengths.
    headers : mapping of str to str, default=None
        Further headers of the answer.
    """

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a body.

    Attributes
    ----------
    kind : str
        Pydantic's name of the error, as the hub answers it.
    place : tuple of str and int
        Way from the body's top to what is wrong.
    message : str
        One line for people.
    context : mapping
        The numbers in the message, for programs.
    """

    kind: str
    place: tuple[str | int, ...]
    message: str
    context: Mapping[str, Any] = field(default_factory=dict)


def refusal(dialect: str, status: int, reason: str, *, code: str = "", **headers: str) -> Refusal:
    """Refuse a request as a whole."""
    if dialect == "openai":
        return _openai_refusal(status, reason, code, None, headers)
    return Refusal(*encode_error(dialect, status, reason, code), headers)


def refusal_of(dialect: str, problems: Sequence[Problem]) -> Refusal:
    """Refuse a request for what is wrong with its body.

    Examples
    --------
    >>> problem = Problem("string_too_short", ("items", 1, "sequence"), "String should have at least 1 character")
    >>> refusal_of("v3", [problem]).body
    {'error': {'items__1__sequence': ['String should have at least 1 character']}}
    >>> refusal_of("hub", [problem]).body["detail"][0]["loc"]
    ['body', 'items', 1, 'sequence']
    """
    if dialect == "hub":
        detail = []
        for problem in problems:
            entry: dict[str, Any] = {"type": problem.kind, "loc": ["body", *problem.place], "msg": problem.message}
            if problem.context:
                entry["ctx"] = dict(problem.context)
            detail.append(entry)
        return Refusal(422, {"detail": detail})
    if dialect == "openai":
        first = problems[0]
        place = ".".join(map(str, first.place)) or None
        reason = f"{place}: {first.message}" if place else first.message
        return _openai_refusal(400, reason, first.kind, place, {})
    error: dict[str, list[str]] = {}
    for problem in problems:
        error.setdefault("__".join(map(str, problem.place)) or "body", []).append(problem.message)
    return Refusal(400, {"error": error})


def _openai_refusal(status: int, reason: str, code: str, place: str | None, headers: Mapping[str, str]) -> Refusal:
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    error = {"message": reason, "type": kind, "param": place, "code": code or None}
    return Refusal(status, {"error": error}, headers)
