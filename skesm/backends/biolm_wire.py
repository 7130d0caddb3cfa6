"""The protocols in which BioLM's services speak of ESM-2: paths, bodies and answers, as plain functions.

Four dialects, shared by our client and our server. None of these functions sends anything; errors have their own
module, `biolm_errors`.

========  ===========================================  ====================================================
dialect   request                                      answer for one sequence
========  ===========================================  ====================================================
``v1``    ``/api/v1/models/{name}/transform/``         ``mean_representations`` of the last layer, ``contacts``,
                                                       one-dimensional ``logits`` and ``attentions``, always
``v2``    ``/api/v2/{slug}/encode/``                   ``mean_representations``, ``representations`` … by
                                                       layer: ``{"33": […]}``
``v3``    ``/api/v3/{slug}/encode/``                   ``embeddings``, ``per_token_embeddings`` … by layer:
                                                       ``[{"layer": 33, "embedding": […]}]``
``hub``   ``/api/v1/{slug}/encode``                    as v3, but ``residue_embeddings``, and null for what
                                                       was not asked
========  ===========================================  ====================================================

Layers are matched by their number. The one-dimensional logits of v1 are the output ``logit_means``; nothing else is.
``attentions`` have one row for each layer from the first to the last, the outputs ``attention_received@1`` to ``@n``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from skesm.esm2.spec import ALIASES, ModelSpec
from skesm.exceptions import InvalidAnswerError
from skesm.outputs.kinds import CONTACTS, LAYER_KINDS
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import AMINO_ACIDS

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
    CONTACTS: "contacts",
    "attention_received": "attentions",
}
# Name in `include` → keys of the answer, in the order of the dialects v2, v3, hub.
_ANSWER_KEYS: Mapping[str, tuple[str, str, str]] = {
    "mean": ("mean_representations", "embeddings", "embeddings"),
    "per_residue": ("representations", "per_token_embeddings", "residue_embeddings"),
    "bos": ("bos_representations", "bos_embeddings", "bos_embeddings"),
}
#: What an answer of v1 holds, beside its name.
V1_KEYS = ("mean_representations", "contacts", "logits", "attentions")
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
            # Its attentions are left out: nothing says what their axes are, and a shape of n x n would not tell.
            if output not in (OutputSpec("mean", spec.n_layers), OutputSpec("logit_means"), OutputSpec(CONTACTS)):
                raise ValueError(
                    f"output {output} is not available in dialect 'v1', which answers only mean@{spec.n_layers}, "
                    "logit_means and contacts: use dialect 'v3' or the local backend"
                )
        elif output.kind == "logit_means":
            raise ValueError(
                f"output logit_means is the one-dimensional logits of dialect 'v1'; dialect {dialect!r} answers "
                "'logits', one column for each amino acid"
            )
        elif output.kind not in _INCLUDES:
            hint = "; of attention, services answer attention_received" if "attention" in output.kind else ""
            raise ValueError(
                f"output {output} is not available from a remote service (dialect {dialect!r}): use the local backend"
                f"{hint}"
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
    layers = sorted(_representation_layers(outputs))
    params: dict[str, Any] = {"repr_layers": layers} if layers else {}
    params["include"] = sorted({_INCLUDES[output.kind] for output in outputs})
    return {"params": params, "items": [{"sequence": sequence} for sequence in sequences]}


def floats_per_answer(dialect: str, spec: ModelSpec, outputs: Iterable[OutputSpec], length: int) -> int:
    """How many numbers the answer for one sequence of `length` residues holds: its size, before it is asked for."""
    if dialect == "v1":
        return spec.width + length * (length + 1 + spec.n_layers)
    outputs = tuple(outputs)
    includes = {_INCLUDES[output.kind] for output in outputs}
    layers = len(_representation_layers(outputs))
    sizes = {
        "mean": layers * spec.width,
        "bos": layers * spec.width,
        "per_residue": layers * length * spec.width,
        "logits": length * len(AMINO_ACIDS),
        "contacts": length * length,
        "attentions": spec.n_layers * length,
    }
    return sum(sizes[name] for name in includes)


def _representation_layers(outputs: Iterable[OutputSpec]) -> set[int]:
    return {output.layer for output in outputs if output.kind in LAYER_KINDS and output.layer is not None}


def needs_equal_lengths(outputs: Iterable[OutputSpec]) -> bool:
    """Whether one request may hold sequences of one length only, or its answer would be wrong.

    The hub's gateway takes the mean of the attention over the longest sequence's tokens, padding included: what a
    residue receives would depend on the company of its sequence.

    Examples
    --------
    >>> needs_equal_lengths([OutputSpec("contacts")]), needs_equal_lengths([OutputSpec("attention_received", 1)])
    (False, True)
    """
    return any(output.kind == "attention_received" for output in outputs)


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
        record = _decode_result(result, outputs, length, spec, where)
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


def _decode_result(
    result: Mapping[str, Any], outputs: Sequence[OutputSpec], length: int, spec: ModelSpec, where: str
) -> dict[OutputSpec, FloatArray]:
    record: dict[OutputSpec, FloatArray] = {}
    received: FloatArray | None = None  # of all layers, read once
    for output in outputs:
        if output.kind != "attention_received":
            record[output] = _decode_output(result, output, length, spec, where)
            continue
        assert output.layer is not None
        if received is None:
            if result.get("attentions") is None:
                raise InvalidAnswerError(f"{where}: {output} is missing")
            received = _float32(result["attentions"], (spec.n_layers, length), f"{where}: attentions")
        record[output] = received[output.layer - 1].copy()  # a view would keep all layers in memory
    return record


def _decode_output(
    result: Mapping[str, Any], output: OutputSpec, length: int, spec: ModelSpec, where: str
) -> FloatArray:
    if output.layer is None:
        if output.kind == "logits":
            vocabulary = result.get("vocab_tokens")
            if vocabulary is not None and vocabulary != list(AMINO_ACIDS):
                raise InvalidAnswerError(f"{where}: vocab_tokens are not {' '.join(AMINO_ACIDS)}")
        value = result.get("contacts" if output.kind == CONTACTS else "logits")
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


def at(value: Any, *keys: str) -> Any:
    """What stands under nested keys of parsed JSON, None where a part of the way is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


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


def encode_answer(dialect: str, records: Sequence[Record], start: int = 0) -> dict[str, Any]:
    """Body of the answer that carries `records`: the other direction of `decode_answer`, for a server.

    Parameters
    ----------
    dialect : str
        One of `DIALECTS`.
    records : sequence of Record
        One for each sequence, in the order asked, holding outputs that the protocol has a place for;
        ``attention_received`` of all layers, or of none.
    start : int, default=0
        Place of the first of them in the request: in v1, results are numbered.

    Returns
    -------
    body : dict
        Arrays stay arrays, for an encoder that writes float32 in the shortest digits that give it back.

    Examples
    --------
    >>> encode_answer("v3", [{OutputSpec("mean", 6): np.ones(2, np.float32)}])
    {'results': [{'embeddings': [{'layer': 6, 'embedding': array([1., 1.], dtype=float32)}]}]}
    >>> (result,) = encode_answer("v1", [{OutputSpec("logit_means"): np.ones(2, np.float32)}])["predictions"]
    >>> result["name"], result["logits"], result["contacts"]
    ('0', array([1., 1.], dtype=float32), None)
    """
    kinds = {"mean": "mean", "cls": "bos", "residues": "per_residue"}
    column = {"v1": 0, "v2": 0, "v3": 1, "hub": 2}[dialect]
    results = []
    for place, record in enumerate(records, start):
        result: dict[str, Any] = {"name": str(place), **dict.fromkeys(V1_KEYS)} if dialect == "v1" else {}
        if dialect == "hub":
            result.update(dict.fromkeys(HUB_KEYS))
        received: list[FloatArray] = []  # of the layers from the first to the last
        for output, value in sorted(record.items(), key=lambda pair: (pair[0].kind, pair[0].layer or 0)):
            if output.kind in ("logits", "logit_means"):
                result["logits"] = value
                if output.kind == "logits" and dialect in ("v3", "hub"):
                    result["vocab_tokens"] = list(AMINO_ACIDS)
                continue
            if output.kind == CONTACTS:
                result["contacts"] = value
                continue
            if output.kind == "attention_received":
                received.append(value)
                if output.layer != len(received):
                    raise ValueError(f"output {output} is there without that of layer {len(received)}")
                continue
            key = _ANSWER_KEYS[kinds[output.kind]][column]
            if column == 0:
                result[key] = {**(result.get(key) or {}), str(output.layer): value}
            else:
                inner = "embeddings" if output.kind == "residues" else "embedding"
                result[key] = [*(result.get(key) or ()), {"layer": output.layer, inner: value}]
        if received:
            result["attentions"] = np.stack(received)
        results.append(result)
    return {"predictions" if dialect == "v1" else "results": results}
