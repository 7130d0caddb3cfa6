"""Sequences in windows: what is cut, what is put together, what it costs, and what happens when a part fails."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skesm import ESM2Embedder, ESM2LogitSummarizer, ESM2VariantScorer
from skesm.backends import LocalBackend
from skesm.backends.base import Batch
from skesm.exceptions import BackendError, InvalidSequenceError, PartialResultError, PartialResultWarning
from skesm.fetch.windows import WindowedModel
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray, Windows
from skesm.outputs.windows import bounds, cut, join_rows

SIZE, OVERLAP = 20, 6
WINDOWS = Windows(SIZE, OVERLAP)
OPTIONS = {"long_sequences": "window", "max_length": SIZE, "window_overlap": OVERLAP}
SHORT = "MKTAYIAKQR"
LONG = "MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKF"
LAST = OutputSpec("residues", 2)


class Recorder(LocalBackend):
    """Notes the sequences that it is asked to compute, and fails on those named."""

    asked: list[str] = []  # noqa: RUF012  # clones of an estimator share it
    failing: frozenset[str] = frozenset()

    def run(
        self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        type(self).asked += sequences
        good = [i for i, sequence in enumerate(sequences) if sequence not in self.failing]
        for batch in super().run(model, [sequences[i] for i in good], outputs, n_jobs=n_jobs):
            yield Batch([good[i] for i in batch.indices], batch.records)
        if len(good) < len(sequences):
            bad = sorted(set(range(len(sequences))) - set(good))
            raise PartialResultError("some failed", {i: BackendError("out of luck") for i in bad})


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(Recorder, "asked", [])
    return Recorder(engine="numpy")


def compute(model: Path, sequences: list[str], output: OutputSpec) -> list[FloatArray]:
    values = {}
    for batch in LocalBackend(engine="numpy").run(model, sequences, [output]):
        values.update(zip(batch.indices, (record[output] for record in batch.records), strict=True))
    return [values[i] for i in range(len(sequences))]


def merged(parts: list[FloatArray], length: int) -> FloatArray:
    """Residue by residue, as the documentation says it."""
    rows = []
    for residue in range(length):
        found, weights = [], []
        for part, (begin, end) in zip(parts, bounds(length, WINDOWS), strict=True):
            if begin <= residue < end:
                found.append(part[residue - begin].astype(np.float64))
                weights.append(min(residue - begin, end - 1 - residue) + 1)
        rows.append(np.average(found, axis=0, weights=weights))
    return np.stack(rows)


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_windows_cover_all_and_are_as_few_as_can_be(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    places = bounds(length, Windows(size, overlap))
    assert places[0][0] == 0
    assert places[-1][1] == length
    assert all(end - begin == min(size, length) for begin, end in places)
    assert all(before[1] - after[0] >= overlap for before, after in itertools.pairwise(places))
    assert len(places) == 1 or (len(places) - 1) * (size - overlap) + overlap < length


@given(st.integers(1, 100), st.integers(1, 20))
def test_rows_on_which_all_windows_agree_stay(length: int, size: int) -> None:
    windows = Windows(size, size // 3)
    rows = np.random.default_rng(length).standard_normal((length, 3)).astype(np.float32)
    parts = [rows[begin:end] for begin, end in bounds(length, windows)]
    np.testing.assert_allclose(join_rows(parts, length, windows), rows, rtol=1e-6)


def test_residues_weigh_by_their_distance_to_the_ends() -> None:
    first, second = np.zeros((4, 1), dtype=np.float32), np.ones((4, 1), dtype=np.float32)
    # windows at 0-4 and 2-6: of residues 3 and 4 the first holds its third and last, the second its first and second
    rows = join_rows([first, second], 6, Windows(4, 2))
    np.testing.assert_allclose(rows[:, 0], [0, 0, 1 / 3, 2 / 3, 1, 1])


def test_a_mask_is_one_residue() -> None:
    masked = "MK<mask>TAYIAKQRGSHMSLFDFF"
    windows = cut(masked, Windows(13, 4))
    assert windows == ["MK<mask>TAYIAKQRGS", "KQRGSHMSLFDFF"]


def test_means_and_maxima_are_over_merged_rows(tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, pooling=["mean", "max", "cls", "eos"], **OPTIONS)
    features = embedder.transform([SHORT, LONG])

    parts = cut(LONG, WINDOWS)
    assert [len(part) for part in parts] == [20, 20, 20]
    rows = merged(compute(tiny_checkpoint, parts, LAST), len(LONG))
    ends = [np.mean(compute(tiny_checkpoint, parts, OutputSpec(kind, 2)), axis=0) for kind in ("cls", "eos")]
    np.testing.assert_allclose(
        features[1], np.concatenate([rows.mean(axis=0), rows.max(axis=0), *ends]), rtol=0, atol=1e-6
    )
    plain = embedder.set_params(long_sequences="error").transform([SHORT])
    np.testing.assert_array_equal(features[:1], plain)


def test_what_fits_is_not_cut_and_shares_its_records(tiny_checkpoint: Path, tmp_path: Path) -> None:
    sequences = [SHORT, LONG[:SIZE]]
    plain = ESM2Embedder(tiny_checkpoint, memory=tmp_path, max_length=SIZE)
    expected = plain.transform(sequences)
    windowed = ESM2Embedder(tiny_checkpoint, memory=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(windowed.transform(sequences), expected)
    info = windowed.cache_info()
    assert (info.computed, info.windowed) == (0, 0)


def test_records_are_of_the_windows_that_made_them(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def cost(**options: object) -> tuple[int, int]:
        embedder = ESM2Embedder(tiny_checkpoint, memory=tmp_path, **{**OPTIONS, **options})
        embedder.transform([SHORT, LONG])
        return embedder.cache_info().computed, embedder.cache_info().windowed

    assert cost() == (2, 1)
    assert cost() == (0, 1)
    assert cost(window_overlap=7) == (1, 1)
    assert cost(long_sequences="error", max_length=None) == (1, 0)
    assert cost(max_length=19) == (1, 1)


def test_plan_counts_rows_in_windows(tiny_checkpoint: Path) -> None:
    plan = ESM2Embedder(tiny_checkpoint, **OPTIONS).plan([SHORT, LONG, LONG, LONG + "M"])
    assert (plan.rows, plan.distinct, plan.to_compute, plan.windowed) == (4, 3, 3, 3)


def test_logits_are_merged_too(tiny_checkpoint: Path) -> None:
    logits = merged(compute(tiny_checkpoint, cut(LONG, WINDOWS), OutputSpec("logits")), len(LONG))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1)
    statistics = ["entropy_mean", "entropy_max", "mean"]
    values = ESM2LogitSummarizer(tiny_checkpoint, statistics=statistics, **OPTIONS).transform([LONG])
    means = merged(compute(tiny_checkpoint, cut(LONG, WINDOWS), OutputSpec("logit_means")), len(LONG))
    np.testing.assert_allclose(values[0], [entropy.mean(), entropy.max(), means.mean()], rtol=1e-5)


def test_a_masked_copy_costs_the_windows_with_the_mask(tiny_checkpoint: Path, recorder: Recorder) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics="pseudo_log_likelihood", backend=recorder, **OPTIONS)
    (value,) = summarizer.transform([LONG])[:, 0]

    with_mask = sum(end - begin for begin, end in bounds(len(LONG), WINDOWS))
    assert sum("<mask>" in window for window in recorder.asked) == with_mask
    assert len(recorder.asked) == len(set(recorder.asked)) == with_mask + 3
    expected = 0.0
    for residue, own in enumerate(LONG):
        masked = LONG[:residue] + "<mask>" + LONG[residue + 1 :]
        parts = compute(tiny_checkpoint, cut(masked, WINDOWS), OutputSpec("logits"))
        row = merged(parts, len(LONG))[residue]
        expected += row["LAGVSERTIDPKQNFYMHWC".index(own)] - np.log(np.exp(row).sum())
    assert value == pytest.approx(expected, rel=1e-5)


def test_variants_of_a_long_protein(tiny_checkpoint: Path) -> None:
    variant = LONG[:24] + "W" + LONG[25:]
    logits = merged(compute(tiny_checkpoint, cut(LONG, WINDOWS), OutputSpec("logits")), len(LONG))
    scorer = ESM2VariantScorer(tiny_checkpoint, strategy="wt_marginal", reference=LONG, **OPTIONS)
    expected = logits[24, "LAGVSERTIDPKQNFYMHWC".index("W")] - logits[24, "LAGVSERTIDPKQNFYMHWC".index(LONG[24])]
    np.testing.assert_allclose(scorer.predict([variant, LONG]), [expected, 0], rtol=1e-5, atol=1e-7)

    embedder = ESM2Embedder(tiny_checkpoint, pooling="mutated", reference=LONG, **OPTIONS)
    rows = [merged(compute(tiny_checkpoint, cut(s, WINDOWS), LAST), len(LONG))[24] for s in (variant, LONG)]
    np.testing.assert_allclose(embedder.transform([variant])[0], np.concatenate(rows), rtol=0, atol=1e-6)


def test_a_row_fails_if_one_of_its_windows_does(
    tiny_checkpoint: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Recorder, "failing", frozenset({cut(LONG, WINDOWS)[1]}))
    other = LONG[::-1]
    embedder = ESM2Embedder(tiny_checkpoint, backend=recorder, memory=tmp_path, on_error="nan", **OPTIONS)
    with pytest.warns(PartialResultWarning, match="1 of 3 rows of X failed.*row 1: out of luck"):
        features = embedder.transform([SHORT, LONG, other])
    assert np.isnan(features).all(axis=1).tolist() == [False, True, False]

    monkeypatch.setattr(Recorder, "failing", frozenset())
    embedder.transform([SHORT, LONG, other])
    assert embedder.cache_info().computed == 1, "what was finished was kept"


def test_pairs_of_residues_have_no_windows(tiny_checkpoint: Path, recorder: Recorder) -> None:
    for transformer in (ESM2Embedder, ESM2LogitSummarizer):
        with pytest.raises(InvalidSequenceError, match=r"contacts: not .* 2 sequences .* the first is row 2") as caught:
            transformer(tiny_checkpoint, backend=recorder, prefetch="contacts", **OPTIONS).transform(
                [SHORT, SHORT, LONG, LONG]
            )
        assert caught.value.rows == (2, 3)
    assert recorder.asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_overlap": SIZE}, "window_overlap=20 must be less than max_length=20"),
        ({"max_length": None}, "needs a max_length"),
        ({"window_overlap": -1}, "window_overlap"),
    ],
)
def test_wrong_windows(options: dict[str, int | None], message: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ESM2Embedder(tiny_checkpoint, **{**OPTIONS, **options}).fit([LONG])


def test_the_default_overlap_is_a_quarter(tiny_checkpoint: Path) -> None:
    def features(overlap: int | None) -> FloatArray:
        return ESM2Embedder(tiny_checkpoint, **{**OPTIONS, "window_overlap": overlap}).transform([LONG])

    np.testing.assert_array_equal(features(None), features(5))


def test_a_window_answered_twice_is_refused(tiny_checkpoint: Path) -> None:
    class Stutters(LocalBackend):
        def run(self, *args: object, **options: object) -> Generator[Batch, None, None]:
            for batch in super().run(*args, **options):
                yield batch
                yield batch

    output = OutputSpec("residues", 2, windows=WINDOWS)
    model = WindowedModel(Stutters(engine="numpy").model(str(tiny_checkpoint)), WINDOWS)
    with pytest.raises(BackendError, match="answered a sequence twice"):
        list(model.run([LONG], [output]))
