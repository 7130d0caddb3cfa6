"""From records to the bodies of answers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray
from skesm.protocol.answers import encode_answer
from skesm.protocol.dialects import COLUMNS, ENCODE, LOG_PROB, PREDICT, PREDICTED, Dialect
from skesm.sequences.alphabet import AMINO_ACIDS, split_residues
from skesm.server.api.requests import Ask

# Level 1 halves a text of digits. Level 6 takes 8 times as long for 8 % more.
_GZIP_LEVEL = 1
_GZIP_WINDOW = 31  # zlib's way to ask for a gzip header
#: Bytes. Smaller bodies gain nothing.
GZIP_MINIMUM = 1024


def to_json(value: object) -> bytes:
    """JSON. Arrays of float32 have the shortest digits that give the same float32."""
    return orjson.dumps(value, default=_as_list, option=orjson.OPT_SERIALIZE_NUMPY)


def _as_list(value: object) -> object:
    if isinstance(value, np.ndarray):  # an array that is not contiguous
        return value.tolist()
    raise TypeError(f"no JSON for a {type(value).__name__}")


def encode_body(speaks: Dialect, ask: Ask, records: Sequence[Record], *, compress: bool) -> tuple[bytes, bool]:
    """Body of an answer.

    Results are written one after the other, so that only their bytes are in memory all at once, not their objects.

    Parameters
    ----------
    speaks : Dialect
    ask : Ask
        The request.
    records : sequence of Record
        One for each sequence.
    compress : bool
        Whether the client takes gzip.

    Returns
    -------
    body : bytes
    compressed : bool
    """
    results = [to_json(_result(speaks, ask, place, record)) for place, record in enumerate(records)]
    return compressed_if(compress, b'{"%b":[%b]}' % (speaks.results.encode(), b",".join(results)))


def compressed_if(compress: bool, body: bytes) -> tuple[bytes, bool]:
    """Compress the body if this is wanted and useful, and say whether it is compressed."""
    compress = compress and len(body) >= GZIP_MINIMUM
    return (zlib.compress(body, _GZIP_LEVEL, _GZIP_WINDOW) if compress else body), compress


def _result(speaks: Dialect, ask: Ask, place: int, record: Record) -> Mapping[str, object]:
    if ask.action == ENCODE:
        wanted = {output: record[output] for output in ask.outputs}
        (results,) = encode_answer(speaks.name, [wanted], start=place).values()
        return dict(results[0])
    sequence, logits = ask.sequences[place], record[OutputSpec(PREDICTED)]
    if ask.action == PREDICT:
        columns = {COLUMNS[PREDICTED]: list(AMINO_ACIDS)}
        return {speaks.key(PREDICTED): logits, "sequence_tokens": split_residues(sequence), **columns}
    return {LOG_PROB: log_prob(sequence, logits)}


def log_prob(sequence: str, logits: FloatArray) -> float:
    """Sum, over the residues that are one of the 20 amino acids, of the log-probability of that amino acid.

    Probabilities are the softmax over the 20 columns, from one pass in which nothing is masked.

    Parameters
    ----------
    sequence : str
        L residues.
    logits : ndarray of shape (L, 20), float32
        In the order of `AMINO_ACIDS`.

    Examples
    --------
    >>> round(log_prob("MX", np.zeros((2, 20), dtype=np.float32)), 4)
    -2.9957
    """
    rows = np.array([i for i, residue in enumerate(sequence) if residue in AMINO_ACIDS], dtype=np.intp)
    columns = np.array([AMINO_ACIDS.index(sequence[i]) for i in rows], dtype=np.intp)
    scores: NDArray[np.float64] = logits.astype(np.float64)[rows]
    scores -= scores.max(axis=1, keepdims=True)
    own = scores[np.arange(len(rows)), columns]
    return float(np.sum(own - np.log(np.exp(scores).sum(axis=1))))
