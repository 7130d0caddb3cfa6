"""The OpenAPI document: every path, what it takes, what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from skesm.server._auth import LOGIN_PATH, REFRESH_PATH
from skesm.server._config import ServedModel
from skesm.server._embeddings import EMBEDDINGS_PATH
from skesm.server._openapi_answers import COMPONENTS, reference
from skesm.server._requests import ACTIONS, Limits
from skesm.server._schema import Json, embeddings_schema, object_schema, post_paths, request_schema

_RETRY_AFTER: Json = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
#: Refusals of every path that takes a body: status → (why, further headers).
_REFUSALS: Mapping[str, tuple[str, Json]] = {
    "400": ("The request is not valid.", {}),
    "404": ("There is no such model or path.", {}),
    "408": ("The body did not arrive in time.", {}),
    "413": ("The body or the answer is too large.", {}),
    "415": ("The body has another content type, or is compressed in another way than gzip or deflate.", {}),
    "429": ("Too much is waiting to be computed.", _RETRY_AFTER),
    "500": ("The server could not compute this.", {}),
    "503": ("The server is about to stop.", _RETRY_AFTER),
}
_ANSWERS: Mapping[str, Mapping[str, str]] = {
    "v1": {"transform": "V1Answer"},
    "v2": {"encode": "V2EncodeAnswer", "predict": "PredictAnswer"},
    "v3": {"encode": "V3EncodeAnswer", "predict": "PredictAnswer"},
    "hub": {"encode": "HubEncodeAnswer", "predict": "PredictAnswer", "log_prob": "LogProbAnswer"},
}
_ERRORS = {"hub": "HubError", "openai": "OpenAIError", "auth": "AuthError"}
_SCHEMES: Json = {
    "token": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "The word Token, and a token."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "What a login gave; for embeddings, also a token."},
    "access": {"type": "apiKey", "in": "cookie", "name": "access", "description": "What a login gave."},
}


def openapi(
    models: Sequence[ServedModel], limits: Limits, version: str, *, protected: bool = False, users: bool = False
) -> Json:
    """OpenAPI document of all models and dialects.

    Parameters
    ----------
    models : sequence of ServedModel
        Each has paths of its own.
    limits : Limits
        What one request may ask for.
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
    for dialect, action, model, path in post_paths(models):
        body = request_schema(dialect, action, model, limits)
        answers = _responses(dialect, _ANSWERS[dialect][action], protected=protected)
        name = f"{dialect}_{action}_{model.spec.name}"
        paths[path] = {"post": _operation(name, f"{model.spec.name}: {action} ({dialect})", answers, body)}
    answers = _responses("openai", "EmbeddingsAnswer", protected=protected)
    body = embeddings_schema(models, limits)
    summary = "Mean of the last layer, in OpenAI's shape"
    paths[EMBEDDINGS_PATH] = {"post": _operation("embeddings", summary, answers, body)}
    components: Json = {"schemas": COMPONENTS}
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "skesm", "version": version},
        "paths": paths,
        "components": components,
    }
    if protected:
        components["securitySchemes"] = _SCHEMES
        document["security"] = [{name: []} for name in _SCHEMES]
    return document


def _public_paths(models: Sequence[ServedModel]) -> Json:
    """Paths that need no credentials."""
    paths: Json = {}
    refusing: tuple[str, ...]
    for path, name, summary, component, refusing in (
        ("/", "health", "Health, and the names of the models", "Health", ("500",)),
        ("/livez", "alive", "Whether the server should be left running", "Probe", ("503",)),
        ("/readyz", "ready", "Whether the server takes requests", "Probe", ("503",)),
    ):
        answers = {status: _answer("As said.", component) for status in ("200", *refusing)}
        paths[path] = {"get": _operation(name, summary, answers)}
    for path, name, summary, kind in (
        ("/metrics", "metrics", "Counts, for Prometheus", "text/plain"),
        ("/docs", "docs", "This document, for people", "text/html"),
    ):
        text = {"200": {"description": "Text.", "content": {kind: {"schema": {"type": "string"}}}}}
        paths[path] = {"get": _operation(name, summary, text)}
    names = sorted({name for model in models for name in model.names})
    for dialect in ("v2", "v3"):
        described = {"200": _answer("JSON Schema of the body.", "JsonSchema"), **_refusals(dialect, ("404", "503"))}
        operation = _operation(f"{dialect}_schema", f"What an action takes ({dialect})", described)
        operation["parameters"] = [_parameter("model", names), _parameter("action", ACTIONS[dialect])]
        paths[f"/api/{dialect}/schema/{{model}}/{{action}}/"] = {"get": operation}
    return paths


def _login_paths() -> Json:
    paths: Json = {}
    user = object_schema({"username": {"type": "string"}, "password": {"type": "string"}})
    user["additionalProperties"] = True
    for path, name, summary, component, body in (
        (LOGIN_PATH, "log_in", "Exchange user and password for access and refresh", "Login", user),
        (REFRESH_PATH, "refresh", "Exchange the cookie refresh for a new access", "Access", None),
    ):
        answers = {"200": _answer("As said.", component), "401": _answer("Not valid.", "AuthError")}
        refusals = _refusals("auth", _REFUSALS if body else ("500", "503"))
        paths[path] = {"post": _operation(name, summary, answers | refusals, body)}
    return paths


def _operation(name: str, summary: str, responses: Json, body: Json | None = None) -> Json:
    operation = {"operationId": "".join(c if c.isalnum() else "_" for c in name), "summary": summary}
    taken: Json = {} if body is None else {"requestBody": {"required": True, "content": _json(body)}}
    refused = {"403": _answer("The header Host names another server.", "HostError")}
    return {**operation, **taken, "responses": {**responses, **refused}}


def _responses(dialect: str, component: str, *, protected: bool) -> Json:
    results = "The results, in the order of the request."
    responses = {"200": _answer(results, component), **_refusals(dialect, _REFUSALS)}
    error = _ERRORS.get(dialect, "HostedError")
    if dialect == "hub":
        responses["422"] = _answer("The request is not valid.", error)
    if protected:
        responses["401"] = _answer("Credentials are missing, wrong or too old.", error)
    return responses


def _refusals(dialect: str, statuses: Iterable[str]) -> Json:
    component = _ERRORS.get(dialect, "HostedError")
    return {status: _answer(_REFUSALS[status][0], component, _REFUSALS[status][1]) for status in statuses}


def _answer(description: str, component: str, headers: Json | None = None) -> Json:
    further = {"headers": headers} if headers else {}
    return {"description": description, **further, "content": _json(reference(component))}


def _parameter(name: str, values: Iterable[str]) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": list(values)}}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
