"""Every accepted container gives the same sequences; every bad row is named, and no sequence is shown."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from skesm import ESM2AttentionSummarizer, ESM2ContactSummarizer, ESM2Embedder, ESM2VariantScorer
from skesm.exceptions import InvalidSequenceError, SuspiciousSequenceWarning, TruncationWarning
from skesm.sequences.alphabet import AMBIGUOUS, AMINO_ACIDS, count_residues
from skesm.sequences.clean import clean_reference, clean_sequences

#: Good rows among the bad ones; no error message may show a part of it.
CANARY = "WCHWMYFQKWNCHHWY"
FRAGMENT = 4

GOOD = ["MKTAYIAK", "GSHMSLFDFF", "MKTAYIAK", "AXBUZO"]

CONTAINERS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "list of numpy str": lambda s: [np.str_(x) for x in s],
    "object array": lambda s: np.array(s, dtype=object),
    "str array": np.array,
    "StringDType array": lambda s: np.array(s, dtype=np.dtypes.StringDType()),
    "strided array": lambda s: np.array([x for row in s for x in (row, "")], dtype=object)[::2],
    "(n, 1) object array": lambda s: np.array(s, dtype=object)[:, None],
    "(n, 1) str array": lambda s: np.array(s)[:, None],
    "pandas object": lambda s: pd.Series(s, dtype=object, index=range(7, 7 + len(s))),
    "pandas str": lambda s: pd.Series(s, dtype="str"),
    "pandas string": lambda s: pd.Series(s, dtype="string"),
    "pandas string of pyarrow": lambda s: pd.Series(s, dtype="string[pyarrow]"),
    "pandas Arrow": lambda s: pd.Series(s, dtype=pd.ArrowDtype(__import__("pyarrow").string())),
    "pandas category": lambda s: pd.Series(s, dtype="category"),
    "pandas Index": pd.Index,
    "pandas DataFrame": lambda s: pd.DataFrame({"seq": s}),
    "polars Series": pl.Series,
    "polars categorical": lambda s: pl.Series(s, dtype=pl.Categorical),
    "polars DataFrame": lambda s: pl.DataFrame({"seq": s}),
    "pandas dictionary of Arrow": lambda s: pd.Series(pd.array(s, dtype=pd.ArrowDtype(pa.string())).astype("category")),
    "pyarrow Array": pa.array,
    "pyarrow large strings": lambda s: pa.array(s, type=pa.large_string()),
    "pyarrow ChunkedArray": lambda s: pa.chunked_array([s[:1], s[1:]], type=pa.string()),
    "pyarrow dictionary": lambda s: pa.array(s).dictionary_encode(),
    "pyarrow dictionary in chunks": lambda s: pa.chunked_array([pa.array(s).dictionary_encode()]),
    "pyarrow Table": lambda s: pa.table({"seq": s}),
    "pyarrow RecordBatch": lambda s: pa.record_batch({"seq": pa.array(s).dictionary_encode()}),
    "masked array, nothing masked": lambda s: np.ma.array(s, dtype=object),
}

MUTATIONS = ": mutations, not a sequence. Apply them with skesm.apply_mutations(reference, mutations)"
MISSING = (
    ": the text of a missing value. Remove the row. (Write a peptide of these letters in capitals, like all other rows)"
)

#: Name: (row, what follows "row 1" in the message).
BAD_ROWS: dict[str, tuple[Any, str]] = {
    "None": (None, ": a missing value. Remove the row"),
    "NaN": (float("nan"), ": a missing value (NaN). Remove the row"),
    "float32 NaN": (np.float32("nan"), ": a missing value (NaN). Remove the row"),
    "pandas NA": (pd.NA, ": a missing value. Remove the row"),
    "pandas NaT": (pd.NaT, ": a missing value. Remove the row"),
    "int": (8675309, ": of type int. Give a str of one-letter residues"),
    "float": (0.5, ": of type float. Give a str of one-letter residues"),
    "bool": (True, ": of type bool. Give a str of one-letter residues"),
    "bytes": (CANARY.encode(), ": bytes. Decode them with b.decode('ascii')"),
    "bytearray": (bytearray(CANARY.encode()), ": bytes. Decode them with b.decode('ascii')"),
    "nested list": ([CANARY], ": of type list. Give a str of one-letter residues"),
    "nested array": (np.array([CANARY]), ": of type ndarray. Give a str of one-letter residues"),
    "empty": ("", ": empty. Remove the row"),
    "blank": (" \t\r\n", ": empty. Remove the row"),
    "space": ("WCHW MYFQ", ", position 5: white space inside the sequence. Remove it"),
    "tab": ("WCHW\tMYFQ", ", position 5: white space inside the sequence. Remove it"),
    "line end": ("WCHWMYFQ\nWCHWMYFQ\n", ", position 9: white space inside the sequence. Remove it"),
    "no-break space": ("WC\N{NO-BREAK SPACE}HW", ", position 3: white space inside the sequence. Remove it"),
    "stop": (CANARY + "*", ", position 17: '*' at the end, a stop codon. Remove it with s.rstrip('*')"),
    "two stops": (CANARY + "**", ", position 17: '*' at the end, a stop codon. Remove it with s.rstrip('*')"),
    "inner stop": (
        "WCH*WMYFQ",
        ", position 4: '*' inside the sequence, a stop codon. The protein ends there: cut the row there, or remove it",
    ),
    "gap -": ("WCHW-MYFQ", ", position 5: '-' is a gap. Remove gaps with s.replace('-', '')"),
    "gap .": ("WCHW.MYFQ", ", position 5: '.' is a gap. Remove gaps with s.replace('.', '')"),
    "J": (
        "WCHWJMYFQ",
        ", position 5: 'J' (Leu or Ile) is unknown to ESM-2. Set unknown_residues='X' to read it as any residue",
    ),
    "j": (
        "wchwjmyfq",
        ", position 5: 'J' (Leu or Ile) is unknown to ESM-2. Set unknown_residues='X' to read it as any residue",
    ),
    "digit": ("WCHW1MYFQ", ", position 5: '1' is not an amino acid. Remove it or correct the row"),
    "digits first": ("1 WCHWMYFQ", ", position 1: '1' is not an amino acid. Remove it or correct the row"),
    "FASTA header": (
        ">sp|P0\nWCHWMYFQ",
        ", position 1: '>' begins the header of a FASTA file. A row is one sequence without its header",
    ),
    "NUL": ("WCHW\0", ", position 5: '\\x00' is not an amino acid. Remove it or correct the row"),
    "after a mask": ("WC<mask>HW1", ", position 6: '1' is not an amino acid. Remove it or correct the row"),
    "half a mask": ("WC<mask", ", position 3: '<' is not an amino acid. Remove it or correct the row"),
    "special token": ("<cls>WCHW", ", position 1: '<' is not an amino acid. Remove it or correct the row"),
    "Cyrillic A": (
        "WCHW\N{CYRILLIC CAPITAL LETTER A}M",
        ", position 5: U+0410 (CYRILLIC CAPITAL LETTER A) is not an ASCII letter. Retype the sequence",
    ),
    "full-width M": (
        "\N{FULLWIDTH LATIN CAPITAL LETTER M}WCHW",
        ", position 1: U+FF2D (FULLWIDTH LATIN CAPITAL LETTER M) is not an ASCII letter. Retype the sequence",
    ),
    "dotless i": (  # its upper case is an ASCII I
        "WCHW\N{LATIN SMALL LETTER DOTLESS I}",
        ", position 5: U+0131 (LATIN SMALL LETTER DOTLESS I) is not an ASCII letter. Retype the sequence",
    ),
    "sharp s": (  # its upper case is SS
        "WCHW\N{LATIN SMALL LETTER SHARP S}",
        ", position 5: U+00DF (LATIN SMALL LETTER SHARP S) is not an ASCII letter. Retype the sequence",
    ),
    "Kelvin sign": (
        "WCHW\N{KELVIN SIGN}",
        ", position 5: U+212A (KELVIN SIGN) is not an ASCII letter. Retype the sequence",
    ),
    "byte-order mark": (
        "\N{ZERO WIDTH NO-BREAK SPACE}WCHW",
        ", position 1: U+FEFF (ZERO WIDTH NO-BREAK SPACE) is not an ASCII letter. Retype the sequence",
    ),
    "surrogate": ("WCHW\ud800", ", position 5: U+D800 (unnamed) is not an ASCII letter. Retype the sequence"),
    "masked constant": (np.ma.masked, ": a masked value. Remove the row"),
    "mutation": ("A23V", MUTATIONS),
    "mutations": ("A23V:k40r", MUTATIONS),
    "mutations, other separators": ("A23V/K40R; L3*", MUTATIONS),
    "name of a file": ("variants.csv", ": the name of a file, not a sequence. Read the file first"),
    "<NA>": ("<NA>", MISSING),
    "NULL": ("NULL", MISSING),
    "NONE": ("NONE", MISSING),
    "n/a": ("n/a", MISSING),
    "too long": (
        "W" * 1023,
        ": 1023 residues, more than max_length=1022. Set long_sequences='window' to compute it in parts, set "
        "long_sequences='truncate' to use the first 1022, or raise max_length",
    ),
}

#: Name: (X, what the message starts with).
BAD_CONTAINERS: dict[str, tuple[Any, str]] = {
    "str": (CANARY, "X is a single string. Its letters would be taken as rows: wrap it in a list"),
    "numpy str": (np.str_(CANARY), "X is a single string. Its letters would be taken as rows: wrap it in a list"),
    "bytes": (CANARY.encode(), "X is a single string. Its letters would be taken as rows: wrap it in a list"),
    "0-d array": (np.array(CANARY), "X has shape (), but one column of sequences is needed"),
    "two columns": (np.array([[CANARY, CANARY]]), "X has shape (1, 2), but one column of sequences is needed"),
    "no column": (pd.DataFrame(index=[0, 1]), "X has shape (2, 0), but one column of sequences is needed"),
    "three dimensions": (np.array([[[CANARY]]]), "X has shape (1, 1, 1), but one column of sequences is needed"),
    "pandas, two columns": (
        pd.DataFrame({"a": [CANARY], "b": [CANARY]}),
        "X has shape (1, 2), but one column of sequences is needed",
    ),
    "polars, two columns": (
        pl.DataFrame({"a": [CANARY], "b": [CANARY]}),
        "X has shape (1, 2), but one column of sequences is needed",
    ),
    "pyarrow, two columns": (
        pa.table({"a": [CANARY], "b": [CANARY]}),
        "X has shape (1, 2), but one column of sequences is needed",
    ),
    "path": (Path(f"{CANARY}.csv"), "X is the path of a file: read the file first"),
    "name of a file": (f"data/{CANARY}.csv", "X is the path of a file: read the file first"),
    "name of a compressed file": (f"{CANARY}.fasta.gz", "X is the path of a file: read the file first"),
    "dict": ({"a": CANARY}, "X is a dict: pass a list, tuple, 1-D array, Series"),
    "set": ({CANARY}, "X is a set: pass a list, tuple, 1-D array, Series"),
    "generator": ((s for s in [CANARY]), "X is a generator: pass a list, tuple, 1-D array, Series"),
    "sparse": (sparse.csr_array((2, 1)), "X is a csr_array: pass a list, tuple, 1-D array, Series"),
    "None": (None, "X is a NoneType: pass a list, tuple, 1-D array, Series"),
    "number": (3, "X is a int: pass a list, tuple, 1-D array, Series"),
    "empty list": ([], "X has no rows: at least one sequence is needed"),
    "empty array": (np.array([], dtype=object), "X has no rows: at least one sequence is needed"),
    "empty Series": (pd.Series([], dtype=object), "X has no rows: at least one sequence is needed"),
    "empty (0, 1)": (np.empty((0, 1), dtype=object), "X has no rows: at least one sequence is needed"),
}


def assert_confidential(message: str) -> None:
    shown = [CANARY[i : i + FRAGMENT] for i in range(len(CANARY) - FRAGMENT + 1)]
    assert not [part for part in shown if part.lower() in message.lower()]


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_equal(name: str) -> None:
    rows = clean_sequences(CONTAINERS[name](GOOD))
    assert rows == GOOD
    assert {type(row) for row in rows} <= {str, np.str_}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_of_one_row(name: str) -> None:
    assert clean_sequences(CONTAINERS[name](["MKT"])) == ["MKT"]


@pytest.mark.parametrize("name", [n for n in CONTAINERS if n.startswith(("pandas", "polars", "pyarrow", "object"))])
def test_missing_values_are_missing_in_every_container(name: str) -> None:
    X = CONTAINERS[name]([*GOOD[:2], None, GOOD[3]])  # type: ignore[list-item]
    with pytest.raises(InvalidSequenceError, match=r"row 2: a missing value.*. Remove the row") as caught:
        clean_sequences(X)
    assert caught.value.rows == (2,)


def test_inner_rows_keep_their_place() -> None:
    assert clean_sequences(pd.Series(["AAA", "CCC"], index=[1, 0])) == ["AAA", "CCC"]


@pytest.mark.parametrize(
    ("row", "clean"),
    [
        ("mktay", "MKTAY"),
        (" MKT\r\n", "MKT"),
        ("\N{IDEOGRAPHIC SPACE}MKT\N{NO-BREAK SPACE}", "MKT"),
        ("M<mask>K", "M<mask>K"),
        ("m<MASK>k", "M<mask>K"),
        ("<mask>", "<mask>"),
        ("xbuzo", "XBUZO"),
    ],
)
def test_normalisation(row: str, clean: str) -> None:
    assert clean_sequences([row]) == [clean]


def test_j_becomes_x_only_when_asked() -> None:
    assert clean_sequences(["MJjT"], unknown_residues="X") == ["MXXT"]
    with pytest.raises(InvalidSequenceError, match=r"row 0, position 4: '1'"):
        clean_sequences(["MJT1"], unknown_residues="X")


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row(name: str) -> None:
    row, expected = BAD_ROWS[name]
    with pytest.raises(InvalidSequenceError) as caught:
        clean_sequences([CANARY, row, CANARY])
    assert str(caught.value) == f"1 of 3 rows of X cannot be used:\n  row 1{expected}"
    assert caught.value.rows == (1,)
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None
    assert_confidential(str(caught.value))


@pytest.mark.parametrize("name", BAD_CONTAINERS)
def test_bad_container(name: str) -> None:
    X, expected = BAD_CONTAINERS[name]
    with pytest.raises(InvalidSequenceError) as caught:
        clean_sequences(X)
    assert str(caught.value).startswith(expected)
    assert_confidential(str(caught.value))
    if "shape" in expected:
        assert "ColumnTransformer" in str(caught.value)


def test_all_bad_rows_are_counted_and_the_first_are_explained() -> None:
    with pytest.raises(InvalidSequenceError) as caught:
        clean_sequences([None, *[CANARY, "W1"] * 20])
    bad = [0, *range(2, 41, 2)]
    assert caught.value.rows == tuple(bad)
    first, *lines, last = str(caught.value).splitlines()
    assert first == "21 of 41 rows of X cannot be used:"
    assert [int(re.match(r"  row (\d+)", line)[1]) for line in lines] == bad[:5]  # type: ignore[index]
    assert last == "  and 16 more: rows 10, 12, 14, 16, 18, and 11 more"


def test_error_survives_a_process_boundary() -> None:
    error = InvalidSequenceError("no", [3, 5])
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.rows) == ("no", (3, 5))


# missing values that became text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "Nan", "None", "none", "null", "missing", "Missing", "NaT", "na", " nan "]
)
@pytest.mark.parametrize("others", [[CANARY], [CANARY.lower()], []])
def test_text_of_a_missing_value_is_refused(text: str, others: list[str]) -> None:
    with pytest.raises(InvalidSequenceError) as caught:
        clean_sequences([*others, text])
    assert str(caught.value).endswith(f"row {len(others)}{MISSING}")
    assert caught.value.rows == (len(others),)


@pytest.mark.parametrize(
    "X",
    [
        np.array([CANARY, np.nan]),
        pd.Series([CANARY, np.nan], dtype=object).map(str),
        pd.Series([CANARY, None], dtype=object).map(str),
        pd.Series([CANARY, pd.NA], dtype=object).map(str),
        pd.Series([CANARY, pd.NaT], dtype=object).map(str),
        np.array([CANARY, None]).astype(str),
        pl.Series([CANARY, None]).fill_null("null"),
        np.array([CANARY, np.nan], dtype=object).astype(str)[:, None],
    ],
    ids=lambda X: f"{type(X).__name__} {np.ravel(X)[1]}",
)
def test_what_programs_write_for_a_missing_value_is_refused(X: Any) -> None:
    with pytest.raises(InvalidSequenceError, match="row 1: the text of a missing value"):
        clean_sequences(X)


@pytest.mark.parametrize("text", ["NAN", "NA", "NAT", "MISSING"])
def test_spelling_decides_about_peptides(text: str) -> None:
    assert clean_sequences([text]) == [text]
    assert clean_sequences(["MKT<mask>", text, "GSH", text]) == ["MKT<mask>", text, "GSH", text]
    with pytest.raises(InvalidSequenceError, match="row 1: the text of a missing value"):
        clean_sequences(["MKT", text, "gsh"])


def test_a_peptide_that_spells_a_missing_value_beside_long_proteins_is_used_with_a_warning() -> None:
    with pytest.warns(SuspiciousSequenceWarning, match=r"1 of 3 sequences read like a missing value.*rows 1$"):
        assert clean_sequences([CANARY * 2, "NAN", CANARY * 3])[1] == "NAN"


def test_a_reference_that_is_missing() -> None:
    limits: dict[str, Any] = {"long_sequences": "error", "max_length": 1022, "unknown_residues": "error"}
    with pytest.raises(InvalidSequenceError, match="reference: the text of a missing value"):
        clean_reference("nan", **limits)
    assert clean_reference("NAN", **limits) == "NAN"


@pytest.mark.parametrize("dtype", [object, str])
def test_masked_entries_are_missing(dtype: type) -> None:
    X = np.ma.array([CANARY, CANARY, "MKT"], mask=[False, True, False], dtype=dtype)
    for container in (X, X[:, None], list(X)):
        with pytest.raises(InvalidSequenceError, match=r"row 1: a (missing|masked) value") as caught:
            clean_sequences(container)
        assert caught.value.rows == (1,)


# nucleotides ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["ATGGCTAAAGGTGAACAACT", "auggcuaaaggugaacaacu", "ACGTN" * 10])
def test_rows_that_look_like_nucleotides_are_used_with_a_warning(row: str) -> None:
    with pytest.warns(SuspiciousSequenceWarning, match=r"1 of 2 sequences look like DNA or RNA.*rows 1$"):
        assert clean_sequences([CANARY, row])[1] == row.upper()


@pytest.mark.parametrize(
    "row", ["ACGT", "ACGTACGTACGTACGTACG", "G" * 40, "GA" * 20, "ACGT" * 10 + "S", "AC<mask>GT" * 9]
)
def test_peptides_of_few_letters_are_no_nucleotides(row: str) -> None:
    assert clean_sequences([row]) == [row]


# length ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["W" * 1022, "W" * 1021 + "<mask>", " " + "W" * 1022 + "\n"])
def test_longest_allowed(row: str) -> None:
    assert clean_sequences([row]) == [row.strip()]


def test_no_limit() -> None:
    assert clean_sequences(["W" * 5000], max_length=None) == ["W" * 5000]


def test_truncation_is_never_silent_and_counts_a_mask_as_one() -> None:
    with pytest.warns(TruncationWarning) as caught:
        clean = clean_sequences(["MKT", "AC<mask>DE", "MKTAY"], long_sequences="truncate", max_length=3)
    assert clean == ["MKT", "AC<mask>", "MKT"]
    (warning,) = caught
    assert str(warning.message) == (
        "2 of 3 sequences have more than max_length=3 residues. Only the first 3 are used: rows 1, 2"
    )


def test_nothing_to_truncate_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clean_sequences(["MKT"], long_sequences="truncate", max_length=3) == ["MKT"]


# properties -----------------------------------------------------------------------------------------------------------

LETTERS = AMINO_ACIDS + AMBIGUOUS
#: Beside these texts, which spell missing values, a row is what its letters are.
SPELL_MISSING = {"nan", "na", "nat", "none", "null", "missing", "<na>", "n/a", "#n/a", "<missing>"}
SEQUENCES = st.text(LETTERS + LETTERS.lower(), min_size=1, max_size=60).filter(lambda s: s.lower() not in SPELL_MISSING)
SPACE = st.text(" \t\r\n", max_size=4)
TEXT = st.one_of(
    st.text(max_size=30),
    st.text(LETTERS + "j*-. 1", max_size=30),
    st.lists(st.sampled_from([*LETTERS, "<mask>", "<MASK>", "<", "J"]), max_size=20).map("".join),
).filter(lambda s: s.strip().lower() not in SPELL_MISSING)


@given(st.lists(st.tuples(SPACE, SEQUENCES, SPACE).map("".join), min_size=1, max_size=8))
def test_cleaning_is_idempotent_and_changes_length_by_stripping_only(rows: list[str]) -> None:
    clean = clean_sequences(rows)
    assert [len(c) for c in clean] == [len(r.strip()) for r in rows]
    assert [c.lower() for c in clean] == [r.strip().lower() for r in rows]
    assert clean_sequences(clean) == clean


@given(st.lists(TEXT, min_size=1, max_size=6), st.sampled_from(["error", "X"]))
def test_any_text_is_clean_or_its_row_is_named(rows: list[str], unknown_residues: str) -> None:
    allowed = re.compile(f"([{LETTERS}]|<mask>)+")
    acceptable = [row.strip().isascii() and bool(allowed.fullmatch(_normalised(row, unknown_residues))) for row in rows]
    if all(acceptable):
        clean = clean_sequences(rows, unknown_residues=unknown_residues)
        assert clean == [_normalised(row, unknown_residues) for row in rows]
        return
    with pytest.raises(InvalidSequenceError) as caught:
        clean_sequences(rows, unknown_residues=unknown_residues)
    assert caught.value.rows == tuple(i for i, good in enumerate(acceptable) if not good)
    for row in caught.value.rows[:5]:
        assert re.search(rf"^  row {row}[:,]", str(caught.value), re.MULTILINE)


def _normalised(row: str, unknown_residues: str) -> str:
    row = row.strip().upper().replace("<MASK>", "<mask>")
    return row.replace("J", "X") if unknown_residues == "X" else row


@given(st.lists(st.sampled_from([*AMINO_ACIDS, "<mask>"]), min_size=1, max_size=40), st.integers(1, 40))
def test_truncation_keeps_the_first_residues(residues: list[str], most: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        (clean,) = clean_sequences(["".join(residues)], long_sequences="truncate", max_length=most)
    assert clean == "".join(residues[:most])
    assert count_residues(clean) == min(most, len(residues))


@given(SEQUENCES, st.sampled_from("!*-@ é"), st.integers(0, 60))
def test_position_is_that_of_the_residue(sequence: str, foreign: str, place: int) -> None:
    place %= len(sequence) + 1
    if foreign == " " and place in (0, len(sequence)):
        return
    with pytest.raises(InvalidSequenceError, match=rf"row 0, position {place + 1}: "):
        clean_sequences([sequence[:place] + foreign + sequence[place:]])


@pytest.mark.parametrize(
    ("kind", "offered"),
    [
        (ESM2Embedder, ["window", "truncate"]),
        (ESM2ContactSummarizer, ["truncate"]),
        (ESM2AttentionSummarizer, ["truncate"]),
        (ESM2VariantScorer, ["window"]),
    ],
)
def test_remedies_for_long_sequences_are_those_that_the_estimator_has(kind: Any, offered: list[str]) -> None:
    with pytest.raises(InvalidSequenceError, match=r"max_length=8\. .*, or raise max_length") as caught:
        kind(max_length=8).fit(["MKTAYIAKQR"])
    assert re.findall("long_sequences='([a-z]+)'", str(caught.value)) == offered
