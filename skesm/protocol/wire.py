"""Paths and bodies of the requests of BioLM's protocols as plain functions, for our client and our server.

None of these functions sends anything. The differences of the dialects are in `dialects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from skesm._typing import JsonObject
from skesm.esm2.spec import ALIASES, ModelSpec
from skesm.outputs.kinds import KINDS
from skesm.outputs.spec import OutputSpec
from skesm.protocol.dialects import DIALECTS, ENCODE, NEED_EQUAL_LENGTHS, PREDICT, PREDICTED, STACKED

#: Documented limits of the hosted service.
MAX_ITEMS = 8
MAX_LENGTH = 2048

#: Letters that `encode` accepts: the 20 amino acids, ambiguous and rare residues, and the gap.
ACCEPTED_RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWYBXZUO-")

# A number in JSON has up to 24 characters (-1.2345678901234567e-100), a separator, and perhaps an indentation.
_BYTES_PER_NUMBER = 64
# An item of an answer also holds its place, keys and columns, and a token for each residue.
_BYTES_PER_ITEM, _BYTES_PER_RESIDUE = 1 << 16, 64
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
    speaks = DIALECTS[dialect]
    if speaks.registry_names:
        return spec.name
    slug = next((alias for alias, name in ALIASES.items() if name == spec.name), spec.name)
    return speaks.slugs.get(slug, slug)


def action_path(dialect: str, slug: str, action: str = "encode") -> str:
    """Path of a request. Hosted paths end with a slash, paths of the hub do not.

    Examples
    --------
    >>> action_path("v3", "esm2-8m"), action_path("hub", "esm2-8m")
    ('/api/v3/esm2-8m/encode/', '/api/v1/esm2-8m/encode')
    """
    speaks = DIALECTS[dialect]
    return speaks.path.format(slug=slug, action=speaks.actions.get(action, action))


def schema_path(dialect: str, slug: str, action: str = "encode") -> str | None:
    """Path of the JSON Schema of a request. None if the dialect has none."""
    speaks = DIALECTS[dialect]
    if speaks.schema is None:
        return None
    return speaks.schema.format(slug=slug, action=speaks.actions.get(action, action))


# ---------------------------------------------------------------------------------------------- requests


def check_outputs(dialect: str, spec: ModelSpec, outputs: Iterable[OutputSpec]) -> None:
    """Raise ValueError for outputs that a dialect cannot answer, with the remedy, before anything is sent.

    Examples
    --------
    >>> from skesm.esm2.spec import find_registered
    >>> check_outputs("v3", find_registered("esm2-8m"), [OutputSpec("contact_profile")])
    Traceback (most recent call last):
        ...
    ValueError: output contact_profile is not available in dialect 'v3': use the local backend
    """
    speaks = DIALECTS[dialect]
    for output in outputs:
        if output.layer is not None and output.layer > spec.n_layers:
            raise ValueError(f"output {output} does not exist: {spec.name} has layers 0 to {spec.n_layers}")
        chosen = speaks.choice or output.layer in (None, spec.n_layers)
        if speaks.carrier(output.kind) is None or output.kind in speaks.unread or not chosen:
            remedy = speaks.remedies.get(output.kind, speaks.remedies[""])
            raise ValueError(f"output {output} is not available in dialect {dialect!r}: {remedy}")


def mask_refusal(dialect: str, outputs: Iterable[OutputSpec]) -> str | None:
    """Reason why a dialect cannot answer `outputs` for a sequence with ``<mask>``. None if it can.

    Examples
    --------
    >>> mask_refusal("v3", [OutputSpec("logits")]), mask_refusal("hub", [OutputSpec("mean", 6)])
    (None, 'a sequence with <mask> has only logits from a remote service: use the local backend')
    """
    if PREDICT not in DIALECTS[dialect].actions:
        return f"dialect {dialect!r} takes no <mask>: use dialect='v3' or the local backend"
    if {output.kind for output in outputs} != {PREDICTED}:
        return "a sequence with <mask> has only logits from a remote service: use the local backend"
    return None


def request_body(
    dialect: str, sequences: Sequence[str], outputs: Iterable[OutputSpec], action: str = ENCODE
) -> JsonObject:
    """Body of the one request that answers `outputs` for `sequences`.

    Examples
    --------
    >>> request_body("v3", ["MKT"], [OutputSpec("mean", 6), OutputSpec("logits")])
    {'params': {'repr_layers': [6], 'include': ['logits', 'mean']}, 'items': [{'sequence': 'MKT'}]}
    >>> request_body("v1", ["MKT"], [OutputSpec("mean", 6)])
    {'instances': [{'data': {'text': 'MKT'}}]}
    >>> request_body("hub", ["M<mask>T"], [OutputSpec("logits")], "predict")
    {'items': [{'sequence': 'M<mask>T'}]}
    """
    speaks = DIALECTS[dialect]
    items = []
    for sequence in sequences:
        item: object = sequence
        for key in reversed(speaks.item):
            item = {key: item}
        items.append(item)
    if not speaks.choice or action != ENCODE:
        return {speaks.items: items}
    layers = sorted(_representation_layers(outputs))
    params: JsonObject = {"repr_layers": layers} if layers else {}
    params["include"] = sorted({speaks.includes[kind] for kind in _carriers(dialect, outputs)})
    return {"params": params, speaks.items: items}


def floats_per_answer(dialect: str, spec: ModelSpec, outputs: Iterable[OutputSpec], length: int) -> int:
    """Count the numbers in the answer for one sequence of `length` residues, before it is asked for."""
    speaks = DIALECTS[dialect]
    outputs = tuple(outputs)
    kinds = _carriers(dialect, outputs) if speaks.choice else speaks.includes
    layers = _representation_layers(outputs) if speaks.choice else {spec.n_layers}
    return sum(output.size(length, spec) for output in answered_outputs(spec, kinds, layers))


def answered_outputs(spec: ModelSpec, kinds: Iterable[str], layers: Iterable[int]) -> set[OutputSpec]:
    """All outputs that an answer holds: each layer of each kind, although only some pairs may have been wanted.

    Examples
    --------
    >>> from skesm.esm2.spec import find_registered
    >>> outputs = answered_outputs(find_registered("esm2-8m"), ["mean", "logits"], [0, 6])
    >>> sorted(map(str, outputs))
    ['logits', 'mean@0', 'mean@6']
    """
    found: set[OutputSpec] = set()
    for kind in kinds:
        first = KINDS[kind].first_layer
        if first is None:
            found.add(OutputSpec(kind))
        else:
            wanted = range(first, spec.n_layers + 1) if kind in STACKED else layers
            found |= {OutputSpec(kind, layer) for layer in wanted}
    return found


def _carriers(dialect: str, outputs: Iterable[OutputSpec]) -> set[str]:
    """Kinds that an answer must hold, so that it gives all outputs."""
    carriers = {output.kind: DIALECTS[dialect].carrier(output.kind) for output in outputs}
    missing = [kind for kind, carrier in carriers.items() if carrier is None]
    if missing:
        raise ValueError(f"dialect {dialect!r} cannot answer {', '.join(missing)}")
    return {carrier for carrier in carriers.values() if carrier is not None}


def bytes_per_answer(dialect: str, spec: ModelSpec, outputs: Iterable[OutputSpec], lengths: Iterable[int]) -> int:
    """Most bytes of an uncompressed answer for sequences of these lengths. A longer answer must be wrong.

    Examples
    --------
    >>> from skesm.esm2.spec import find_registered
    >>> bytes_per_answer("v3", find_registered("esm2-8m"), [OutputSpec("mean", 6)], [50] * 8)
    713728
    """
    outputs = tuple(outputs)
    total = 0
    for length in lengths:
        numbers = floats_per_answer(dialect, spec, outputs, length)
        if not DIALECTS[dialect].choice:
            numbers += (length + 2) ** 2  # the axes of its attentions are not documented
        total += numbers * _BYTES_PER_NUMBER + _BYTES_PER_ITEM + length * _BYTES_PER_RESIDUE
    return total


def _representation_layers(outputs: Iterable[OutputSpec]) -> set[int]:
    return {output.layer for output in outputs if output.kind not in STACKED and output.layer is not None}


def needs_equal_lengths(outputs: Iterable[OutputSpec]) -> bool:
    """Whether one request may hold sequences of one length only, or its answer would be wrong.

    The hub takes the mean of the attention over the tokens of the longest sequence, padding included. The values of a
    sequence would depend on the other sequences of the request.

    Examples
    --------
    >>> needs_equal_lengths([OutputSpec("contacts")]), needs_equal_lengths([OutputSpec("attention_received", 1)])
    (False, True)
    """
    return any(output.kind in NEED_EQUAL_LENGTHS for output in outputs)


def at(value: object, *keys: str) -> object:
    """Value under nested keys of parsed JSON. None if a key is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
