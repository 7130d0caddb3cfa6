"""The ASGI application: paths, checks, answers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

import skesm
from skesm.backends.biolm_wire import action_path, schema_path
from skesm.esm2.threads import default_workers
from skesm.fetch.records import fetch, keep
from skesm.fetch.request import Request as Wanted
from skesm.outputs.spec import OutputSpec
from skesm.server._answers import encode_body, to_json
from skesm.server._auth import LOGIN_PATH, REFRESH_PATH
from skesm.server._batcher import Batcher, Computed
from skesm.server._config import ServedModel, ServerConfig
from skesm.server._logs import FIELDS, describe
from skesm.server._metrics import Metrics
from skesm.server._problems import Refusal, refusal
from skesm.server._requests import ACTIONS, Ask, read_ask
from skesm.server._schema import openapi, request_schema

_BODY_SECONDS = 30.0  # for a body to arrive, after which its sender is given up
_LOGIN_BYTES = 1 << 14
_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_LONGEST_RETRY_AFTER = 60
_ENCODERS = 2  # threads that write answers, beside those that compute

_logger = logging.getLogger(__name__)

_Endpoint = Callable[[Request], Awaitable[Response]]


class Application:
    """State of a running server. `create_app` makes its routes.

    Parameters
    ----------
    config : ServerConfig
    models : sequence of ServedModel
    """

    def __init__(self, config: ServerConfig, models: Sequence[ServedModel]) -> None:
        self._config = config
        self._models = {name: model for model in models for name in model.names}
        self._served = tuple(models)
        self._gatekeeper = config.gatekeeper
        self._metrics = Metrics()
        self._encoders = ThreadPoolExecutor(_ENCODERS, "skesm-encode")
        self._open_requests = self._open_residues = self._open_values = 0
        self._batcher: Batcher

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Compute between start and end; at the end every request has been answered."""
        config = self._config
        async with Batcher(
            self._compute,
            threads=config.backend.num_threads or default_workers(),
            tokens_per_batch=config.backend.tokens_per_batch,
            wait=config.batch_wait,
            metrics=self._metrics,
        ) as self._batcher:
            yield
        self._encoders.shutdown()
        _logger.info("stopped")

    def routes(self) -> list[Route]:
        """Every path."""
        routes = [
            Route("/", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route(LOGIN_PATH, self._guarded("v1", "login", self.log_in), methods=["POST"]),
            Route(REFRESH_PATH, self._guarded("v1", "refresh", self.refresh), methods=["POST"]),
        ]
        for dialect in ("v2", "v3"):
            path = schema_path(dialect, "{model}", "{action}")
            assert path is not None
            routes.append(Route(path, self._guarded(dialect, "schema", self.schema), methods=["GET"]))
        for dialect, actions in ACTIONS.items():
            for action in actions:
                path = action_path(dialect, "{model}", action)
                routes.append(Route(path, self._guarded(dialect, action, self.ask), methods=["POST"]))
        return routes

    # what may be asked ------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """Say that the models are loaded."""
        names = [model.spec.name for model in self._served]
        status, word = (200, "ok") if self._batcher.is_working else (500, "broken")
        return _json(status, {"status": word, "service": "skesm", "version": skesm.__version__, "models": names})

    async def metrics(self, request: Request) -> Response:
        """Counts, for Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """Describe every path."""
        protected = self._gatekeeper.required
        return _json(200, openapi(self._served, self._config.limits, skesm.__version__, protected=protected))

    async def schema(self, request: Request, dialect: str, action: str, told: dict[str, Any]) -> Response:
        """Describe one action's body."""
        model = self._model(request, dialect)
        asked = request.path_params["action"]
        if asked not in ACTIONS[dialect]:
            raise refusal(dialect, 404, "there is no such action")
        return _json(200, request_schema(dialect, asked, model, self._config.limits))

    async def log_in(self, request: Request, dialect: str, action: str, told: dict[str, Any]) -> Response:
        """Exchange user and password for access and refresh."""
        if not self._gatekeeper.has_users:
            raise Refusal(404, {"detail": "this server has no users: send a token"})
        content = await _read_body(request, dialect, _LOGIN_BYTES, (_JSON, _FORM))
        try:
            body = dict(parse_qsl(content.decode())) if _content_type(request) == _FORM else json.loads(content)
        except (ValueError, RecursionError):
            raise Refusal(400, {"detail": "the body cannot be read"}) from None
        user, password = (body.get(key) if isinstance(body, dict) else None for key in ("username", "password"))
        if not isinstance(user, str) or not isinstance(password, str):
            raise Refusal(400, {"detail": "username and password are needed, as strings"})
        issued = self._gatekeeper.log_in(user, password)
        if issued is None:
            raise Refusal(401, {"detail": "user or password is wrong"})
        return _json(200, dict(zip(("access", "refresh"), issued, strict=True)))

    async def refresh(self, request: Request, dialect: str, action: str, told: dict[str, Any]) -> Response:
        """Exchange the cookie `refresh` for a new access."""
        access = self._gatekeeper.refresh(request.cookies.get("refresh"))
        if access is None:
            raise Refusal(401, {"detail": "the cookie refresh is missing, wrong or too old", "code": "token_not_valid"})
        return _json(200, {"access": access})

    async def ask(self, request: Request, dialect: str, action: str, told: dict[str, Any]) -> Response:
        """Answer a request to a model."""
        if not self._gatekeeper.admits(request.headers.get("authorization"), request.cookies.get("access")):
            reason = "credentials are missing, wrong or too old"
            raise refusal(dialect, 401, reason, **{"WWW-Authenticate": "Token"})
        model = self._model(request, dialect)
        content = await _read_body(request, dialect, self._config.limits.max_body)
        limits = self._config.limits
        ask = read_ask(dialect, action, content, model.spec, limits, contacts=model.has_contacts)
        told |= {"model": model.spec.name, "sequences": len(ask.sequences), "residues": ask.residues}
        with self._admitted(ask):
            records = await self._batcher.records(model.source, ask.sequences, ask.outputs)
            compress = "gzip" in request.headers.get("accept-encoding", "")
            write = asyncio.get_running_loop().run_in_executor
            body, compressed = await write(self._encoders, lambda: encode_body(ask, records, compress=compress))
        self._metrics.sequences.add(len(ask.sequences))
        self._metrics.residues.add(ask.residues)
        headers = {"Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if compressed else {})
        return Response(body, media_type=_JSON, headers=headers)

    # how --------------------------------------------------------------------------------------------------------------

    def _compute(self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], threads: int) -> Computed:
        config = self._config
        options = {"model": config.backend.model(model), "memory": config.memory, "n_jobs": threads}
        answer = fetch(Wanted(sequences, outputs), keep, **options)
        # None is missing where failures are raised; the batcher counts them all the same.
        records = [record for record in answer.values if record is not None]
        return Computed(records, answer.info.hits)

    def _model(self, request: Request, dialect: str) -> ServedModel:
        model = self._models.get(request.path_params["model"].lower())
        if model is None:
            served = ", ".join(model.spec.name for model in self._served)
            raise refusal(dialect, 404, f"there is no such model here; there is: {served}")
        return model

    @contextmanager
    def _admitted(self, ask: Ask) -> Iterator[None]:
        """Count what is taken and not answered yet, or refuse to take more."""
        config = self._config
        full = (
            self._open_residues + ask.residues > config.queue_residues
            or self._open_values + ask.values > config.queue_values
        )
        if full and self._open_requests:
            # Until about half of what waits is done.
            seconds = math.ceil(self._batcher.seconds_for(self._open_residues) / 2)
            wait = str(min(max(seconds, 1), _LONGEST_RETRY_AFTER))
            raise refusal(ask.dialect, 429, "too much is waiting to be computed", **{"Retry-After": wait})
        self._open(1, ask)
        try:
            yield
        finally:
            self._open(-1, ask)

    def _open(self, sign: int, ask: Ask) -> None:
        self._open_requests += sign
        self._open_residues += sign * ask.residues
        self._open_values += sign * ask.values
        self._metrics.open_requests.add(sign)
        self._metrics.open_residues.add(sign * ask.residues)

    def _guarded(
        self,
        dialect: str,
        action: str,
        endpoint: Callable[[Request, str, str, dict[str, Any]], Awaitable[Response]],
    ) -> _Endpoint:
        """Turn refusals and failures into answers, count and log."""

        async def guarded(request: Request) -> Response:
            begun = time.perf_counter()
            told: dict[str, Any] = {"dialect": dialect, "action": action}
            try:
                response = await endpoint(request, dialect, action, told)
            except Refusal as refused:
                response = _json(refused.status, refused.body, refused.headers)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it; the number is nginx's, for the log
            except Exception as error:
                _logger.error("a request failed", extra={FIELDS: {**told, "exception": describe(error)}})
                failed = refusal(dialect, 500, "the server could not compute this", code="server.error")
                response = _json(failed.status, failed.body)
            seconds = time.perf_counter() - begun
            self._metrics.requests.add(dialect=dialect, action=action, status=str(response.status_code))
            self._metrics.seconds.observe(seconds)
            told |= {"status": response.status_code, "milliseconds": round(1000 * seconds, 1)}
            _logger.info("request", extra={FIELDS: told})
            return response

        return guarded


def create_app(config: ServerConfig) -> Starlette:
    """Application for any ASGI server; loads the models.

    Parameters
    ----------
    config : ServerConfig

    Returns
    -------
    app : starlette.applications.Starlette
        One process computes; to use more machines, run more servers.

    Raises
    ------
    ValueError, CheckpointError
        If a model cannot be served.
    """
    models = []
    for model in config.find_models():
        begun = time.perf_counter()
        fetch(Wanted(["M"], [OutputSpec("logits")]), keep, model=config.backend.model(model.source))
        models.append(replace(model, has_contacts=config.backend.has_contact_head(model.source)))
        fields = {"model": model.spec.name, "seconds": round(time.perf_counter() - begun, 2)}
        _logger.info("model loaded", extra={FIELDS: fields})
    application = Application(config, models)
    return Starlette(
        routes=application.routes(),
        lifespan=application.lifespan,
        exception_handlers={HTTPException: _http_error},
    )


def _http_error(request: Request, error: Exception) -> Response:
    """What starlette refuses, by itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    hosted = request.url.path.startswith(("/api/v1/models/", "/api/v2/", "/api/v3/"))
    reason = {404: "there is nothing at this path", 405: "this path takes another method"}.get(error.status_code, "")
    refused = refusal("v3" if hosted else "hub", error.status_code, reason or "refused")
    return _json(refused.status, refused.body, error.headers)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_body(request: Request, dialect: str, at_most: int, types: Sequence[str] = (_JSON,)) -> bytes:
    if _content_type(request) not in types:
        # Also keeps pages in a browser on this machine from posting here without being asked.
        raise refusal(dialect, 415, f"the content type must be {' or '.join(types)}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise refusal(dialect, 400, "compressed bodies are not understood")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                chunks.append(chunk)
                size += len(chunk)
                if size > at_most:
                    raise refusal(dialect, 413, f"the body is larger than {at_most} bytes", Connection="close")
    except TimeoutError:
        raise refusal(dialect, 408, "the body did not arrive in time", Connection="close") from None
    return b"".join(chunks)


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(body), status, headers, media_type=_JSON)
