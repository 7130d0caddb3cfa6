"""Answers as JSON, and paths that are answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skesm.server.api.answers import to_json
from skesm.server.http.bodies import JSON

Endpoint = Callable[[Request], Awaitable[Response]]


def json_response(status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    return Response(to_json(body), status, headers, media_type=JSON)


def routes(path: str, endpoint: Endpoint, method: str) -> list[Route]:
    """A path with and without its last slash.

    Nothing is redirected: a redirect would need to know the scheme and host of the proxy in front of the server.
    """
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    return [Route(p, endpoint, methods=[method]) for p in (path, other)]
