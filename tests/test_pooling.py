"""Pooling against its definition, written out residue by residue."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from skesm.outputs.kinds import LAYER_KINDS
from skesm.outputs.pooling import pool, std_rows
from skesm.outputs.types import FloatArray


def tokens(length: int, width: int = 5, seed: int = 0) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(length + 2, width)).astype(np.float32)
    rows[[0, -1]] *= 1e6  # a start or end token that leaks into a mean or maximum cannot be overlooked
    return rows


@pytest.mark.parametrize("length", [1, 2, 7, 1022])
def test_mean_and_max_are_over_residues_only(length: int) -> None:
    rows = tokens(length)
    exact = [float(sum(map(Fraction, column)) / length) for column in rows[1:-1].T.astype(float)]
    # one rounding to float32 of a float64 mean, which may itself be a few float64 digits off
    np.testing.assert_allclose(pool(rows, "mean"), exact, rtol=6e-8, atol=1e-12)
    assert pool(rows, "max").tolist() == [max(column) for column in rows[1:-1].T.tolist()]


@pytest.mark.parametrize("length", [1, 2, 7, 1022])
def test_standard_deviation(length: int) -> None:
    residues = tokens(length)[1:-1]
    columns = [[Fraction(float(x)) for x in column] for column in residues.T]
    variances = [sum((x - sum(column) / length) ** 2 for x in column) / length for column in columns]
    np.testing.assert_allclose(std_rows(residues), np.sqrt([float(v) for v in variances]), rtol=1.2e-7, atol=0)


@pytest.mark.parametrize("length", [1, 7])
def test_tokens_of_their_own(length: int) -> None:
    rows = tokens(length)
    np.testing.assert_array_equal(pool(rows, "cls"), rows[0])
    np.testing.assert_array_equal(pool(rows, "eos"), rows[length + 1])
    np.testing.assert_array_equal(pool(rows, "residues"), rows[1 : length + 1])


def test_mean_of_long_sequences_does_not_drift() -> None:
    rows = np.full((100_002, 1), 0.1, dtype=np.float32)
    assert pool(rows, "mean")[0] == np.float32(0.1)  # float32 summation would be 1e-4 off


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_result_is_float32_and_owns_its_memory(kind: str) -> None:
    rows = tokens(4)
    value = pool(rows, kind)
    assert value.dtype == np.float32
    assert value.flags.c_contiguous
    before = value.copy()
    rows[:] = np.nan
    np.testing.assert_array_equal(value, before)


def test_unknown_kind() -> None:
    with pytest.raises(KeyError):
        pool(tokens(4), "median")
