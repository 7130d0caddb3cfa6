"""What the server says of itself: the hosted dialects' schema, and OpenAPI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from skesm.backends.biolm_wire import ACCEPTED_RESIDUES, action_path, model_slug
from skesm.sequences.alphabet import MASK_SYMBOL
from skesm.server._config import ServedModel
from skesm.server._requests import ACTIONS, Limits, includes

Json = dict[str, Any]


def request_schema(dialect: str, action: str, model: ServedModel, limits: Limits) -> Json:
    """JSON Schema of a request's body.

    Examples
    --------
    >>> from skesm.esm2.spec import find_registered
    >>> model = ServedModel("esm2-8m", find_registered("esm2-8m"))
    >>> schema = request_schema("v3", "encode", model, Limits())
    >>> schema["properties"]["items"]["maxItems"]
    8
    """
    letters = "".join(sorted(ACCEPTED_RESIDUES - {"-"}))
    pattern = f"^(?:[{letters}]|{MASK_SYMBOL})+$" if action == "predict" else f"^[{letters}-]+$"
    sequence: Json = {"type": "string", "minLength": 1, "pattern": pattern}
    if action == "predict":
        sequence["description"] = (
            f"At most {limits.max_length} residues, at least one of them {MASK_SYMBOL}, which counts as one."
        )
    else:
        sequence["maxLength"] = limits.max_length
    if dialect == "v1":
        return _object({"instances": _items(_object({"data": _object({"text": sequence})}), limits)})
    choices: Json = {}
    if action == "encode":
        n_layers = model.spec.n_layers
        choices = {
            "repr_layers": {
                "type": "array",
                "items": {"type": "integer", "minimum": -(n_layers + 1), "maximum": n_layers},
                "default": [-1],
                "minItems": 1,
                "description": f"0 is the embedding, {n_layers} the last layer; negative numbers count from the end.",
            },
            "include": {
                "type": "array",
                "items": {"type": "string", "enum": list(includes(contacts=model.has_contacts))},
                "default": ["mean"],
                "minItems": 1,
            },
        }
    properties = {"params": _object(choices, required=()), "items": _items(_object({"sequence": sequence}), limits)}
    return _object(properties, required=("items",))


def openapi(models: Iterable[ServedModel], limits: Limits, version: str, *, protected: bool) -> Json:
    """OpenAPI document of all models and dialects."""
    answer = {
        "200": {"description": "The results, in the order of the items.", "content": _json({"type": "object"})},
        "400": {"description": "The request is not valid."},
        "413": {"description": "Body or answer is too large."},
        "422": {"description": "The request is not valid (hub)."},
        "429": {"description": "Too much is waiting; Retry-After says when to come back."},
    }
    if protected:
        answer["401"] = {"description": "Credentials are missing or wrong."}
    paths: Json = {"/": {"get": {"summary": "Health", "responses": {"200": {"description": "Ready."}}}}}
    for model in models:
        for dialect, actions in ACTIONS.items():
            for action in actions:
                operation = {
                    "summary": f"{model.spec.name}: {action} ({dialect})",
                    "requestBody": {"required": True, "content": _json(request_schema(dialect, action, model, limits))},
                    "responses": answer,
                }
                paths[action_path(dialect, model_slug(model.spec, dialect), action)] = {"post": operation}
    document: Json = {"openapi": "3.1.0", "info": {"title": "skesm", "version": version}, "paths": paths}
    if protected:
        schemes = {
            "token": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Token …"},
            "access": {"type": "apiKey", "in": "cookie", "name": "access"},
        }
        document["components"] = {"securitySchemes": schemes}
        document["security"] = [{name: []} for name in schemes]
    return document


def _object(properties: Mapping[str, Any], required: Iterable[str] | None = None) -> Json:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _items(item: Json, limits: Limits) -> Json:
    return {"type": "array", "minItems": 1, "maxItems": limits.max_items, "items": item}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
