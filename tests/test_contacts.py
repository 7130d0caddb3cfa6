"""Contact maps to statistics, on maps made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skesm.esm2.spec import find_registered
from skesm.outputs.contacts import STATISTICS, contact_profile
from skesm.outputs.derived import derive, source
from skesm.outputs.spec import OutputSpec

CONTACTS, PROFILE = OutputSpec("contacts"), OutputSpec("contact_profile")


def symmetric(length: int, seed: int = 0) -> NDArray[np.float32]:
    p = np.random.default_rng(seed).random((length, length)).astype(np.float32)
    return np.triu(p) + np.triu(p, 1).T


def with_contacts(length: int, *pairs: tuple[int, int]) -> NDArray[np.float32]:
    """Probability 1 for some pairs, and for all that are less than 6 apart: those must count nowhere."""
    place = np.arange(length)
    p = (np.abs(place[:, None] - place) < 6).astype(np.float32)
    for i, j in pairs:
        p[i, j] = p[j, i] = 1
    return p


def statistics_of(p: NDArray[np.float32]) -> dict[str, float]:
    profile = contact_profile(p).astype(np.float64)
    return {name: function(profile) for name, function in STATISTICS.items()}


@pytest.mark.parametrize("length", [1, 2, 6, 7, 40, 300])
def test_profile_is_sums_over_pairs(length: int) -> None:
    p = symmetric(length)
    profile = contact_profile(p)
    assert profile.dtype == np.float32
    assert profile.shape == PROFILE.shape(length, find_registered("esm2_t6_8M_UR50D")) == (2, length)
    pairs = [(i, j) for i in range(length) for j in range(length)]
    for k in range(length):
        expected = sum(float(p[i, j]) for i, j in pairs if j - i == k)
        assert profile[0, k] == pytest.approx(expected, rel=1e-6)  # one rounding to float32
    for residue in range(length):
        expected = sum(float(p[residue, j]) for j in range(length) if abs(residue - j) >= 6)
        assert profile[1, residue] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("apart", "name"),
    [(6, "short"), (11, "short"), (12, "medium"), (23, "medium"), (24, "long"), (49, "long")],
)
def test_a_contact_counts_in_the_range_of_its_separation(apart: int, name: str) -> None:
    found = statistics_of(with_contacts(50, (0, apart)))
    for each in ("short", "medium", "long"):
        assert found[f"density_{each}"] == (1 / 50 if each == name else 0)
    assert found["contact_order"] == pytest.approx(apart / 50, rel=1e-12)


def test_statistics_of_a_map_made_by_hand() -> None:
    # residues 0, 10 and 30 of 40 touch each other: separations 10, 20 and 30
    found = statistics_of(with_contacts(40, (0, 10), (10, 30), (0, 30)))
    mass = np.zeros(40)
    mass[[0, 10, 30]] = 2
    expected = {
        "density_short": 1 / 40,
        "density_medium": 1 / 40,
        "density_long": 1 / 40,
        "contact_order": (10 + 20 + 30) / (40 * 3),
        "mass_mean": 6 / 40,
        "mass_std": mass.std(),
        "mass_max": 2.0,
        **{f"mass_q{q:02d}": np.quantile(mass, q / 100) for q in (5, 25, 50, 75, 95)},
    }
    assert found == pytest.approx(expected, rel=1e-12)


def test_statistics_of_a_dense_map() -> None:
    length = 90
    p = symmetric(length).astype(np.float64)
    found = statistics_of(symmetric(length))
    i, j = np.triu_indices(length, 6)
    order = (p[i, j] * (j - i)).sum() / (length * p[i, j].sum())
    assert found["contact_order"] == pytest.approx(order, rel=1e-6)  # the profile is stored in float32
    assert found["mass_mean"] == pytest.approx(2 * p[i, j].sum() / length, rel=1e-6)
    densities = found["density_short"] + found["density_medium"] + found["density_long"]
    assert 2 * densities == pytest.approx(found["mass_mean"], rel=1e-6)


@pytest.mark.parametrize("length", [1, 5, 6])
def test_without_a_pair_that_counts_all_is_zero(length: int) -> None:
    assert set(statistics_of(np.ones((length, length), dtype=np.float32)).values()) == {0.0}


def test_contacts_that_are_all_impossible_have_no_order() -> None:
    assert statistics_of(np.zeros((30, 30), dtype=np.float32))["contact_order"] == 0


def test_the_profile_is_stored_in_place_of_the_map() -> None:
    assert source(PROFILE) == CONTACTS
    p = symmetric(12)
    derived = derive({CONTACTS: p}, [PROFILE], "MKTAYIAKQRQI")
    assert set(derived) == {PROFILE}
    np.testing.assert_array_equal(derived[PROFILE], contact_profile(p))
    assert set(derive({CONTACTS: p}, [CONTACTS, PROFILE], "MKTAYIAKQRQI")) == {CONTACTS, PROFILE}
