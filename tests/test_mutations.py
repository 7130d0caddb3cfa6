"""Mutations as text, applied to a reference."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skesm import apply_mutations
from skesm.datasets import load_gb1_stability
from skesm.exceptions import InvalidSequenceError
from skesm.sequences.alphabet import AMINO_ACIDS

REFERENCE = "MKTAYIAKQRQISFVKSHFSRQ"


def test_bundled_variants_are_their_mutations() -> None:
    gb1 = load_gb1_stability()
    assert apply_mutations(gb1.wild_type, gb1.mutations, offset=2) == gb1.data.tolist()


@pytest.mark.parametrize("separator", [":", "/", ",", ";", "+", "_", " ", ", ", " : ", "\t", "\n"])
def test_separators(separator: str) -> None:
    assert apply_mutations("MKTAY", f"K2R{separator}A4G") == "MRTGY"


@pytest.mark.parametrize("text", ["", " ", "WT", "wt", "_wt", "wildtype", "wild type", "Wild-Type"])
def test_the_reference_itself(text: str) -> None:
    assert apply_mutations("MKTAY", [text, "k2r"]) == ["MKTAY", "MRTAY"]


@pytest.mark.parametrize("container", [list, tuple, np.array, pd.Series, pa.array])
def test_columns(container: Any) -> None:
    assert apply_mutations("mktay\n", container(["K2R", "A4A", "M1X"])) == ["MRTAY", "MKTAY", "XKTAY"]


@pytest.mark.parametrize(("offset", "mutation"), [(2, "K3R"), (0, "K1R"), (-4, "K-3R"), (100, "K101R")])
def test_offset(offset: int, mutation: str) -> None:
    assert apply_mutations("MKTAY", mutation, offset) == "MRTAY"


def test_a_mask_in_the_reference_is_one_residue() -> None:
    assert apply_mutations("M<mask>TAY", "A4G") == "M<mask>TGY"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("K3R", ", position 3: the reference has another residue there"),
        ("K2R:Y9A", ", position 9: outside the reference, which has positions 1 to 5"),
        ("K0R", ", position 0: outside the reference, which has positions 1 to 5"),
        ("K2R:K2E", ", position 2: mutated twice. Keep one of the two"),
        ("K2R:K2R", ", position 2: mutated twice. Keep one of the two"),
        ("K2*", ", mutation 1: a stop codon, which is not a substitution. Remove the row"),
        ("K2J", ", mutation 1: the new residue is 'J', which is not an amino acid"),
        ("A4G:p.Lys2Arg", ", mutation 2: write residues as one letter, without 'p.'"),
        ("2R", ", mutation 1: not a substitution. Write wild-type residue, position and new residue"),
        ("K2", ", mutation 1: not a substitution. Write wild-type residue"),
        ("MKTAY", ", mutation 1: not a substitution. Write wild-type residue"),
        (None, ": a missing value. Write 'WT' for the reference itself, or remove the row"),
        (float("nan"), ": a missing value. Write 'WT' for the reference itself, or remove the row"),
        (23, ": of type int. Give a str such as 'A23V'"),
        *(
            (text, ": insertions and deletions are not supported, only substitutions. Pass the whole sequence instead")
            for text in ("K2del", "K2-", "K2_A4del", "K2_T3insG", "A4G:K2RR", "K2fs", "KT2R", "-2K", "K2dup")
        ),
    ],
)
def test_rows_that_cannot_be_applied(row: Any, problem: str) -> None:
    message = f"1 of 3 rows of mutations cannot be used:\n  row 1{problem}"
    with pytest.raises(InvalidSequenceError, match=re.escape(message)) as caught:
        apply_mutations("MKTAY", ["K2R", row, "WT"])
    assert caught.value.rows == (1,)


def test_the_offset_that_fits_all_rows_is_named() -> None:
    with pytest.raises(InvalidSequenceError, match=r"offset=24 would fit all rows$") as caught:
        apply_mutations(REFERENCE, ["K25R", "Y28A:I29L", "wt", "F37W"])
    assert caught.value.rows == (0, 1, 3)
    with pytest.raises(InvalidSequenceError) as caught:
        apply_mutations(REFERENCE, ["K25R", "W28A"])
    assert "offset" not in str(caught.value)


def test_no_offset_is_advised_where_too_many_fit() -> None:
    with pytest.raises(InvalidSequenceError) as caught:
        apply_mutations("AAAAAA", ["A9G"])
    assert "offset" not in str(caught.value)


def test_messages_show_neither_reference_nor_mutations() -> None:
    with pytest.raises(InvalidSequenceError) as caught:
        apply_mutations("WCHWMYFQ", ["W2A", "WCHW", "W99A"])
    assert not re.search("W2A|WCHW|W99A", str(caught.value))


@pytest.mark.parametrize("offset", [1.0, "1", None, True])
def test_offset_is_a_whole_number(offset: Any) -> None:
    with pytest.raises(TypeError, match="offset must be a whole number"):
        apply_mutations("MKTAY", "K2R", offset)


def test_arguments_that_are_no_column_or_no_sequence() -> None:
    with pytest.raises(InvalidSequenceError, match="mutations is a int: pass a list"):
        apply_mutations("MKTAY", 3)  # type: ignore[call-overload]
    with pytest.raises(InvalidSequenceError, match="reference, position 3: '1' is not an amino acid"):
        apply_mutations("MK1", "K2R")
    assert apply_mutations("MKTAY", []) == []


@given(st.text(AMINO_ACIDS, min_size=1, max_size=30), st.data(), st.integers(-5, 300))
def test_differences_are_the_mutations(reference: str, data: st.DataObject, offset: int) -> None:
    variant = data.draw(st.text(AMINO_ACIDS, min_size=len(reference), max_size=len(reference)))
    pairs = enumerate(zip(reference, variant, strict=True))
    text = ":".join(f"{a}{i + offset}{b}" for i, (a, b) in pairs if a != b)
    assert apply_mutations(reference, text, offset) == variant
