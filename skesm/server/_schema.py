"""What the server says of its requests, as JSON Schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from skesm.protocol.wire import ACCEPTED_RESIDUES, action_path, model_slug
from skesm.sequences.alphabet import MASK_SYMBOL
from skesm.server._config import ServedModel
from skesm.server._embeddings import FORMATS, MAX_INPUTS
from skesm.server._requests import ACTIONS, MAX_CHOICES, Limits, includes

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
    sequence = sequence_schema(action, limits)
    if dialect == "v1":
        return object_schema({"instances": _items(object_schema({"data": object_schema({"text": sequence})}), limits)})
    choices: Json = {}
    if action == "encode":
        n_layers = model.spec.n_layers
        choices = {
            "repr_layers": {
                "type": "array",
                "items": {"type": "integer", "minimum": -(n_layers + 1), "maximum": n_layers},
                "default": [-1],
                "minItems": 1,
                "maxItems": MAX_CHOICES,
                "description": f"0 is the embedding, {n_layers} the last layer; negative numbers count from the end.",
            },
            "include": {
                "type": "array",
                "items": {"type": "string", "enum": list(includes(contacts=model.has_contacts))},
                "default": ["mean"],
                "minItems": 1,
                "maxItems": MAX_CHOICES,
            },
        }
    params = {**object_schema(choices, required=()), "type": ["object", "null"]}
    properties = {"params": params, "items": _items(object_schema({"sequence": sequence}), limits)}
    return object_schema(properties, required=("items",))


def sequence_schema(action: str, limits: Limits) -> Json:
    """JSON Schema of one sequence: exactly what is accepted."""
    letters = "".join(sorted(ACCEPTED_RESIDUES - {"-"}))
    if action == "predict":
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
        "pattern": f"^-*[{letters}][{letters}-]*$",
    }


def embeddings_schema(models: Iterable[ServedModel], limits: Limits) -> Json:
    """JSON Schema of the body of a request for embeddings in OpenAI's shape."""
    sequence = sequence_schema("encode", limits)
    inputs: Json = {"anyOf": [sequence, {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": sequence}]}
    schemas = []
    for model in models:
        properties: Json = {
            "model": {"type": "string", "enum": sorted(model.names), "description": "Case does not matter."},
            "input": inputs,
            "encoding_format": {"type": "string", "enum": list(FORMATS), "default": "float"},
            "dimensions": {"type": "integer", "enum": [model.spec.width]},
            "user": {"type": "string", "description": "Not used."},
        }
        schemas.append(object_schema(properties, required=("model", "input")))
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def post_paths(models: Iterable[ServedModel]) -> Iterator[tuple[str, str, ServedModel, str]]:
    """Dialect, action, model and path of everything that can be asked of a model by its path."""
    for model in models:
        for dialect, actions in ACTIONS.items():
            for action in actions:
                yield dialect, action, model, action_path(dialect, model_slug(model.spec, dialect), action)


def object_schema(properties: Mapping[str, Any], required: Iterable[str] | None = None) -> Json:
    """Schema of an object without further fields; all are required if nothing else is said."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _items(item: Json, limits: Limits) -> Json:
    return {"type": "array", "minItems": 1, "maxItems": limits.max_items, "items": item}
