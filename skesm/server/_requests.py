"""Bodies of requests: read strictly, in every dialect.

What is not understood is refused: what is skipped in silence (a misspelt ``repr_layers``) becomes a wrong number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skesm.esm2.spec import ModelSpec
from skesm.outputs.kinds import CONTACTS, LAYER_KINDS
from skesm.outputs.spec import OutputSpec, resolve_layer
from skesm.protocol.wire import ACCEPTED_RESIDUES, MAX_ITEMS, MAX_LENGTH
from skesm.sequences.alphabet import MASK_SYMBOL, count_residues
from skesm.server._problems import Problem, refusal, refusal_of

#: What each dialect can be asked to do.
ACTIONS: Mapping[str, tuple[str, ...]] = {
    "v1": ("transform",),
    "v2": ("encode", "predict"),
    "v3": ("encode", "predict"),
    "hub": ("encode", "predict", "log_prob"),
}
#: Name in ``include`` → kind of output.
INCLUDES: Mapping[str, str] = {
    "mean": "mean",
    "per_residue": "residues",
    "per_token": "residues",
    "bos": "cls",
    "logits": "logits",
    "contacts": CONTACTS,
    "attentions": "attention_received",
}

# A list of layers or outputs that is longer repeats itself.
MAX_CHOICES = 256

_ENCODABLE = re.compile(f"[{re.escape(''.join(sorted(ACCEPTED_RESIDUES)))}]*")
_MASKABLE = re.compile(f"(?:[{''.join(sorted(ACCEPTED_RESIDUES - {'-'}))}]|{MASK_SYMBOL})*")

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for.

    Attributes
    ----------
    max_items, max_length : int
        Sequences in a request, residues in a sequence.
    max_values : int
        Numbers in an answer: they all are in memory at once.
    """

    max_items: int = MAX_ITEMS
    max_length: int = MAX_LENGTH
    max_values: int = 25_000_000

    @property
    def max_body(self) -> int:
        """Bytes of a body that holds as much as is allowed, and of one that is refused for a better reason."""
        return max(1 << 20, self.max_items * (len(MASK_SYMBOL) * self.max_length + 256))


@dataclass(frozen=True, repr=False)
class Ask:
    """What a request asks for.

    Attributes
    ----------
    action : str
        One of `ACTIONS`.
    sequences : tuple of str
        In the order of the answer, repeats allowed.
    outputs : tuple of OutputSpec
        What is needed of each.
    residues, values : int
        Size of the question and of the answer.
    """

    dialect: str
    action: str
    sequences: tuple[str, ...]
    outputs: tuple[OutputSpec, ...]
    residues: int
    values: int


def includes(*, contacts: bool) -> tuple[str, ...]:
    """Names in ``include`` that a model answers, which may lack a contact head.

    Examples
    --------
    >>> includes(contacts=False)
    ('mean', 'per_residue', 'per_token', 'bos', 'logits', 'attentions')
    """
    return tuple(name for name, kind in INCLUDES.items() if contacts or kind != CONTACTS)


def read_ask(dialect: str, action: str, content: bytes, spec: ModelSpec, limits: Limits, *, contacts: bool) -> Ask:
    """Read a body.

    Parameters
    ----------
    dialect, action : str
        As in `ACTIONS`.
    content : bytes
        The body as it came.
    spec : ModelSpec
        The model that is asked.
    limits : Limits
        What is allowed.
    contacts : bool
        Whether the model has a contact head.

    Returns
    -------
    ask : Ask

    Raises
    ------
    Refusal
        If the body is not a request of this dialect, or asks for too much or for what there is not.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        if dialect == "hub":
            raise refusal_of(dialect, [Problem("json_invalid", (), "JSON decode error")]) from None
        raise refusal(dialect, 400, "the body is not JSON") from None
    problems: list[Problem] = []
    items_key = "instances" if dialect == "v1" else "items"
    body = object_of(document, (), {items_key}, set() if dialect == "v1" else {"params"}, problems)
    items = list_of(body[items_key], (items_key,), 1, limits.max_items, problems) if items_key in body else []
    sequences = [_sequence(dialect, action, item, (items_key, i), limits, problems) for i, item in enumerate(items)]
    outputs = _outputs(dialect, action, body.get("params"), spec, problems, contacts=contacts)
    if problems:
        raise refusal_of(dialect, problems)
    lengths = [count_residues(sequence) for sequence in sequences]
    values = sum(output.size(length, spec) for length in lengths for output in outputs)
    if values > limits.max_values:
        raise refusal(
            dialect,
            413,
            f"the answer would hold {values} numbers, more than {limits.max_values}: ask for fewer items, layers or "
            "outputs at a time",
        )
    return Ask(dialect, action, tuple(sequences), outputs, sum(lengths), values)


def object_of(
    value: Any, place: Place, required: set[str], optional: set[str], problems: list[Problem]
) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        problems.append(Problem("dict_type", place, "Input should be a valid dictionary"))
        return {}
    problems += [Problem("missing", (*place, key), "Field required") for key in required if key not in value]
    # Their names are the sender's, and could be anything.
    unknown = len(value.keys() - required - optional)
    if unknown:
        known = ", ".join(sorted({*required, *optional})) or "none"
        problems.append(Problem("extra_forbidden", place, f"{unknown} fields that are not known here; known: {known}"))
    return value


def list_of(value: Any, place: Place, at_least: int, at_most: int, problems: list[Problem]) -> list[Any]:
    """The list, or an empty one if there is something wrong with it."""
    if not isinstance(value, list):
        problems.append(Problem("list_type", place, "Input should be a valid list"))
    elif len(value) < at_least:
        message = f"List should have at least {at_least} item after validation, not {len(value)}"
        context = {"field_type": "List", "min_length": at_least, "actual_length": len(value)}
        problems.append(Problem("too_short", place, message, context))
    elif len(value) > at_most:
        message = f"List should have at most {at_most} items after validation, not {len(value)}"
        context = {"field_type": "List", "max_length": at_most, "actual_length": len(value)}
        problems.append(Problem("too_long", place, message, context))
    else:
        return value
    return []


def _sequence(dialect: str, action: str, item: Any, place: Place, limits: Limits, problems: list[Problem]) -> str:
    for key in ("data", "text") if dialect == "v1" else ("sequence",):
        item = object_of(item, place, {key}, set(), problems).get(key)
        place = (*place, key)
        if item is None:
            # Either the object has said so already, or it is null.
            if not any(problem.place[: len(place) - 1] == place[:-1] for problem in problems):
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


def sequence_problem(sequence: str, action: str, limits: Limits) -> tuple[str, str, Mapping[str, Any]] | None:
    masked = action == "predict"
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
    if masked and MASK_SYMBOL not in sequence:
        return "value_error", f"Sequence should hold {MASK_SYMBOL}", {}
    if not sequence.strip("-"):
        return "value_error", "Sequence should hold a residue, not only gaps", {}
    return None


def _outputs(
    dialect: str, action: str, params: Any, spec: ModelSpec, problems: list[Problem], *, contacts: bool
) -> tuple[OutputSpec, ...]:
    received = {OutputSpec("attention_received", layer) for layer in range(1, spec.n_layers + 1)}
    if dialect == "v1":
        specs = {OutputSpec("mean", spec.n_layers), OutputSpec("logit_means"), *received}
        return tuple(sorted(specs | ({OutputSpec(CONTACTS)} if contacts else set()), key=str))
    if action != "encode":
        object_of({} if params is None else params, ("params",), set(), set(), problems)
        return (OutputSpec("logits"),)
    choices = object_of({} if params is None else params, ("params",), set(), {"repr_layers", "include"}, problems)
    layers: set[int] = set()
    place: Place = ("params", "repr_layers")
    for i, layer in enumerate(list_of(choices.get("repr_layers", [-1]), place, 1, MAX_CHOICES, problems)):
        if isinstance(layer, float) and layer.is_integer():  # JSON knows no integers: 1.0 is one
            layer = int(layer)
        if not isinstance(layer, int) or isinstance(layer, bool):
            problems.append(Problem("int_type", (*place, i), "Input should be a valid integer"))
            continue
        try:
            layers.add(resolve_layer(layer, spec.n_layers))
        except ValueError as error:
            problems.append(Problem("value_error", (*place, i), str(error)))
    kinds: set[str] = set()
    place = ("params", "include")
    for i, name in enumerate(list_of(choices.get("include", ["mean"]), place, 1, MAX_CHOICES, problems)):
        if name == CONTACTS and not contacts:
            # Without the hub's code for the user's error: that would send a client looking for one bad item.
            raise refusal(
                dialect,
                400,
                f"contacts are not available: the checkpoint of {spec.name} has no contact head. Available: "
                f"{', '.join(includes(contacts=False))}",
            )
        if not isinstance(name, str) or name not in INCLUDES:
            expected = ", ".join(INCLUDES)
            problems.append(Problem("enum", (*place, i), f"Input should be one of {expected}", {"expected": expected}))
            continue
        kinds.add(INCLUDES[name])
    specs = {OutputSpec(kind, layer) for kind in kinds & set(LAYER_KINDS) for layer in layers}
    specs |= {OutputSpec(kind) for kind in kinds & {"logits", CONTACTS}}
    if "attention_received" in kinds:
        specs |= received
    return tuple(sorted(specs, key=str))
