"""The numbers that a model's compiled functions are made for."""

from __future__ import annotations

import platform
from typing import NamedTuple

from skesm.esm2.machine.threads import has_small_products
from skesm.esm2.spec import ModelSpec

#: Most channels of a block, and of those that a product works on at a time: a panel of so many weights stays in the
#: first-level cache.
_MOST_CHANNELS, _MOST_DEPTH = 640, 384
#: With fewer lanes, products by BLAS are faster; with more there is nothing to gain.
_LEAST_LANES, _MOST_LANES = 4, 16
#: Vectors of results in a row of a product's tile.
ACROSS = 2


class Shape(NamedTuple):
    """The case that the code is made for.

    An array of activations lies in blocks of channels, (blocks, rows, channels of a block): products then read and
    write memory in one piece. Where BLAS computes the products, there is one block.

    Attributes
    ----------
    width, head : int
        Channels of the model, d, and of a head, h.
    lanes : int
        Numbers that the processor works on at a time.
    block, ffn_block : int
        Channels of a block of d, whole heads, and of the feed-forward network's.
    product_lanes : int
        Numbers that products work on at a time. 0 where BLAS computes them.
    depth : int
        Channels that a product works on at a time.
    """

    width: int
    head: int
    lanes: int
    block: int
    ffn_block: int
    product_lanes: int
    depth: int


def choose_shape(spec: ModelSpec) -> Shape:
    """The shape for a model on this processor."""
    head, lanes = spec.width // spec.n_heads, 16 if has_small_products() else 8
    if has_own_products():
        # whole pairs of wide vectors, then many channels at a time, then small blocks: the same for all processors
        blocks = [head * n for n in range(1, spec.n_heads + 1) if spec.n_heads % n == 0 and head * n <= _MOST_CHANNELS]
        fitting = [block for block in blocks if block % (ACROSS * _LEAST_LANES) == 0 == spec.ffn_width % block]
        if fitting:
            step, depth, block = max(_measures(block) for block in fitting)
            block = -block
            return Shape(spec.width, head, lanes, block, block, min(step, lanes), depth)
    return Shape(spec.width, head, lanes, spec.width, spec.ffn_width, 0, 0)


def _measures(block: int) -> tuple[int, int, int]:
    """Lanes of products, and channels that they work on at a time, with blocks of a size; and less that size."""
    step, parts = lanes_in(block // ACROSS, _MOST_LANES), -(-block // _MOST_DEPTH)
    return step, -(-block // (parts * step)) * step, -block


def has_own_products() -> bool:
    """Whether products are compiled too: on x86 processors. Apple's BLAS has a unit of its own for them."""
    return platform.machine().lower() in ("x86_64", "amd64")


def lanes_in(length: int, most: int) -> int:
    """The largest power of two up to `most` that divides a length.

    Examples
    --------
    >>> lanes_in(40, most=16)
    8
    """
    return min(length & -length, most)
