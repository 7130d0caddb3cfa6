"""Statistics of logits: by hand on small cases, and against transformers' model, one masked position at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skesm import ESM2Embedder, ESM2LogitSummarizer
from skesm.backends import Batch, LocalBackend
from skesm.exceptions import BackendError, InvalidSequenceError, PartialResultError, PartialResultWarning
from skesm.features.common.masked import known_positions, masked_rows
from skesm.features.common.summaries import LOGITS, MASKED, STATISTICS, Predictions
from skesm.outputs.derived import derive
from skesm.outputs.spec import OutputSpec
from skesm.sequences.alphabet import AMINO_ACIDS
from skesm.sequences.variants import mask_each, own_columns

ONE_PASS = [name for name, statistic in STATISTICS.items() if statistic.output == LOGITS]
PSEUDO = [name for name, statistic in STATISTICS.items() if statistic.output == MASKED]
SEQUENCES = ["MKTAYIAKQR", "W", "GSH<mask>SXF", "MKTAYIAKQR", "ACDEFGHIKLMNPQRSTVWY" * 3]


class CountingBackend(LocalBackend):
    """Notes what was computed."""

    calls: ClassVar[list[tuple[list[str], list[str]]]] = []

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        self.calls.append((list(sequences), [str(output) for output in outputs]))
        yield from super().run(model, sequences, outputs, n_jobs=n_jobs)


@pytest.fixture
def counting() -> CountingBackend:
    CountingBackend.calls.clear()
    return CountingBackend(num_threads=1)


# by hand --------------------------------------------------------------------------------------------------------------

# Two residues, L and A, and an X. All logits but those named are 0, that of e.g. 3 is ln 3.
#   residue 1, "L": l[L] = ln 3; p[L] = 3/22, others 1/22
#   residue 2, "A": l[G] = ln 3; p[A] = 1/22, p[G] = 3/22
#   residue 3, "X": l = 0; p = 1/20
HAND_SEQUENCE = "LAX"
HAND_LOGITS = np.zeros((3, 20), dtype=np.float32)
HAND_LOGITS[0, AMINO_ACIDS.index("L")] = HAND_LOGITS[1, AMINO_ACIDS.index("G")] = math.log(3)
UNEVEN = -(3 / 22 * math.log(3 / 22) + 19 / 22 * math.log(1 / 22))
EVEN = math.log(20)
OWN = [math.log(3 / 22), math.log(1 / 22)]
HAND: dict[str, float] = {
    "entropy_mean": (2 * UNEVEN + EVEN) / 3,
    "entropy_max": EVEN,
    "entropy_q05": UNEVEN,
    "entropy_q25": UNEVEN,
    "entropy_q50": UNEVEN,
    "entropy_q75": (UNEVEN + EVEN) / 2,
    "entropy_q95": UNEVEN + 0.9 * (EVEN - UNEVEN),
    "log_likelihood": sum(OWN),
    "log_likelihood_mean": sum(OWN) / 2,
    "unmasked_perplexity": 22 / math.sqrt(3),
    "own_probability_mean": 2 / 22,
    "own_probability_min": 1 / 22,
    "margin_mean": 0.0,
    "margin_min": -math.log(3),
}


@pytest.mark.parametrize("name", [name for name in ONE_PASS if len(STATISTICS[name].columns) == 1])
def test_by_hand(name: str) -> None:
    value = STATISTICS[name].function(Predictions(HAND_LOGITS, own_columns(HAND_SEQUENCE)))
    assert value == pytest.approx(HAND[name], abs=1e-7)  # ln 3 is rounded to float32


def test_profiles_by_hand() -> None:
    predictions = Predictions(HAND_LOGITS, own_columns(HAND_SEQUENCE))
    logits = dict(zip(AMINO_ACIDS, STATISTICS["mean_logit"].function(predictions), strict=True))
    assert logits == pytest.approx(dict.fromkeys(AMINO_ACIDS, 0.0) | dict.fromkeys("LG", math.log(3) / 3))
    mean = dict(zip(AMINO_ACIDS, STATISTICS["mean_probability"].function(predictions), strict=True))
    rest = (2 / 22 + 1 / 20) / 3
    assert mean == pytest.approx(dict.fromkeys(AMINO_ACIDS, rest) | dict.fromkeys("LG", (4 / 22 + 1 / 20) / 3))


def test_pseudo_statistics_by_hand() -> None:
    predictions = Predictions(HAND_LOGITS[:2], own_columns("LA"))
    for name in PSEUDO:
        twin = {"pseudo_perplexity": "unmasked_perplexity"}.get(name, name.removeprefix("pseudo_"))
        assert STATISTICS[name].function(predictions) == pytest.approx(HAND[twin], abs=1e-7)


def test_likelihood_is_biolm_s_log_prob() -> None:
    """The sum over canonical residues, log-softmax over the 20 columns, one unmasked pass."""
    rng = np.random.default_rng(0)
    logits = (20 * rng.standard_normal((6, 20))).astype(np.float32)  # sharp: half of p is far below float32's smallest
    sequence = "MKXTBW"
    expected = 0.0
    for row, residue in zip(logits.astype(float), sequence, strict=True):
        if residue in AMINO_ACIDS:
            expected += row[AMINO_ACIDS.index(residue)] - math.log(sum(map(math.exp, row - row.max()))) - row.max()
    predictions = Predictions(logits, own_columns(sequence))
    assert STATISTICS["log_likelihood"].function(predictions) == pytest.approx(expected, rel=1e-12)


# against transformers -------------------------------------------------------------------------------------------------


Logits = Callable[[str], NDArray[np.float64]]


@pytest.fixture(scope="module")
def reference_logits(tiny_checkpoint: Path) -> Iterator[Logits]:
    """(L, 20) logits of transformers' EsmForMaskedLM for one sequence."""
    import torch
    from transformers import EsmForMaskedLM

    from skesm.esm2.tokenizer import AMINO_ACID_TOKENS, tokenize

    model = EsmForMaskedLM.from_pretrained(tiny_checkpoint).eval()

    @cache
    def logits(sequence: str) -> NDArray[np.float64]:
        with torch.no_grad():
            answer = model(torch.from_numpy(tokenize(sequence).astype(np.int64))[None]).logits
        return answer[0, 1:-1, AMINO_ACID_TOKENS].double().numpy()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine, and the sequences are short
    yield logits
    torch.set_num_threads(threads)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def symbols(sequence: str) -> list[str]:
    return ["<mask>" if s == "#" else s for s in sequence.replace("<mask>", "#")]


def masked_loop(reference_logits: Logits, sequence: str) -> float:
    """Pseudo-log-likelihood, one masked position at a time."""
    parts, total = symbols(sequence), 0.0
    for i, own in enumerate(parts):
        if own in AMINO_ACIDS:
            masked = "".join([*parts[:i], "<mask>", *parts[i + 1 :]])
            total += log_softmax(reference_logits(masked)[i])[AMINO_ACIDS.index(own)]
    return total


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_pseudo_perplexity_is_that_of_a_plain_loop(
    engine: str, tiny_checkpoint: Path, reference_logits: Logits
) -> None:
    sequences = SEQUENCES[:3]
    names = ["pseudo_log_likelihood", "pseudo_log_likelihood_mean", "pseudo_perplexity"]
    rows = ESM2LogitSummarizer(tiny_checkpoint, statistics=names, backend=engine).transform(sequences)
    for row, sequence in zip(rows, sequences, strict=True):
        n = sum(s in AMINO_ACIDS for s in symbols(sequence))
        total = masked_loop(reference_logits, sequence)
        # logits are within 1e-5, log-probabilities within twice that
        np.testing.assert_allclose(row, [total, total / n, math.exp(-total / n)], rtol=2e-5, atol=2e-5 * n)
    # masking matters: the random model too sees a masked residue differently
    (seen,) = ESM2LogitSummarizer(tiny_checkpoint, statistics="log_likelihood").transform(sequences[:1])
    assert abs(seen[0] - rows[0, 0]) > 0.01


def test_one_pass_statistics_are_of_transformers_logits(tiny_checkpoint: Path, reference_logits: Logits) -> None:
    rows = ESM2LogitSummarizer(tiny_checkpoint, statistics=ONE_PASS).transform(SEQUENCES)
    for row, sequence in zip(rows, SEQUENCES, strict=True):
        log_p = log_softmax(reference_logits(sequence))
        p = np.exp(log_p)
        known = [(i, AMINO_ACIDS.index(s)) for i, s in enumerate(symbols(sequence)) if s in AMINO_ACIDS]
        own = np.array([log_p[i, a] for i, a in known])
        margins = np.array([log_p[i, a] - np.delete(log_p[i], a).max() for i, a in known])
        entropy = -(p * log_p).sum(axis=1)
        expected = [entropy.mean(), entropy.max(), *np.quantile(entropy, [0.05, 0.25, 0.5, 0.75, 0.95])]
        expected += [own.sum(), own.mean(), np.exp(-own.mean()), np.exp(own).mean(), np.exp(own).min()]
        expected += [margins.mean(), margins.min()]
        expected += [*reference_logits(sequence).mean(axis=0), *p.mean(axis=0)]
        np.testing.assert_allclose(row, expected, rtol=2e-5, atol=2e-5 * len(own))


# the estimator --------------------------------------------------------------------------------------------------------


def test_names_and_order_of_columns(tiny_checkpoint: Path) -> None:
    def spread(log_p: NDArray[np.float64]) -> float:
        return float(log_p.max() - log_p.min())

    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics=["pseudo_perplexity", "mean_logit", spread, "sum"])
    names = summarizer.get_feature_names_out().tolist()
    assert names == ["pseudo_perplexity", *(f"mean_logit_{a}" for a in AMINO_ACIDS), "spread", "logit_sum"]
    rows = summarizer.transform(SEQUENCES)
    for statistic in ("pseudo_perplexity", spread, "sum"):
        column = names.index({"sum": "logit_sum", spread: "spread"}.get(statistic, statistic))
        alone = clone(summarizer).set_params(statistics=statistic).transform(SEQUENCES)
        np.testing.assert_array_equal(rows[:, [column]], alone)
    assert rows.dtype == np.float32
    frame = summarizer.set_output(transform="pandas").transform(SEQUENCES)
    assert frame.columns.tolist() == names


def test_a_function_sees_log_probabilities(tiny_checkpoint: Path) -> None:
    seen = []

    def total(log_p: NDArray[np.float64]) -> float:
        seen.append((log_p.shape, log_p.dtype))
        value = float(np.exp(log_p).sum())
        log_p[:] = 0  # its own copy: spoils nothing for the others
        return value

    rows = ESM2LogitSummarizer(tiny_checkpoint, statistics=[total, "entropy_mean"]).transform(SEQUENCES)
    np.testing.assert_allclose(rows[:, 0], [10, 1, 7, 10, 60], rtol=1e-6)
    assert sorted(seen) == [((n, 20), np.dtype(np.float64)) for n in (1, 7, 10, 60)]
    alone = ESM2LogitSummarizer(tiny_checkpoint, statistics="entropy_mean").transform(SEQUENCES)
    np.testing.assert_array_equal(rows[:, 1:], alone)


def two(log_p: NDArray[np.float64]) -> Any:
    return log_p[0, :2]


def nan(log_p: NDArray[np.float64]) -> Any:
    return math.nan


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (two, r"two must give one finite number for a sequence, not shape \(2,\)"),
        (nan, "nan must give one finite number"),
        (partial(two), "the __name__ of a function names its column, and a partial does not have one"),
        ([two, two], "names the same column twice"),
        (["mean_logit", "mean_logit"], "names the same column twice"),
        ("perplexity", "'statistics' parameter"),
    ],
)
def test_wrong_statistics(statistics: Any, message: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ESM2LogitSummarizer(tiny_checkpoint, statistics=statistics).transform(SEQUENCES)


@pytest.mark.parametrize("name", ["log_likelihood", "margin_min", "pseudo_perplexity"])
def test_sequences_without_amino_acids_have_no_own_probability(
    name: str, tiny_checkpoint: Path, counting: CountingBackend
) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics=["mean", name], backend=counting)
    with pytest.raises(InvalidSequenceError, match=r"2 of 3 rows .*none of the 20") as caught:
        summarizer.transform(["MKT", "XX", "<mask>"])
    assert caught.value.rows == (1, 2)
    assert not counting.calls
    assert np.isfinite(summarizer.set_params(statistics=["mean", "entropy_mean"]).transform(["XX", "<mask>"])).all()


# costs ----------------------------------------------------------------------------------------------------------------


def test_costs_in_passes(tiny_checkpoint: Path, counting: CountingBackend, tmp_path: Path) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics=ONE_PASS, backend=counting, memory=tmp_path)
    summarizer.transform(SEQUENCES)
    assert [len(sequences) for sequences, _ in counting.calls] == [4]  # one for each distinct sequence
    counting.calls.clear()
    rows = clone(summarizer).set_params(statistics=PSEUDO).transform(SEQUENCES)
    (copies, outputs), *more = counting.calls
    assert not more
    assert outputs == ["logits"]
    # 10 + 1 + 5 + 60 residues: X and <mask> are not masked again, and the repeated row costs nothing
    assert len(copies) == len(set(copies)) == 76
    counting.calls.clear()
    together = clone(summarizer).set_params(statistics=[*PSEUDO, *ONE_PASS])
    np.testing.assert_array_equal(together.transform(SEQUENCES)[:, : len(PSEUDO)], rows)
    assert not counting.calls
    info = together.cache_info()
    assert info is not None
    assert (info.rows, info.distinct, info.hits, info.computed) == (5, 80, 80, 0)


def test_embedder_finds_what_was_prefetched(tiny_checkpoint: Path, counting: CountingBackend, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"backend": counting, "memory": tmp_path}
    statistics = ["entropy_mean", "pseudo_perplexity"]
    ESM2LogitSummarizer(tiny_checkpoint, statistics=statistics, prefetch="mean@-1", **shared).transform(["MKTAY"])
    assert [outputs for _, outputs in counting.calls] == [["logits", "mean@2"], ["logits"]]
    ESM2Embedder(tiny_checkpoint, **shared).transform(["MKTAY"])
    assert len(counting.calls) == 2


def test_many_masked_copies_are_fetched_in_parts(
    tiny_checkpoint: Path, counting: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics="pseudo_perplexity", backend=counting)
    whole = summarizer.transform(SEQUENCES)
    counting.calls.clear()
    monkeypatch.setattr("skesm.features.common.masked._COPIES", 12)
    np.testing.assert_array_equal(summarizer.transform(SEQUENCES), whole)
    assert [len(sequences) for sequences, _ in counting.calls] == [11, 5, 60]


class FailingBackend(LocalBackend):
    """Answers nothing for masked copies of one sequence."""

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        bad = [i for i, sequence in enumerate(sequences) if "WC" in sequence]
        good = [i for i in range(len(sequences)) if i not in bad]
        for batch in super().run(model, [sequences[i] for i in good], outputs, n_jobs=n_jobs):
            yield Batch([good[i] for i in batch.indices], batch.records)
        raise PartialResultError("some failed", {i: BackendError("refused") for i in bad})


def test_failed_copies_are_told_by_the_rows_that_need_them(tiny_checkpoint: Path) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics="pseudo_perplexity", backend=FailingBackend())
    with pytest.raises(PartialResultError, match=r"1 of 3 rows of X failed, .*: row 2: refused$") as caught:
        summarizer.transform(["MKTAY", "GSH", "MKWCK"])
    assert caught.value.rows == (2,)


def test_grid_over_statistics(tiny_checkpoint: Path, tmp_path: Path, gfp: tuple[list[str], NDArray[Any]]) -> None:
    X, y = [sequence[60:80] for sequence in gfp[0][:20]], gfp[1][:20]
    model = make_pipeline(ESM2LogitSummarizer(tiny_checkpoint, memory=tmp_path), Ridge())
    space = {"esm2logitsummarizer__statistics": [["entropy_mean"], ["pseudo_log_likelihood"]]}
    search = GridSearchCV(model, space, cv=2, error_score="raise", scoring="neg_mean_squared_error").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_failed_rows_are_nan_and_all_others_finished(tiny_checkpoint: Path) -> None:
    X = ["MKTAY", "MKWCK", "GSH", "MKWCK"]
    statistics = ["pseudo_perplexity", "entropy_mean"]
    good = ESM2LogitSummarizer(tiny_checkpoint, statistics=statistics).transform(["MKTAY", "GSH"])
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics=statistics, backend=FailingBackend())
    with pytest.raises(PartialResultError, match="2 of 4 rows of X failed") as caught:
        summarizer.transform(X)
    assert caught.value.rows == (1, 3)
    with pytest.warns(PartialResultWarning, match="2 of 4 rows of X failed"):
        rows = summarizer.set_params(on_error="nan").transform(X)
    np.testing.assert_array_equal(rows, caught.value.results)
    np.testing.assert_array_equal(rows[[0, 2]], good)
    assert np.isnan(rows[[1, 3]]).all()


class ShortBackend(LocalBackend):
    """Forgets a residue of what has been masked behind a W."""

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        for batch in super().run(model, sequences, outputs, n_jobs=n_jobs):
            records = [
                {o: v[1:] for o, v in record.items()} if "W<mask>" in sequences[i] else record
                for i, record in zip(batch.indices, batch.records, strict=True)
            ]
            yield Batch(batch.indices, records)


def test_a_wrong_answer_is_told_by_the_row_of_x(tiny_checkpoint: Path) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics="pseudo_perplexity", backend=ShortBackend())
    with pytest.raises(BackendError, match=r"the answer for row 2 of X is wrong: output logits is float32\[3, 20\]"):
        summarizer.transform(["MKTA", "MKTA", "MKWC"])


def test_plan_tells_what_transform_computes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics=["pseudo_perplexity", "entropy_mean"], memory=tmp_path)
    for to_compute in (80, 0):
        plan = summarizer.plan(SEQUENCES)
        assert (plan.rows, plan.distinct, plan.stored, plan.to_compute) == (5, 80, 80 - to_compute, to_compute)
        assert plan.requests is None
        summarizer.transform(SEQUENCES)
        info = summarizer.cache_info()
        assert info is not None
        assert info.computed == to_compute


def test_the_row_of_a_residue_among_other_masks() -> None:
    """A random model predicts much the same at every mask, so that the loop above does not tell them apart."""
    sequence = "G<mask>S<mask>F"
    positions = known_positions(sequence)
    assert positions == [0, 2, 4]
    copies, logits = mask_each(sequence, positions), np.zeros((5, 20), dtype=np.float32)
    logits += np.arange(5)[:, None]  # of residue i: i
    records = [derive({LOGITS: logits}, [MASKED], copy) for copy in copies]
    assert [record[MASKED].shape for record in records] == [(3, 20)] * 3
    assert masked_rows(records, sequence, positions)[:, 0].tolist() == [0, 2, 4]
