"""The protocols in which BioLM's services speak of ESM-2: paths, bodies and answers, as plain functions.

Four dialects, shared by our client and our server. None of these functions sends anything; errors have their own
module, `biolm_errors`.

========  ===========================================  ====================================================
dialect   request                                      answer for one sequence
========  ===========================================  ====================================================
``v1``    ``/api/v1/models/{name}/transform/``         ``mean_representations`` of the last layer and
                                                       one-dimensional ``logits``, always
``v2``    ``/api/v2/{slug}/encode/``                   ``mean_representations``, ``representations`` … by
                                                       layer: ``{"33": […]}``
``v3``    ``/api/v3/{slug}/encode/``                   ``embeddings``, ``per_token_embeddings`` … by layer:
                                                       ``[{"layer": 33, "embedding": […]}]``
``hub``   ``/api/v1/{slug}/encode``                    as v3, but ``residue_embeddings``, and null for what
                                                       was not asked
========  ===========================================  ====================================================

Layers are matched by their number. The one-dimensional logits of v1 are the output ``logit_means``; nothing else is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skesm._alphabet import AMINO_ACIDS
from skesm._outputs import FloatArray, OutputSpec, Record
from skesm.esm2.spec import ALIASES, ModelSpec
from skesm.exceptions import InvalidAnswerError

DIALECTS = ("v1", "v2", "v3", "hub")

#: Documented limits of the hosted service.
MAX_ITEMS = 8
MAX_LENGTH = 2048

#: What `encode` accepts: the 20 amino acids, ambiguous and rare residues, and the gap.
ACCEPTED_RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWYBXZUO-")

# Output kind → name in `include`. `max` is reduced by the client: no service answers it.
_INCLUDES: Mapping[str, str] = {
    "mean": "mean",
    "cls": "bos",
    "residues": "per_residue",
    "max": "per_residue",
    "logits": "logits",
}
# Name in `include` → keys of the answer, in the order of the dialects v2, v3, hub.
_ANSWER_KEYS: Mapping[str, tuple[str, str, str]] = {
    "mean": ("mean_representations", "embeddings", "embeddings"),
    "per_residue": ("representations", "per_token_embeddings", "residue_embeddings"),
    "bos": ("bos_representations", "bos_embeddings", "bos_embeddings"),
}
#: Everything that a hub answer names, asked for or not.
HUB_KEYS = (
    "embeddings",
    "bos_embeddings",
    "residue_embeddings",
    "contacts",
    "logits",
    "vocab_tokens",
    "attentions",
)
# The documentation of v2 writes this one slug with a capital.
_V2_SLUGS: Mapping[str, str] = {"esm2-3b": "esm2-3B"}

# ---------------------------------------------------------------------------------------------- paths


def model_slug(spec: ModelSpec, dialect: str) -> str:
    """Name of a model in a dialect's paths.

    Examples
    --------
    >>> from skesm.esm2.spec import find_registered
    >>> spec = find_registered("esm2_t33_650M_UR50D")
    >>> model_slug(spec, "v1"), model_slug(spec, "v3")
    ('esm2_t33_650M_UR50D', 'esm2-650m')
    """
    if dialect == "v1":
        return spec.name
    slug = next((alias for alias, name in ALIASES.items() if name == spec.name), spec.name)
    return _V2_SLUGS.get(slug, slug) if dialect == "v2" else slug


def action_path(dialect: str, slug: str, action: str = "encode") -> str:
    """Path that a request is posted to; hosted paths end with a slash, those of the hub do not.

    Examples
    --------
    >>> action_path("v3", "esm2-8m"), action_path("hub", "esm2-8m")
    ('/api/v3/esm2-8m/encode/', '/api/v1/esm2-8m/encode')
    """
    if dialect == "v1":
        return f"/api/v1/models/{slug}/{'transform' if action == 'encode' else action}/"
    return f"/api/v1/{slug}/{action}" if dialect == "hub" else f"/api/{dialect}/{slug}/{action}/"


def schema_path(dialect: str, slug: str, action: str = "encode") -> str | None:
    """Path of the description of an action's request, None where the dialect has none."""
    if dialect == "v1":
        return None
    return "/openapi.json" if dialect == "hub" else f"/api/{dialect}/schema/{slug}/{action}/"


# ---------------------------------------------------------------------------------------------- requests


def check_outputs(dialect: str, spec: ModelSpec, outputs: Iterable[OutputSpec]) -> None:
    """Raise ValueError for outputs that a dialect cannot answer, with the remedy; before anything is sent.

    Examples
    --------
    >>> from skesm.esm2.spec import find_registered
    >>> check_outputs("v3", find_registered("esm2-8m"), [OutputSpec("eos", 6)])
    Traceback (most recent call last):
        ...
    ValueError: output eos@6 is not available from a remote service (dialect 'v3'): use the local backend
    """
    for output in outputs:
        if output.layer is not None and output.layer > spec.n_layers:
            raise ValueError(f"output {output} does not exist: {spec.name} has layers 0 to {spec.n_layers}")
        if dialect == "v1":
            if output not in (OutputSpec("mean", spec.n_layers), OutputSpec("logit_means")):
                raise ValueError(
                    f"output {output} is not available in dialect 'v1', which answers only mean@{spec.n_layers} and "
                    "logit_means: use dialect 'v3' or the local backend"
                )
        elif output.kind == "logit_means":
            raise ValueError(
                f"output logit_means is the one-dimensional logits of dialect 'v1'; dialect {dialect!r} answers "
                "'logits', one column for each amino acid"
            )
        elif output.kind not in _INCLUDES:
            raise ValueError(
                f"output {output} is not available from a remote service (dialect {dialect!r}): use the local backend"
            )


def request_body(dialect: str, sequences: Sequence[str], outputs: Iterable[OutputSpec]) -> dict[str, Any]:
    """Body of the one request that answers `outputs` for `sequences`.

    Examples
    --------
    >>> request_body("v3", ["MKT"], [OutputSpec("mean", 6), OutputSpec("logits")])
    {'params': {'repr_layers': [6], 'include': ['logits', 'mean']}, 'items': [{'sequence': 'MKT'}]}
    >>> request_body("v1", ["MKT"], [OutputSpec("mean", 6)])
    {'instances': [{'data': {'text': 'MKT'}}]}
    """
    if dialect == "v1":
        return {"instances": [{"data": {"text": sequence}} for sequence in sequences]}
    layers = sorted({output.layer for output in outputs if output.layer is not None})
    params: dict[str, Any] = {"repr_layers": layers} if layers else {}
    params["include"] = sorted({_INCLUDES[output.kind] for output in outputs})
    return {"params": params, "items": [{"sequence": sequence} for sequence in sequences]}


def floats_per_answer(dialect: str, spec: ModelSpec, outputs: Iterable[OutputSpec], length: int) -> int:
    """How many numbers the answer for one sequence of `length` residues holds: its size, before it is asked for."""
    if dialect == "v1":
        return spec.width + length * (length + 1 + spec.n_layers)
    outputs = tuple(outputs)
    includes = {_INCLUDES[output.kind] for output in outputs}
    layers = len({output.layer for output in outputs} - {None})
    per_layer = sum(spec.width * (length if name == "per_residue" else 1) for name in includes - {"logits"})
    return layers * per_layer + (length * len(AMINO_ACIDS) if "logits" in includes else 0)


# ---------------------------------------------------------------------------------------------- limits


@dataclass(frozen=True)
class Limits:
    """What a service says it takes; None where it does not say."""

    max_items: int | None = None
    max_length: int | None = None
    requests_per_second: float | None = None


def read_limits(document: Any, path: str) -> Limits:
    """Limits in a hosted schema, or in an OpenAPI document that describes `path`.

    Examples
    --------
    >>> read_limits({"properties": {"items": {"maxItems": 4}}, "throttle_rate": "30/minute"}, "/api/v3/m/encode/")
    Limits(max_items=4, max_length=None, requests_per_second=0.5)
    """
    schema = document
    paths = at(document, "paths")
    if isinstance(paths, Mapping):
        operation = paths.get(path, paths.get(path.rstrip("/")))
        schema = at(operation, "post", "requestBody", "content", "application/json", "schema")
    items = _resolve(at(_resolve(schema, document), "properties", "items"), document)
    sequence = at(_resolve(at(items, "items"), document), "properties", "sequence")
    return Limits(
        _positive(at(items, "maxItems")),
        _positive(at(_resolve(sequence, document), "maxLength")),
        _rate(at(document, "throttle_rate")),
    )


def at(value: Any, *keys: str) -> Any:
    """What stands under nested keys of parsed JSON, None where a part of the way is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _resolve(schema: Any, document: Any) -> Any:
    """The schema itself, or the one of the same document that it refers to."""
    reference = at(schema, "$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    return at(document, *reference[2:].split("/"))


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _rate(value: Any) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*/\s*(second|sec|s|minute|min|m|hour|h)", str(value).strip())
    if found is None or float(found[1]) <= 0:
        return None
    return float(found[1]) / {"s": 1, "m": 60, "h": 3600}[found[2][0]]


# ---------------------------------------------------------------------------------------------- answers


def decode_answer(
    dialect: str, body: Any, lengths: Sequence[int], outputs: Sequence[OutputSpec], spec: ModelSpec
) -> list[Record | InvalidAnswerError]:
    """Records of an answer, checked against what was asked.

    Parameters
    ----------
    dialect : str
        One of `DIALECTS`.
    body : object
        The parsed JSON.
    lengths : sequence of int
        Residues of each sequence that was sent, in the order sent.
    outputs : sequence of OutputSpec
        What each record must hold.
    spec : ModelSpec
        The model: its width and layers are checked.

    Returns
    -------
    records : list of Record or InvalidAnswerError
        One for each sequence, float32. An error stands where the model's values are not finite: that concerns this
        sequence alone.

    Raises
    ------
    InvalidAnswerError
        If count, order, layers, shapes or columns are not what was asked: then no row of the answer can be trusted.
    """
    key = "predictions" if dialect == "v1" else "results"
    results = at(body, key)
    if not isinstance(results, list):
        raise InvalidAnswerError(f"the answer holds no list {key!r}")
    if len(results) != len(lengths):
        raise InvalidAnswerError(f"the answer holds {len(results)} results for {len(lengths)} sequences")
    records: list[Record | InvalidAnswerError] = []
    for place, (result, length) in enumerate(zip(results, lengths, strict=True)):
        where = f"result {place} of {len(lengths)}"
        if not isinstance(result, Mapping):
            raise InvalidAnswerError(f"{where} is not an object")
        _check_place(result, place, where)
        record = {output: _decode_output(dialect, result, output, length, spec, where) for output in outputs}
        bad = [str(output) for output, value in record.items() if not np.isfinite(value).all()]
        records.append(InvalidAnswerError(f"{', '.join(bad)}: values are not finite") if bad else record)
    return records


def _check_place(result: Mapping[str, Any], place: int, where: str) -> None:
    for key in ("sequence_index", "name"):
        value = result.get(key)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and value != place:
            raise InvalidAnswerError(f"{where} has {key} {value}: the results are not in the order sent")


def _decode_output(
    dialect: str, result: Mapping[str, Any], output: OutputSpec, length: int, spec: ModelSpec, where: str
) -> FloatArray:
    if output.kind in ("logits", "logit_means"):
        if output.kind == "logits":
            vocabulary = result.get("vocab_tokens")
            if vocabulary is not None and vocabulary != list(AMINO_ACIDS):
                raise InvalidAnswerError(f"{where}: vocab_tokens are not {' '.join(AMINO_ACIDS)}")
        value = result.get("logits")
        shape = output.shape(length, spec)
    else:
        value = _layer_value(result, _INCLUDES[output.kind], output.layer, where)
        shape = (length, spec.width) if output.kind in ("residues", "max") else (spec.width,)
    if value is None:
        raise InvalidAnswerError(f"{where}: {output} is missing")
    array = _float32(value, shape, f"{where}: {output}")
    return array.max(axis=0) if output.kind == "max" else array


def _layer_value(result: Mapping[str, Any], include: str, layer: int | None, where: str) -> Any:
    layers = next((result[key] for key in _ANSWER_KEYS[include] if result.get(key) is not None), None)
    if isinstance(layers, Mapping):
        return layers.get(str(layer))
    if layers is None:
        return None
    if not isinstance(layers, list) or not all(isinstance(entry, Mapping) for entry in layers):
        raise InvalidAnswerError(f"{where}: {include} is not a list of layers")
    entries = [entry for entry in layers if entry.get("layer") == layer]
    if len(entries) > 1:
        raise InvalidAnswerError(f"{where}: layer {layer} of {include} is there {len(entries)} times")
    return entries[0].get("embedding", entries[0].get("embeddings")) if entries else None


def _float32(value: Any, shape: tuple[int, ...], where: str) -> FloatArray:
    try:
        # Through float64: None becomes NaN, and a number beyond float32 becomes infinite without a warning.
        wide = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidAnswerError(f"{where} is not an array of numbers") from None
    if wide.shape != shape:
        raise InvalidAnswerError(f"{where} has shape {list(wide.shape)}, expected {list(shape)}")
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)


def encode_answer(
    dialect: str, records: Sequence[Record], extras: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Body of the answer that carries `records`: the other direction of `decode_answer`, for a server.

    Parameters
    ----------
    dialect : str
        One of `DIALECTS`.
    records : sequence of Record
        One for each sequence, in the order asked. ``max`` and ``eos`` have no place in the protocol.
    extras : sequence of mapping, default=None
        Further keys of each result, ready for JSON (``contacts``, ``attentions``).

    Returns
    -------
    body : dict
        Arrays stay arrays, for an encoder that writes float32 in the shortest digits that give it back.

    Examples
    --------
    >>> encode_answer("v3", [{OutputSpec("mean", 6): np.ones(2, np.float32)}])
    {'results': [{'embeddings': [{'layer': 6, 'embedding': array([1., 1.], dtype=float32)}]}]}
    >>> encode_answer("v1", [{OutputSpec("mean", 6): np.ones(2, np.float32)}])
    {'predictions': [{'name': '0', 'mean_representations': {'6': array([1., 1.], dtype=float32)}}]}
    """
    kinds = {"mean": "mean", "cls": "bos", "residues": "per_residue"}
    column = {"v1": 0, "v2": 0, "v3": 1, "hub": 2}[dialect]
    results = []
    for place, record in enumerate(records):
        result: dict[str, Any] = {"name": str(place)} if dialect == "v1" else {}
        if dialect == "hub":
            result.update(dict.fromkeys(HUB_KEYS))
        for output, value in sorted(record.items(), key=lambda pair: (pair[0].kind, pair[0].layer or 0)):
            if output.kind in ("logits", "logit_means"):
                result["logits"] = value
                if output.kind == "logits" and dialect in ("v3", "hub"):
                    result["vocab_tokens"] = list(AMINO_ACIDS)
                continue
            key = _ANSWER_KEYS[kinds[output.kind]][column]
            if column == 0:
                result.setdefault(key, {})[str(output.layer)] = value
            else:
                inner = "embeddings" if output.kind == "residues" else "embedding"
                result[key] = [*(result.get(key) or ()), {"layer": output.layer, inner: value}]
        result.update(extras[place] if extras is not None else {})
        results.append(result)
    return {"predictions" if dialect == "v1" else "results": results}
