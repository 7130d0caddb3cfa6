"""ESM-2 as it is published: read this page first.

It computes one sequence at a time, in float64, by the formulas of the papers and nothing else. The engines compute the
same numbers fast, and their tests compare them with this page.

The model is a stack of transformer encoder blocks [1] with the normalisation in front of each half of a block, rotary
positions [2] in place of position vectors, and GELU [3] in place of ReLU [4]. It was trained to predict residues that
were hidden behind ``<mask>`` [4, 5]. A logistic regression on its attention weights predicts contacts [6].

1. Vaswani et al., "Attention is all you need", NeurIPS 2017: section 3.
2. Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021: section 3.2.
3. Hendrycks and Gimpel, "Gaussian error linear units (GELUs)", 2016: section 2.
4. Lin et al., "Evolutionary-scale prediction of atomic-level protein structure with a language model", Science 379
   (2023), supplementary methods on the language models.
5. Devlin et al., "BERT", NAACL 2019: section 3.1.
6. Rao et al., "Transformer protein language models are unsupervised structure learners", ICLR 2021: section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from skesm.esm2.spec import ModelSpec
from skesm.esm2.tokenizer import MASK, Tokens
from skesm.esm2.weights.parameters import Affine, Block, Head, Parameters
from skesm.outputs.types import FloatArray

Array = NDArray[np.float64]
TRAINED_MASK_RATIO = 0.15 * 0.8  #: Training hid 15 % of the residues, and 80 % of those behind ``<mask>`` [5].


class Answer(NamedTuple):
    """All that the model says about one sequence of T tokens: the start token, L residues, the end token."""

    layers: list[Array]  # (T, d) each: the embedding, then the output of each block. The last one is normalised
    attentions: list[Array]  # (heads, T, T) for each block: the weight that each token (row) gives to each (column)
    logits: Array | None  # (T, 33), if the checkpoint has the language-model head
    contacts: Array | None  # (L, L), if the checkpoint has the contact head


def compute(spec: ModelSpec, parameters: Parameters, tokens: Tokens) -> Answer:
    """Compute everything for one sequence, as `skesm.esm2.tokenizer.tokenize` gives it."""

    def norm(x: Array, affine: Affine) -> Array:  # each row gets mean 0 and variance 1, then is scaled and shifted
        deviation = np.sqrt(x.var(axis=1, keepdims=True) + spec.layer_norm_eps)
        normal: Array = (x - x.mean(axis=1, keepdims=True)) / deviation
        return normal * affine.weight + affine.bias

    x = parameters.embedding[tokens].astype(np.float64)
    if spec.token_dropout:  # masked rows are zero, and all are scaled as if the usual share of them were masked
        masked = tokens == MASK
        x[masked] = 0
        x *= (1 - TRAINED_MASK_RATIO) / (1 - masked.mean())
    layers, attentions = [x], []
    frequencies = np.broadcast_to(parameters.inverse_frequencies, (spec.n_layers, spec.width // spec.n_heads // 2))
    for block, of_layer in zip(parameters.blocks, frequencies, strict=True):
        mixed, weights = attend(block, norm(x, block.attention_norm), spec.n_heads, of_layer)
        x = x + linear(mixed, block.attention_output)
        x = x + linear(gelu(linear(norm(x, block.ffn_norm), block.ffn_in)), block.ffn_out)  # [1, section 3.3]
        layers.append(x)
        attentions.append(weights)
    layers[-1] = x = norm(x, parameters.final_norm)
    head: Head | None = parameters.head
    logits = linear(norm(gelu(linear(x, head.dense)), head.norm), head.decoder) if head else None
    contacts = predict_contacts(parameters.contacts, attentions) if parameters.contacts else None
    return Answer(layers, attentions, logits, contacts)


def attend(block: Block, h: Array, n_heads: int, frequencies: FloatArray) -> tuple[Array, Array]:
    """Attention of several heads [1, section 3.2]: softmax(Q Kᵀ / √width) V."""
    of_heads = (linear(h, affine).reshape(len(h), n_heads, -1) for affine in (block.query, block.key, block.value))
    query, key, value = (x.swapaxes(0, 1) for x in of_heads)  # (heads, T, width)
    scores = rotate(query, frequencies) @ rotate(key, frequencies).swapaxes(1, 2) / np.sqrt(query.shape[2])
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))  # the maximum cancels, and prevents overflow
    weights /= weights.sum(axis=2, keepdims=True)
    return np.concatenate(list(weights @ value), axis=1), weights


def rotate(x: Array, frequencies: FloatArray) -> Array:
    """Rotate channels i and i + width/2 of a head by the angle position × frequency i [2]."""
    angle = np.outer(np.arange(x.shape[1]), frequencies.astype(np.float64))
    low, high = np.split(x, 2, axis=2)
    turned = (low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle))
    return np.concatenate(turned, axis=2)


def predict_contacts(head: Affine, attentions: list[Array]) -> Array:
    """Probabilities of contacts [6]: symmetrise each head's weights, correct their background, weigh, squash."""
    residues = np.stack(attentions)[:, :, 1:-1, 1:-1]  # (layers, heads, L, L)
    symmetric = residues + residues.swapaxes(2, 3)
    sums = symmetric.sum(axis=3, keepdims=True)
    background = sums @ sums.swapaxes(2, 3) / sums.sum(axis=2, keepdims=True)  # average product correction
    score = np.tensordot(head.weight.astype(np.float64), symmetric - background, 2) + head.bias
    return 1 / (1 + np.exp(-score))


def linear(x: Array, affine: Affine) -> Array:
    """Compute x Wᵀ + b."""
    return np.add(x @ affine.weight.T.astype(np.float64), affine.bias)


def gelu(x: Array) -> Array:
    """Compute x Φ(x), where Φ is the distribution function of the normal distribution [3]."""
    share: Array = ndtr(x)
    return x * share
