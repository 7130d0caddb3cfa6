"""A transformer block as the torch engine computes it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from skesm.esm2.torch_engine.linear import Linear


class Pair(NamedTuple):
    """Weight and bias of a LayerNorm or of the contact head, on the device."""

    weight: Tensor
    bias: Tensor


class PlacedBlock(NamedTuple):
    """The layers of a block, in the order of their computation."""

    attention_norm: Pair
    projection: Linear  # to queries, keys and values, as the attention wants them
    attention_output: Linear
    ffn_norm: Pair
    ffn_in: Linear
    ffn_out: Linear
    layer: int  # from 0: layers may have rotary frequencies of their own


class PlacedHead(NamedTuple):
    """The language-model head."""

    dense: Linear
    norm: Pair
    decoder: Linear
