"""Around every request: refusals and failures become answers, and each request is counted and logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from skesm._typing import JsonObject
from skesm.protocol.shapes import Errors
from skesm.server.api.refusals import Refusal, refusal
from skesm.server.http.responses import Endpoint, json_response
from skesm.server.logs import FIELDS, describe
from skesm.server.work.metrics import Metrics

#: Gets a request and the fields of its log line, which it may extend.
Handler = Callable[[Request, JsonObject], Awaitable[Response]]

_logger = logging.getLogger(__name__)


class Guard:
    """Counts open requests, and refuses new ones while the server stops.

    Parameters
    ----------
    metrics : Metrics
        Counts requests and their times.

    Attributes
    ----------
    draining : bool
        Whether new requests are refused.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._active = 0
        self.draining = False

    @property
    def is_idle(self) -> bool:
        """Whether every request that was taken has been answered."""
        return not self._active

    def around(self, dialect: str, action: str, errors: Errors, handler: Handler) -> Endpoint:
        """Guard a handler.

        Parameters
        ----------
        dialect, action : str
            Names of the path in logs and metrics.
        errors : Errors
            Shape of refusals.
        handler : callable
            Answers the request.
        """

        async def guarded(request: Request) -> Response:
            begun = time.perf_counter()
            told: JsonObject = {"dialect": dialect, "action": action, "request_id": request.state.request_id}
            self._active += 1
            try:
                response = await self._answer(request, told, errors, handler)
            finally:
                self._active -= 1
            seconds = time.perf_counter() - begun
            self._metrics.requests.add(dialect=dialect, action=action, status=str(response.status_code))
            self._metrics.seconds.observe(seconds)
            told |= {"status": response.status_code, "milliseconds": round(1000 * seconds, 1)}
            _logger.info("request", extra={FIELDS: told})
            return response

        return guarded

    async def _answer(self, request: Request, told: JsonObject, errors: Errors, handler: Handler) -> Response:
        try:
            if self.draining:
                soon = {"Retry-After": "1", "Connection": "close"}
                raise refusal(errors, 503, "the server is about to stop and takes no more requests", **soon)
            return await handler(request, told)
        except Refusal as refused:
            return json_response(refused.status, refused.body, refused.headers)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it. nginx uses this number in its log
        except Exception as error:
            _logger.error("a request failed", extra={FIELDS: {**told, "exception": describe(error)}})
            failed = refusal(errors, 500, "the server could not compute this", code="server.error")
            return json_response(failed.status, failed.body)
