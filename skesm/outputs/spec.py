"""What can be asked of the model for one sequence, and how an answer is held.

An output has a name, which is also its place in the record store:

================  =================  ==========================================================
name              shape, float32     meaning
================  =================  ==========================================================
``mean@l``        (d,)               mean over the residues of layer l's representation
``max@l``         (d,)               maximum over the residues
``cls@l``         (d,)               representation of the start token
``eos@l``         (d,)               representation of the end token
``residues@l``    (L, d)             representation of each residue
``logits``        (L, 20)            logits of the 20 amino acids, in the order `AMINO_ACIDS`
``logit_means``   (L,)               mean of each residue's logits over the 33-token vocabulary
``contacts``      (L, L)             probability that two residues are in contact (Cβ within 8 Å)
================  =================  ==========================================================

and those of the attention weights of layer l, 1 … n, which the softmax of each of the h heads gives:

========================  ==================  =================================================================
``attentions@l``          (h, L + 2, L + 2)   weight that each token (row) gives to each token (column)
``attention_received@l``  (L,)                mean weight that a residue is given, over heads and all L + 2 tokens
``attention_heads@l``     (h, 3)              `ATTENTION_STATISTICS` of each head, means over the residues as rows
========================  ==================  =================================================================

Layer 0 is the embedding, layer n that after the last block and the final LayerNorm. L counts residues: start and end
tokens are part of no output but ``cls``, ``eos``, and the attention weights, which sum to one only with them.

Three more are not asked of a backend. They are derived from its answer (`skesm.outputs.derived`) and stored:

===================  ===============  =====================================================================
``mutated@l:r``      (d,)             mean over the residues that differ from a reference of digest r
``mask_logits``      (masks, 20)      the rows of ``logits`` at the sequence's ``<mask>``
``contact_profile``  (2, L)           sums of ``contacts``: of the pairs that are k residues apart, k from 0;
                                      and of each residue's pairs (`skesm.outputs.contacts.contact_profile`)
===================  ===============  =====================================================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skesm.sequences.alphabet import AMINO_ACIDS

#: Vector summaries of a layer.
POOLINGS = ("mean", "max", "cls", "eos")
LAYER_KINDS = (*POOLINGS, "residues")
#: What the language-model head gives.
HEAD_KINDS = ("logits", "logit_means")
#: What the contact head gives, from the attention of all layers.
CONTACTS = "contacts"
ATTENTION_KINDS = ("attentions", "attention_received", "attention_heads")
#: What has one row, or one number, for each residue.
RESIDUE_KINDS = ("residues", *HEAD_KINDS, "attention_received")
#: Columns of ``attention_heads``: entropy of a row in nats, Σ weight × distance along the chain over the residues, and
#: the weight given to the start and end tokens.
ATTENTION_STATISTICS = ("entropy", "distance", "ends")
#: What is derived from another output, the backend's: the residues of a layer, the logits, or the contacts.
MUTATED, MASK_LOGITS, CONTACT_PROFILE = "mutated", "mask_logits", "contact_profile"

FloatArray = NDArray[np.float32]


class Dimensions(Protocol):
    """What the shape of an output depends on, beside the sequence."""

    @property
    def width(self) -> int:
        """Channels of a representation (d)."""

    @property
    def n_heads(self) -> int:
        """Attention heads of a layer (h)."""


@dataclass(frozen=True, order=True)
class Windows:
    """How sequences that are too long for one pass are cut: windows of `size` residues, `overlap` or more shared."""

    size: int
    overlap: int


@dataclass(frozen=True, order=True)
class OutputSpec:
    """One output of the model: a kind and, for representations and attention, the layer (0 … n).

    `reference` is the clean sequence with which ``mutated`` compares. With `windows` the output is that of a sequence
    which was computed in windows (`skesm.fetch.windows`).
    """

    kind: str
    layer: int | None = None
    reference: str | None = field(default=None, repr=False)  # sequences are confidential
    windows: Windows | None = None

    def __post_init__(self) -> None:
        first = first_layer(self.kind)
        if first is not None:
            if self.layer is None or self.layer < first:
                raise ValueError(f"output {self.kind!r} needs a layer from {first} up, got {self.layer!r}")
        elif self.kind not in (*HEAD_KINDS, CONTACTS, CONTACT_PROFILE, MASK_LOGITS):
            known = ", ".join((*LAYER_KINDS, *HEAD_KINDS, CONTACTS, CONTACT_PROFILE, *ATTENTION_KINDS))
            raise ValueError(f"unknown output {self.kind!r}; known: {known}")
        elif self.layer is not None:
            raise ValueError(f"output {self.kind!r} has no layer, got {self.layer}")
        if (self.reference is not None) != (self.kind == MUTATED):
            raise ValueError("output 'mutated', and no other, needs a reference")

    def __str__(self) -> str:
        name = self.kind if self.layer is None else f"{self.kind}@{self.layer}"
        if self.reference is not None:
            name += f":{hashlib.sha256(self.reference.encode()).hexdigest()[:32]}"
        return name if self.windows is None else f"{name}~{self.windows.size}-{self.windows.overlap}"

    def shape(self, length: int, model: Dimensions) -> tuple[int, ...]:
        """Shape of this output for `length` residues.

        That of ``mask_logits`` depends on the sequence's masks, of which this knows nothing.
        """
        if self.kind in (*POOLINGS, MUTATED):
            return (model.width,)
        if self.kind == MASK_LOGITS:
            raise ValueError("the shape of 'mask_logits' is not a function of the length")
        return {
            "residues": (length, model.width),
            "logits": (length, len(AMINO_ACIDS)),
            "logit_means": (length,),
            CONTACTS: (length, length),
            CONTACT_PROFILE: (2, length),
            "attentions": (model.n_heads, length + 2, length + 2),
            "attention_received": (length,),
            "attention_heads": (model.n_heads, len(ATTENTION_STATISTICS)),
        }[self.kind]

    def size(self, length: int, model: Dimensions) -> int:
        """Numbers that it holds for `length` residues; for ``mask_logits`` those of as many masks."""
        kind = "logits" if self.kind == MASK_LOGITS else self.kind
        return math.prod(replace(self, kind=kind).shape(length, model))


@dataclass(frozen=True)
class Namespace:
    """What the values of a record depend on beside sequence and output: the key of the record store.

    Attributes
    ----------
    model : str
        The model's name as the user gave it; for people, not part of the key.
    fingerprint : str
        Digest of the weights (local), or origin, slug and dialect (remote).
    numerics : str
        ``"fp32"``, ``"bf16"`` …; engines of equal numerics agree within 1e-5 and share records.
    """

    model: str
    fingerprint: str
    numerics: str


#: The outputs of one sequence.
Record = Mapping[OutputSpec, FloatArray]


def first_layer(kind: str) -> int | None:
    """The first layer that has an output of this kind: 1 for attention; None if the output has no layer.

    Examples
    --------
    >>> first_layer("mean"), first_layer("attentions"), first_layer("logits")
    (0, 1, None)
    """
    if kind in (*LAYER_KINDS, MUTATED):
        return 0
    return 1 if kind in ATTENTION_KINDS else None


def resolve_layer(layer: int, n_layers: int) -> int:
    """Layer counted from 0 (embedding) to `n_layers`; negative numbers count from the end, -1 is the last.

    Raises
    ------
    ValueError
        If the model has no such layer.
    """
    if not -(n_layers + 1) <= layer <= n_layers:
        raise ValueError(
            f"layer {layer} does not exist: the model has layers 0 (embedding) to {n_layers}, "
            f"or -{n_layers + 1} to -1 counted from the end"
        )
    return layer if layer >= 0 else n_layers + 1 + layer


def parse_outputs(names: Iterable[str], n_layers: int) -> tuple[OutputSpec, ...]:
    """Output names as users write them, resolved for a model of `n_layers` layers.

    ``"mean@33"``, ``"mean@-1"`` and ``"mean@*"`` (every layer) are understood. The result is sorted and
    holds each output once.

    Raises
    ------
    ValueError
        If a name is not an output of this model.

    Examples
    --------
    >>> [str(o) for o in parse_outputs(["mean@-1", "logits", "mean@6"], n_layers=6)]
    ['logits', 'mean@6']
    """
    specs: set[OutputSpec] = set()
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"an output is named by a str such as 'mean@33', got {name!r}")
        kind, at, layer = name.partition("@")
        if not at:
            specs.add(OutputSpec(kind))
        elif layer == "*":
            specs.update(OutputSpec(kind, i) for i in range(first_layer(kind) or 0, n_layers + 1))
        else:
            try:
                number = int(layer)
            except ValueError:
                raise ValueError(f"{name!r}: the layer after '@' must be a whole number or '*'") from None
            specs.add(OutputSpec(kind, resolve_layer(number, n_layers)))
    if OutputSpec(MASK_LOGITS) in specs:
        raise ValueError(f"{MASK_LOGITS!r} cannot be asked for by name: estimators that mask residues ask for it")
    return tuple(sorted(specs, key=str))


def validate_record(record: Record, outputs: Iterable[OutputSpec], length: int, model: Dimensions) -> None:
    """Raise ValueError unless `record` holds every output, finite, float32 and of the right shape."""
    for output in outputs:
        value = record.get(output)
        if value is None:
            raise ValueError(f"output {output} is missing")
        shape = output.shape(length, model)
        if value.dtype != np.float32 or value.shape != shape:
            raise ValueError(f"output {output} is {value.dtype}{list(value.shape)}, expected float32{list(shape)}")
        if not np.isfinite(value).all():
            raise ValueError(f"output {output} is not finite")
