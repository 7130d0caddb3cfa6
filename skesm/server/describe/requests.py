"""JSON Schema of requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from skesm._typing import Document
from skesm.protocol.dialects import DIALECTS, ENCODE, PREDICT, Dialect
from skesm.protocol.wire import ACCEPTED_RESIDUES, action_path, model_slug
from skesm.sequences.alphabet import MASK_SYMBOL
from skesm.server.api.embeddings import FORMATS, MAX_INPUTS
from skesm.server.api.requests import DEFAULT_INCLUDE, DEFAULT_LAYERS, MAX_CHOICES, MISSING_TEXTS, includes
from skesm.server.config import Limits, ServedModel


def request_schema(speaks: Dialect, action: str, model: ServedModel, limits: Limits) -> Document:
    """JSON Schema of a request's body.

    Examples
    --------
    >>> from skesm.esm2.spec import find_registered
    >>> from skesm.protocol.dialects import DIALECTS
    >>> model = ServedModel("esm2-8m", find_registered("esm2-8m"))
    >>> schema = request_schema(DIALECTS["v3"], "encode", model, Limits())
    >>> schema["properties"]["items"]["maxItems"]
    8
    """
    item = sequence_schema(action, limits)
    for key in reversed(speaks.item):
        item = object_schema({key: item})
    items: Document = {"type": "array", "minItems": 1, "maxItems": limits.max_items, "items": item}
    if not speaks.choice:
        return object_schema({speaks.items: items})
    choices = _choices(speaks, model) if action == ENCODE else {}
    params = {**object_schema(choices, required=()), "type": ["object", "null"]}
    return object_schema({"params": params, speaks.items: items}, required=(speaks.items,))


def _choices(speaks: Dialect, model: ServedModel) -> Document:
    n_layers = model.spec.n_layers
    return {
        "repr_layers": {
            "type": "array",
            "items": {"type": "integer", "minimum": -(n_layers + 1), "maximum": n_layers},
            "default": list(DEFAULT_LAYERS),
            "minItems": 1,
            "maxItems": MAX_CHOICES,
            "description": f"0 is the embedding, {n_layers} the last layer. Negative numbers count from the end.",
        },
        "include": {
            "type": "array",
            "items": {"type": "string", "enum": list(includes(speaks, model))},
            "default": list(DEFAULT_INCLUDE),
            "minItems": 1,
            "maxItems": MAX_CHOICES,
        },
    }


def sequence_schema(action: str, limits: Limits) -> Document:
    """JSON Schema of one sequence. It accepts the same sequences as the server."""
    letters = "".join(sorted(ACCEPTED_RESIDUES - {"-"}))
    if action == PREDICT:
        return {
            "type": "string",
            "minLength": len(MASK_SYMBOL),
            "pattern": f"^(?=.*{MASK_SYMBOL})(?:[{letters}]|{MASK_SYMBOL}){{1,{limits.max_length}}}$",
            "description": f"At most {limits.max_length} residues. {MASK_SYMBOL} counts as one, and must be there.",
        }
    return {
        "type": "string",
        "minLength": 1,
        "maxLength": limits.max_length,
        "pattern": f"^(?!(?:{'|'.join(MISSING_TEXTS)})$)-*[{letters}][{letters}-]*$",
    }


def embeddings_schema(models: Iterable[ServedModel], limits: Limits) -> Document:
    """JSON Schema of the body of a request for embeddings in OpenAI's shape."""
    sequence = sequence_schema(ENCODE, limits)
    inputs: Document = {
        "anyOf": [sequence, {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": sequence}]
    }
    schemas = []
    for model in models:
        properties: Document = {
            "model": {"type": "string", "enum": sorted(model.names), "description": "Case does not matter."},
            "input": inputs,
            "encoding_format": {"type": "string", "enum": list(FORMATS), "default": "float"},
            "dimensions": {"type": "integer", "enum": [model.spec.width]},
            "user": {"type": "string", "description": "Not used."},
        }
        schemas.append(object_schema(properties, required=("model", "input")))
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def post_paths(models: Iterable[ServedModel]) -> Iterator[tuple[Dialect, str, ServedModel, str]]:
    """Dialect, action, model and path of every request that names its model in the path."""
    for model in models:
        for speaks in DIALECTS.values():
            for action in speaks.actions:
                yield speaks, action, model, action_path(speaks.name, model_slug(model.spec, speaks.name), action)


def object_schema(properties: Mapping[str, object], required: Iterable[str] | None = None) -> Document:
    """Schema of an object without further fields. By default all fields are required."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }
