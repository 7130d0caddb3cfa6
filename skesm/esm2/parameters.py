"""A checkpoint's tensors, sorted into the places of the model and checked: what both engines start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skesm.esm2.spec import VOCABULARY_SIZE, ModelSpec
from skesm.esm2.weights_file import WeightsFiles
from skesm.exceptions import CheckpointError
from skesm.outputs.types import FloatArray


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
    inverse_frequencies : ndarray of shape (d / heads / 2,)
        Of the rotary position embedding.
    """

    embedding: FloatArray
    blocks: Iterable[Block]
    final_norm: Affine
    head: Head | None
    contacts: Affine | None
    inverse_frequencies: FloatArray


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
        If a tensor is missing or has another shape than the model's configuration says.
    """
    d, f = spec.width, spec.ffn_width
    prefix = "esm." if "esm.embeddings.word_embeddings.weight" in weights else ""

    def tensor(name: str, *shape: int) -> FloatArray:
        if name not in weights:
            raise CheckpointError(f"{spec.name}: the checkpoint has no tensor {name}")
        if weights.shape(name) != shape:
            raise CheckpointError(
                f"{spec.name}: tensor {name} has shape {weights.shape(name)}, config.json says {shape}"
            )
        return weights[name]

    def linear(name: str, out: int, into: int) -> Affine:
        return Affine(tensor(f"{name}.weight", out, into), tensor(f"{name}.bias", out))

    def norm(name: str) -> Affine:
        gamma, beta = ("gamma", "beta") if f"{name}.gamma" in weights else ("weight", "bias")
        return Affine(tensor(f"{name}.{gamma}", d), tensor(f"{name}.{beta}", d))

    def layer_name(i: int) -> str:
        return f"{prefix}encoder.layer.{i}."

    def block(i: int) -> Block:
        layer = layer_name(i)
        return Block(
            attention_norm=norm(f"{layer}attention.LayerNorm"),
            query=linear(f"{layer}attention.self.query", d, d),
            key=linear(f"{layer}attention.self.key", d, d),
            value=linear(f"{layer}attention.self.value", d, d),
            attention_output=linear(f"{layer}attention.output.dense", d, d),
            ffn_norm=norm(f"{layer}LayerNorm"),
            ffn_in=linear(f"{layer}intermediate.dense", f, d),
            ffn_out=linear(f"{layer}output.dense", d, f),
        )

    block(spec.n_layers - 1)  # if the configuration has more layers than the file, this says so
    embedding = tensor(f"{prefix}embeddings.word_embeddings.weight", VOCABULARY_SIZE, d)
    head = None
    if "lm_head.dense.weight" in weights:
        decoder = "lm_head.decoder.weight"
        bias = "lm_head.bias" if "lm_head.bias" in weights else "lm_head.decoder.bias"
        head = Head(
            dense=linear("lm_head.dense", d, d),
            norm=norm("lm_head.layer_norm"),
            decoder=Affine(
                tensor(decoder, VOCABULARY_SIZE, d) if decoder in weights else embedding,
                tensor(bias, VOCABULARY_SIZE),
            ),
        )
    contacts = None
    regression = f"{prefix}contact_head.regression"
    if f"{regression}.weight" in weights:
        of_heads, intercept = linear(regression, 1, spec.n_layers * spec.n_heads)
        contacts = Affine(of_heads.reshape(spec.n_layers, spec.n_heads), intercept)
    return Parameters(
        embedding=embedding,
        blocks=_Blocks(block, lambda i: weights.release(layer_name(i)), spec.n_layers),
        final_norm=norm(f"{prefix}encoder.emb_layer_norm_after"),
        head=head,
        contacts=contacts,
        inverse_frequencies=_inverse_frequencies(spec, weights, prefix),
    )


def _inverse_frequencies(spec: ModelSpec, weights: WeightsFiles, prefix: str) -> FloatArray:
    """10000^(-2i/h) for head width h: the checkpoint's own if it has them, for angles equal to the last bit."""
    head_width = spec.width // spec.n_heads
    for name in (
        f"{prefix}encoder.layer.0.attention.self.rotary_embeddings.inv_freq",
        f"{prefix}rotary_embeddings.inv_freq",
    ):
        if name in weights and weights.shape(name) == (head_width // 2,):
            return weights[name]
    exponents = np.arange(0, head_width, 2, dtype=np.float64) / head_width
    return (1.0 / 10000.0**exponents).astype(np.float32)
