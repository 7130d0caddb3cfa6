"""``POST /v1/embeddings``: the mean of the last layer, in the shape of OpenAI's API."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skesm._typing import Document
from skesm.esm2.spec import ModelSpec
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray
from skesm.protocol.dialects import ENCODE
from skesm.protocol.shapes import OPENAI_ERRORS, Problem
from skesm.server.api.answers import compressed_if, to_json
from skesm.server.api.refusals import refusal, refusal_of
from skesm.server.api.requests import Ask, ask_for, list_of, object_of, read_json, sequence_problem
from skesm.server.config import Limits

EMBEDDINGS_PATH = "/v1/embeddings"
#: Sequences in a request, as OpenAI allows. An answer of means is small.
MAX_INPUTS = 2048
FORMATS = ("float", "base64")

_KIND = "mean"


@dataclass(frozen=True, repr=False)
class EmbeddingsBody:
    """A body with valid fields. Its sequences have not been checked yet.

    Attributes
    ----------
    model : str
        Name as it was sent.
    document : mapping
        All fields.
    """

    model: str
    document: Document

    @property
    def base64(self) -> bool:
        """Whether vectors are wanted as the base64 of their little-endian float32."""
        return self.document.get("encoding_format") == "base64"


def read_embeddings_body(content: bytes) -> EmbeddingsBody:
    """Read a body up to the name of its model.

    Raises
    ------
    Refusal
        If it is not a request for embeddings.
    """
    document = read_json(content, OPENAI_ERRORS)
    problems: list[Problem] = []
    fields = object_of(document, (), ("model", "input"), ("encoding_format", "dimensions", "user"), problems)
    for name in ("model", "user"):
        if name in fields and not isinstance(fields[name], str):
            problems.append(Problem("string_type", (name,), "Input should be a valid string"))
    if fields.get("encoding_format", "float") not in FORMATS:
        problems.append(Problem("enum", ("encoding_format",), f"Input should be one of {', '.join(FORMATS)}"))
    if problems:
        raise refusal_of(OPENAI_ERRORS, problems)
    return EmbeddingsBody(fields["model"], fields)


def read_embeddings_ask(body: EmbeddingsBody, spec: ModelSpec, limits: Limits) -> Ask:
    """Read the rest of a body.

    Parameters
    ----------
    body : EmbeddingsBody
    spec : ModelSpec
        The model that it names.
    limits : Limits
        Lengths and size of the answer that are allowed.

    Raises
    ------
    Refusal
        If a sequence cannot be embedded, or the vectors cannot have the length that was asked for.
    """
    problems: list[Problem] = []
    given = body.document["input"]
    sequences = []
    for i, sequence in enumerate(
        [given] if isinstance(given, str) else list_of(given, ("input",), MAX_INPUTS, problems)
    ):
        place = ("input",) if isinstance(given, str) else ("input", i)
        if not isinstance(sequence, str):
            # Some clients send token numbers of another model.
            problems.append(Problem("string_type", place, "Input should be a sequence of residues, as a string"))
        elif (problem := sequence_problem(sequence, ENCODE, limits)) is not None:
            kind, message, context = problem
            problems.append(Problem(kind, place, message, context))
        else:
            sequences.append(sequence)
    wanted = body.document.get("dimensions", spec.width)
    if wanted != spec.width or isinstance(wanted, bool):
        message = f"{spec.name} has vectors of {spec.width} numbers: leave dimensions out"
        problems.append(Problem("value_error", ("dimensions",), message))
    if problems:
        raise refusal_of(OPENAI_ERRORS, problems)
    ask = ask_for(OPENAI_ERRORS, ENCODE, sequences, [OutputSpec(_KIND, spec.n_layers)], spec)
    if ask.values > limits.max_values:
        raise refusal(OPENAI_ERRORS, 413, f"the answer would hold {ask.values} numbers, more than {limits.max_values}")
    return ask


def encode_embeddings(
    body: EmbeddingsBody, ask: Ask, records: Sequence[Record], *, compress: bool
) -> tuple[bytes, bool]:
    """Body of an answer, and whether it is compressed."""
    data = [
        {"object": "embedding", "index": i, "embedding": _vector(record[ask.outputs[0]], as_base64=body.base64)}
        for i, record in enumerate(records)
    ]
    usage = {"prompt_tokens": ask.residues, "total_tokens": ask.residues}
    return compressed_if(compress, to_json({"object": "list", "data": data, "model": body.model, "usage": usage}))


def _vector(values: FloatArray, *, as_base64: bool) -> str | FloatArray:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode() if as_base64 else values
