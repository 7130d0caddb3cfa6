"""`KINDS`, the one table of the kinds of outputs.

A row holds everything that the rest of the package needs to know about a kind. Specs, derived outputs, windows, checks,
exports and estimators read it. Two facts are stated elsewhere, once each: how an engine computes a kind that is not
derived, and how a remote protocol names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from skesm.outputs.contacts import contact_profile
from skesm.outputs.pooling import compared_positions, max_rows, mean_rows, std_rows
from skesm.outputs.types import Dimensions, FloatArray, Windows
from skesm.outputs.windows import join_mean, join_rows
from skesm.sequences.alphabet import AMINO_ACIDS
from skesm.sequences.variants import is_mask

#: Columns of ``attention_heads``: entropy of a row in nats, Σ weight × distance along the chain over the residues, and
#: the weight given to the start and end tokens.
ATTENTION_STATISTICS = ("entropy", "distance", "ends")

#: The heads of the model, as errors name them.
LANGUAGE_MODEL_HEAD, CONTACT_HEAD = "language-model head", "contact head"

Shape = Callable[[int, Dimensions], tuple[int, ...]]
#: From the source's value, the clean sequence, and the reference (empty if the kind has none), to a float32 array.
Derive = Callable[[FloatArray, str, str], FloatArray]
#: From the values of the windows, the number of residues of the whole sequence, and its windows.
Join = Callable[[Sequence[FloatArray], int, Windows], FloatArray]


def vector(length: int, model: Dimensions) -> tuple[int, ...]:
    """Shape of a pooled representation."""
    return (model.width,)


def _channels(model: Dimensions) -> list[str]:
    return [f"_{channel}" for channel in range(model.width)]


def _amino_acids(model: Dimensions) -> list[str]:
    return [f"_{letter}" for letter in AMINO_ACIDS]


def _one_number(model: Dimensions) -> list[str]:
    return [""]


@dataclass(frozen=True)
class Kind:
    """One kind of output.

    Attributes
    ----------
    shape : callable or None
        Shape of the value, from the number of residues and the model's dimensions. None if it depends on more.
    first_layer : int or None
        The first layer that has it. None if it has no layer.
    head : str or None
        The head of the model that it needs.
    source : str or None
        The kind from which it is derived.
    derive : callable or None
        Computes it from the value of its source.
    pooled_by_engines : bool
        Whether backends compute it themselves. It is then derived only for sequences in windows.
    windows : callable or None
        Joins the values of windows to one value of the whole sequence. A derived kind follows from its joined source.
        None if there is no value in windows, because they do not hold every pair of residues.
    rows : str or None
        The meaning of the rows of the value: ``"residues"`` or ``"masks"``. ``""`` if all sequences have the same
        shape, None if the value has another form. Exports choose their layout by it.
    label : callable
        Endings of the column names of one row.
    has_reference : bool
        Whether it compares a sequence with a reference.
    has_name : bool
        Whether users can request it by name.
    """

    shape: Shape | None
    first_layer: int | None = None
    head: str | None = None
    source: str | None = None
    derive: Derive | None = None
    pooled_by_engines: bool = False
    windows: Join | None = None
    rows: str | None = None
    label: Callable[[Dimensions], list[str]] = _one_number
    has_reference: bool = False
    has_name: bool = True

    def source_in(self, windows: Windows | None) -> str | None:
        """The kind that backends are asked for in place of this one. None if they are asked for this one."""
        return None if self.pooled_by_engines and windows is None else self.source


def _pooling(derive: Derive, *, pooled_by_engines: bool = False, has_reference: bool = False) -> Kind:
    """A vector that follows from the residues of a layer."""
    return Kind(
        vector,
        first_layer=0,
        source="residues",
        derive=derive,
        pooled_by_engines=pooled_by_engines,
        windows=join_rows,
        rows="",
        label=_channels,
        has_reference=has_reference,
        has_name=not has_reference,
    )


KINDS: Mapping[str, Kind] = {
    "mean": _pooling(lambda residues, *_: mean_rows(residues), pooled_by_engines=True),
    "max": _pooling(lambda residues, *_: max_rows(residues), pooled_by_engines=True),
    "std": _pooling(lambda residues, *_: std_rows(residues)),
    "cls": Kind(vector, first_layer=0, windows=join_mean, rows="", label=_channels),
    "eos": Kind(vector, first_layer=0, windows=join_mean, rows="", label=_channels),
    "residues": Kind(
        lambda length, model: (length, model.width), first_layer=0, windows=join_rows, rows="residues", label=_channels
    ),
    "logits": Kind(
        lambda length, model: (length, len(AMINO_ACIDS)),
        head=LANGUAGE_MODEL_HEAD,
        windows=join_rows,
        rows="residues",
        label=_amino_acids,
    ),
    "logit_means": Kind(lambda length, model: (length,), head=LANGUAGE_MODEL_HEAD, windows=join_rows, rows="residues"),
    "contacts": Kind(lambda length, model: (length, length), head=CONTACT_HEAD),
    "contact_profile": Kind(
        lambda length, model: (2, length),
        head=CONTACT_HEAD,
        source="contacts",
        derive=lambda contacts, *_: contact_profile(contacts),
    ),
    "attentions": Kind(lambda length, model: (model.n_heads, length + 2, length + 2), first_layer=1),
    "attention_received": Kind(lambda length, model: (length,), first_layer=1, rows="residues"),
    "attention_heads": Kind(lambda length, model: (model.n_heads, len(ATTENTION_STATISTICS)), first_layer=1, rows=""),
    "mutated": _pooling(
        lambda residues, sequence, reference: mean_rows(residues[compared_positions(sequence, reference)]),
        has_reference=True,
    ),
    "mask_logits": Kind(
        None,
        head=LANGUAGE_MODEL_HEAD,
        source="logits",
        derive=lambda logits, sequence, _: logits[is_mask(sequence)],
        windows=join_rows,
        rows="masks",
        label=_amino_acids,
        has_name=False,
    ),
}

CONTACTS, CONTACT_PROFILE, MUTATED, MASK_LOGITS = "contacts", "contact_profile", "mutated", "mask_logits"

#: Vector summaries of a layer: all, and those that need no reference.
ALL_POOLINGS = tuple(name for name, kind in KINDS.items() if kind.shape is vector)
POOLINGS = tuple(name for name in ALL_POOLINGS if not KINDS[name].has_reference)
_ANSWERED = {name: kind for name, kind in KINDS.items() if kind.source_in(None) is None}
#: Kinds that backends answer: from representations, from the language-model head, and from attention weights.
LAYER_KINDS = tuple(name for name, kind in _ANSWERED.items() if kind.first_layer == 0)
HEAD_KINDS = tuple(name for name, kind in _ANSWERED.items() if kind.head == LANGUAGE_MODEL_HEAD)
ATTENTION_KINDS = tuple(name for name, kind in _ANSWERED.items() if kind.first_layer == 1)
#: Kinds with one row, or one number, for each residue.
RESIDUE_KINDS = tuple(name for name, kind in KINDS.items() if kind.rows == "residues")
