"""Schemas of answers, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from skesm._typing import Document
from skesm.esm2.spec import find_registered
from skesm.outputs.kinds import CONTACT_HEAD, KINDS
from skesm.outputs.spec import OutputSpec
from skesm.protocol.dialects import COLUMNS, DIALECTS, ENCODE, LOG_PROB, PREDICT, STACKED, Dialect
from skesm.sequences.alphabet import AMINO_ACIDS
from skesm.server.describe.requests import object_schema

_TEXT: Document = {"type": "string"}
_WHOLE: Document = {"type": "integer"}


def reference(component: str) -> Document:
    """Reference to one of `COMPONENTS`."""
    return {"$ref": f"#/components/schemas/{component}"}


def _array(items: Document) -> Document:
    return {"type": "array", "items": items}


def _by_layer(values: Document) -> Document:
    return {"type": "object", "additionalProperties": values, "description": "Values by the number of their layer."}


def _or_null(properties: Mapping[str, Document]) -> dict[str, Document]:
    return {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in properties.items()}


def _results(result: str) -> Document:
    return object_schema({"results": _array(reference(result))})


_VECTOR, _MATRIX = reference("Vector"), reference("Matrix")
_VOCABULARY: Document = {**_array({"type": "string", "enum": list(AMINO_ACIDS)}), "description": "Columns of logits."}
_INDEX = {**_WHOLE, "description": "Place in the request, from 0."}
_PREDICTION = {"logits": _MATRIX, "sequence_tokens": _array(_TEXT), "vocab_tokens": _VOCABULARY}
_EMBEDDING = {
    "object": {"const": "embedding"},
    "index": _WHOLE,
    "embedding": {"anyOf": [_VECTOR, {**_TEXT, "description": "base64 of little-endian float32."}]},
}
_USAGE = object_schema({"prompt_tokens": _WHOLE, "total_tokens": _WHOLE})
_HUB_PROBLEM = object_schema(
    {"type": _TEXT, "loc": _array({"type": ["string", "integer"]}), "msg": _TEXT, "ctx": {"type": "object"}},
    required=("type", "loc", "msg"),
)
_HUB_ERROR = {
    "detail": {"anyOf": [_TEXT, _array(reference("HubProblem"))]},
    "errors": _array({}),
    "status_code": _WHOLE,
    "code": _TEXT,
}
_HOSTED_ERROR = {
    "anyOf": [_TEXT, {"type": "object", "additionalProperties": _array(_TEXT)}],
    "description": "A message, or messages by the place in the body.",
}
_TEXT_OR_NULL: Document = {"type": ["string", "null"]}
_OPENAI_ERROR = {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL}

_ANSWERS = {PREDICT: "PredictAnswer", LOG_PROB: "LogProbAnswer"}
_SHAPES_OF = find_registered("esm2-8m")  # how many axes a value has does not depend on the model


def answer_name(speaks: Dialect, action: str) -> str:
    """Name of the schema of an answer: one for each dialect's `encode`, and one for each other action."""
    return f"{_prefix(speaks)}Answer" if action == ENCODE else _ANSWERS[action]


def _prefix(speaks: Dialect) -> str:
    return f"{speaks.name.capitalize()}{'Encode' if speaks.choice else ''}"


def _encode_answers() -> Iterator[tuple[str, Document]]:
    """Schemas of the results and answers of `encode`, by dialect."""
    for speaks in DIALECTS.values():
        yield f"{_prefix(speaks)}Result", _encode_result(speaks)
        yield (
            answer_name(speaks, ENCODE),
            object_schema({speaks.results: _array(reference(f"{_prefix(speaks)}Result"))}),
        )


def _encode_result(speaks: Dialect) -> Document:
    number: dict[str, Document] = {}
    if speaks.number is not None:
        key, type_ = speaks.number
        number[key] = _TEXT if type_ is str else _INDEX
    values: dict[str, Document] = {}
    for kind in speaks.includes:
        # A dialect that always has all keys puts null where nothing was asked, or where the model has no such head.
        or_null = speaks.always and (speaks.choice or KINDS[kind].head == CONTACT_HEAD)
        found = {speaks.key(kind): _value(speaks, kind)}
        if speaks.names_columns and kind in COLUMNS:
            found[COLUMNS[kind]] = _VOCABULARY
        values |= _or_null(found) if or_null else found
    return object_schema({**number, **values}, required=(*number, *speaks.always))


def _value(speaks: Dialect, kind: str) -> Document:
    """Value of one kind of output."""
    first = KINDS[kind].first_layer
    assert _SHAPES_OF is not None
    axes = len(OutputSpec(kind, first).shape(1, _SHAPES_OF)) + (kind in STACKED)
    if first is None or kind in STACKED:
        return _VECTOR if axes == 1 else _MATRIX
    if speaks.layers_by_name:
        return _by_layer(_VECTOR if axes == 1 else _MATRIX)
    return _array(reference("LayerVector" if axes == 1 else "LayerMatrix"))


COMPONENTS: Mapping[str, Document] = {
    "Vector": _array({"type": "number"}),
    "Matrix": _array(_array({"type": "number"})),
    "LayerVector": object_schema({"layer": _WHOLE, "embedding": _VECTOR}),
    "LayerMatrix": object_schema({"layer": _WHOLE, "embeddings": _MATRIX}),
    **dict(_encode_answers()),
    "PredictResult": object_schema(_PREDICTION),
    "PredictAnswer": _results("PredictResult"),
    "LogProbResult": object_schema({"log_prob": {"type": "number"}}),
    "LogProbAnswer": _results("LogProbResult"),
    "Embedding": object_schema(_EMBEDDING),
    "EmbeddingsAnswer": object_schema(
        {"object": {"const": "list"}, "data": _array(reference("Embedding")), "model": _TEXT, "usage": _USAGE}
    ),
    "Health": object_schema({"status": _TEXT, "service": _TEXT, "version": _TEXT, "models": _array(_TEXT)}),
    "Probe": object_schema({"status": {"type": "string", "enum": ["ok", "broken", "draining"]}}),
    "JsonSchema": {"type": "object"},
    "Login": object_schema({"access": _TEXT, "refresh": _TEXT}),
    "Access": object_schema({"access": _TEXT}),
    "HubProblem": _HUB_PROBLEM,
    "HubError": object_schema(_HUB_ERROR, required=("detail",)),
    "HostedError": object_schema({"error": _HOSTED_ERROR}),
    "AuthError": object_schema({"detail": _TEXT, "error": _TEXT, "code": _TEXT}, required=()),
    "OpenAIError": object_schema({"error": object_schema(_OPENAI_ERROR)}),
    "HostError": object_schema({"detail": _TEXT}),
}
