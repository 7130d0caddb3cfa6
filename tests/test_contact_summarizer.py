"""Statistics of predicted contacts, from transformers' contact maps. The contract is in test_embedder."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline

from skesm import ESM2ContactSummarizer, ESM2Embedder
from skesm.backends import Batch, LocalBackend
from skesm.cache import info
from skesm.exceptions import (
    BackendError,
    InvalidSequenceError,
    PartialResultError,
    PartialResultWarning,
    TruncationWarning,
)
from skesm.outputs.contacts import STATISTICS
from skesm.outputs.spec import OutputSpec

DEFAULT = ["density_short", "density_medium", "density_long", "contact_order"]
SEQUENCES = [
    "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDG",
    "W",
    "GSH<mask>SLFDFFK",
    "MKTAYI",
    "ACDEFGHIKLMNPQRSTVWYX" * 4,
]


class CountingBackend(LocalBackend):
    """Notes what was computed."""

    calls: ClassVar[list[tuple[int, list[str]]]] = []

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        self.calls.append((len(sequences), [str(output) for output in outputs]))
        yield from super().run(model, sequences, outputs, n_jobs=n_jobs)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> CountingBackend:
    monkeypatch.setattr(CountingBackend, "calls", [])
    return CountingBackend(num_threads=1)


@pytest.fixture(scope="module")
def maps(tiny_checkpoint: Path) -> list[NDArray[np.float64]]:
    """Contact maps of SEQUENCES from transformers."""
    import torch
    from transformers import EsmForMaskedLM

    from skesm.esm2.tokenizer import tokenize

    model = EsmForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()
    found = []
    for sequence in SEQUENCES:
        tokens = torch.from_numpy(tokenize(sequence).astype(np.int64))[None]
        with torch.no_grad():
            found.append(model.predict_contacts(tokens, torch.ones_like(tokens))[0].double().numpy())
    return found


def by_definition(p: NDArray[np.float64]) -> dict[str, float]:
    """Every statistic, pair by pair."""
    length = len(p)
    pairs = [(i, j) for i in range(length) for j in range(i + 6, length)]
    expected = sum(p[pair] for pair in pairs)
    mass = np.zeros(length)
    for i, j in pairs:
        mass[i] += p[i, j]
        mass[j] += p[j, i]
    return {
        "density_short": sum(p[i, j] for i, j in pairs if j - i < 12) / length,
        "density_medium": sum(p[i, j] for i, j in pairs if 12 <= j - i < 24) / length,
        "density_long": sum(p[i, j] for i, j in pairs if j - i >= 24) / length,
        "contact_order": sum(p[i, j] * (j - i) for i, j in pairs) / (length * expected) if pairs else 0,
        "mass_mean": mass.mean(),
        "mass_std": mass.std(),
        "mass_max": mass.max(),
        **{f"mass_q{q:02d}": np.quantile(mass, q / 100) for q in (5, 25, 50, 75, 95)},
    }


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_values_are_those_of_transformers(engine: str, tiny_checkpoint: Path, maps: Any) -> None:
    summarizer = ESM2ContactSummarizer(tiny_checkpoint, statistics=list(STATISTICS), backend=engine)
    rows = summarizer.transform(SEQUENCES)
    assert summarizer.get_feature_names_out().tolist() == list(STATISTICS)
    assert rows.dtype == np.float32
    for row, p in zip(rows, maps, strict=True):
        expected = by_definition(p)
        # each of up to 42 pairs of a residue within 1e-5, the promise for contacts
        np.testing.assert_allclose(row, [expected[name] for name in STATISTICS], rtol=0, atol=1e-5 * max(1, len(p) / 2))
    assert np.ptp(rows[[0, 2, 4]], axis=0).min() > 1e-3, "statistics that are all alike would hide errors"


def test_columns_are_those_asked_for_in_that_order(tiny_checkpoint: Path) -> None:
    assert ESM2ContactSummarizer("esm2_t33_650M_UR50D").get_feature_names_out().tolist() == DEFAULT
    every = ESM2ContactSummarizer(tiny_checkpoint, statistics=tuple(STATISTICS)).transform(SEQUENCES)
    for names in ("mass_max", ["contact_order", "mass_q05"]):
        some = ESM2ContactSummarizer(tiny_checkpoint, statistics=names)
        columns = [list(STATISTICS).index(name) for name in some.get_feature_names_out()]
        np.testing.assert_array_equal(some.transform(SEQUENCES), every[:, columns])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"statistics": "density"}, "'statistics' parameter"),
        ({"statistics": None}, "'statistics' parameter"),
        ({"statistics": []}, "statistics must be one or several of density_short, density_medium"),
        ({"statistics": ["mass_max", "density"]}, "statistics must be one or several of density_short"),
        ({"statistics": ["mass_max", "mass_max"]}, "names the same columns twice"),
        ({"long_sequences": "window"}, "'long_sequences' parameter .* Got 'window'"),
        ({"prefetch": "contact_map"}, "unknown output 'contact_map'. Known: .*contacts, contact_profile"),
    ],
)
def test_wrong_parameters(params: dict[str, Any], message: str, tiny_checkpoint: Path) -> None:
    summarizer = ESM2ContactSummarizer(tiny_checkpoint, **params)
    for method in (summarizer.fit, summarizer.transform, summarizer.get_feature_names_out):
        with pytest.raises(ValueError, match=message):
            method(SEQUENCES)


def test_peptides_have_no_contacts_that_count(tiny_checkpoint: Path) -> None:
    rows = ESM2ContactSummarizer(tiny_checkpoint, statistics=list(STATISTICS)).transform(["M", "MKTAYI", "MKTAYIA"])
    np.testing.assert_array_equal(rows[:2], 0)
    assert (rows[2, :4] > 0).tolist() == [True, False, False, True]
    assert rows[2, 3] == np.float32(6 / 7)  # of one pair


def test_values_do_not_depend_on_the_other_rows(tiny_checkpoint: Path, proteins: list[str]) -> None:
    summarizer = ESM2ContactSummarizer(tiny_checkpoint, statistics=list(STATISTICS), backend="numpy")
    rows = summarizer.transform(proteins)
    np.testing.assert_array_equal(summarizer.transform(proteins[::-1]), rows[::-1])
    np.testing.assert_array_equal(np.vstack([summarizer.transform([p]) for p in proteins[:10]]), rows[:10])


def test_long_sequences(tiny_checkpoint: Path) -> None:
    summarizer = ESM2ContactSummarizer(tiny_checkpoint, max_length=20)
    with pytest.raises(InvalidSequenceError, match="row 0: 43 residues, more than max_length=20"):
        summarizer.transform(SEQUENCES[:1])
    whole = ESM2ContactSummarizer(tiny_checkpoint).transform([SEQUENCES[0][:20]])
    with pytest.warns(TruncationWarning):
        np.testing.assert_array_equal(summarizer.set_params(long_sequences="truncate").transform(SEQUENCES[:1]), whole)


# costs and the store --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["embedder", "contacts"])
def test_one_pass_serves_embedder_and_contacts(
    first: str, tiny_checkpoint: Path, counting: CountingBackend, tmp_path: Path
) -> None:
    params: dict[str, Any] = {"backend": counting, "memory": tmp_path}
    parts = [
        ("embedder", ESM2Embedder(tiny_checkpoint, prefetch="contact_profile", **params)),
        ("contacts", ESM2ContactSummarizer(tiny_checkpoint, prefetch="mean@-1", **params)),
    ]
    union = FeatureUnion(parts if first == "embedder" else parts[::-1])
    rows = union.fit_transform([*SEQUENCES, SEQUENCES[0]])
    assert CountingBackend.calls == [(5, ["contacts", "mean@2"])]
    assert rows.shape == (6, 40 + 4)
    alone = [part.set_params(memory=None, prefetch=()).transform(SEQUENCES) for _, part in union.transformer_list]
    np.testing.assert_array_equal(rows[:5], np.hstack(alone))
    np.testing.assert_array_equal(rows[5], rows[0])
    (stored,) = info(tmp_path)
    assert stored.outputs == {"contact_profile": 5, "mean@2": 5}  # no map is stored
    # 2 x L numbers of 4 bytes
    assert stored.value_bytes == sum(8 * n + 160 for n in (43, 1, 11, 6, 84))


def test_what_is_stored_is_found_and_planned(tiny_checkpoint: Path, counting: CountingBackend, tmp_path: Path) -> None:
    summarizer = ESM2ContactSummarizer(tiny_checkpoint, backend=counting, memory=tmp_path)
    assert summarizer.plan(SEQUENCES).to_compute == 5
    rows = summarizer.transform(SEQUENCES)
    assert summarizer.plan(SEQUENCES).to_compute == 0
    np.testing.assert_array_equal(summarizer.transform(SEQUENCES), rows)
    assert len(CountingBackend.calls) == 1
    found = summarizer.cache_info()
    assert found is not None
    assert (found.rows, found.hits, found.computed, found.windowed) == (5, 5, 0, 0)


def test_prefetched_profiles_are_refused_for_rows_in_windows(tiny_checkpoint: Path, tmp_path: Path) -> None:
    embedder = ESM2Embedder(
        tiny_checkpoint, prefetch="contact_profile", memory=tmp_path, max_length=20, long_sequences="window"
    )
    with pytest.raises(InvalidSequenceError, match="contact_profile: not available for sequences in windows"):
        embedder.transform(SEQUENCES)


def test_failed_rows_are_nan(tiny_checkpoint: Path, refusing: LocalBackend) -> None:
    good = ESM2ContactSummarizer(tiny_checkpoint).transform(SEQUENCES)
    summarizer = ESM2ContactSummarizer(tiny_checkpoint, backend=refusing)
    with pytest.raises(PartialResultError, match=r"2 of 5 rows of X failed.*row 1: refused; row 4: refused") as caught:
        summarizer.transform(SEQUENCES)
    with pytest.warns(PartialResultWarning):
        rows = summarizer.set_params(on_error="nan").transform(SEQUENCES)
    np.testing.assert_array_equal(rows, caught.value.results)
    np.testing.assert_array_equal(rows[[0, 2, 3]], good[[0, 2, 3]])
    assert np.isnan(rows[[1, 4]]).all()


def test_in_a_pipeline(tiny_checkpoint: Path, gfp: tuple[list[str], NDArray[Any]]) -> None:
    X, y = [sequence[40:90] for sequence in gfp[0][:20]], gfp[1][:20]
    model = make_pipeline(ESM2ContactSummarizer(tiny_checkpoint, statistics=["mass_max", "contact_order"]), Ridge())
    assert np.isfinite(model.fit(X, y).predict(X)).all()
    frame = model[:-1].set_output(transform="pandas").transform(X)
    assert frame.columns.tolist() == ["mass_max", "contact_order"]


def test_a_model_without_contact_head_says_so() -> None:
    with pytest.raises(BackendError, match="has no contact head"):
        ESM2ContactSummarizer("skesm-mini").transform(SEQUENCES)
