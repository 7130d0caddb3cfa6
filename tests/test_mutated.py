"""Pooling at the positions that differ from a reference."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from skesm import ESM2Embedder
from skesm.backends import Batch, LocalBackend
from skesm.exceptions import (
    BackendError,
    InvalidSequenceError,
    PartialResultError,
    PartialResultWarning,
    TruncationWarning,
)
from skesm.outputs.spec import OutputSpec

WIDTH = 40
REFERENCE = "MKTAYIAKQRQISFVK"
VARIANTS = [
    "MKTAYIAKQRQISFVK",  # the reference
    "MKTWYIAKQRQISFVK",
    "AKTAYIAKQRQISFVG",
    "MKTAYXAKQRQISFVK",
    "MKTAYIA<mask>QRQISFVK",
    "MKTWYIAKQRQISFVK",
]
POSITIONS = [list(range(16)), [3], [0, 15], [5], [7], [3]]


class CountingBackend(LocalBackend):
    """Notes what was computed."""

    calls: ClassVar[list[tuple[int, list[str]]]] = []

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        self.calls.append((len(sequences), [str(output) for output in outputs]))
        yield from super().run(model, sequences, outputs, n_jobs=n_jobs)


@pytest.fixture
def counting() -> CountingBackend:
    CountingBackend.calls.clear()
    return CountingBackend(num_threads=1)


@pytest.fixture(scope="module")
def residues(tiny_checkpoint: Path) -> Iterator[Callable[[str, int], np.ndarray]]:
    """Residue rows of one layer from transformers, (L, d)."""
    import torch
    from transformers import EsmModel

    from skesm.esm2.tokenizer import tokenize

    net = EsmModel.from_pretrained(tiny_checkpoint, add_pooling_layer=False).eval()

    def rows(sequence: str, layer: int) -> np.ndarray:
        with torch.no_grad():
            states = net(torch.from_numpy(tokenize(sequence).astype(np.int64))[None], output_hidden_states=True)
        return states.hidden_states[layer][0, 1:-1].numpy()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine, and the sequences are short
    yield rows
    torch.set_num_threads(threads)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_means_are_those_of_the_rows_that_differ(engine: str, tiny_checkpoint: Path, residues: Any) -> None:
    embedder = ESM2Embedder(
        tiny_checkpoint, pooling=("mean", "mutated"), layers=(1, -1), reference=REFERENCE, backend=engine
    )
    rows = embedder.transform(VARIANTS)
    assert rows.shape == (6, 6 * WIDTH)
    assert rows.dtype == np.float32
    for row, sequence, positions in zip(rows, VARIANTS, POSITIONS, strict=True):
        blocks = []
        for layer in (1, 2):
            own, home = residues(sequence, layer), residues(REFERENCE, layer)
            blocks += [own.mean(axis=0), own[positions].mean(axis=0), home[positions].mean(axis=0)]
        np.testing.assert_allclose(row, np.concatenate(blocks), rtol=0, atol=1e-5)  # the promise of DESIGN


def test_halves_of_the_reference_are_equal(tiny_checkpoint: Path) -> None:
    (row,) = ESM2Embedder(tiny_checkpoint, pooling="mutated", reference=REFERENCE).transform([REFERENCE])
    np.testing.assert_array_equal(row[:WIDTH], row[WIDTH:])
    np.testing.assert_allclose(row[:WIDTH], ESM2Embedder(tiny_checkpoint).transform([REFERENCE])[0], atol=1e-6)


def test_names(tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, pooling=["max", "mutated"])
    names = embedder.get_feature_names_out()  # also before fit: they depend on no reference
    assert names[::WIDTH].tolist() == ["max_l2_0", "mutated_l2_0", "reference_l2_0"]
    assert len(set(names)) == len(names) == 3 * WIDTH


# the reference --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "learnt"),
    [(None, REFERENCE), ("most_common", VARIANTS[1]), ("first", REFERENCE)],
)
def test_reference_is_learnt_in_fit(reference: str | None, learnt: str, tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, pooling="mutated", reference=reference)
    assert get_tags(embedder).requires_fit
    with pytest.raises(NotFittedError):
        embedder.transform(VARIANTS)
    assert embedder.fit(VARIANTS) is embedder
    assert embedder.reference_ == learnt
    expected = ESM2Embedder(tiny_checkpoint, pooling="mutated", reference=learnt).transform(VARIANTS[:2])
    np.testing.assert_array_equal(embedder.transform(VARIANTS[:2]), expected)
    np.testing.assert_array_equal(clone(embedder).fit_transform(VARIANTS)[:2], expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).transform(VARIANTS[:2]), expected)
    with pytest.raises(NotFittedError):
        clone(embedder).transform(VARIANTS)


def test_given_reference_needs_no_fit_and_is_cleaned(tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, pooling="mutated", reference=f" {REFERENCE.lower()}\n")
    assert not get_tags(embedder).requires_fit
    rows = embedder.transform(VARIANTS)
    np.testing.assert_array_equal(rows, embedder.set_params(reference=REFERENCE).transform(VARIANTS))
    assert not hasattr(embedder.fit(VARIANTS), "reference_")


def test_reference_of_earlier_parameters_is_forgotten(tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, pooling="mutated").fit(VARIANTS)
    assert not hasattr(embedder.set_params(pooling="mean").fit(VARIANTS), "reference_")
    with pytest.raises(NotFittedError):
        embedder.set_params(pooling="mutated").transform(VARIANTS)


@pytest.mark.parametrize("method", ["fit", "transform", "fit_transform"])
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("MK TAY", "reference, position 3: white space"),
        ("", "reference: empty"),
        ("MKT", r"(?s)2 of 2 rows of X do not have the reference's 3 residues.*row 0: 16 residues"),
    ],
)
def test_wrong_reference(method: str, reference: str, message: str, tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, pooling="mutated", reference=reference)
    with pytest.raises(InvalidSequenceError, match=message) as caught:
        getattr(embedder, method)(VARIANTS[:2])
    assert REFERENCE not in str(caught.value)


@pytest.mark.parametrize("reference", [None, REFERENCE])
def test_rows_of_other_lengths_are_named(reference: str | None, tiny_checkpoint: Path, counting: Any) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, pooling="mutated", reference=reference, backend=counting)
    with pytest.raises(InvalidSequenceError, match="not aligned") as caught:
        embedder.fit([*VARIANTS, REFERENCE[1:], REFERENCE + "A"])
    assert caught.value.rows == (6, 7)
    with pytest.raises(InvalidSequenceError, match="not aligned") as caught:
        embedder.set_params(reference=REFERENCE).transform([*VARIANTS, REFERENCE[1:]])
    assert caught.value.rows == (6,)
    assert not counting.calls


def test_truncation_holds_for_the_reference_too(tiny_checkpoint: Path) -> None:
    params: dict[str, Any] = {"pooling": "mutated", "reference": REFERENCE}
    whole = ESM2Embedder(tiny_checkpoint, **params, max_length=8, long_sequences="truncate")
    with pytest.warns(UserWarning, match="first (8|max_length=8)"):
        rows = whole.transform(VARIANTS[:2])
    params["reference"] = REFERENCE[:8]
    np.testing.assert_array_equal(
        rows, ESM2Embedder(tiny_checkpoint, **params).transform([s[:8] for s in VARIANTS[:2]])
    )


# costs and the store --------------------------------------------------------------------------------------------------


def test_one_more_pass_serves_all_rows(tiny_checkpoint: Path, counting: CountingBackend, tmp_path: Path) -> None:
    embedder = ESM2Embedder(
        tiny_checkpoint, pooling=("mean", "mutated"), reference=REFERENCE, backend=counting, memory=tmp_path
    )
    without_reference = VARIANTS[1:]
    rows = embedder.transform(without_reference)
    assert [count for count, _ in counting.calls] == [1, 4]
    info = embedder.cache_info()
    assert info is not None
    assert (info.rows, info.distinct, info.hits, info.computed) == (5, 5, 0, 5)
    # the reference's own features came with that pass, and no residue matrix but its own was stored
    np.testing.assert_array_equal(embedder.transform(VARIANTS)[1:], rows)
    assert len(counting.calls) == 2
    assert sum(path.stat().st_size for path in tmp_path.rglob("records*")) < 200_000


def test_each_reference_has_records_of_its_own(
    tiny_checkpoint: Path, counting: CountingBackend, tmp_path: Path
) -> None:
    other = "W" + REFERENCE[1:]
    params: dict[str, Any] = {"pooling": "mutated", "backend": counting}
    stored = ESM2Embedder(tiny_checkpoint, **params, memory=tmp_path)
    for reference in (REFERENCE, other, REFERENCE):
        fresh = ESM2Embedder(tiny_checkpoint, **params, reference=reference).transform(VARIANTS)
        np.testing.assert_array_equal(stored.set_params(reference=reference).transform(VARIANTS), fresh)


def test_mean_and_mutated_share_a_pass(tiny_checkpoint: Path, counting: CountingBackend) -> None:
    ESM2Embedder(
        tiny_checkpoint, pooling=("mean", "mutated"), layers=(0, 1), reference=REFERENCE, backend=counting
    ).transform(VARIANTS)
    assert counting.calls == [
        (1, ["residues@0", "residues@1"]),
        (5, ["mean@0", "mean@1", "residues@0", "residues@1"]),
    ]


def test_values_do_not_depend_on_the_other_rows(make_checkpoint: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    library = []
    for _ in range(60):
        variant = list(REFERENCE * 5)
        for position in rng.integers(0, len(variant), 3):
            variant[position] = rng.choice(list("ACDEFGHIKLMNPQRSTVWY"))
        library.append("".join(variant))
    embedder = ESM2Embedder(make_checkpoint(), pooling="mutated", reference=REFERENCE * 5)
    rows = embedder.transform(library)
    order = rng.permutation(60)
    np.testing.assert_array_equal(embedder.transform([library[i] for i in order]), rows[order])
    np.testing.assert_array_equal(np.vstack([embedder.transform([s]) for s in library[:10]]), rows[:10])


def test_cross_validation_learns_from_training_rows(tiny_checkpoint: Path, gfp: tuple[list[str], np.ndarray]) -> None:
    X = [sequence[40:90] for sequence in gfp[0][:30]]
    y = gfp[1][:30]
    model = make_pipeline(ESM2Embedder(tiny_checkpoint, pooling=("mean", "mutated")), Ridge())
    scores = cross_val_score(model, X, y, cv=3, error_score="raise")
    assert np.isfinite(scores).all()
    frame = model[:-1].set_output(transform="pandas").fit_transform(X)
    assert frame.columns[-1] == "reference_l2_39"


def test_plan_counts_the_reference(tiny_checkpoint: Path, tmp_path: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, pooling=("mean", "mutated"), memory=tmp_path)
    with pytest.raises(NotFittedError):
        embedder.plan(VARIANTS)
    embedder.fit(VARIANTS)
    plan = embedder.plan(VARIANTS[1:])
    assert (plan.rows, plan.distinct, plan.stored, plan.to_compute) == (5, 5, 0, 5)
    embedder.transform(VARIANTS[1:])
    plan = embedder.plan(VARIANTS)
    assert (plan.rows, plan.distinct, plan.stored, plan.to_compute) == (6, 6, 6, 0)


class FailingBackend(LocalBackend):
    """Refuses what holds a tryptophan."""

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        good = [i for i, sequence in enumerate(sequences) if "W" not in sequence]
        for batch in super().run(model, [sequences[i] for i in good], outputs, n_jobs=n_jobs):
            yield Batch([good[i] for i in batch.indices], batch.records)
        bad = set(range(len(sequences))) - set(good)
        if bad:
            raise PartialResultError("some failed", {i: BackendError("refused") for i in bad})


def test_failed_rows_are_nan(tiny_checkpoint: Path) -> None:
    params: dict[str, Any] = {"pooling": ("mean", "mutated"), "reference": REFERENCE}
    good = ESM2Embedder(tiny_checkpoint, **params).transform(VARIANTS)
    embedder = ESM2Embedder(tiny_checkpoint, **params, backend=FailingBackend())
    with pytest.raises(PartialResultError, match="2 of 6 rows of X failed") as caught:
        embedder.transform(VARIANTS)
    assert caught.value.rows == (1, 5)
    with pytest.warns(PartialResultWarning):
        rows = embedder.set_params(on_error="nan").transform(VARIANTS)
    np.testing.assert_array_equal(rows, caught.value.results)
    np.testing.assert_array_equal(rows[[0, 2, 3, 4]], good[[0, 2, 3, 4]])
    assert np.isnan(rows[[1, 5]]).all()
    with pytest.raises(BackendError, match="failed on the reference, which every row needs: refused"):
        embedder.set_params(reference=VARIANTS[1]).transform(VARIANTS)


def test_a_reference_is_held_to_max_length(tiny_checkpoint: Path) -> None:
    long = ESM2Embedder(tiny_checkpoint, pooling="mutated", reference="MKTAYIAKQR", max_length=8)
    with pytest.raises(InvalidSequenceError, match="reference: 10 residues, more than max_length=8"):
        long.transform(["MKTAYIAK"])
    with pytest.warns(TruncationWarning, match="the reference has 10 residues. Only its first max_length=8"):
        long.set_params(long_sequences="truncate").transform(["MKTAYIAK"])


def test_a_learnt_reference_is_not_mistaken_for_another(tiny_checkpoint: Path) -> None:
    rows = ["MKV", "MRT", "MRT"]
    embedder = ESM2Embedder(tiny_checkpoint, pooling="mutated").fit(rows)
    assert embedder.reference_ == "MRT"
    with pytest.raises(NotFittedError):
        embedder.set_params(reference="First").transform(rows)
    assert embedder.fit(rows).reference_ == "MKV"  # a keyword in whatever case, not the residues F, I, R, S, T
