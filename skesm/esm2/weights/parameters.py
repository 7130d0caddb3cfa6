"""The parameters of a checkpoint: its tensors, checked and in the places of the model. Both engines start here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skesm.esm2.spec import VOCABULARY_SIZE, ModelSpec
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.names import find_prefix, refuse_unused
from skesm.esm2.weights.rotary import mark_of_frequencies, read_frequencies
from skesm.exceptions import CheckpointError
from skesm.outputs.types import FloatArray

#: Gives a tensor by its name and the shape that it must have.
Take = Callable[..., FloatArray]

_NOTHING = np.empty(0, dtype=np.float32)


class Affine(NamedTuple):
    """Weight and bias of a linear layer (out × in, out) or a LayerNorm (d, d)."""

    weight: FloatArray
    bias: FloatArray


class Block(NamedTuple):
    """One transformer block, in the order of its computation."""

    attention_norm: Affine
    query: Affine
    key: Affine
    value: Affine
    attention_output: Affine
    ffn_norm: Affine
    ffn_in: Affine
    ffn_out: Affine


class Head(NamedTuple):
    """The language-model head: dense, GELU, LayerNorm, decoder (33 × d, tied to the embedding)."""

    dense: Affine
    norm: Affine
    decoder: Affine


@dataclass(frozen=True)
class Parameters:
    """All weights of a model, float32.

    Attributes
    ----------
    embedding : ndarray of shape (33, d)
    blocks : iterable of Block
        Read each time they are asked for, and let go before the next: an engine that converts them never holds all of
        the file, nor all of a float16 or bfloat16 checkpoint in float32.
    final_norm : Affine
    head : Head or None
        None if the checkpoint was saved without one: then there are no logits.
    contacts : Affine or None
        The contact head, a logistic regression on the attention weights: (n_layers, heads) and (1,). None if the
        checkpoint was saved without one: then there are no contacts.
    inverse_frequencies : ndarray of shape (n_layers, d / heads / 2)
        Of the rotary position embedding in each layer.
    rotary_mark : str
        Tells a checkpoint's fingerprint apart from that of exact frequencies, see `mark_of_frequencies`.
    """

    embedding: FloatArray
    blocks: Iterable[Block]
    final_norm: Affine
    head: Head | None
    contacts: Affine | None
    inverse_frequencies: FloatArray
    rotary_mark: str = ""

    @property
    def untrained_heads(self) -> frozenset[str]:
        """The heads, ``"logits"`` and ``"contacts"``, that are as transformers initialises them."""
        heads = set()
        if self.head is not None:
            ones, *zeros = self.head.norm.weight, self.head.norm.bias, self.head.dense.bias, self.head.decoder.bias
            if (ones == 1).all() and not any(array.any() for array in zeros):
                heads.add("logits")
        if self.contacts is not None and not self.contacts.bias.any():
            heads.add("contacts")
        return frozenset(heads)


class _Blocks(Iterable[Block]):
    """Blocks that are read as they are asked for."""

    def __init__(self, read: Callable[[int], Block], release: Callable[[int], None], n_layers: int) -> None:
        self._read = read
        self._release = release
        self._n_layers = n_layers

    def __iter__(self) -> Iterator[Block]:
        for i in range(self._n_layers):
            yield self._read(i)
            self._release(i)


def read_parameters(spec: ModelSpec, weights: WeightsFiles) -> Parameters:
    """Sort the tensors of a checkpoint in transformers' naming.

    Raises
    ------
    CheckpointError
        If a tensor is missing, has another shape than the model's configuration says, is not of floating-point numbers,
        or if there is one that is not part of the model.
    """
    return _Reader(spec, weights).read()


class _Reader:
    """Reads tensors by name, and knows which of them were asked for."""

    def __init__(self, spec: ModelSpec, weights: WeightsFiles) -> None:
        self._spec = spec
        self._weights = weights
        self._prefix = find_prefix(spec.name, weights)
        self._used: set[str] = set()

    def read(self) -> Parameters:
        spec, prefix = self._spec, self._prefix
        for i in range(spec.n_layers):
            self._block(i, self._check)
        head = self._head()
        parameters = Parameters(
            embedding=self._embedding(),
            blocks=_Blocks(
                lambda i: self._block(i, self._tensor),
                lambda i: self._weights.release(self._layer_name(i)),
                spec.n_layers,
            ),
            final_norm=self._norm(f"{prefix}encoder.emb_layer_norm_after", self._tensor),
            head=head,
            contacts=self._contacts(),
            inverse_frequencies=(frequencies := read_frequencies(spec, self._weights, prefix, self._tensor)),
            rotary_mark=mark_of_frequencies(self._weights, prefix, frequencies),
        )
        refuse_unused(spec.name, prefix, self._weights.keys() - self._used)
        return parameters

    def _check(self, name: str, *shape: int) -> FloatArray:
        """Check a tensor without reading it. Returns an empty array in its place."""
        if name not in self._weights:
            raise CheckpointError(f"{self._spec.name}: the checkpoint has no tensor {name}")
        if self._weights.shape(name) != shape:
            raise CheckpointError(
                f"{self._spec.name}: tensor {name} has shape {self._weights.shape(name)}, config.json says {shape}"
            )
        self._weights.check_floats(name)
        self._used.add(name)
        return _NOTHING

    def _tensor(self, name: str, *shape: int) -> FloatArray:
        self._check(name, *shape)
        return self._weights[name]

    def _linear(self, name: str, out: int, into: int, take: Take) -> Affine:
        return Affine(take(f"{name}.weight", out, into), take(f"{name}.bias", out))

    def _norm(self, name: str, take: Take) -> Affine:
        # old checkpoints call them gamma and beta
        gamma, beta = ("gamma", "beta") if f"{name}.gamma" in self._weights else ("weight", "bias")
        return Affine(take(f"{name}.{gamma}", self._spec.width), take(f"{name}.{beta}", self._spec.width))

    def _layer_name(self, i: int) -> str:
        return f"{self._prefix}encoder.layer.{i}."

    def _block(self, i: int, take: Take) -> Block:
        layer, d, f = self._layer_name(i), self._spec.width, self._spec.ffn_width
        return Block(
            attention_norm=self._norm(f"{layer}attention.LayerNorm", take),
            query=self._linear(f"{layer}attention.self.query", d, d, take),
            key=self._linear(f"{layer}attention.self.key", d, d, take),
            value=self._linear(f"{layer}attention.self.value", d, d, take),
            attention_output=self._linear(f"{layer}attention.output.dense", d, d, take),
            ffn_norm=self._norm(f"{layer}LayerNorm", take),
            ffn_in=self._linear(f"{layer}intermediate.dense", f, d, take),
            ffn_out=self._linear(f"{layer}output.dense", d, f, take),
        )

    def _embedding(self) -> FloatArray:
        return self._tensor(f"{self._prefix}embeddings.word_embeddings.weight", VOCABULARY_SIZE, self._spec.width)

    def _head(self) -> Head | None:
        if "lm_head.dense.weight" not in self._weights:
            return None
        d = self._spec.width
        return Head(
            dense=self._linear("lm_head.dense", d, d, self._tensor),
            norm=self._norm("lm_head.layer_norm", self._tensor),
            decoder=Affine(self._decoder_weight(), self._decoder_bias()),
        )

    def _decoder_weight(self) -> FloatArray:
        """The decoder's own weight if there is one, as transformers has it. Otherwise it is tied to the embedding."""
        name = "lm_head.decoder.weight"
        if name in self._weights:
            return self._tensor(name, VOCABULARY_SIZE, self._spec.width)
        if not self._spec.tied_decoder:
            raise CheckpointError(
                f"{self._spec.name}: config.json says that 'tie_word_embeddings' is false, but the checkpoint has no "
                f"tensor {name}: its logits are not known. Save it again with all weights, or without its head"
            )
        return self._embedding()

    def _decoder_bias(self) -> FloatArray:
        names = [name for name in ("lm_head.bias", "lm_head.decoder.bias") if name in self._weights]
        biases = [self._tensor(name, VOCABULARY_SIZE) for name in names or ["lm_head.bias"]]
        if not all(np.array_equal(bias, biases[0]) for bias in biases):
            raise CheckpointError(f"{self._spec.name}: tensors {' and '.join(names)} contradict each other")
        return biases[0]

    def _contacts(self) -> Affine | None:
        regression = f"{self._prefix}contact_head.regression"
        if f"{regression}.weight" not in self._weights:
            return None
        shape = self._spec.n_layers, self._spec.n_heads
        of_heads, intercept = self._linear(regression, 1, shape[0] * shape[1], self._tensor)
        return Affine(of_heads.reshape(shape), intercept)
