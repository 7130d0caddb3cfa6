"""Shapes of errors in each protocol. The server writes them.

No body repeats what was sent: only places, lengths and fixed texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skesm._typing import JsonObject

_NOT_JSON = "the body is not JSON"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the body of a request.

    Attributes
    ----------
    kind : str
        Pydantic's name of the error, as the hub answers it.
    place : tuple of str and int
        Path from the top of the body to the fault.
    message : str
        One line for people.
    context : mapping
        The numbers in the message, for programs.
    """

    kind: str
    place: tuple[str | int, ...]
    message: str
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Errors:
    """Shape of a protocol's errors.

    Attributes
    ----------
    schema : str
        Name of the shape in the OpenAPI document.
    status : int
        HTTP status of a body that is not valid.
    scheme : str
        Authentication scheme that is named where credentials are missing.
    """

    schema: str
    status: int
    scheme: str = "Token"

    def whole(self, status: int, reason: str, code: str = "") -> JsonObject:
        """Body of an error that concerns the request as a whole."""
        raise NotImplementedError

    def listed(self, problems: Sequence[Problem]) -> JsonObject:
        """Body of an error that names places in the request's body."""
        raise NotImplementedError

    def not_json(self) -> JsonObject:
        """Body of an error for a request that cannot be parsed."""
        return self.whole(self.status, _NOT_JSON)


class HostedErrors(Errors):
    """Errors of the hosted service: a text, or texts by place.

    Examples
    --------
    >>> problem = Problem("string_too_short", ("items", 1, "sequence"), "String should have at least 1 character")
    >>> HostedErrors("HostedError", 400).listed([problem])
    {'error': {'items__1__sequence': ['String should have at least 1 character']}}
    """

    def whole(self, status: int, reason: str, code: str = "") -> JsonObject:
        """Body of an error that concerns the request as a whole."""
        return {"error": reason}

    def listed(self, problems: Sequence[Problem]) -> JsonObject:
        """Body of an error that names places in the request's body."""
        error: dict[str, list[str]] = {}
        for problem in problems:
            error.setdefault("__".join(map(str, problem.place)) or "body", []).append(problem.message)
        return {"error": error}


class HubErrors(Errors):
    """Errors of biolm-hub: a text, or the list that pydantic makes.

    Examples
    --------
    >>> errors = HubErrors("HubError", 422)
    >>> errors.listed([Problem("missing", ("items", 1, "sequence"), "Field required")])["detail"][0]["loc"]
    ['body', 'items', 1, 'sequence']
    """

    def whole(self, status: int, reason: str, code: str = "") -> JsonObject:
        """Body of an error that concerns the request as a whole."""
        return {"detail": reason, **({"errors": [], "status_code": status, "code": code} if code else {})}

    def listed(self, problems: Sequence[Problem]) -> JsonObject:
        """Body of an error that names places in the request's body."""
        detail = []
        for problem in problems:
            entry: JsonObject = {"type": problem.kind, "loc": ["body", *problem.place], "msg": problem.message}
            if problem.context:
                entry["ctx"] = dict(problem.context)
            detail.append(entry)
        return {"detail": detail}

    def not_json(self) -> JsonObject:
        """Body of an error for a request that cannot be parsed."""
        return self.listed([Problem("json_invalid", (), "JSON decode error")])


class OpenAIErrors(Errors):
    """Errors in the shape of OpenAI's API, which names one place.

    Examples
    --------
    >>> errors = OpenAIErrors("OpenAIError", 400, "Bearer")
    >>> errors.listed([Problem("missing", ("input",), "Field required")])["error"]["message"]
    'input: Field required'
    """

    def whole(self, status: int, reason: str, code: str = "") -> JsonObject:
        """Body of an error that concerns the request as a whole."""
        return self._body(status, reason, code, None)

    def listed(self, problems: Sequence[Problem]) -> JsonObject:
        """Body of an error that names the first place in the request's body."""
        first = problems[0]
        place = ".".join(map(str, first.place)) or None
        reason = f"{place}: {first.message}" if place else first.message
        return self._body(self.status, reason, first.kind, place)

    @staticmethod
    def _body(status: int, reason: str, code: str, place: str | None) -> JsonObject:
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        return {"error": {"message": reason, "type": kind, "param": place, "code": code or None}}


HOSTED_ERRORS = HostedErrors("HostedError", 400)
HUB_ERRORS = HubErrors("HubError", 422)
OPENAI_ERRORS = OpenAIErrors("OpenAIError", 400, "Bearer")
