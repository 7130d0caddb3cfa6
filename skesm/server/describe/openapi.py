"""The OpenAPI document: every path, its requests and its answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from skesm._typing import Document
from skesm.protocol.dialects import DIALECTS, Dialect
from skesm.protocol.shapes import HOSTED_ERRORS, OPENAI_ERRORS, Errors
from skesm.protocol.wire import schema_path
from skesm.server.api.embeddings import EMBEDDINGS_PATH
from skesm.server.config import Limits, ServedModel
from skesm.server.describe.answers import COMPONENTS, answer_name, reference
from skesm.server.describe.requests import embeddings_schema, object_schema, post_paths, request_schema
from skesm.server.gatekeeper import LOGIN_PATH, REFRESH_PATH

_RETRY_AFTER: Document = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
#: Refusals of every path that takes a body: status → (why, further headers).
_REFUSALS: Mapping[str, tuple[str, Document]] = {
    "400": ("The request is not valid.", {}),
    "404": ("There is no such model or path.", {}),
    "408": ("The body did not arrive in time.", {}),
    "413": ("The body or the answer is too large.", {}),
    "415": ("The body has another content type, or is compressed in another way than gzip or deflate.", {}),
    "429": ("Too much is waiting to be computed.", _RETRY_AFTER),
    "500": ("The server could not compute this.", {}),
    "503": ("The server is about to stop.", _RETRY_AFTER),
}
# A login is refused in two shapes: its own, and the one of the hosted service.
_LOGIN_ERRORS = replace(HOSTED_ERRORS, schema="AuthError")
_SCHEMES: Document = {
    "token": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "The word Token, and a token."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "Access of a login. For embeddings, also a token."},
    "access": {"type": "apiKey", "in": "cookie", "name": "access", "description": "Access of a login."},
}


def openapi(
    models: Sequence[ServedModel], limits: Limits, version: str, *, protected: bool = False, users: bool = False
) -> Document:
    """OpenAPI document of all models and dialects.

    Parameters
    ----------
    models : sequence of ServedModel
        Each has paths of its own.
    limits : Limits
        Limits on one request.
    version : str
        Version of skesm.
    protected : bool, default=False
        Whether credentials are needed.
    users : bool, default=False
        Whether there are users who can log in.
    """
    paths = _public_paths(models) | (_login_paths() if users else {})
    for item in paths.values():
        for operation in item.values():
            operation["security"] = []
    for speaks, action, model, path in post_paths(models):
        body = request_schema(speaks, action, model, limits)
        answers = _responses(speaks.errors, answer_name(speaks, action), protected=protected)
        called = speaks.actions[action]
        name = f"{speaks.name}_{called}_{model.spec.name}"
        paths[path] = {"post": _operation(name, f"{model.spec.name}: {called} ({speaks.name})", answers, body)}
    answers = _responses(OPENAI_ERRORS, "EmbeddingsAnswer", protected=protected)
    body = embeddings_schema(models, limits)
    summary = "Mean of the last layer, in OpenAI's shape"
    paths[EMBEDDINGS_PATH] = {"post": _operation("embeddings", summary, answers, body)}
    components: Document = {"schemas": COMPONENTS}
    document: Document = {
        "openapi": "3.1.0",
        "info": {"title": "skesm", "version": version},
        "paths": paths,
        "components": components,
    }
    if protected:
        components["securitySchemes"] = _SCHEMES
        document["security"] = [{name: []} for name in _SCHEMES]
    return document


def _public_paths(models: Sequence[ServedModel]) -> Document:
    """Paths that need no credentials."""
    paths: Document = {}
    refusing: tuple[str, ...]
    for path, name, summary, component, refusing in (
        ("/", "health", "Health, and the names of the models", "Health", ("500",)),
        ("/livez", "alive", "Whether the server should be left running", "Probe", ("503",)),
        ("/readyz", "ready", "Whether the server takes requests", "Probe", ("503",)),
    ):
        answers = {status: _answer("The answer.", component) for status in ("200", *refusing)}
        paths[path] = {"get": _operation(name, summary, answers)}
    for path, name, summary, kind in (
        ("/metrics", "metrics", "Counts, for Prometheus", "text/plain"),
        ("/docs", "docs", "This document, for people", "text/html"),
    ):
        text = {"200": {"description": "Text.", "content": {kind: {"schema": {"type": "string"}}}}}
        paths[path] = {"get": _operation(name, summary, text)}
    names = sorted({name for model in models for name in model.names})
    for speaks, path in schema_paths():
        refusals = _refusals(speaks.errors, ("404", "503"))
        described = {"200": _answer("JSON Schema of the body.", "JsonSchema"), **refusals}
        operation = _operation(f"{speaks.name}_schema", f"JSON Schema of an action ({speaks.name})", described)
        operation["parameters"] = [_parameter("model", names), _parameter("action", speaks.actions.values())]
        paths[path] = {"get": operation}
    return paths


def schema_paths() -> Iterator[tuple[Dialect, str]]:
    """Dialects that describe each action under a path of its own, and this path, with places for model and action."""
    for speaks in DIALECTS.values():
        path = schema_path(speaks.name, "{model}", "{action}")
        if path is not None and "{model}" in path:
            yield speaks, path


def _login_paths() -> Document:
    paths: Document = {}
    user = object_schema({"username": {"type": "string"}, "password": {"type": "string"}})
    user["additionalProperties"] = True
    for path, name, summary, component, body in (
        (LOGIN_PATH, "log_in", "Exchange user and password for access and refresh", "Login", user),
        (REFRESH_PATH, "refresh", "Exchange the cookie refresh for a new access", "Access", None),
    ):
        answers = {"200": _answer("The answer.", component), "401": _answer("Not valid.", "AuthError")}
        refusals = _refusals(_LOGIN_ERRORS, _REFUSALS if body else ("500", "503"))
        paths[path] = {"post": _operation(name, summary, answers | refusals, body)}
    return paths


def _operation(name: str, summary: str, responses: Document, body: Document | None = None) -> Document:
    operation = {"operationId": "".join(c if c.isalnum() else "_" for c in name), "summary": summary}
    taken: Document = {} if body is None else {"requestBody": {"required": True, "content": _json(body)}}
    refused = {"403": _answer("The header Host names another server.", "HostError")}
    return {**operation, **taken, "responses": {**responses, **refused}}


def _responses(errors: Errors, component: str, *, protected: bool) -> Document:
    results = "The results, in the order of the request."
    responses = {"200": _answer(results, component), **_refusals(errors, _REFUSALS)}
    responses.setdefault(str(errors.status), _answer(_REFUSALS["400"][0], errors.schema))
    if protected:
        responses["401"] = _answer("Credentials are missing, wrong or too old.", errors.schema)
    return responses


def _refusals(errors: Errors, statuses: Iterable[str]) -> Document:
    return {status: _answer(_REFUSALS[status][0], errors.schema, _REFUSALS[status][1]) for status in statuses}


def _answer(description: str, component: str, headers: Document | None = None) -> Document:
    further = {"headers": headers} if headers else {}
    return {"description": description, **further, "content": _json(reference(component))}


def _parameter(name: str, values: Iterable[str]) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": list(values)}}


def _json(schema: Document) -> Document:
    return {"application/json": {"schema": schema}}
