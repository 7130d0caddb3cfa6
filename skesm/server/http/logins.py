"""Paths of the login: a user exchanges a password for the two strings that stand for it."""

from __future__ import annotations

import json
from functools import partial
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from skesm._typing import JsonObject
from skesm.protocol.shapes import HOSTED_ERRORS
from skesm.server.api.refusals import Refusal
from skesm.server.gatekeeper import LOGIN_PATH, REFRESH_PATH, Gatekeeper
from skesm.server.http.bodies import FORM, JSON, content_type, read_body
from skesm.server.http.guard import Handler
from skesm.server.http.responses import json_response

_BYTES = 1 << 14


def login_handlers(gatekeeper: Gatekeeper) -> list[tuple[str, str, Handler]]:
    """Path, name in logs, and handler of each request of a login."""
    return [
        (LOGIN_PATH, "login", partial(_log_in, gatekeeper)),
        (REFRESH_PATH, "refresh", partial(_refresh, gatekeeper)),
    ]


async def _log_in(gatekeeper: Gatekeeper, request: Request, told: JsonObject) -> Response:
    """Exchange user and password for access and refresh."""
    if not gatekeeper.has_users:
        raise Refusal(404, {"detail": "this server has no users: send a token"})
    content = await read_body(request, HOSTED_ERRORS, _BYTES, (JSON, FORM))
    try:
        body = dict(parse_qsl(content.decode())) if content_type(request) == FORM else json.loads(content)
    except (ValueError, RecursionError):
        raise Refusal(400, {"detail": "the body cannot be read"}) from None
    user, password = (body.get(key) if isinstance(body, dict) else None for key in ("username", "password"))
    if not isinstance(user, str) or not isinstance(password, str):
        raise Refusal(400, {"detail": "username and password are needed, as strings"})
    issued = gatekeeper.log_in(user, password)
    if issued is None:
        raise Refusal(401, {"detail": "user or password is wrong"})
    return json_response(200, dict(zip(("access", "refresh"), issued, strict=True)))


async def _refresh(gatekeeper: Gatekeeper, request: Request, told: JsonObject) -> Response:
    """Exchange the cookie `refresh` for a new access."""
    access = gatekeeper.refresh(request.cookies.get("refresh"))
    if access is None:
        raise Refusal(401, {"detail": "the cookie refresh is missing, wrong or too old", "code": "token_not_valid"})
    return json_response(200, {"access": access})
