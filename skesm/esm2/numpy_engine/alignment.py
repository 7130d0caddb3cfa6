"""Layouts of packs in which no bit of a row's product depends on the other rows of the pack.

BLAS computes a matrix product tile by tile, and the tiles at an edge may add numbers up in another order. So a row's
last bits can depend on its place and on the number of rows. Both dependences are periodic: OpenBLAS's kernels for AVX2
treat rows 0 to 5 of each twelve alike, and 6 to 11, whatever the number of rows, as long as it is a multiple of twelve.
A sequence that begins at a multiple of the period, in a pack of a multiple of the period, has the same bits in any
company.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from skesm.outputs.types import FloatArray

#: Rows of a pack are a multiple of this where nothing else is asked for: whole vector registers.
ROW_MULTIPLE = 16
#: Least rows of a pack: products of fewer take other ways in some libraries, and are hardly faster.
LEAST_ROWS = 48
#: Rows of products that are tried in full, and columns of those that are tried with the most rows. BLAS's treatment of
#: rows does not depend on the number of columns there, and all columns of all sizes would take four times as long.
_SIZES, _COLUMNS = (LEAST_ROWS, 112), 128


class Alignment(NamedTuple):
    """The layout of packs.

    Attributes
    ----------
    starts : int
        Sequences begin at multiples of this.
    rows : int
        Packs have a multiple of so many rows.
    turned : bool
        Queries, keys and values are computed with tokens as rows and then transposed. The product that gives them with
        channels as rows is faster, but OpenBLAS's kernels for AVX2 cut its tokens into blocks that depend on their
        number.
    """

    starts: int
    rows: int
    turned: bool


#: The alignments that are tried, in this order: the less padding the better.
ALIGNMENTS = tuple(
    Alignment(starts, rows, turned)
    for starts, rows in ((1, 16), (4, 16), (8, 16), (12, 12), (16, 16), (24, 24), (32, 32), (48, 48))
    for turned in (False, True)
)

#: Gives the results of an engine's products of so many equal rows, and so many columns at most. The last argument is
#: `Alignment.turned`.
Products = Callable[[int, int, bool], Iterator[FloatArray]]


def find_alignment(products: Products, most: int, alignments: Iterable[Alignment] = ALIGNMENTS) -> Alignment | None:
    """Find the alignment with the least padding under which equal rows give equal results.

    Parameters
    ----------
    products : callable
    most : int
        Rows of the largest pack that several sequences share.
    alignments : iterable of Alignment, optional
        Alignments to try, in this order.

    Returns
    -------
    alignment : Alignment or None
        None if there is none among them.
    """
    return next(
        (
            alignment
            for alignment in alignments
            if is_invariant(alignment, products, _SIZES)
            and is_invariant(alignment, products, (LEAST_ROWS, most), _COLUMNS)
        ),
        None,
    )


def is_invariant(alignment: Alignment, products: Products, sizes: Iterable[int], columns: int = sys.maxsize) -> bool:
    """Whether equal rows give equal results at equal places of the period, in products of about so many rows."""
    period, multiple, turned = alignment
    expected: list[FloatArray] = []
    for rows in sizes:
        for i, result in enumerate(products(rows // multiple * multiple, columns, turned)):
            if i == len(expected):
                expected.append(result[:period].copy())
            if not (result.reshape(-1, period, result.shape[1]) == expected[i]).all():
                return False
    return True
