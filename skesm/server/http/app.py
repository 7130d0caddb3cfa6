"""The ASGI application: each path and its answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

import skesm
from skesm._typing import Document, JsonObject
from skesm.esm2.machine.threads import default_workers
from skesm.fetch.records import fetch, keep
from skesm.fetch.request import Request as Wanted
from skesm.outputs.spec import OutputSpec
from skesm.protocol.dialects import DIALECTS, PREDICTED, Dialect
from skesm.protocol.shapes import HOSTED_ERRORS, HUB_ERRORS, OPENAI_ERRORS, Errors
from skesm.protocol.wire import action_path
from skesm.server.api.answers import encode_body
from skesm.server.api.embeddings import EMBEDDINGS_PATH, encode_embeddings, read_embeddings_ask, read_embeddings_body
from skesm.server.api.refusals import refusal
from skesm.server.api.requests import Ask, read_ask
from skesm.server.config import ServedModel, ServerConfig
from skesm.server.describe.openapi import openapi, schema_paths
from skesm.server.describe.page import PAGE_HEADERS, docs_page
from skesm.server.describe.requests import request_schema
from skesm.server.http.bodies import JSON, read_body, unless_client_leaves
from skesm.server.http.front import Front
from skesm.server.http.guard import Guard
from skesm.server.http.logins import login_handlers
from skesm.server.http.responses import json_response, routes
from skesm.server.logs import FIELDS
from skesm.server.work.admission import Admission
from skesm.server.work.batcher import Batcher, Computed
from skesm.server.work.metrics import Metrics

_ENCODERS = 2  # threads that write answers, beside those that compute

_logger = logging.getLogger(__name__)

_Encode = Callable[..., tuple[bytes, bool]]


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
        self._metrics = Metrics()
        self._guard = Guard(self._metrics)
        self._encoders = ThreadPoolExecutor(_ENCODERS, "skesm-encode")
        self._admission = Admission(config.queue_residues, config.queue_values, self._metrics)
        self._batcher: Batcher

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Compute between start and end. At the end every request has been answered."""
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
        return self._guard.is_idle

    @property
    def draining(self) -> bool:
        """Whether new requests are refused, because the server stops."""
        return self._guard.draining

    def drain(self) -> None:
        """Take no more requests. From now on ``/readyz`` says so too."""
        self._guard.draining = True
        _logger.info("draining")

    def routes(self) -> list[Route]:
        """Every path."""
        around = self._guard.around
        found = [
            *routes("/livez", self.alive, "GET"),
            *routes("/readyz", self.ready, "GET"),
            *routes("/docs", self.page, "GET"),
            *routes("/metrics", self.metrics, "GET"),
            *routes("/openapi.json", self.openapi, "GET"),
            Route("/", self.health, methods=["GET"]),
        ]
        first = next(iter(DIALECTS))  # logs and metrics count logins under the dialect that needs them
        for path, name, handler in login_handlers(self._config.gatekeeper):
            found += routes(path, around(first, name, HOSTED_ERRORS, handler), "POST")
        found += routes(EMBEDDINGS_PATH, around("openai", "embeddings", OPENAI_ERRORS, self.embed), "POST")
        for speaks, path in schema_paths():
            found += routes(path, around(speaks.name, "schema", speaks.errors, partial(self.schema, speaks)), "GET")
        for speaks in DIALECTS.values():
            for action, called in speaks.actions.items():
                endpoint = around(speaks.name, called, speaks.errors, partial(self.ask, speaks, action))
                found += routes(action_path(speaks.name, "{model}", action), endpoint, "POST")
        return found

    # paths ------------------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """Say that the models are loaded."""
        names = [model.spec.name for model in self._served]
        status, word = (200, "ok") if self._batcher.is_working else (500, "broken")
        about = {"status": word, "service": "skesm", "version": skesm.__version__, "models": names}
        return json_response(status, about)

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
        return json_response(200, self._document())

    async def schema(self, speaks: Dialect, request: Request, told: JsonObject) -> Response:
        """Describe the body of one action."""
        model = self._model(request.path_params["model"], speaks.errors)
        asked = request.path_params["action"]
        action = next((action for action, called in speaks.actions.items() if called == asked), None)
        if action is None:
            raise refusal(speaks.errors, 404, "there is no such action")
        return json_response(200, request_schema(speaks, action, model, self._config.limits))

    async def ask(self, speaks: Dialect, action: str, request: Request, told: JsonObject) -> Response:
        """Answer a request to a model."""
        self._check_credentials(request, speaks.errors)
        model = self._model(request.path_params["model"], speaks.errors)
        limits = self._config.limits
        content = await read_body(request, speaks.errors, limits.max_body)
        ask = read_ask(speaks, action, content, model, limits)
        return await self._answer(request, model, ask, told, partial(encode_body, speaks))

    async def embed(self, request: Request, told: JsonObject) -> Response:
        """Answer a request for embeddings in the shape of OpenAI's API."""
        self._check_credentials(request, OPENAI_ERRORS)
        content = await read_body(request, OPENAI_ERRORS, self._config.limits.max_body)
        body = read_embeddings_body(content)
        model = self._model(body.model, OPENAI_ERRORS)
        ask = read_embeddings_ask(body, model.spec, self._config.limits)
        return await self._answer(request, model, ask, told, partial(encode_embeddings, body))

    # how --------------------------------------------------------------------------------------------------------------

    def _compute(self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], threads: int) -> Computed:
        config = self._config
        wanted, bound = Wanted(sequences, outputs), config.backend.model(model)
        answer = fetch(wanted, keep, model=bound, memory=config.memory, n_jobs=threads)
        # No record is None, because failures are raised. The batcher counts the records again.
        records = [record for record in answer.values if record is not None]
        return Computed(records, answer.info.hits)

    def _document(self) -> Document:
        keeper = self._config.gatekeeper
        credentials = {"protected": keeper.required, "users": keeper.has_users}
        return openapi(self._served, self._config.limits, skesm.__version__, **credentials)

    def _check_credentials(self, request: Request, errors: Errors) -> None:
        header, cookie = request.headers.get("authorization"), request.cookies.get("access")
        # Some clients send a token in the scheme of logins.
        if not self._config.gatekeeper.admits(header, cookie, token_scheme=errors.scheme):
            scheme = {"WWW-Authenticate": errors.scheme}
            raise refusal(errors, 401, "credentials are missing, wrong or too old", **scheme)

    async def _answer(
        self, request: Request, model: ServedModel, ask: Ask, told: JsonObject, encode: _Encode
    ) -> Response:
        """Compute the answer, unless the client leaves."""
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

    def _model(self, name: str, errors: Errors) -> ServedModel:
        model = self._models.get(name.lower())
        if model is None:
            served = ", ".join(model.spec.name for model in self._served)
            raise refusal(errors, 404, f"there is no such model here. Models: {served}")
        return model


def create_app(config: ServerConfig) -> Starlette:
    """Application for any ASGI server. Loads the models.

    Parameters
    ----------
    config : ServerConfig

    Returns
    -------
    app : starlette.applications.Starlette
        One process computes. To use more machines, run more servers.

    Raises
    ------
    ValueError, CheckpointError
        If a model cannot be served.
    """
    models = []
    for model in config.find_models():
        begun = time.perf_counter()
        fetch(Wanted(["M"], [OutputSpec(PREDICTED)]), keep, model=config.backend.model(model.source))
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
    """Refusals of starlette itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    starts = {speaks.path.partition("{")[0]: speaks.errors for speaks in DIALECTS.values()}
    errors = next((errors for start, errors in starts.items() if request.url.path.startswith(start)), HUB_ERRORS)
    reason = {404: "there is nothing at this path", 405: "this path takes another method"}.get(error.status_code, "")
    refused = refusal(errors, error.status_code, reason or "refused")
    return json_response(refused.status, refused.body, error.headers)


def _probe(good: bool, otherwise: str) -> Response:
    return json_response(200 if good else 503, {"status": "ok" if good else otherwise})
