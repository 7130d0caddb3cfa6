"""Names of the model's outputs for one sequence, and records that hold their values.

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

Others are not asked of a backend. They are derived from its answer (`skesm.outputs.derived`) and stored:

===================  ===============  =====================================================================
``mutated@l:r``      (d,)             mean over the residues that differ from a reference of digest r
``std@l``            (d,)             standard deviation over the residues, about their mean
``mask_logits``      (masks, 20)      the rows of ``logits`` at the sequence's ``<mask>``
``contact_profile``  (2, L)           sums of ``contacts``: of the pairs that are k residues apart, k from 0;
                                      and of each residue's pairs (`skesm.outputs.contacts.contact_profile`)
===================  ===============  =====================================================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from skesm.outputs.kinds import KINDS
from skesm.outputs.types import Dimensions, FloatArray, Windows


@dataclass(frozen=True, order=True)
class OutputSpec:
    """One output of the model: a kind and, for representations and attention, the layer (0 … n).

    `reference` is the clean sequence that ``mutated`` compares with. With `windows` the output belongs to a sequence
    that was computed in windows (`skesm.fetch.windows`).
    """

    kind: str
    layer: int | None = None
    reference: str | None = field(default=None, repr=False)  # sequences are confidential
    windows: Windows | None = None

    def __post_init__(self) -> None:
        kind = KINDS.get(self.kind)
        if kind is None:
            known = ", ".join(name for name, kind in KINDS.items() if kind.has_name)
            raise ValueError(f"unknown output {self.kind!r}. Known: {known}")
        first = kind.first_layer
        if first is None and self.layer is not None:
            raise ValueError(f"output {self.kind!r} has no layer, got {self.layer}")
        if first is not None and (self.layer is None or self.layer < first):
            raise ValueError(f"output {self.kind!r} needs a layer from {first} up, got {self.layer!r}")
        if kind.has_reference and self.reference is None:
            raise ValueError(f"output {self.kind!r} needs a reference")
        if self.reference is not None and not kind.has_reference:
            raise ValueError(f"output {self.kind!r} has no reference")

    def __str__(self) -> str:
        name = self.kind if self.layer is None else f"{self.kind}@{self.layer}"
        if self.reference is not None:
            name += f":{hashlib.sha256(self.reference.encode()).hexdigest()[:32]}"
        return name if self.windows is None else f"{name}~{self.windows.size}-{self.windows.overlap}"

    def shape(self, length: int, model: Dimensions) -> tuple[int, ...]:
        """Shape of this output for `length` residues.

        ``mask_logits`` has none here, because its shape depends on the sequence's masks.
        """
        shape = KINDS[self.kind].shape
        if shape is None:
            raise ValueError(f"the shape of {self.kind!r} is not a function of the length")
        return shape(length, model)

    def size(self, length: int, model: Dimensions) -> int:
        """Count its numbers for `length` residues. For ``mask_logits``, for as many masks."""
        kind = KINDS[self.kind]
        shape = kind.shape or KINDS[kind.source or self.kind].shape
        assert shape is not None, "a kind, or the one that it is derived from, has a shape"
        return math.prod(shape(length, model))


@dataclass(frozen=True)
class Namespace:
    """Everything besides sequence and output that the values of a record depend on: the key of the record store.

    Attributes
    ----------
    model : str
        The model's name as the user gave it. It is for people, and not part of the key.
    fingerprint : str
        Digest of the weights (local), or origin, slug and dialect (remote).
    numerics : str
        ``"fp32"``, ``"bf16"`` … Engines of equal numerics agree within 1e-5 and share records.
    """

    model: str
    fingerprint: str
    numerics: str


#: The outputs of one sequence.
Record = Mapping[OutputSpec, FloatArray]


def first_layer(kind: str) -> int | None:
    """The first layer that has an output of this kind: 1 for attention. None if the output has no layer.

    Examples
    --------
    >>> first_layer("mean"), first_layer("attentions"), first_layer("logits")
    (0, 1, None)
    """
    return KINDS[kind].first_layer if kind in KINDS else None


def resolve_layer(layer: int, n_layers: int) -> int:
    """Layer counted from 0 (embedding) to `n_layers`. Negative numbers count from the end: -1 is the last.

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
            raise ValueError(f"name an output by a str such as 'mean@33', got {name!r}")
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
    for spec in specs:
        if not KINDS[spec.kind].has_name:
            raise ValueError(f"{spec.kind!r} cannot be requested by name: estimators that mask residues request it")
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
