"""Bodies of requests, read strictly in every dialect.

A field that is not understood is refused. If it were ignored, a misspelt ``repr_layers`` would give wrong numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from skesm._typing import Document
from skesm.esm2.spec import ModelSpec
from skesm.outputs.kinds import KINDS
from skesm.outputs.spec import OutputSpec, resolve_layer
from skesm.protocol.dialects import ENCODE, PREDICT, PREDICTED, Dialect
from skesm.protocol.shapes import Errors, Problem
from skesm.protocol.wire import ACCEPTED_RESIDUES, answered_outputs
from skesm.sequences.alphabet import MASK_SYMBOL, count_residues
from skesm.server.api.refusals import Refusal, refusal, refusal_of
from skesm.server.config import Limits, ServedModel

#: Longest list of layers or outputs. A longer one must repeat itself.
MAX_CHOICES = 256
DEFAULT_LAYERS, DEFAULT_INCLUDE = (-1,), ("mean",)

_ENCODABLE = re.compile(f"[{re.escape(''.join(sorted(ACCEPTED_RESIDUES)))}]*")
_MASKABLE = re.compile(f"(?:[{''.join(sorted(ACCEPTED_RESIDUES - {'-'}))}]|{MASK_SYMBOL})*")

#: Texts of a missing value that are never a peptide, by the rule of `skesm.sequences.clean.clean_sequences`. The others
#: hold letters that are refused anyway, or are peptides in a request, where all sequences are in capitals.
MISSING_TEXTS = ("NONE", "NULL")

Place = tuple[str | int, ...]


@dataclass(frozen=True, repr=False)
class Ask:
    """The work that a request asks for.

    Attributes
    ----------
    errors : Errors
        Shape of refusals.
    action : str
        One of the dialect's actions, by our name.
    sequences : tuple of str
        In the order of the answer. Repeats are allowed.
    outputs : tuple of OutputSpec
        Outputs that are needed of each sequence.
    residues, values : int
        Size of the question and of the answer.
    """

    errors: Errors
    action: str
    sequences: tuple[str, ...]
    outputs: tuple[OutputSpec, ...]
    residues: int
    values: int


def includes(speaks: Dialect, model: ServedModel) -> tuple[str, ...]:
    """Names in ``include`` that a model answers. A model without a contact head answers no contacts.

    Examples
    --------
    >>> from skesm.esm2.spec import find_registered
    >>> from skesm.protocol.dialects import DIALECTS
    >>> includes(DIALECTS["v3"], ServedModel("esm2-8m", find_registered("esm2-8m"), has_contacts=False))
    ('mean', 'per_residue', 'per_token', 'bos', 'logits', 'attentions')
    """
    return tuple(name for name, kind in speaks.kinds.items() if model.answers(kind))


def read_json(content: bytes, errors: Errors) -> object:
    """Parse a body, or refuse the request."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Refusal(errors.status, errors.not_json()) from None


def read_ask(speaks: Dialect, action: str, content: bytes, model: ServedModel, limits: Limits) -> Ask:
    """Read a body.

    Parameters
    ----------
    speaks : Dialect
    action : str
        One of its actions, by our name.
    content : bytes
        The body as it came.
    model : ServedModel
        The model that is asked.
    limits : Limits
        How much one request may ask for.

    Returns
    -------
    ask : Ask

    Raises
    ------
    Refusal
        If the body is not a request of this dialect, asks for too much, or asks for something that does not exist.
    """
    document = read_json(content, speaks.errors)
    problems: list[Problem] = []
    body = object_of(document, (), (speaks.items,), ("params",) if speaks.choice else (), problems)
    items = list_of(body[speaks.items], (speaks.items,), limits.max_items, problems) if speaks.items in body else []
    sequences = [_sequence(speaks, action, item, (speaks.items, i), limits, problems) for i, item in enumerate(items)]
    outputs = _outputs(speaks, action, body.get("params"), model, problems)
    if problems:
        raise refusal_of(speaks.errors, problems)
    ask = ask_for(speaks.errors, action, sequences, outputs, model.spec)
    if ask.values > limits.max_values:
        raise refusal(
            speaks.errors,
            413,
            f"the answer would hold {ask.values} numbers, more than {limits.max_values}: ask for fewer items, layers "
            "or outputs at a time",
        )
    return ask


def ask_for(
    errors: Errors, action: str, sequences: Collection[str], outputs: Collection[OutputSpec], spec: ModelSpec
) -> Ask:
    """Put a request together, and count its size."""
    lengths = [count_residues(sequence) for sequence in sequences]
    values = sum(output.size(length, spec) for length in lengths for output in outputs)
    return Ask(errors, action, tuple(sequences), tuple(outputs), sum(lengths), values)


def object_of(
    value: object, place: Place, required: Collection[str], optional: Collection[str], problems: list[Problem]
) -> Document:
    """Return the object, or an empty one if it is none. Note fields that are missing and fields that are unknown."""
    if not isinstance(value, dict):
        problems.append(Problem("dict_type", place, "Input should be a valid dictionary"))
        return {}
    problems += [Problem("missing", (*place, key), "Field required") for key in required if key not in value]
    known = sorted({*required, *optional})
    # The names of unknown fields come from the sender, so they are not repeated.
    unknown = len(value.keys() - set(known))
    if unknown:
        message = f"Unknown fields: {unknown}. Known fields: {', '.join(known) or 'none'}"
        problems.append(Problem("extra_forbidden", place, message))
    return value


def list_of(value: object, place: Place, at_most: int, problems: list[Problem]) -> list[object]:
    """Return the list, or an empty one if it is none, is empty, or is too long."""
    if not isinstance(value, list):
        problems.append(Problem("list_type", place, "Input should be a valid list"))
    elif not value:
        message = "List should have at least 1 item after validation, not 0"
        problems.append(Problem("too_short", place, message, _bounds("min_length", 1, 0)))
    elif len(value) > at_most:
        message = f"List should have at most {at_most} items after validation, not {len(value)}"
        problems.append(Problem("too_long", place, message, _bounds("max_length", at_most, len(value))))
    else:
        return value
    return []


def _bounds(name: str, bound: int, actual: int) -> Mapping[str, object]:
    return {"field_type": "List", name: bound, "actual_length": actual}


def _sequence(speaks: Dialect, action: str, item: object, place: Place, limits: Limits, problems: list[Problem]) -> str:
    for key in speaks.item:
        before = len(problems)
        item = object_of(item, place, (key,), (), problems).get(key)
        place = (*place, key)
        if item is None:  # null, or there is an object without this field, which has been noted
            if len(problems) == before:
                problems.append(Problem("string_type", place, "Input should be a valid string"))
            return ""
    if not isinstance(item, str):
        problems.append(Problem("string_type", place, "Input should be a valid string"))
        return ""
    problem = sequence_problem(item, action, limits)
    if problem is not None:
        kind, message, context = problem
        problems.append(Problem(kind, place, message, context))
    return item


def sequence_problem(sequence: str, action: str, limits: Limits) -> tuple[str, str, Mapping[str, object]] | None:
    """Kind, message and numbers of the fault of a sequence. None if it can be computed."""
    masked = action == PREDICT
    if not sequence:
        return "string_too_short", "String should have at least 1 character", {"min_length": 1}
    length = count_residues(sequence) if masked else len(sequence)
    if length > limits.max_length:
        message = f"String should have at most {limits.max_length} residues, not {length}"
        return "string_too_long", message, {"max_length": limits.max_length}
    pattern = _MASKABLE if masked else _ENCODABLE
    end = pattern.match(sequence).end()  # type: ignore[union-attr]  # it matches the empty string
    if end < len(sequence):
        allowed = "".join(sorted(ACCEPTED_RESIDUES - {"-"})) + (f" and {MASK_SYMBOL}" if masked else " and -")
        position = count_residues(sequence[:end]) + 1
        return "value_error", f"Residue {position} of {length} is not one of {allowed}", {}
    if sequence in MISSING_TEXTS:
        return "value_error", "Sequence is the text of a missing value: remove it", {}
    if masked and MASK_SYMBOL not in sequence:
        return "value_error", f"Sequence should hold {MASK_SYMBOL}", {}
    if not sequence.strip("-"):
        return "value_error", "Sequence should hold a residue, not only gaps", {}
    return None


def _outputs(
    speaks: Dialect, action: str, params: object, model: ServedModel, problems: list[Problem]
) -> tuple[OutputSpec, ...]:
    """Outputs of one answer, in a fixed order."""
    if action != ENCODE:
        object_of({} if params is None else params, ("params",), (), (), problems)
        return (OutputSpec(PREDICTED),)
    if speaks.choice:
        choices = object_of({} if params is None else params, ("params",), (), ("repr_layers", "include"), problems)
        layers = _layers(choices, model.spec, problems)
        kinds = _kinds(speaks, choices, model, problems)
    else:
        layers, kinds = {model.spec.n_layers}, {kind for kind in speaks.includes if model.answers(kind)}
    return tuple(sorted(answered_outputs(model.spec, kinds, layers), key=str))


def _layers(choices: Mapping[str, object], spec: ModelSpec, problems: list[Problem]) -> set[int]:
    layers: set[int] = set()
    place = ("params", "repr_layers")
    for i, layer in enumerate(list_of(choices.get(place[1], [*DEFAULT_LAYERS]), place, MAX_CHOICES, problems)):
        if isinstance(layer, float) and layer.is_integer():  # JSON knows no integers: 1.0 is one
            layer = int(layer)
        if not isinstance(layer, int) or isinstance(layer, bool):
            problems.append(Problem("int_type", (*place, i), "Input should be a valid integer"))
            continue
        try:
            layers.add(resolve_layer(layer, spec.n_layers))
        except ValueError as error:
            problems.append(Problem("value_error", (*place, i), str(error)))
    return layers


def _kinds(speaks: Dialect, choices: Mapping[str, object], model: ServedModel, problems: list[Problem]) -> set[str]:
    kinds: set[str] = set()
    place = ("params", "include")
    for i, name in enumerate(list_of(choices.get(place[1], [*DEFAULT_INCLUDE]), place, MAX_CHOICES, problems)):
        kind = speaks.kinds.get(name) if isinstance(name, str) else None
        if kind is None:
            expected = ", ".join(speaks.kinds)
            problems.append(Problem("enum", (*place, i), f"Input should be one of {expected}", {"expected": expected}))
        elif not model.answers(kind):
            # Without the hub's code for an error of the user: with it, a client would look for one bad item.
            raise refusal(
                speaks.errors,
                400,
                f"{name} are not available: the checkpoint of {model.spec.name} has no {KINDS[kind].head}. Available: "
                f"{', '.join(includes(speaks, model))}",
            )
        else:
            kinds.add(kind)
    return kinds
