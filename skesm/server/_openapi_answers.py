"""Schemas of answers, by name."""

from __future__ import annotations

from collections.abc import Mapping

from skesm.sequences.alphabet import AMINO_ACIDS
from skesm.server._schema import Json, object_schema

_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer"}


def reference(component: str) -> Json:
    """Reference to one of `COMPONENTS`."""
    return {"$ref": f"#/components/schemas/{component}"}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _by_layer(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values, "description": "Values by the number of their layer."}


def _or_null(properties: Mapping[str, Json]) -> dict[str, Json]:
    return {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in properties.items()}


def _results(result: str) -> Json:
    return object_schema({"results": _array(reference(result))})


_VECTOR, _MATRIX = reference("Vector"), reference("Matrix")
_VOCABULARY: Json = {**_array({"type": "string", "enum": list(AMINO_ACIDS)}), "description": "Columns of logits."}
_MAPS: Mapping[str, Json] = {"contacts": _MATRIX, "logits": _MATRIX, "attentions": _MATRIX}
_V2 = {
    "mean_representations": _by_layer(_VECTOR),
    "representations": _by_layer(_MATRIX),
    "bos_representations": _by_layer(_VECTOR),
    **_MAPS,
}
_VECTORS, _MATRICES = _array(reference("LayerVector")), _array(reference("LayerMatrix"))
_V3 = {
    "embeddings": _VECTORS,
    "per_token_embeddings": _MATRICES,
    "bos_embeddings": _VECTORS,
    "vocab_tokens": _VOCABULARY,
    **_MAPS,
}
_HUB = {"residue_embeddings" if name == "per_token_embeddings" else name: schema for name, schema in _V3.items()}
_V1 = {
    "mean_representations": _by_layer(_VECTOR),
    "contacts": {"anyOf": [_MATRIX, {"type": "null"}]},
    "logits": _VECTOR,
    "attentions": _MATRIX,
}
_INDEX = {"sequence_index": {**_WHOLE, "description": "Place in the request, from 0."}}
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
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_OPENAI_ERROR = {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL}

COMPONENTS: Mapping[str, Json] = {
    "Vector": _array({"type": "number"}),
    "Matrix": _array(_array({"type": "number"})),
    "LayerVector": object_schema({"layer": _WHOLE, "embedding": _VECTOR}),
    "LayerMatrix": object_schema({"layer": _WHOLE, "embeddings": _MATRIX}),
    "V1Result": object_schema({"name": _TEXT, **_V1}),
    "V1Answer": object_schema({"predictions": _array(reference("V1Result"))}),
    "V2EncodeResult": object_schema(_V2, required=()),
    "V2EncodeAnswer": _results("V2EncodeResult"),
    "V3EncodeResult": object_schema({**_INDEX, **_V3}, required=("sequence_index",)),
    "V3EncodeAnswer": _results("V3EncodeResult"),
    "HubEncodeResult": object_schema({**_INDEX, **_or_null(_HUB)}),
    "HubEncodeAnswer": _results("HubEncodeResult"),
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
