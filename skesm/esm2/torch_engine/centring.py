"""Biases that leave less to round, without a change of the function: for products in low precision.

A few channels of a trained ESM-2 hold nearly the same value for every residue of every protein, dozens of times larger
than all others. Numbers of eight bits are then spent on a constant, and the differences between two variants are lost.
So a constant c is taken from the input h of each product W h + a, and given back behind it: W (h - c) + (a + W c), the
same for any c. It costs no step of computation, since biases that are there already take it in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from skesm.esm2.torch_engine.blocks import Pair, PlacedBlock
from skesm.esm2.torch_engine.linear import PackedLinear, PlainLinear
from skesm.esm2.weights.parameters import Affine, Block
from skesm.outputs.types import FloatArray

Layer = TypeVar("Layer", bound=Pair | PlainLinear | PackedLinear)

#: Constants are means over this sequence: five of each amino acid, shuffled. Any other would be as exact.
CALIBRATION_SEQUENCE = (
    "EKNIKQCNRRTEPCADIIWHYHFMYMDLEVQCEYHKRKFRFMFASCNTVIQMLGWHTAPSWPESTMHASLSNADLDYWVKPYPGTVFIRGCWNDGQGQVL"
)


def centre(
    blocks: Sequence[PlacedBlock],
    exact: Iterable[Block],
    x: Tensor,
    norm: Callable[[Tensor, Pair], Tensor],
    attention: Callable[[PlacedBlock, Tensor], None],
    feed_forward: Callable[[PlacedBlock, Tensor], None],
) -> list[PlacedBlock]:
    """Blocks of the same function whose products have centred inputs, but for the feed-forward network's second.

    Parameters
    ----------
    blocks : sequence of PlacedBlock
        They hold torch tensors, rounded, which are not changed.
    exact : iterable of Block
        The same in float32, as arrays: the products with constants are taken from these.
    x : Tensor of shape (n_tokens, d)
        The residual stream at its start, of a sequence over which means are taken. It is overwritten.
    norm, attention, feed_forward : callable
        The engine's LayerNorm, and the functions that add a block's two halves to the residual stream.

    Returns
    -------
    blocks : list of PlacedBlock
        They share the weights of those given.
    """
    centred = []
    for block, arrays in zip(blocks, exact, strict=True):
        c = norm(x, block.attention_norm).mean(0).cpu().numpy()
        # attention leaves the constant part of the values unchanged, because its weights sum to one
        value = _bias_behind(arrays.value, c)
        block = block._replace(
            attention_norm=_with_bias(block.attention_norm, arrays.attention_norm.bias - c),
            projection=_with_bias(
                block.projection,
                np.concatenate([_bias_behind(arrays.query, c), _bias_behind(arrays.key, c), np.zeros_like(value)]),
            ),
            attention_output=_with_bias(block.attention_output, _bias_behind(arrays.attention_output, value)),
        )
        attention(block, x)
        c = norm(x, block.ffn_norm).mean(0).cpu().numpy()
        block = block._replace(
            ffn_norm=_with_bias(block.ffn_norm, arrays.ffn_norm.bias - c),
            ffn_in=_with_bias(block.ffn_in, _bias_behind(arrays.ffn_in, c)),
        )
        feed_forward(block, x)
        centred.append(block)
    return centred


def _bias_behind(affine: Affine, c: FloatArray) -> FloatArray:
    """The bias a + W c."""
    return affine.bias + affine.weight @ c


def _with_bias(affine: Layer, bias: FloatArray) -> Layer:
    return affine._replace(bias=affine.bias.new_tensor(bias))  # type: ignore[return-value]  # _replace keeps the type
