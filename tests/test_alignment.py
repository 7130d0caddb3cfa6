"""The search for a layout of packs, on products made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from skesm.esm2.numpy_engine.alignment import LEAST_ROWS, Alignment, find_alignment, is_invariant

MOST = 1024


def products(result: Callable[[int, int, bool], float]) -> Callable[[int, int, bool], Iterator[np.ndarray]]:
    """Two products whose rows are given by (place, number of rows, turned)."""

    def compute(rows: int, columns: int, turned: bool) -> Iterator[np.ndarray]:
        of_rows = np.array([result(place, rows, turned) for place in range(rows)], dtype=np.float32)
        yield np.zeros((rows, min(columns, 5)), dtype=np.float32)
        yield np.repeat(of_rows[:, None], min(columns, 200), axis=1)

    return compute


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (lambda place, rows, turned: 0, Alignment(1, 16, turned=False)),
        (lambda place, rows, turned: place >= rows // 16 * 16, Alignment(1, 16, turned=False)),  # an edge
        (lambda place, rows, turned: place % 8, Alignment(8, 16, turned=False)),
        (lambda place, rows, turned: place % 12 < 6, Alignment(12, 12, turned=False)),
        (lambda place, rows, turned: (place % 12 < 6) + (not turned) * (rows > 300), Alignment(12, 12, turned=True)),
        (lambda place, rows, turned: place % 24 < 8, Alignment(24, 24, turned=False)),
        (lambda place, rows, turned: place, None),
        (lambda place, rows, turned: rows, None),
        (lambda place, rows, turned: rows > 500, None),
    ],
)
def test_the_least_padding_that_works_is_found(
    result: Callable[[int, int, bool], float], expected: Alignment | None
) -> None:
    assert find_alignment(products(result), MOST) == expected


def test_one_moody_row_is_seen() -> None:
    compute = products(lambda place, rows, turned: place == 7 and rows == 496)
    assert is_invariant(Alignment(1, 16, turned=False), compute, [LEAST_ROWS, 480, 512])
    assert not is_invariant(Alignment(1, 16, turned=False), compute, [LEAST_ROWS, 480, 496, 512])


def test_a_difference_in_the_last_bit_is_seen() -> None:
    one = np.nextafter(np.float32(1), np.float32(2))
    assert find_alignment(products(lambda place, rows, turned: one if place % 4 else 1), MOST) == Alignment(
        4, 16, False
    )
