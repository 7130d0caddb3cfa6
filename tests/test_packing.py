from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from skesm.esm2.packing import lay_out, plan_packs, split_batches

LENGTHS = st.lists(st.integers(3, 1100), max_size=80)


@given(LENGTHS, st.integers(1, 2000))
def test_every_sequence_is_packed_once_within_the_budget(lengths: list[int], budget: int) -> None:
    packs = plan_packs(lengths, budget)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    for pack in packs:
        assert len(pack) == 1 or sum(lengths[i] for i in pack) <= budget


@given(LENGTHS, st.integers(0, 256))
def test_sequences_too_long_to_share_come_first_longest_first(lengths: list[int], budget: int) -> None:
    packs = plan_packs(lengths, budget)
    long = [i for i, length in enumerate(lengths) if length > budget]
    assert all(len(pack) == 1 for pack in packs[: len(long)])
    assert [lengths[pack[0]] for pack in packs[: len(long)]] == sorted((lengths[i] for i in long), reverse=True)


@given(st.lists(st.integers(3, 1100), min_size=1, max_size=80), st.sampled_from([1, 4, 12, 48]))
def test_sequences_follow_each_other_at_multiples_of_the_alignment(lengths: list[int], alignment: int) -> None:
    spans = lay_out(lengths, alignment)
    assert [own.stop - own.start for own in spans] == lengths
    assert all(own.start % alignment == 0 for own in spans)
    assert all(0 <= after.start - own.stop < alignment for own, after in pairwise(spans))


@given(st.lists(st.integers(3, 128), min_size=1, max_size=80))
def test_packs_are_more_than_half_full(lengths: list[int]) -> None:
    """All but the last one: what a pack has no room for does not fit, and so fills half of another."""
    packs = plan_packs(lengths, 256)
    sizes = sorted(sum(lengths[i] for i in pack) for pack in packs)
    assert all(size > 128 for size in sizes[1:])


def test_no_sequences_make_no_packs() -> None:
    assert plan_packs([], 256) == []
    assert split_batches([], [], 100) == []


def test_a_hundred_thousand_peptides_are_planned_quickly() -> None:
    lengths = [5 + i % 46 for i in range(100_000)]
    packs = plan_packs(lengths, 256)
    assert sum(map(len, packs)) == 100_000
    assert len(packs) < 1.02 * sum(lengths) / 256  # hardly any room is left


@given(LENGTHS, st.integers(1, 5000))
def test_batches_hold_the_packs_in_order_and_within_their_tokens(lengths: list[int], tokens: int) -> None:
    packs = plan_packs(lengths, 256)
    batches = split_batches(packs, lengths, tokens)
    assert [pack for batch in batches for pack in batch] == packs
    for batch in batches:
        assert batch
        assert len(batch) == 1 or sum(lengths[i] for pack in batch for i in pack) <= tokens
