"""Encoders that need no model: composition, one-hot, positions, substitutions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from skesm import AminoAcidComposition, OneHotSequence, PositionEncoder, SubstitutionEncoder
from skesm.datasets import load_gb1_stability
from skesm.exceptions import InvalidSequenceError
from skesm.features.encoders.substitution_scales import BLOSUM62, PROPERTIES

WILD_TYPE = "MKTAYIAKQR"


def named(encoder: object, row: np.ndarray) -> dict[str, float]:
    """Columns of a row that are not zero."""
    names = encoder.get_feature_names_out()
    return {str(name): float(value) for name, value in zip(names, row, strict=True) if value}


def test_composition_counts_residues() -> None:
    fractions = AminoAcidComposition().transform(["AACD", "wy ", "AX"])
    assert fractions.dtype == np.float32
    assert [named(AminoAcidComposition(), row) for row in fractions] == [
        {"fraction_A": 0.5, "fraction_C": 0.25, "fraction_D": 0.25},
        {"fraction_W": 0.5, "fraction_Y": 0.5},
        {"fraction_A": 0.5},  # X counts in the length
    ]


def test_one_hot_puts_ones_at_named_columns() -> None:
    encoder = OneHotSequence(length=3)
    assert [set(named(encoder, row)) for row in encoder.transform(["MKV", "mk", "MXV", "M<mask>V"])] == [
        {"1M", "2K", "3V"},
        {"1M", "2K"},
        {"1M", "3V"},
        {"1M", "3V"},
    ]


def test_one_hot_learns_its_length() -> None:
    encoder = OneHotSequence()
    with pytest.raises(NotFittedError):
        encoder.transform(["MK"])
    assert encoder.fit(["MK", "MKV"]).transform(["M"]).shape == (1, 60)
    with pytest.raises(InvalidSequenceError, match=r"1 sequences .* length=3, .* row 1 with 4 residues") as caught:
        encoder.transform(["MKV", "MKVA"])
    assert caught.value.rows == (1,)


@pytest.mark.parametrize("kind", [AminoAcidComposition, OneHotSequence, PositionEncoder, SubstitutionEncoder])
@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("MKV", "wrap it in a list"),
        (["MKV", None], "row 1"),
        ([["A", "C"]], "of type list"),
        (["ı"], "row 0, position 1"),
    ],
)
def test_bad_input(kind: type, X: object, message: str) -> None:
    with pytest.raises(InvalidSequenceError, match=message):
        kind().fit(X)


def test_substitutions_of_several_mutations_sum() -> None:
    encoder = SubstitutionEncoder(WILD_TYPE).fit(["MRTAYIAKQR", "MKTAYIARQR"])
    both, new_position, none = encoder.transform(["MRTAYIARQR", "MKTGYIAKQR", WILD_TYPE])
    assert named(encoder, both) == {"position_2": 1, "position_8": 1, "wild_type_K": 2, "new_R": 2}
    assert named(encoder, new_position) == {"wild_type_A": 1, "new_G": 1}  # position 4 was not fitted
    assert named(encoder, none) == {}


def test_unknown_residues_count_as_positions_only() -> None:
    encoder = SubstitutionEncoder(WILD_TYPE, parts=("position", "new", "blosum62")).fit(["MXTAYIAKQR"])
    for variant in ("MXTAYIAKQR", "M<mask>TAYIAKQR"):
        assert named(encoder, encoder.transform([variant])[0]) == {"position_2": 1}


def test_scales() -> None:
    encoder = SubstitutionEncoder(WILD_TYPE, parts=("blosum62", "properties")).fit([WILD_TYPE])
    row = named(encoder, encoder.transform(["MRTWYIAKQR"])[0])  # K2R, A4W
    assert row["blosum62"] == 2 - 3
    assert "charge_change" not in row
    assert row["hydropathy_change"] == pytest.approx(-4.5 + 3.9 - 0.9 - 1.8, abs=1e-5)
    assert row["volume_change"] == pytest.approx(173.4 - 168.6 + 227.8 - 88.6, abs=1e-4)
    assert all(len(scale) == 20 for scale in PROPERTIES.values())
    np.testing.assert_array_equal(BLOSUM62, BLOSUM62.T)
    assert BLOSUM62.trace() == 116


def test_positions_are_the_first_part_of_substitutions() -> None:
    gb1 = load_gb1_stability()
    positions = PositionEncoder(gb1.wild_type).fit_transform(gb1.data)
    substitutions = SubstitutionEncoder(gb1.wild_type).fit_transform(gb1.data)
    assert (positions.shape[1], substitutions.shape[1]) == (54, 94)
    np.testing.assert_array_equal(substitutions[:, :54], positions)
    assert (positions.sum(axis=1) == 1).all()
    assert (substitutions.sum(axis=1) == 3).all()


def test_reference_is_learnt_and_lengths_are_checked() -> None:
    encoder = PositionEncoder().fit(["MKT", "MKT", "MRT"])
    assert encoder.reference_ == "MKT"
    with pytest.raises(InvalidSequenceError, match="row 0: 4 residues"):
        encoder.transform(["MKTA"])
    with pytest.raises(InvalidSequenceError, match="reference"):
        PositionEncoder("MK1").fit(["MKT"])
    with pytest.raises(ValueError, match="parts must be one or several of position"):
        SubstitutionEncoder("MKT", parts="size").fit(["MKT"])


def test_frames_and_names() -> None:
    frame = SubstitutionEncoder("MKT", parts="new").set_output(transform="pandas").fit_transform(pd.Series(["MRT"]))
    assert list(frame.columns[:2]) == ["new_A", "new_C"]
    assert frame.shape == (1, 20)


def test_scales_are_those_of_their_sources() -> None:
    """Sorted by value, as IMGT shows the volumes of Zamyatnin, and Kyte and Doolittle show their scale."""
    volumes = "G60.1 A88.6 S89.0 C108.5 D111.1 P112.7 N114.1 T116.1 E138.4 V140.0 Q143.8 H153.2 M162.9 I166.7 L166.7 "
    volumes += "K168.6 R173.4 F189.9 Y193.6 W227.8"
    hydropathy = "I4.5 V4.2 L3.8 F2.8 C2.5 M1.9 A1.8 G-0.4 T-0.7 S-0.8 W-0.9 Y-1.3 P-1.6 H-3.2 E-3.5 Q-3.5 D-3.5 N-3.5 "
    hydropathy += "K-3.9 R-4.5"
    for name, text in (("volume", volumes), ("hydropathy", hydropathy)):
        expected = {entry[0]: float(entry[1:]) for entry in text.split()}
        found = dict(zip("ACDEFGHIKLMNPQRSTVWY", PROPERTIES[name].astype(float).round(1).tolist(), strict=True))
        assert found == expected
