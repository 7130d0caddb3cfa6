"""Sequences beside a reference, and what is derived from a backend's answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skesm.esm2.spec import find_registered
from skesm.exceptions import InvalidSequenceError
from skesm.outputs.derived import derive, source
from skesm.outputs.pooling import compared_positions
from skesm.outputs.spec import OutputSpec, parse_outputs
from skesm.sequences.alphabet import AMBIGUOUS, AMINO_ACIDS, MASK_SYMBOL
from skesm.sequences.variants import (
    check_lengths,
    check_scorable,
    differences,
    is_mask,
    learn_reference,
    mask_each,
    own_columns,
)

SYMBOLS = st.lists(st.sampled_from([*AMINO_ACIDS, *AMBIGUOUS, MASK_SYMBOL]), min_size=1, max_size=12)
REFERENCE = "MKTAYIAKQR"
RESIDUES, LOGITS = OutputSpec("residues", 2), OutputSpec("logits")


@given(SYMBOLS, st.data())
def test_positions_are_those_of_symbols(symbols: list[str], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.sampled_from([*AMINO_ACIDS, "X", MASK_SYMBOL]), min_size=len(symbols), max_size=12))
    other = other[: len(symbols)]
    expected = [i for i, (a, b) in enumerate(zip(symbols, other, strict=True)) if a != b]
    sequence = "".join(symbols)
    assert differences(sequence, "".join(other)).tolist() == expected
    assert own_columns(sequence).tolist() == [AMINO_ACIDS.find(s) if len(s) == 1 else -1 for s in symbols]
    assert is_mask(sequence).tolist() == [s == MASK_SYMBOL for s in symbols]
    copies = mask_each(sequence, range(len(symbols)))
    assert copies == ["".join([*symbols[:i], MASK_SYMBOL, *symbols[i + 1 :]]) for i in range(len(symbols))]


@pytest.mark.parametrize(
    ("sequences", "how", "expected"),
    [
        (["MKT", "MRT", "MRV"], None, "MRT"),
        (["MKV", "MKV", "MRT", "MRT"], None, "MKT"),  # ties: the first in the alphabet
        (["MRT", "MRT", "MKV", "MKV"], None, "MKT"),  # whatever the order of the rows
        (["MXT", "MXT", "MRT"], None, "MRT"),  # what is no amino acid does not count
        ([f"M{MASK_SYMBOL}T", "MXT"], None, "MXT"),
        (["MKT", "MRT", "MRT"], "most_common", "MRT"),
        (["MKT"], "most_common", "MKT"),
        (["MKT", "MR", "MR"], "most_common", "MR"),
        (["MKT", "MRT", "MRT"], "first", "MKT"),
    ],
)
def test_reference_is_learnt(sequences: list[str], how: str | None, expected: str) -> None:
    assert learn_reference(sequences, how) == expected


def test_no_consensus_of_different_lengths() -> None:
    sequences = ["MKTA", "MKT", "MKTA", f"MK{MASK_SYMBOL}TA"]
    with pytest.raises(InvalidSequenceError, match=r"2 of 4 rows .* 4 residues") as caught:
        learn_reference(sequences, None)
    assert caught.value.rows == (1, 3)
    assert "row 1: 3 residues" in str(caught.value)


def test_no_most_common_sequence_among_equals() -> None:
    with pytest.raises(InvalidSequenceError, match="no sequence of X is more common"):
        learn_reference(["MKT", "MRT"], "most_common")


def test_lengths_are_compared_in_residues() -> None:
    check_lengths([f"MK{MASK_SYMBOL}"], "MKT", "")
    with pytest.raises(
        InvalidSequenceError, match=r"(?s)7 of 8 rows .* 3 residues.*not aligned.*sit down.*and 2 more"
    ) as e:
        check_lengths(["MKT", *["MK"] * 7], "MKT", "sit down")
    assert e.value.rows == (1, 2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("sequence", "reference", "position"),
    [
        ("MXT", "MKT", 2),
        ("MKT", "MXT", 2),
        (f"MK{MASK_SYMBOL}", "MKT", 3),
        ("UKT", "MKT", 1),
        ("MKTTX", "MKT", 5),
        ("MKTT", "MXT", 2),
    ],
)
def test_no_score_of_what_is_no_amino_acid(sequence: str, reference: str, position: int) -> None:
    with pytest.raises(InvalidSequenceError, match=rf"1 of 2 rows .*\n  row 1, position {position}$") as caught:
        check_scorable([reference, sequence], reference)
    assert caught.value.rows == (1,)


def test_unknown_residues_that_do_not_differ_are_no_obstacle() -> None:
    check_scorable(["MXT", "MXV"], "MXT")


# derived outputs ------------------------------------------------------------------------------------------------------


def test_derived_outputs_are_rows_of_their_sources() -> None:
    rng = np.random.default_rng(0)
    sequence = f"MKTW{MASK_SYMBOL}IAKQR"
    record = {
        RESIDUES: rng.standard_normal((10, 4)).astype(np.float32),
        LOGITS: rng.standard_normal((10, 20)).astype(np.float32),
    }
    mutated, masked = OutputSpec("mutated", 2, REFERENCE), OutputSpec("mask_logits")
    assert (source(mutated), source(masked), source(RESIDUES)) == (RESIDUES, LOGITS, RESIDUES)
    derived = derive(record, [mutated, masked, LOGITS], sequence)
    assert set(derived) == {mutated, masked, LOGITS}  # no residue matrix goes to the store
    np.testing.assert_allclose(derived[mutated], (record[RESIDUES][3] + record[RESIDUES][4]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(derived[masked], record[LOGITS][4:5])
    for output in (mutated, masked):
        assert derived[output].dtype == np.float32
        assert derived[output].base is None


def test_the_reference_is_compared_everywhere() -> None:
    assert compared_positions(REFERENCE, REFERENCE).tolist() == list(range(10))
    assert compared_positions("MKTAYIAKQW", REFERENCE).tolist() == [9]


def test_names_of_derived_outputs() -> None:
    one, other = OutputSpec("mutated", 2, "MKT"), OutputSpec("mutated", 2, "MKV")
    assert str(one) != str(other)
    assert str(one).startswith("mutated@2:")
    assert "MKT" not in str(one) + repr(one)
    assert one.shape(3, find_registered("esm2_t6_8M_UR50D")) == (320,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("mutated", 2), "needs a reference"),
        (("mean", 2, "MKT"), "has no reference"),
        (("mutated", None, "MKT"), "needs a layer"),
        (("mask_logits", 2), "has no layer"),
    ],
)
def test_wrong_derived_outputs(fields: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OutputSpec(*fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mutated@2", "mask_logits"])
def test_derived_outputs_are_not_prefetched_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs a reference|cannot be requested by name"):
        parse_outputs([name], n_layers=2)
