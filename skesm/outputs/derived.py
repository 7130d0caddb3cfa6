"""Derived outputs: which output a backend is asked for in their place, and how to compute them from its answer.

A backend is asked for the residues of a layer, for logits or for contacts. The store keeps the derived value: a vector,
the rows at masks, or sums. So every backend that answers the source also supports its derived outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from skesm.outputs.kinds import KINDS
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray


def source(output: OutputSpec) -> OutputSpec:
    """The output that a backend is asked for.

    Examples
    --------
    >>> str(source(OutputSpec("mask_logits"))), str(source(OutputSpec("mean", 6)))
    ('logits', 'mean@6')
    """
    kind = KINDS[output.kind].source_in(output.windows)
    return output if kind is None else replace(output, kind=kind, reference=None)


def sources(outputs: Iterable[OutputSpec]) -> list[OutputSpec]:
    """The outputs that a backend is asked for, each once."""
    return sorted({source(output) for output in outputs}, key=str)


def derive(record: Record, outputs: Iterable[OutputSpec], sequence: str) -> Record:
    """The record of `outputs`, from one that holds the source of each."""
    return {output: _derive_one(record, output, sequence) for output in outputs}


def _derive_one(record: Record, output: OutputSpec, sequence: str) -> FloatArray:
    asked = source(output)
    function = KINDS[output.kind].derive
    if asked == output or function is None:
        return record[asked]
    return function(record[asked], sequence, output.reference or "")
