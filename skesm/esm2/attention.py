"""Attention weights to outputs: the weights themselves, their summaries, and contacts.

An engine hands over the weights of some heads of one sequence in one layer, as soon as it has them, and may then
overwrite them. Only a few numbers are kept of them, or one matrix of L × L, unless the weights were asked for. Both
engines use this: NumPy and torch know the operations here by the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from skesm.esm2.weights.parameters import Affine
from skesm.outputs.kinds import ATTENTION_KINDS, ATTENTION_STATISTICS, CONTACTS
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray

Array = Any  # of NumPy or torch: both know the operations here by the same names

_SMALLEST = float(np.finfo(np.float32).tiny)  # the logarithm of 0 times 0 is 0


class ContactHead(NamedTuple):
    """The contact head in arrays of an engine's kind, (n_layers, n_heads) and (1,)."""

    weight: Array
    bias: Array


class AttentionReader:
    """Outputs of a pack's attention weights.

    Parameters
    ----------
    outputs : sequence of OutputSpec
        The wanted outputs. Those that are not of attention are left to the engine.
    lengths : sequence of int
        Tokens of each sequence of the pack.
    n_layers, n_heads : int
    contacts : ContactHead, Affine or None
        The contact head, (n_layers, n_heads) and (1,), arrays of the engine's kind.
    library : module
        `numpy` or `torch`.
    put, fetch : callable
        An ndarray of float32 to an array of the engine's kind, and back.
    """

    def __init__(
        self,
        outputs: Sequence[OutputSpec],
        lengths: Sequence[int],
        n_layers: int,
        n_heads: int,
        *,
        contacts: ContactHead | Affine | None,
        library: ModuleType,
        put: Callable[[FloatArray], Array],
        fetch: Callable[[Array], FloatArray],
    ) -> None:
        self._wanted = {output for output in outputs if output.kind in ATTENTION_KINDS}
        self._wants_contacts = any(output.kind == CONTACTS for output in outputs)
        self._layers = {output.layer for output in self._wanted}
        if self._wants_contacts:
            assert contacts is not None, "the backend refuses contacts of models without a contact head"
            self._layers.update(range(1, n_layers + 1))
            self._maps = [ContactMap(contacts, length - 2) for length in lengths]
        self._lengths = lengths
        self._n_heads = n_heads
        self._library = library
        self._put = put
        self._fetch = fetch
        self._records: list[dict[OutputSpec, FloatArray]] = [{} for _ in lengths]

    def wants(self, layer: int) -> bool:
        """Whether the weights of a layer, 1 … n, are needed."""
        return layer in self._layers

    def read(self, layer: int, place: int, heads: slice, weights: Array) -> None:
        """Read the wanted numbers from the weights of some heads.

        Parameters
        ----------
        layer : int
            1 … n.
        place : int
            The sequence's place in the pack.
        heads : slice
            Which heads these are.
        weights : array of shape (heads, L + 2, L + 2), float32
            Keys as rows, queries as columns: each column sums to one. Not kept.
        """
        if self._wants_contacts:
            self._maps[place].add(layer, heads, weights, self._library, self._fetch)
        record, length = self._records[place], self._lengths[place]
        for kind in ATTENTION_KINDS:
            output = OutputSpec(kind, layer)
            if output not in self._wanted:
                continue
            if kind == "attention_received":
                received = self._fetch(weights[:, 1:-1].mean(-1).sum(0)) / np.float32(self._n_heads)
                record[output] = record[output] + received if output in record else received
                continue
            if output not in record:
                shape = (length, length) if kind == "attentions" else (len(ATTENTION_STATISTICS),)
                record[output] = np.empty((self._n_heads, *shape), dtype=np.float32)
            if kind == "attentions":
                record[output][heads] = self._fetch(weights).swapaxes(1, 2)
            else:
                record[output][heads] = self._head_statistics(weights)

    def _head_statistics(self, weights: Array) -> FloatArray:
        """`ATTENTION_STATISTICS` of some heads, (heads, 3)."""
        given = weights[:, :, 1:-1]  # by the residues
        entropy = -(given * self._library.log(given.clip(_SMALLEST))).sum(1).mean(-1)
        ends = (given[:, 0] + given[:, -1]).mean(-1)
        position = np.arange(given.shape[2], dtype=np.float32)
        between = self._put(np.abs(position[:, None] - position))
        distance = (given[:, 1:-1] * between).sum(1).mean(-1)
        return np.stack([self._fetch(part) for part in (entropy, distance, ends)], axis=1)

    def finish(self, place: int) -> dict[OutputSpec, FloatArray]:
        """Outputs of a sequence, after all of its weights were read."""
        record = self._records[place]
        if self._wants_contacts:
            record[OutputSpec(CONTACTS)] = self._maps[place].finish(self._fetch)
        return record


class ContactMap:
    """Contact probabilities of one sequence, summed up head by head.

    The contact head (Rao et al., "Transformer protein language models are unsupervised structure learners", ICLR 2021)
    is a logistic regression on S − r rᵀ / Σ r of each head, where S is the sum of the residues' weights and their
    transpose, and r its row sums: the average product correction. Σ_h w_h S_h is one matrix, whatever the number of
    heads, and Σ_h w_h r_h r_hᵀ / Σ r_h needs only the vectors r_h.
    """

    def __init__(self, head: ContactHead | Affine, n_residues: int) -> None:
        self._head = head
        self._weighted: Array = None
        # Made once: many small arrays that stay, among large ones that go, would keep the allocator from reusing these.
        self._sums = np.zeros((*head.weight.shape, n_residues), dtype=np.float32)

    def add(
        self,
        layer: int,
        heads: slice,
        weights: Array,
        library: ModuleType,
        fetch: Callable[[Array], FloatArray],
    ) -> None:
        """Add some heads of a layer, see `AttentionReader.read`."""
        weighted = library.tensordot(self._head.weight[layer - 1, heads], weights, 1)
        if self._weighted is None:
            self._weighted = weighted
        else:
            self._weighted += weighted
        residues = weights[:, 1:-1, 1:-1]
        self._sums[layer - 1, heads] = fetch(residues.sum(1) + residues.sum(2))

    def finish(self, fetch: Callable[[Array], FloatArray]) -> FloatArray:
        """Probabilities, (L, L)."""
        residues = fetch(self._weighted)[1:-1, 1:-1].astype(np.float64)
        sums = self._sums.reshape(-1, len(residues)).astype(np.float64)
        coefficients = fetch(self._head.weight).ravel() / sums.sum(axis=1)
        score = residues + residues.T
        score -= (sums * coefficients[:, None]).T @ sums
        score += fetch(self._head.bias)
        probability: FloatArray = (1 / (1 + np.exp(-score))).astype(np.float32)
        return probability
