"""First steps of every request: its ``Host`` is checked, and it gets an id."""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skesm.server.api.answers import to_json
from skesm.server.http.bodies import JSON

REQUEST_ID = "X-Request-ID"

# At least one digit: letters alone could be a sequence, and the id is logged.
_TAKEN = re.compile(r"(?=.*[0-9])[A-Za-z0-9._-]{1,64}", re.ASCII)
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^\[\]:]+))(?::[0-9]*)?", re.ASCII)

_REFUSED = to_json({"detail": "this server is not known by the name in Host: allow it with --allowed-host"})


def is_allowed(host: str | None, allowed: Iterable[str]) -> bool:
    """Whether a ``Host`` header names this server.

    An address always does. A name can be made to point here by somebody else, so that a page in a browser could reach
    servers in the network of its visitor.

    Examples
    --------
    >>> is_allowed("localhost:8000", ["localhost"]), is_allowed("[::1]:80", [])
    (True, True)
    >>> is_allowed("elsewhere.example", ["localhost"])
    False
    """
    if host is None or "*" in (allowed := tuple(allowed)):
        return True
    parts = _HOST.fullmatch(host.strip().lower())
    if parts is None:
        return False
    name = (parts["six"] or parts["name"]).removesuffix(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in allowed
    return True


class Front:
    """ASGI middleware that checks ``Host`` and gives each request an id.

    Parameters
    ----------
    app : ASGI application
        Finds the id of a request in its state, as ``request_id``.
    allowed_hosts : iterable of str
        Names of this server, in lower case. ``"*"`` allows every name.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        name = given if _TAKEN.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = name

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = name
            await send(message)

        if is_allowed(headers.get("host"), self._allowed):
            await self._app(scope, receive, send_named)
        else:
            await _refuse(send_named)


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(_REFUSED)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": _REFUSED})
