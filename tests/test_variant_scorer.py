"""Zero-shot scores against transformers' model, one masked position at a time; costs; scikit-learn's contract."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from skesm import ESM2Embedder, ESM2LogitSummarizer, ESM2VariantScorer
from skesm.backends import Batch, LocalBackend
from skesm.exceptions import BackendError, InvalidSequenceError, PartialResultError, PartialResultWarning
from skesm.features.variant_scorer import STRATEGIES
from skesm.outputs.spec import OutputSpec
from skesm.sequences.alphabet import AMINO_ACIDS

REFERENCE = "MKTAYIAKQRXISFVK"  # an X that all share
VARIANTS = [
    "MKTAYIAKQRXISFVK",
    "MKTWYIAKQRXISFVK",
    "AKTAYIAKQRXISFVG",
    "MKTWYIAKQRXISFVK",
    "MKTWYIAKQRXISCVG",
]
MUTATED = {0: [], 1: [3], 2: [0, 15], 3: [3], 4: [3, 13, 15]}
ALL = pytest.mark.parametrize("strategy", STRATEGIES)
MARGINALS = pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "pll_ratio"])


class CountingBackend(LocalBackend):
    """Notes what was computed."""

    calls: ClassVar[list[list[str]]] = []

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        self.calls.append(list(sequences))
        yield from super().run(model, sequences, outputs, n_jobs=n_jobs)


@pytest.fixture
def counting() -> CountingBackend:
    CountingBackend.calls.clear()
    return CountingBackend(num_threads=1)


LogP = Callable[[str], NDArray[np.float64]]


@pytest.fixture(scope="module")
def log_p(tiny_checkpoint: Path) -> Iterator[LogP]:
    """(L, 20) log-probabilities over the amino acids from transformers, for one sequence at a time."""
    import torch
    from transformers import EsmForMaskedLM

    from skesm.esm2.tokenizer import AMINO_ACID_TOKENS, tokenize

    model = EsmForMaskedLM.from_pretrained(tiny_checkpoint).eval()

    @cache
    def log_probabilities(sequence: str) -> NDArray[np.float64]:
        with torch.no_grad():
            answer = model(torch.from_numpy(tokenize(sequence).astype(np.int64))[None]).logits
        logits = answer[0, 1:-1, AMINO_ACID_TOKENS].double()
        return torch.log_softmax(logits, dim=1).numpy()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine, and the sequences are short
    yield log_probabilities
    torch.set_num_threads(threads)


def column(residue: str) -> int:
    return AMINO_ACIDS.index(residue)


def masked(sequence: str, i: int) -> str:
    return sequence[:i] + "<mask>" + sequence[i + 1 :]


def plain_loop(strategy: str, variant: str, reference: str, log_p: LogP) -> float:
    """The score as its definition says, without any sharing."""
    if strategy == "pll_ratio":
        pll = [
            sum(log_p(masked(s, i))[i, column(r)] for i, r in enumerate(s) if r in AMINO_ACIDS)
            for s in (variant, reference)
        ]
        return pll[0] - pll[1]
    score = 0.0
    for i, (new, old) in enumerate(zip(variant, reference, strict=True)):
        if new != old:
            seen = {
                "wt_marginal": reference,
                "mutant_marginal": variant,
                "masked_marginal": masked(reference, i),
            }[strategy]
            score += log_p(seen)[i, column(new)] - log_p(seen)[i, column(old)]
    return score


@ALL
@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_scores_are_those_of_a_plain_loop(engine: str, strategy: str, tiny_checkpoint: Path, log_p: LogP) -> None:
    scorer = ESM2VariantScorer(tiny_checkpoint, strategy=strategy, reference=REFERENCE, backend=engine)
    scores = scorer.predict(VARIANTS)
    assert scores.dtype == np.float64
    expected = [plain_loop(strategy, variant, REFERENCE, log_p) for variant in VARIANTS]
    # log-probabilities are within 2e-5, of which a score sums up to 2 × 15
    np.testing.assert_allclose(scores, expected, rtol=0, atol=6e-4 if strategy == "pll_ratio" else 1.2e-4)
    assert scores[0] == 0
    assert scores[1] == scores[3]
    assert np.ptp(scores) > 0.1


def test_strategies_differ(tiny_checkpoint: Path) -> None:
    scorer = ESM2VariantScorer(tiny_checkpoint, reference=REFERENCE)
    scores = [clone(scorer).set_params(strategy=strategy).predict(VARIANTS) for strategy in STRATEGIES]
    # well beyond the tolerance of the test above
    assert min(np.abs(a - b).max() for i, a in enumerate(scores) for b in scores[:i]) > 2e-3


def test_length_changes_are_compared_by_likelihood(tiny_checkpoint: Path, log_p: LogP) -> None:
    reference = REFERENCE.replace("X", "Q")
    variants = [reference[:-2], reference[:5] + "GG" + reference[5:]]
    scores = ESM2VariantScorer(tiny_checkpoint, strategy="pll_ratio", reference=reference).predict(variants)
    expected = [plain_loop("pll_ratio", variant, reference, log_p) for variant in variants]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=6e-4)


def test_pll_is_the_statistic(tiny_checkpoint: Path) -> None:
    pll = ESM2LogitSummarizer(tiny_checkpoint, statistics="pseudo_log_likelihood").transform([REFERENCE, *VARIANTS])
    scores = ESM2VariantScorer(tiny_checkpoint, strategy="pll_ratio", reference=REFERENCE).predict(VARIANTS)
    np.testing.assert_allclose(scores, pll[1:, 0] - pll[0, 0], rtol=0, atol=1e-5)  # the statistic is float32


# costs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "passes"),
    [
        ("wt_marginal", 1),  # of the reference, for all
        ("masked_marginal", 4),  # positions 0, 3, 13, 15
        ("mutant_marginal", 4),  # distinct rows
        ("pll_ratio", None),  # distinct rows × 15 amino acids, less what these copies have in common
    ],
)
def test_costs_in_passes(
    strategy: str, passes: int | None, tiny_checkpoint: Path, counting: CountingBackend, tmp_path: Path
) -> None:
    params: dict[str, Any] = {"strategy": strategy, "reference": REFERENCE, "memory": tmp_path, "backend": counting}
    scorer = ESM2VariantScorer(tiny_checkpoint, **params)
    scores = scorer.predict(VARIANTS)
    computed = [sequence for call in counting.calls for sequence in call]
    if passes is None:  # e.g. rows 0 and 1 with residue 3 masked are one sequence
        expected = {masked(v, i) for v in VARIANTS for i, r in enumerate(v) if r in AMINO_ACIDS}
        passes = len(expected)
        assert passes < 60
        assert set(computed) == expected
    assert len(computed) == len(set(computed)) == passes
    info = scorer.cache_info()
    assert info is not None
    assert (info.rows, info.computed) == (5, passes)
    # more rows that are mutated at the same positions; stored passes are not repeated
    np.testing.assert_array_equal(scorer.predict(VARIANTS * 3), np.tile(scores, 3))
    assert sum(map(len, counting.calls)) == passes


def test_masked_marginals_cost_the_same_for_any_number_of_variants(
    tiny_checkpoint: Path, counting: CountingBackend
) -> None:
    library = [REFERENCE[:i] + a + REFERENCE[i + 1 :] for i in (2, 7) for a in AMINO_ACIDS]
    library += [v[:9] + a + v[10:] for v in library for a in AMINO_ACIDS]
    assert len(set(library)) > 700
    scorer = ESM2VariantScorer(tiny_checkpoint, reference=REFERENCE, backend=counting)
    assert np.isfinite(scorer.predict(library)).all()
    assert sum(map(len, counting.calls)) == 3


def test_the_reference_alone_costs_nothing_masked(tiny_checkpoint: Path, counting: CountingBackend) -> None:
    scorer = ESM2VariantScorer(tiny_checkpoint, reference=REFERENCE, backend=counting)
    assert scorer.predict([REFERENCE]).tolist() == [0]
    assert not counting.calls


# the reference --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "learnt"), [(None, VARIANTS[1]), ("first", VARIANTS[1]), ("most_common", VARIANTS[1])])
def test_reference_is_learnt_in_fit(how: str | None, learnt: str, tiny_checkpoint: Path) -> None:
    X = VARIANTS[1:] + [REFERENCE]
    scorer = ESM2VariantScorer(tiny_checkpoint, reference=how)
    with pytest.raises(NotFittedError):
        scorer.predict(X)
    assert scorer.fit(X, range(5)) is scorer
    assert scorer.reference_ == learnt
    scores = scorer.predict(X)
    np.testing.assert_array_equal(scores, ESM2VariantScorer(tiny_checkpoint, reference=learnt).predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scorer)).predict(X), scores)
    assert len(pickle.dumps(scorer)) < 2_000
    with pytest.raises(NotFittedError):
        clone(scorer).predict(X)


@ALL
@pytest.mark.parametrize("method", ["fit", "predict"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("MKTXYIAKQRXISFVK", r"1 of 2 rows .*\n  row 1, position 4$"),
        ("<mask>KTAYIAKQRXISFVK", r"1 of 2 rows .*\n  row 1, position 1$"),
        ("MKTAYIAKQRQISFVK", r"1 of 2 rows .*\n  row 1, position 11$"),  # of the reference nothing is known there
        ("MK TAY", "row 1, position 3: white space"),
        (None, "row 1: a missing value"),
    ],
)
def test_rows_without_a_score(
    row: Any, message: str, method: str, strategy: str, tiny_checkpoint: Path, counting: CountingBackend
) -> None:
    scorer = ESM2VariantScorer(tiny_checkpoint, strategy=strategy, reference=REFERENCE, backend=counting)
    with pytest.raises(InvalidSequenceError, match=message) as caught:
        getattr(scorer, method)([REFERENCE, row])
    assert caught.value.rows == (1,)
    assert "AKQR" not in str(caught.value)
    assert not counting.calls


@MARGINALS
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_marginals_need_equal_lengths(method: str, strategy: str, tiny_checkpoint: Path) -> None:
    scorer = ESM2VariantScorer(tiny_checkpoint, strategy=strategy, reference=REFERENCE)
    with pytest.raises(InvalidSequenceError, match=r"(?s)not aligned.*strategy='pll_ratio'.*row 1: 15 res") as caught:
        getattr(scorer, method)([REFERENCE, REFERENCE[1:], REFERENCE + "A"])
    assert caught.value.rows == (1, 2)


def test_long_sequences_are_an_error(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidSequenceError, match="more than max_length=8"):
        ESM2VariantScorer(tiny_checkpoint, reference=REFERENCE, max_length=8).predict(VARIANTS)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"strategy": "zero_shot"}, "'strategy' parameter"),
        ({"reference": 3}, "'reference' parameter"),
        ({"reference": "MK TAY"}, "reference, position 3: white space"),
        ({"max_length": 0}, "'max_length' parameter"),
        ({"backend": "cuda"}, "'backend' parameter"),
    ],
)
def test_wrong_parameters(params: dict[str, Any], message: str, tiny_checkpoint: Path) -> None:
    scorer = ESM2VariantScorer(tiny_checkpoint, **{"reference": REFERENCE, **params})
    for method in (scorer.fit, scorer.predict):
        with pytest.raises(ValueError, match=message):
            method(VARIANTS)


class FailingBackend(LocalBackend):
    """Refuses what holds a tryptophan."""

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        good = [i for i, sequence in enumerate(sequences) if "W" not in sequence]
        for batch in super().run(model, [sequences[i] for i in good], outputs, n_jobs=n_jobs):
            yield Batch([good[i] for i in batch.indices], batch.records)
        bad = set(range(len(sequences))) - set(good)
        raise PartialResultError("some failed", {i: BackendError("refused") for i in bad})


def test_failures_are_told_by_rows(tiny_checkpoint: Path) -> None:
    scorer = ESM2VariantScorer(tiny_checkpoint, strategy="pll_ratio", reference=REFERENCE, backend=FailingBackend())
    with pytest.raises(PartialResultError, match="rows of X failed") as caught:
        scorer.predict([VARIANTS[0], VARIANTS[2], VARIANTS[2], VARIANTS[4]])
    assert caught.value.rows == (3,)


# scikit-learn ---------------------------------------------------------------------------------------------------------


def rank_correlation(y: NDArray[Any], score: NDArray[Any]) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(y)), np.argsort(np.argsort(score)))[0, 1])


def test_tags() -> None:
    tags = get_tags(ESM2VariantScorer())
    assert is_regressor(ESM2VariantScorer())
    assert tags.requires_fit
    assert not get_tags(ESM2VariantScorer(reference="MKT")).requires_fit
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert not tags.target_tags.required


def test_stands_beside_trained_models(
    tiny_checkpoint: Path, gfp: tuple[list[str], NDArray[Any]], counting: CountingBackend, tmp_path: Path
) -> None:
    X, y = pd.Series([sequence[40:90] for sequence in gfp[0][:60]]), gfp[1][:60]
    shared: dict[str, Any] = {"backend": counting, "memory": tmp_path}
    scorer = ESM2VariantScorer(tiny_checkpoint, **shared)
    models = [scorer, make_pipeline(ESM2Embedder(tiny_checkpoint, **shared), Ridge())]
    for model in models:
        scores = cross_val_score(model, X, y, cv=3, scoring=make_scorer(rank_correlation), error_score="raise")
        assert np.isfinite(scores).all()
    counting.calls.clear()
    search = GridSearchCV(scorer, {"strategy": ["masked_marginal", "wt_marginal"]}, cv=3, error_score="raise")
    search.fit(X, y)
    assert [call for call in counting.calls if any("<mask>" in sequence for sequence in call)] == []
    assert search.best_estimator_.predict(X).shape == (60,)


def test_constructor_only_assigns(tiny_checkpoint: Path) -> None:
    scorer = ESM2VariantScorer("no/such-model", reference="first", memory="nowhere")
    assert set(vars(scorer)) == set(scorer.get_params(deep=False))
    assert "first" in repr(scorer)
    assert math.isfinite(
        clone(scorer).set_params(model=tiny_checkpoint, memory=None).fit(VARIANTS).predict(VARIANTS)[1]
    )


def test_failed_rows_are_nan(tiny_checkpoint: Path) -> None:
    X = [VARIANTS[0], VARIANTS[1], VARIANTS[2], VARIANTS[1]]
    for strategy in ("mutant_marginal", "pll_ratio"):
        good = ESM2VariantScorer(tiny_checkpoint, strategy=strategy, reference=REFERENCE).predict([X[0], X[2]])
        scorer = ESM2VariantScorer(tiny_checkpoint, strategy=strategy, reference=REFERENCE, backend=FailingBackend())
        with pytest.raises(PartialResultError, match="2 of 4 rows of X failed") as caught:
            scorer.predict(X)
        assert caught.value.rows == (1, 3)
        with pytest.warns(PartialResultWarning):
            scores = scorer.set_params(on_error="nan").predict(X)
        np.testing.assert_array_equal(scores, caught.value.results)
        np.testing.assert_allclose(scores, [good[0], np.nan, good[1], np.nan], rtol=0, atol=0)


@ALL
def test_without_the_reference_nothing_has_a_score(strategy: str, tiny_checkpoint: Path) -> None:
    scorer = ESM2VariantScorer(
        tiny_checkpoint, strategy=strategy, reference=VARIANTS[1], backend=FailingBackend(), on_error="nan"
    )
    if strategy == "mutant_marginal":  # needs no pass of the reference
        assert np.isfinite(scorer.predict(VARIANTS[2:3])).all()
    else:
        with pytest.raises(BackendError, match="failed on the reference, which every row needs: refused"):
            scorer.predict(VARIANTS[2:3])


def test_reference_without_amino_acids(tiny_checkpoint: Path) -> None:
    for strategy in STRATEGIES:
        assert ESM2VariantScorer(tiny_checkpoint, strategy=strategy, reference="XX").predict(["XX"]).tolist() == [0]
