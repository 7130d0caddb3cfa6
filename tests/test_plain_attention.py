"""Attention by NumPy's products, against plain formulas in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from skesm.esm2 import plain_attention
from skesm.esm2.plain_attention import attend, mix, rotary_tables, score_scale
from skesm.esm2.workspace import Workspace

LENGTHS = [3, 3, 5, 70, 40]
SPANS = [slice(0, 3), slice(3, 6), slice(6, 11), slice(11, 81), slice(84, 124)]  # with a gap
ROWS, HEADS, WIDTH = 128, 4, 16
OWNED = np.concatenate([np.arange(own.start, own.stop) for own in SPANS])


@pytest.fixture(autouse=True)
def _with_small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_attention, "has_small_products", lambda: True)


@pytest.fixture
def parts() -> np.ndarray:
    """Queries, keys and values of all rows, (3, heads, h, rows)."""
    return np.random.default_rng(0).standard_normal((3, HEADS, WIDTH, ROWS), dtype=np.float32)


def softmax(query: np.ndarray, key: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Weights of one sequence, (heads, keys, queries), float64."""
    q, k = (part[:, :, begin:end].astype(np.float64) for part in (query, key))
    scores = k.transpose(0, 2, 1) @ q / np.sqrt(WIDTH)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def expected(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    mixed = np.zeros(value.shape)
    for own in SPANS:
        mixed[:, :, own] = value[:, :, own] @ softmax(query, key, own.start, own.stop)
    return mixed[:, :, OWNED]


def run(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Values taken by the tokens of sequences, without the rows between."""
    out = np.full_like(value, np.nan)
    attend(query * np.float32(score_scale(WIDTH)), key, value, SPANS, out, Workspace())
    assert np.isnan(out[:, :, SPANS[-1].stop :]).all(), "rows behind the last sequence"
    return out[:, :, OWNED]


@pytest.mark.parametrize("held", [1, 3 * 70 * 32, 1 << 18])
@pytest.mark.parametrize("small_product", [1, 17 * 70 * 32, 10**6])
def test_tokens_attend_to_their_own_sequence(
    parts: np.ndarray, held: int, small_product: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_attention, "_SCORES", held)  # one head, some heads and all at a time
    monkeypatch.setattr(plain_attention, "_SMALL_PRODUCT", small_product)  # the longest sequence whole or in three
    np.testing.assert_allclose(run(*parts), expected(*parts), atol=2e-6)


@pytest.mark.parametrize(
    ("small_products", "tasks_of_longest"),
    [(True, [2 * 3, 1]), (False, [4, 1])],  # 3 heads and 1; 32, 32 and 6 queries
)
def test_queries_and_heads_are_worked_on_in_parts(
    parts: np.ndarray, small_products: bool, tasks_of_longest: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_attention, "has_small_products", lambda: small_products)
    monkeypatch.setattr(plain_attention, "_SCORES", 3 * 70 * 32)
    monkeypatch.setattr(plain_attention, "_SMALL_PRODUCT", 17 * 70 * 32)
    n_tasks = 0

    def do(tasks: Iterable[Callable[[], object]]) -> None:
        nonlocal n_tasks
        for task in reversed(list(tasks)):  # in any order
            task()
            n_tasks += 1

    query, key, value = parts
    out = np.empty_like(value)
    attend(query * np.float32(score_scale(WIDTH)), key, value, SPANS, out, Workspace(), do)
    np.testing.assert_allclose(out[:, :, OWNED], expected(*parts), atol=2e-6)
    assert n_tasks == 3 + sum(tasks_of_longest)


@pytest.mark.parametrize(
    ("length", "columns"),
    [(239, 239), (252, 128), (359, 128), (419, 128), (1002, 32), (2000, 2000)],  # at most 246, 233, 163, 140, 58, 29
)
def test_parts_are_small_products_of_equal_size(length: int, columns: int) -> None:
    assert plain_attention._columns(length, 17) == columns


@pytest.mark.parametrize(("scale", "shift"), [(40, 0), (1, 60), (1, -60), (1, 600), (1, -600)])
def test_scores_may_be_of_any_size(parts: np.ndarray, scale: float, shift: float) -> None:
    """The largest is subtracted where exp2 alone would overflow or leave nothing; other sequences keep their bits."""
    ordinary = run(*parts)
    query, key, value = parts
    query[:, :, 11:81] *= scale
    query[:, 0, 11:81], key[:, 0, 11:81] = shift, WIDTH**0.5  # adds `shift` to all scores of the fourth sequence
    got = run(query, key, value)
    # scores are float32
    np.testing.assert_allclose(got, expected(*parts), atol=2e-6 * max(1, scale, abs(shift) / 10))
    others = np.r_[0:11, 81:121]
    np.testing.assert_array_equal(got[:, :, others], ordinary[:, :, others])


def test_what_is_no_number_stays_in_its_sequence(parts: np.ndarray) -> None:
    ordinary = run(*parts)
    parts[0, :, :, 4] = np.nan
    got = run(*parts)
    assert np.isnan(got[:, :, 4]).all()
    others = np.r_[0:3, 6:121]
    np.testing.assert_array_equal(got[:, :, others], ordinary[:, :, others])


@pytest.mark.parametrize("held", [1, 3 * 70 * 70, 1 << 18])
def test_weights_are_those_of_the_softmax(parts: np.ndarray, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_attention, "_SCORES", held)
    query, key, value = parts
    key[:, 0, 3:6], query[:, 0, 3:6] = 100, 100  # scores of 2,500: too large for exp2 alone
    seen = [np.full((HEADS, length, length), np.nan, dtype=np.float32) for length in LENGTHS]

    def read(place: int, heads: slice, weights: np.ndarray) -> None:
        seen[place][heads] = weights

    query = query * np.float32(score_scale(WIDTH))
    attend(query, key, value, SPANS, np.empty_like(value), Workspace(), read=read)
    for place, got in enumerate(seen):
        weights = softmax(parts[0], key, SPANS[place].start, SPANS[place].stop)
        np.testing.assert_allclose(got, weights, atol=3e-4 if place == 1 else 1e-6)


def test_rows_of_no_sequence_are_finite(parts: np.ndarray) -> None:
    work = Workspace()
    work.get("wide", 2, HEADS, WIDTH + 1, ROWS)[:] = np.nan  # memory that was used before
    frequencies = np.ones(WIDTH // 2, dtype=np.float32)
    biases = [np.ones(HEADS * WIDTH, dtype=np.float32)] * 3
    products = parts.reshape(3, HEADS * WIDTH, ROWS)
    mixed = mix(products, biases, rotary_tables(frequencies, SPANS, ROWS), SPANS, work)
    assert np.isfinite(mixed).all()
    assert (mixed[:, SPANS[3].stop : SPANS[4].start] == 1).all()
    assert not mixed[:, SPANS[4].stop :].any()
