"""Answers of BioLM's protocols. The client checks and reads them, the server writes them.

Layers are matched by their number. Only the one-dimensional logits of v1 are the output ``logit_means``.
``attentions`` have one row for each layer from the first to the last: ``attention_received@1`` to ``@n``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from skesm._typing import Document
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import InvalidAnswerError
from skesm.outputs.kinds import CONTACT_HEAD, KINDS
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray
from skesm.protocol.dialects import COLUMNS, DIALECTS, STACKED, Dialect
from skesm.protocol.wire import at
from skesm.sequences.alphabet import AMBIGUOUS, AMINO_ACIDS, split_residues

# Answers are read liberally, since the answers of hosted services are not wholly documented: a kind of output may stand
# under the key that any dialect gives it.
_INCLUDES = {kind: name for dialect in DIALECTS.values() for kind, name in dialect.includes.items()}
_KEYS = {
    kind: list(dict.fromkeys(dialect.key(kind) for dialect in DIALECTS.values() if kind in dialect.includes))
    for kind in _INCLUDES
}
_NUMBERS = {dialect.number[0] for dialect in DIALECTS.values() if dialect.number is not None}
_AS_ANY = str.maketrans(dict.fromkeys(AMBIGUOUS, "X"))

# Longest run of numbers that different sequences may share by chance: contacts of short sequences, when rounded.
_SHARED_BY_CHANCE, _SHARED_PAIRS = 20, 400


def decode_answer(
    dialect: str,
    body: object,
    lengths: Sequence[int],
    outputs: Sequence[OutputSpec],
    spec: ModelSpec,
    sequences: Sequence[str] | None = None,
) -> list[Record | InvalidAnswerError]:
    """Records of an answer, checked against the request.

    Parameters
    ----------
    dialect : str
        One of `DIALECTS`.
    body : object
        The parsed JSON.
    lengths : sequence of int
        Residues of each sequence that was sent, in the order sent.
    outputs : sequence of OutputSpec
        Outputs that each record must hold.
    spec : ModelSpec
        The model: its width and layers are checked.
    sequences : sequence of str, optional
        The sequences, all different. If given, the tokens in results must be the tokens of these sequences, and
        different sequences must not have the same vector.

    Returns
    -------
    records : list of Record or InvalidAnswerError
        One for each sequence, float32. Where values are not finite there is an error instead: it concerns this sequence
        alone.

    Raises
    ------
    InvalidAnswerError
        If count, order, layers, shapes or columns do not fit the request. Then no row of the answer can be trusted.
    """
    key = DIALECTS[dialect].results
    results = at(body, key)
    if not isinstance(results, list):
        raise InvalidAnswerError(f"the answer has no list {key!r}")
    if len(results) != len(lengths):
        raise InvalidAnswerError(f"the answer has {len(results)} results for {len(lengths)} sequences")
    records: list[Record | InvalidAnswerError] = []
    for place, (result, length) in enumerate(zip(results, lengths, strict=True)):
        where = f"result {place} of {len(lengths)}"
        if not isinstance(result, Mapping):
            raise InvalidAnswerError(f"{where} is not an object")
        _check_place(result, place, where)
        if sequences is not None and result.get("sequence_tokens") not in (None, split_residues(sequences[place])):
            raise InvalidAnswerError(f"{where} is for another sequence: the results are not in the order sent")
        record = _decode_result(result, outputs, length, spec, where)
        bad = [str(output) for output, value in record.items() if not np.isfinite(value).all()]
        records.append(InvalidAnswerError(f"{', '.join(bad)}: values are not finite") if bad else record)
    if sequences is not None:
        _check_different(sequences, records)
    return records


def _check_different(sequences: Sequence[str], records: Sequence[Record | InvalidAnswerError]) -> None:
    """Refuse an answer with the same vector for different sequences: at least one of them must be wrong."""
    owners: dict[tuple[OutputSpec, bytes], int] = {}
    for place, record in enumerate(records):
        if isinstance(record, InvalidAnswerError):
            continue
        for output, value in record.items():
            # The embedding layer may be the same for different sequences: two with the same residues in another order.
            enough = _SHARED_PAIRS if KINDS[output.kind].head == CONTACT_HEAD else _SHARED_BY_CHANCE
            if output.layer == 0 or value.size < enough:
                continue
            digest = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=16).digest()
            other = owners.setdefault((output, digest), place)
            # A service may read all ambiguous letters as the same one.
            if sequences[other].translate(_AS_ANY) != sequences[place].translate(_AS_ANY):
                raise InvalidAnswerError(f"results {other} and {place}: {output} is the same for different sequences")


def _check_place(result: Mapping[str, object], place: int, where: str) -> None:
    for key in sorted(_NUMBERS, reverse=True):
        value = result.get(key)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, bool) or (isinstance(value, int) and value != place):
            raise InvalidAnswerError(f"{where} has {key} {value}: the results are not in the order sent")


def _decode_result(
    result: Mapping[str, object], outputs: Sequence[OutputSpec], length: int, spec: ModelSpec, where: str
) -> dict[OutputSpec, FloatArray]:
    record: dict[OutputSpec, FloatArray] = {}
    stacks: dict[str, FloatArray] = {}  # all layers of a kind, read once
    for output in outputs:
        kind = output.kind
        if kind not in STACKED:
            record[output] = _decode_output(result, output, length, spec, where)
            continue
        first = KINDS[kind].first_layer
        assert first is not None
        assert output.layer is not None
        if kind not in stacks:
            (key,) = _KEYS[kind]
            if result.get(key) is None:
                raise InvalidAnswerError(f"{where}: {output} is missing")
            shape = (spec.n_layers + 1 - first, *output.shape(length, spec))
            stacks[kind] = _float32(result[key], shape, f"{where}: {key}")
        record[output] = stacks[kind][output.layer - first].copy()  # a view would keep all layers in memory
    return record


def _decode_output(
    result: Mapping[str, object], output: OutputSpec, length: int, spec: ModelSpec, where: str
) -> FloatArray:
    kind = KINDS[output.kind]
    columns = COLUMNS.get(output.kind)
    if columns is not None and result.get(columns) not in (None, list(AMINO_ACIDS)):
        raise InvalidAnswerError(f"{where}: {columns} are not {' '.join(AMINO_ACIDS)}")
    # A kind that no dialect answers is derived here.
    carrier = output if output.kind in _KEYS or kind.source is None else OutputSpec(kind.source, output.layer)
    value = _value(result, carrier, where)
    if value is None:
        raise InvalidAnswerError(f"{where}: {output} is missing")
    array = _float32(value, carrier.shape(length, spec), f"{where}: {output}")
    return array if carrier is output or kind.derive is None else kind.derive(array, "", "")


def _value(result: Mapping[str, object], output: OutputSpec, where: str) -> object:
    value = next((result[key] for key in _KEYS[output.kind] if result.get(key) is not None), None)
    if output.layer is None or value is None:
        return value
    if isinstance(value, Mapping):
        return value.get(str(output.layer))
    name, layer = _INCLUDES[output.kind], output.layer
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise InvalidAnswerError(f"{where}: {name} is not a list of layers")
    entries = [entry for entry in value if type(entry.get("layer")) is int and entry["layer"] == layer]
    if len(entries) > 1:
        raise InvalidAnswerError(f"{where}: layer {layer} of {name} occurs {len(entries)} times")
    return entries[0].get("embedding", entries[0].get("embeddings")) if entries else None


def _holds_numbers(value: object, n_axes: int) -> bool:
    """Whether nested lists hold JSON's numbers and nulls only: NumPy would read ``"1.5"`` and ``true`` as numbers."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiu"
    if not isinstance(value, list):
        return False
    kinds = set(map(type, value))
    if not kinds <= {float, int, type(None), list}:
        return False
    # Lists below the last axis are a wrong shape, and get this error later.
    return n_axes <= 1 or all(_holds_numbers(row, n_axes - 1) for row in value if type(row) is list)


def _float32(value: object, shape: tuple[int, ...], where: str) -> FloatArray:
    if not _holds_numbers(value, len(shape)):
        raise InvalidAnswerError(f"{where} is not an array of numbers")
    try:
        # Through float64: None becomes NaN, and a number beyond float32 becomes infinite without a warning.
        wide = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidAnswerError(f"{where} is not an array of numbers") from None
    if wide.shape != shape:
        raise InvalidAnswerError(f"{where} has shape {list(wide.shape)}, expected {list(shape)}")
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)


def encode_answer(dialect: str, records: Sequence[Record], start: int = 0) -> Document:
    """Body of the answer with `records`, for a server. It is the inverse of `decode_answer`.

    Parameters
    ----------
    dialect : str
        One of `DIALECTS`.
    records : sequence of Record
        One for each sequence, in the order of the request, with outputs that the protocol can hold. A record has
        ``attention_received`` of all layers or of none.
    start : int, default=0
        Place of the first of them in the request: some dialects number their results.

    Returns
    -------
    body : dict
        Arrays stay arrays: the encoder of the server writes float32 in the shortest digits.

    Examples
    --------
    >>> encode_answer("v2", [{OutputSpec("mean", 6): np.ones(2, np.float32)}])
    {'results': [{'mean_representations': {'6': array([1., 1.], dtype=float32)}}]}
    >>> (result,) = encode_answer("v1", [{OutputSpec("logit_means"): np.ones(2, np.float32)}])["predictions"]
    >>> result["name"], result["logits"], result["contacts"]
    ('0', array([1., 1.], dtype=float32), None)
    """
    speaks = DIALECTS[dialect]
    results = [_encode_result(speaks, place, record) for place, record in enumerate(records, start)]
    return {speaks.results: results}


def _encode_result(speaks: Dialect, place: int, record: Record) -> Document:
    result: Document = {}
    if speaks.number is not None:
        key, number = speaks.number
        result[key] = number(place)
    result.update(dict.fromkeys(speaks.always))
    stacks: dict[str, list[FloatArray]] = {}
    for output, value in sorted(record.items(), key=lambda pair: (pair[0].kind, pair[0].layer or 0)):
        key, kind = speaks.key(output.kind), KINDS[output.kind]
        if output.kind in STACKED:
            stack = stacks.setdefault(key, [])
            if output.layer != len(stack) + (kind.first_layer or 0):
                raise ValueError(f"{output} needs the layer before it")
            stack.append(value)
        elif output.layer is None:
            result[key] = value
            if speaks.names_columns and output.kind in COLUMNS:
                result[COLUMNS[output.kind]] = list(AMINO_ACIDS)
        elif speaks.layers_by_name:
            result[key] = {**(result.get(key) or {}), str(output.layer): value}
        else:
            inner = "embeddings" if kind.rows == "residues" else "embedding"
            result[key] = [*(result.get(key) or ()), {"layer": output.layer, inner: value}]
    return result | {key: np.stack(stack) for key, stack in stacks.items()}
