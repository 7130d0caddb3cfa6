"""The ASGI application: paths, checks, answers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

import skesm
from skesm.esm2.threads import default_workers
from skesm.fetch.records import fetch, keep
from skesm.fetch.request import Request as Wanted
from skesm.outputs.spec import OutputSpec
from skesm.protocol.wire import action_path, schema_path
from skesm.server._admission import Admission
from skesm.server._answers import encode_body, to_json
from skesm.server._auth import LOGIN_PATH, REFRESH_PATH
from skesm.server._batcher import Batcher, Computed
from skesm.server._bodies import FORM, JSON, content_type, read_body, unless_client_leaves
from skesm.server._config import ServedModel, ServerConfig
from skesm.server._embeddings import EMBEDDINGS_PATH, encode_embeddings, read_embeddings_ask, read_embeddings_body
from skesm.server._front import Front
from skesm.server._logs import FIELDS, describe
from skesm.server._metrics import Metrics
from skesm.server._openapi import openapi
from skesm.server._page import PAGE_HEADERS, docs_page
from skesm.server._problems import Refusal, refusal
from skesm.server._requests import ACTIONS, Ask, read_ask
from skesm.server._schema import Json, request_schema

_LOGIN_BYTES = 1 << 14
_ENCODERS = 2  # threads that write answers, beside those that compute

_logger = logging.getLogger(__name__)

_Encode = Callable[..., tuple[bytes, bool]]
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
        self._admission = Admission(config.queue_residues, config.queue_values, self._metrics)
        self._active = 0
        self.draining = False
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

    @property
    def is_idle(self) -> bool:
        """Whether every request that was taken has been answered."""
        return not self._active

    def drain(self) -> None:
        """Take no more requests, and say so to those who ask whether the server is ready."""
        self.draining = True
        _logger.info("draining")

    def routes(self) -> list[Route]:
        """Every path."""
        routes = [
            *_paths("/livez", self.alive, "GET"),
            *_paths("/readyz", self.ready, "GET"),
            *_paths("/docs", self.page, "GET"),
            *_paths("/metrics", self.metrics, "GET"),
            *_paths("/openapi.json", self.openapi, "GET"),
            *_paths(LOGIN_PATH, self._guarded("v1", "login", self.log_in), "POST"),
            *_paths(REFRESH_PATH, self._guarded("v1", "refresh", self.refresh), "POST"),
            *_paths(EMBEDDINGS_PATH, self._guarded("openai", "embeddings", self.embed), "POST"),
            Route("/", self.health, methods=["GET"]),
        ]
        for dialect in ("v2", "v3"):
            path = schema_path(dialect, "{model}", "{action}")
            assert path is not None
            routes += _paths(path, self._guarded(dialect, "schema", self.schema), "GET")
        for dialect, actions in ACTIONS.items():
            for action in actions:
                path = action_path(dialect, "{model}", action)
                routes += _paths(path, self._guarded(dialect, action, self.ask), "POST")
        return routes

    # what may be asked ------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """Say that the models are loaded."""
        names = [model.spec.name for model in self._served]
        status, word = (200, "ok") if self._batcher.is_working else (500, "broken")
        return _json(status, {"status": word, "service": "skesm", "version": skesm.__version__, "models": names})

    async def alive(self, request: Request) -> Response:
        """Say whether the server should be left running."""
        return _probe(self._batcher.is_working, "broken")

    async def ready(self, request: Request) -> Response:
        """Say whether the server takes requests."""
        return _probe(self._batcher.is_working and not self.draining, "draining" if self.draining else "broken")

    async def page(self, request: Request) -> Response:
        """Show the description of every path to a person."""
        return HTMLResponse(docs_page(self._document()), headers=PAGE_HEADERS)

    async def metrics(self, request: Request) -> Response:
        """Counts, for Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """Describe every path."""
        return _json(200, self._document())

    async def schema(self, request: Request, dialect: str, action: str, told: dict[str, Any]) -> Response:
        """Describe one action's body."""
        model = self._model(request.path_params["model"], dialect)
        asked = request.path_params["action"]
        if asked not in ACTIONS[dialect]:
            raise refusal(dialect, 404, "there is no such action")
        return _json(200, request_schema(dialect, asked, model, self._config.limits))

    async def log_in(self, request: Request, dialect: str, action: str, told: dict[str, Any]) -> Response:
        """Exchange user and password for access and refresh."""
        if not self._gatekeeper.has_users:
            raise Refusal(404, {"detail": "this server has no users: send a token"})
        content = await read_body(request, dialect, _LOGIN_BYTES, (JSON, FORM))
        try:
            body = dict(parse_qsl(content.decode())) if content_type(request) == FORM else json.loads(content)
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
        self._check_credentials(request, dialect)
        model = self._model(request.path_params["model"], dialect)
        limits = self._config.limits
        content = await read_body(request, dialect, limits.max_body)
        ask = read_ask(dialect, action, content, model.spec, limits, contacts=model.has_contacts)
        return await self._answer(request, model, ask, told, encode_body)

    async def embed(self, request: Request, dialect: str, action: str, told: dict[str, Any]) -> Response:
        """Answer a request for embeddings in the shape that OpenAI gave it."""
        self._check_credentials(request, dialect)
        content = await read_body(request, dialect, self._config.limits.max_body)
        body = read_embeddings_body(content)
        model = self._model(body.model, dialect)
        ask = read_embeddings_ask(body, model.spec, self._config.limits)
        return await self._answer(request, model, ask, told, partial(encode_embeddings, body))

    # how --------------------------------------------------------------------------------------------------------------

    def _compute(self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], threads: int) -> Computed:
        config = self._config
        options = {"model": config.backend.model(model), "memory": config.memory, "n_jobs": threads}
        answer = fetch(Wanted(sequences, outputs), keep, **options)
        # None is missing where failures are raised; the batcher counts them all the same.
        records = [record for record in answer.values if record is not None]
        return Computed(records, answer.info.hits)

    def _document(self) -> Json:
        keeper = self._gatekeeper
        credentials = {"protected": keeper.required, "users": keeper.has_users}
        return openapi(self._served, self._config.limits, skesm.__version__, **credentials)

    def _check_credentials(self, request: Request, dialect: str) -> None:
        header, cookie = request.headers.get("authorization"), request.cookies.get("access")
        # OpenAI's clients send a token as a bearer's.
        if not self._gatekeeper.admits(header, cookie, bearer_tokens=dialect == "openai"):
            scheme = {"WWW-Authenticate": "Bearer" if dialect == "openai" else "Token"}
            raise refusal(dialect, 401, "credentials are missing, wrong or too old", **scheme)

    async def _answer(
        self, request: Request, model: ServedModel, ask: Ask, told: dict[str, Any], encode: _Encode
    ) -> Response:
        """Compute what was asked, unless the client leaves."""
        told |= {"model": model.spec.name, "sequences": len(ask.sequences), "residues": ask.residues}
        compress = "gzip" in request.headers.get("accept-encoding", "")

        async def compute() -> tuple[bytes, bool]:
            records = await self._batcher.records(model.source, ask.sequences, ask.outputs)
            write = asyncio.get_running_loop().run_in_executor
            return await write(self._encoders, lambda: encode(ask, records, compress=compress))

        with self._admission.admit(ask, self._batcher.seconds_for):
            body, compressed = await unless_client_leaves(request, compute())
        self._metrics.sequences.add(len(ask.sequences))
        self._metrics.residues.add(ask.residues)
        headers = {"Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if compressed else {})
        return Response(body, media_type=JSON, headers=headers)

    def _model(self, name: str, dialect: str) -> ServedModel:
        model = self._models.get(name.lower())
        if model is None:
            served = ", ".join(model.spec.name for model in self._served)
            raise refusal(dialect, 404, f"there is no such model here; there is: {served}")
        return model

    def _guarded(
        self,
        dialect: str,
        action: str,
        endpoint: Callable[[Request, str, str, dict[str, Any]], Awaitable[Response]],
    ) -> _Endpoint:
        """Turn refusals and failures into answers, count and log."""

        async def guarded(request: Request) -> Response:
            begun = time.perf_counter()
            told: dict[str, Any] = {"dialect": dialect, "action": action, "request_id": request.state.request_id}
            self._active += 1
            try:
                if self.draining:
                    soon = {"Retry-After": "1", "Connection": "close"}
                    raise refusal(dialect, 503, "the server is about to stop and takes no more requests", **soon)
                response = await endpoint(request, dialect, action, told)
            except Refusal as refused:
                response = _json(refused.status, refused.body, refused.headers)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it; the number is nginx's, for the log
            except Exception as error:
                _logger.error("a request failed", extra={FIELDS: {**told, "exception": describe(error)}})
                failed = refusal(dialect, 500, "the server could not compute this", code="server.error")
                response = _json(failed.status, failed.body)
            finally:
                self._active -= 1
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
    app = Starlette(
        routes=application.routes(),
        lifespan=application.lifespan,
        exception_handlers={HTTPException: _http_error},
        middleware=[Middleware(Front, allowed_hosts=config.find_allowed_hosts())],
    )
    app.router.redirect_slashes = False
    app.state.application = application
    return app


def _http_error(request: Request, error: Exception) -> Response:
    """What starlette refuses, by itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    hosted = request.url.path.startswith(("/api/v1/models/", "/api/v2/", "/api/v3/"))
    reason = {404: "there is nothing at this path", 405: "this path takes another method"}.get(error.status_code, "")
    refused = refusal("v3" if hosted else "hub", error.status_code, reason or "refused")
    return _json(refused.status, refused.body, error.headers)


def _paths(path: str, endpoint: _Endpoint, method: str) -> list[Route]:
    """A path with and without its last slash.

    Nothing is redirected: a redirect would have to know the scheme and the host of the proxy that a client asked.
    """
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    return [Route(p, endpoint, methods=[method]) for p in (path, other)]


def _probe(good: bool, otherwise: str) -> Response:
    return _json(200 if good else 503, {"status": "ok" if good else otherwise})


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(body), status, headers, media_type=JSON)
