"""From sequences to rows, with backends in memory that answer as told: rightly, wrongly, late, never."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zlib import crc32

import joblib
import numpy as np
import pytest
from sklearn.pipeline import FeatureUnion

from skesm import ESM2Embedder, ESM2LogitSummarizer
from skesm.backends.base import Backend, Batch
from skesm.backends.costs import RunInfo, TransformPlan
from skesm.cache import RecordStore
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import (
    BackendError,
    CheckpointError,
    CheckpointNotFoundError,
    PartialResultError,
    PartialResultWarning,
    StoreWarning,
)
from skesm.fetch.records import estimate, fetch, keep
from skesm.fetch.request import Request
from skesm.outputs.derived import derive
from skesm.outputs.spec import Namespace, OutputSpec, Record, parse_outputs
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import count_residues

MEAN = OutputSpec("mean", 2)
SPEC = ModelSpec("toy", n_layers=2, width=4, n_heads=1, ffn_width=16)

#: Distinct sequences, and rows of X that repeat them out of order.
SEQUENCES = ["WCHWMY", "FQKWNC", "HHWYWC", "MWHCYF", "QNWKHC"]
ROWS = [SEQUENCES[i] for i in (3, 0, 3, 1, 4, 0, 2, 3)]


class ToyBackend(Backend):
    """A model in memory: values are drawn from a seed made of sequence and output. Notes what it is asked for."""

    def __init__(self, batch_size: int = 2) -> None:
        self.batch_size = batch_size
        self.asked: list[str] = []
        self.outputs: list[tuple[str, ...]] = []
        self.ended = 0

    @property
    def numerics(self) -> str:
        return "fp32"

    def spec(self, model: str) -> ModelSpec:
        return SPEC

    def namespace(self, model: str) -> Namespace:
        return Namespace(model, f"toy:{model}", self.numerics)

    def run(
        self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        self.asked += sequences
        self.outputs.append(tuple(map(str, outputs)))
        try:
            yield from self.answer([value_of(s, outputs) for s in sequences])
        finally:
            self.ended += 1

    def answer(self, records: list[Record]) -> Iterator[Batch]:
        """Rightly, last batch first."""
        yield from reversed(list(self.batches(records)))

    def batches(self, records: list[Record]) -> Iterator[Batch]:
        for start in range(0, len(records), self.batch_size):
            indices = range(len(records))[start : start + self.batch_size]
            yield Batch(indices, [records[i] for i in indices])


def value_of(sequence: str, outputs: Sequence[OutputSpec]) -> Record:
    def draw(output: OutputSpec) -> FloatArray:
        rng = np.random.default_rng(crc32(f"{sequence} {output}".encode()))
        return rng.normal(size=output.shape(count_residues(sequence), SPEC)).astype(np.float32)

    return {output: draw(output) for output in outputs}


def expected(rows: Sequence[str], output: OutputSpec = MEAN) -> FloatArray:
    return np.stack([value_of(row, [output])[output] for row in rows])


def ask(backend: Backend, rows: Sequence[str] = ROWS, memory: Any = None, **options: Any) -> FloatArray:
    """Fetch, and give the rows as an estimator would."""
    answer = fetch(Request(rows, [MEAN]), keep, model=backend.model("toy"), memory=memory, **options)
    return np.stack([record[MEAN] for record in answer.values])


def embedder(backend: Backend, **params: Any) -> ESM2Embedder:
    return ESM2Embedder("toy", backend=backend, **params)


# rows, and each sequence once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("with_memory", [False, True])
def test_each_distinct_sequence_once_and_every_row_its_own(tmp_path: Path, batch_size: int, with_memory: bool) -> None:
    backend = ToyBackend(batch_size)
    memory = tmp_path if with_memory else None
    np.testing.assert_array_equal(ask(backend, memory=memory), expected(ROWS))
    assert sorted(backend.asked) == sorted(SEQUENCES)
    np.testing.assert_array_equal(ask(backend, memory=memory), expected(ROWS))
    assert len(backend.asked) == len(SEQUENCES) * (1 if with_memory else 2)


def test_rows_that_differ_in_case_and_space_are_one_sequence() -> None:
    backend = ToyBackend()
    rows = embedder(backend).transform([" wchwmy\n", "WCHWMY"])
    np.testing.assert_array_equal(rows, expected(["WCHWMY"] * 2))
    assert backend.asked == ["WCHWMY"]


def test_truncated_rows_are_those_of_their_beginning(tmp_path: Path) -> None:
    backend = ToyBackend()
    estimator = embedder(backend, memory=tmp_path, max_length=3, long_sequences="truncate")
    with pytest.warns(match="2 of 3 sequences have more than max_length=3"):
        rows = estimator.transform(["WCHWMY", "WCH", "WCHA"])
    np.testing.assert_array_equal(rows, expected(["WCH"] * 3))
    assert backend.asked == ["WCH"]


# records to values ----------------------------------------------------------------------------------------------------


def test_a_record_is_reduced_before_the_next_batch_is_asked_for(tmp_path: Path) -> None:
    events: list[str] = []

    class Notes(ToyBackend):
        def answer(self, records: list[Record]) -> Iterator[Batch]:
            for batch in self.batches(records):
                events.append("batch")
                yield batch

    def reduce(sequence: str, record: Record) -> str:
        events.append("reduced")
        return sequence.lower()

    for memory in (None, tmp_path):
        events.clear()
        answer = fetch(Request(ROWS, [MEAN]), reduce, model=Notes(2).model("toy"), memory=memory)
        assert answer.values == [row.lower() for row in ROWS]
        assert events[:6] == ["batch", "reduced", "reduced"] * 2
        assert events.count("reduced") == len(SEQUENCES)


def test_the_store_is_read_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(ToyBackend(), memory=tmp_path)
    backend, reads = ToyBackend(), []
    get = RecordStore.get
    monkeypatch.setattr("skesm.fetch.lookup._VALUES_READ", 2 * SPEC.width)
    monkeypatch.setattr(RecordStore, "get", lambda self, *args: reads.append(len(args[0])) or get(self, *args))
    np.testing.assert_array_equal(ask(backend, memory=tmp_path), expected(ROWS))
    assert max(reads) == 2
    assert sum(reads) == len(SEQUENCES)
    assert backend.asked == []


def test_what_is_derived_is_found_in_what_is_stored(tmp_path: Path) -> None:
    residues, contacts = OutputSpec("residues", 2), OutputSpec("contacts")
    cut = OutputSpec("mutated", 2, "WCHWMY"), OutputSpec("contact_profile")
    backend, rows = ToyBackend(), ["WCHWMA", "ACHWMY", "WCHWMY"]
    options = {"model": backend.model("toy"), "memory": tmp_path}
    records = fetch(Request(rows, [residues, contacts]), keep, **options).values
    asked = len(backend.asked)
    assert estimate(Request(rows, cut), **options).to_compute == 0
    answer = fetch(Request(rows, cut), keep, **options)
    assert (len(backend.asked), answer.info.hits) == (asked, 3)
    for row, record, source in zip(rows, answer.values, records, strict=True):
        expected = derive(source, cut, row)
        assert all(np.array_equal(record[output], expected[output]) for output in cut)


def test_what_was_asked_for_is_stored_although_a_record_cannot_be_reduced(tmp_path: Path) -> None:
    def fails(sequence: str, record: Record) -> None:
        raise ZeroDivisionError

    first, second = ToyBackend(1), ToyBackend(1)
    with pytest.raises(ZeroDivisionError):
        fetch(Request(ROWS, [MEAN]), fails, model=first.model("toy"), memory=tmp_path)
    assert sorted(first.asked) == sorted(SEQUENCES)
    np.testing.assert_array_equal(ask(second, memory=tmp_path), expected(ROWS))
    assert second.asked == [], "none is paid for twice"


# wrong answers --------------------------------------------------------------------------------------------------------


class Wrong(ToyBackend):
    """Answers the first batch rightly, then as told."""

    def answer(self, records: list[Record]) -> Iterator[Batch]:
        first, second, *_ = self.batches(records)
        yield first
        yield from self.wrong(second, records)

    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        raise NotImplementedError


class Short(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        yield from ()


class FewerRecords(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        yield Batch(second.indices, second.records[:1])


class MoreRecords(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        yield Batch(second.indices, [*second.records, records[0]])


class TwiceInOneBatch(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        yield Batch([2, 3, 4, 2], [*second.records, records[4], second.records[0]])


class TwiceInTwoBatches(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        yield Batch([0, *second.indices], [records[0], *second.records])


class Extra(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        yield Batch([5, *second.indices], [records[0], *second.records])


class Negative(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        yield Batch([-1, *second.indices], [records[4], *second.records])


class WrongValue(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        good, bad = second.records
        yield Batch(second.indices, [good, {output: self.spoil(value) for output, value in bad.items()}])

    def spoil(self, value: FloatArray) -> Any:
        raise NotImplementedError


class Narrow(WrongValue):
    def spoil(self, value: FloatArray) -> Any:
        return value[:-1]


class Residues(WrongValue):
    def spoil(self, value: FloatArray) -> Any:
        return np.stack([value] * 6)


class Double(WrongValue):
    def spoil(self, value: FloatArray) -> Any:
        return value.astype(np.float64)


class NotANumber(WrongValue):
    def spoil(self, value: FloatArray) -> Any:
        return value * np.float32("nan")


class OtherLayer(Wrong):
    def wrong(self, second: Batch, records: list[Record]) -> Iterator[Batch]:
        yield Batch(second.indices, [{OutputSpec("mean", 1): record[MEAN]} for record in second.records])


# `ROWS` has its distinct sequences in the order 3 0 1 4 2; the second one of the second batch is the 4 of row 4.
WRONG = [
    (Short, r"did not answer 3 of 5 sequences"),
    (FewerRecords, "answered 2 sequences with 1 records"),
    (MoreRecords, "answered 2 sequences with 3 records"),
    (TwiceInOneBatch, "answered a sequence twice"),
    (TwiceInTwoBatches, "answered a sequence twice"),
    (Extra, "one that it was not asked for"),
    (Negative, "one that it was not asked for"),
    (Narrow, r"toy: the answer for row 4 of X is wrong: output mean@2 is float32\[3\], expected float32\[4\]"),
    (Residues, r"toy: the answer for row 4 of X is wrong: output mean@2 is float32\[6, 4\]"),
    (Double, r"toy: the answer for row 4 of X is wrong: output mean@2 is float64\[4\]"),
    (NotANumber, "toy: the answer for row 4 of X is wrong: output mean@2 is not finite"),
    (OtherLayer, "toy: the answer for row 3 of X is wrong: output mean@2 is missing"),
]


@pytest.mark.parametrize(("kind", "message"), WRONG)
@pytest.mark.parametrize("with_memory", [False, True])
def test_wrong_answers_are_refused_and_not_stored(
    tmp_path: Path, kind: type[Wrong], message: str, with_memory: bool
) -> None:
    backend = kind()
    memory = tmp_path if with_memory else None
    with pytest.raises(BackendError, match=message) as caught:
        ask(backend, memory=memory)
    assert not any(sequence in str(caught.value) for sequence in SEQUENCES)
    assert backend.ended == 1  # closed before the error is handled: workers do not outlive it

    right = ToyBackend()
    np.testing.assert_array_equal(ask(right, memory=memory), expected(ROWS))
    # What came before the wrong batch is kept; nothing of that batch is.
    first_two = [SEQUENCES[3], SEQUENCES[0]]
    assert sorted(right.asked) == sorted(set(SEQUENCES) - (set(first_two) if with_memory else set()))


# failures -------------------------------------------------------------------------------------------------------------


class Failing(ToyBackend):
    """Fails before its third batch."""

    error: BaseException = BackendError("out of memory")

    def answer(self, records: list[Record]) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches(records)):
            if number == 2:
                raise self.error
            yield batch


class Interrupted(Failing):
    error = KeyboardInterrupt()


@pytest.mark.parametrize("kind", [Failing, Interrupted])
def test_a_failure_loses_nothing_that_was_finished(tmp_path: Path, kind: type[Failing]) -> None:
    backend = kind()
    with pytest.raises(type(kind.error)):
        ask(backend, memory=tmp_path)
    assert len(backend.asked) == 5
    again = ToyBackend()
    np.testing.assert_array_equal(ask(again, memory=tmp_path), expected(ROWS))
    assert again.asked == [SEQUENCES[2]]


class Partial(ToyBackend):
    """Finishes all but the second and third of the sequences that it is handed."""

    def answer(self, records: list[Record]) -> Iterator[Batch]:
        good = [i for i in range(len(records)) if i not in (1, 2)]
        yield Batch(good, [records[i] for i in good])
        raise PartialResultError("2 failed", {2: BackendError("too long"), 1: BackendError("refused")})


def test_failed_sequences_are_named_by_their_rows(tmp_path: Path) -> None:
    ask(ToyBackend(), [SEQUENCES[3]], memory=tmp_path)
    with pytest.raises(PartialResultError) as caught:
        ask(Partial(), memory=tmp_path)  # is handed 0 1 4 2, fails 1 and 4: rows 3 and 4
    assert caught.value.rows == (3, 4)
    assert {row: str(cause) for row, cause in caught.value.causes.items()} == {3: "refused", 4: "too long"}
    assert str(caught.value) == ("2 of 8 rows of X failed, all others are finished: row 3: refused; row 4: too long")
    with pytest.raises(PartialResultError, match="3 of 8 rows") as caught:
        ask(Partial())  # is handed 3 0 1 4 2, fails 0 and 1; 0 is there twice
    assert caught.value.rows == (1, 3, 5)


def test_an_interrupted_consumer_ends_the_backend() -> None:
    backend = ToyBackend(1)
    answers = backend.run("toy", SEQUENCES, [MEAN])
    next(answers)
    answers.close()
    assert backend.ended == 1


# the store ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path, joblib.Memory])
def test_memory_as_in_scikit_learn(tmp_path: Path, kind: Any) -> None:
    memory = kind(tmp_path) if kind is not joblib.Memory else joblib.Memory(tmp_path, verbose=0)
    first, second, third = ToyBackend(), ToyBackend(), ToyBackend()
    embedder(first, memory=memory).transform(ROWS)
    embedder(second, memory=memory).transform(ROWS)
    assert (len(first.asked), len(second.asked)) == (5, 0)
    joblib.Memory(tmp_path, verbose=0).clear(warn=False)
    embedder(third, memory=memory).transform(ROWS)
    assert len(third.asked) == 5


def test_no_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    embedder(ToyBackend()).transform(ROWS)
    embedder(ToyBackend(), memory=joblib.Memory(None)).transform(ROWS)
    assert list(tmp_path.iterdir()) == []


def test_models_and_outputs_do_not_answer_for_each_other(tmp_path: Path) -> None:
    backend = ToyBackend()
    for model in ("one", "two"):
        for layer in (1, 2):
            ESM2Embedder(model, backend=backend, memory=tmp_path, layers=layer).transform(["WCHWMY"])
    assert len(backend.asked) == 4


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_and_threads_are_no_part_of_the_key(tmp_path: Path, batch_size: int) -> None:
    ask(ToyBackend(100), memory=tmp_path)
    backend = ToyBackend(batch_size)
    ask(backend, memory=tmp_path, n_jobs=batch_size, verbose=False)
    assert backend.asked == []


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    ask(ToyBackend(), SEQUENCES[:2], memory=tmp_path)
    backend = ToyBackend()
    estimator = embedder(backend, memory=tmp_path)
    assert estimator.cache_info() is None
    np.testing.assert_array_equal(estimator.transform(ROWS), expected(ROWS))
    assert sorted(backend.asked) == sorted(SEQUENCES[2:])
    assert estimator.cache_info() == RunInfo(rows=8, distinct=5, hits=2, computed=3)
    estimator.transform(ROWS[:3])
    assert estimator.cache_info() == RunInfo(rows=3, distinct=2, hits=2, computed=0)
    assert embedder(backend, memory=tmp_path).cache_info() is None


def test_info_without_memory() -> None:
    estimator = embedder(ToyBackend())
    estimator.transform(ROWS)
    assert estimator.cache_info() == RunInfo(rows=8, distinct=5, hits=0, computed=5)


def test_prefetch_makes_other_settings_free(tmp_path: Path) -> None:
    backend = ToyBackend()
    embedder(backend, memory=tmp_path, prefetch=("mean@*", "max@1", "logit_means")).transform(ROWS)
    assert backend.outputs == [("logit_means", "max@1", "mean@0", "mean@1", "mean@2")]
    for layers in (0, 1, -1, (2, 0)):
        rows = embedder(backend, memory=tmp_path, layers=layers).transform(ROWS)
        columns = parse_outputs([f"mean@{layer}" for layer in np.atleast_1d(layers)], 2)
        np.testing.assert_array_equal(
            rows, np.hstack([expected(ROWS, c) for c in (columns if np.ndim(layers) == 0 else columns[::-1])])
        )
    embedder(backend, memory=tmp_path, layers=1, pooling="max").transform(ROWS)
    ESM2LogitSummarizer("toy", backend=backend, memory=tmp_path).transform(ROWS)
    assert len(backend.asked) == 5
    embedder(backend, memory=tmp_path, layers=0, pooling="max").transform(ROWS)
    assert len(backend.asked) == 10


def test_prefetch_without_memory_is_not_computed() -> None:
    backend = ToyBackend()
    embedder(backend, prefetch="mean@*").transform(ROWS)
    assert backend.outputs == [("mean@2",)]


def test_union_of_both_estimators_costs_one_pass(tmp_path: Path) -> None:
    backend = ToyBackend()
    union = FeatureUnion(
        [
            ("embedding", embedder(backend, memory=tmp_path, prefetch="logit_means")),
            ("logits", ESM2LogitSummarizer("toy", backend=backend, memory=tmp_path)),
        ]
    )
    rows = union.fit_transform(ROWS)
    assert sorted(backend.asked) == sorted(SEQUENCES)
    means = [value_of(row, [OutputSpec("logit_means")])[OutputSpec("logit_means")] for row in ROWS]
    np.testing.assert_array_equal(rows[:, :4], expected(ROWS))
    # float64 sums of 6 float32 values, rounded once to float32
    np.testing.assert_allclose(rows[:, 4:], [(m.mean(), m.sum()) for m in means], rtol=1e-6, atol=1e-6)


class Slow(ToyBackend):
    """Tells when it has begun, and answers when it is let."""

    def __init__(self) -> None:
        super().__init__(2)
        self.begun, self.go = threading.Event(), threading.Event()

    def answer(self, records: list[Record]) -> Iterator[Batch]:
        self.begun.set()
        assert self.go.wait(60)
        return self.batches(records)


def test_two_at_a_time_share_the_work(tmp_path: Path) -> None:
    slow, other = Slow(), ToyBackend()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, slow, ROWS[:3], tmp_path)
        assert slow.begun.wait(60)
        second = pool.submit(ask, other, ROWS, tmp_path)
        slow.go.set()
        np.testing.assert_array_equal(first.result(60), expected(ROWS[:3]))
        np.testing.assert_array_equal(second.result(60), expected(ROWS))
    assert sorted(slow.asked + other.asked) == sorted(SEQUENCES)


class Dying(Slow):
    """Fails when it is let go."""

    def answer(self, records: list[Record]) -> Iterator[Batch]:
        self.begun.set()
        assert self.go.wait(60)
        raise BackendError("no power")


def test_who_waits_for_one_that_fails_takes_over(tmp_path: Path) -> None:
    dying, other = Dying(), ToyBackend()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, dying, ROWS, tmp_path)
        assert dying.begun.wait(60)
        second = pool.submit(ask, other, ROWS, tmp_path)
        dying.go.set()
        np.testing.assert_array_equal(second.result(60), expected(ROWS))
        with pytest.raises(BackendError, match="no power"):
            first.result(60)
    assert sorted(other.asked) == sorted(SEQUENCES)


def test_a_folder_that_cannot_be_written_costs_time_and_no_value() -> None:
    sealed = Path("/proc/self/fdinfo")  # not writable, not even for root
    if not sealed.is_dir():
        pytest.skip("needs /proc")
    with pytest.warns(StoreWarning, match=r"nothing can be stored .* or leave it out \(memory=None\)"):
        rows = ask(ToyBackend(), memory=sealed)
    np.testing.assert_array_equal(rows, expected(ROWS))


# terminal -------------------------------------------------------------------------------------------------------------


def test_progress_is_on_stderr_and_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    embedder(ToyBackend()).transform(ROWS)
    assert capsys.readouterr() == ("", "")
    embedder(ToyBackend(), verbose=True).transform(ROWS)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err
    assert not any(sequence in err for sequence in SEQUENCES)


# the store and a real checkpoint --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy of the checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_offline_replay(tmp_path: Path, folder: Path) -> None:
    first = ESM2Embedder(folder, memory=tmp_path / "memory").transform(ROWS[:5])
    (folder / "model.safetensors").unlink()
    again = ESM2Embedder(folder, memory=tmp_path / "memory")
    np.testing.assert_array_equal(again.transform(ROWS[:5]), first)
    assert again.cache_info() == RunInfo(rows=5, distinct=4, hits=4, computed=0)
    with pytest.raises(CheckpointNotFoundError, match=r"holds neither model\.safetensors"):
        again.transform(ROWS)
    with pytest.raises(CheckpointNotFoundError):
        again.set_params(layers=0).transform(ROWS[:5])
    with pytest.raises(CheckpointNotFoundError):
        again.set_params(layers=-1, memory=tmp_path / "elsewhere").transform(ROWS[:5])


def test_changed_weights_are_never_answered_from_old_records(
    tmp_path: Path, folder: Path, make_checkpoint: Any
) -> None:
    other = make_checkpoint(seed=1)
    memory = tmp_path / "memory"
    estimator = ESM2Embedder(folder, memory=memory)
    old = estimator.transform(ROWS)
    weights = folder / "model.safetensors"
    status = weights.stat()
    weights.unlink()
    shutil.copyfile(other / weights.name, weights)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` or an archive may leave it
    new = estimator.transform(ROWS)
    np.testing.assert_array_equal(new, ESM2Embedder(other).transform(ROWS))
    assert np.abs(new - old).max() > 0.1
    assert estimator.cache_info() == RunInfo(rows=8, distinct=5, hits=0, computed=5)


def test_records_belong_to_weights_not_to_folders(tmp_path: Path, folder: Path, tiny_checkpoint: Path) -> None:
    ESM2Embedder(folder, memory=tmp_path / "memory").transform(ROWS)
    estimator = ESM2Embedder(tiny_checkpoint, memory=tmp_path / "memory")
    estimator.transform(ROWS)
    assert estimator.cache_info() == RunInfo(rows=8, distinct=5, hits=5, computed=0)


def test_a_checkpoint_without_head_has_no_logits(tmp_path: Path, folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = folder / "model.safetensors"
    tensors = {k: v for k, v in load_file(weights).items() if not k.startswith("lm_head")}
    weights.unlink()
    save_file(tensors, weights)
    ESM2Embedder(folder).transform(ROWS)
    with pytest.raises((BackendError, CheckpointError), match="head"):
        ESM2LogitSummarizer(folder).transform(ROWS)


def test_failed_sequences_may_be_left_out_with_a_warning(tmp_path: Path) -> None:
    partial = embedder(Partial(), memory=tmp_path, on_error="nan")
    with pytest.warns(PartialResultWarning, match="3 of 8 rows"):
        features = partial.transform(ROWS)  # is handed 3 0 1 4 2, fails 0 and 1
    assert np.isnan(features).all(axis=1).nonzero()[0].tolist() == [1, 3, 5]
    again = embedder(ToyBackend(), memory=tmp_path, on_error="nan")
    np.testing.assert_array_equal(again.transform(ROWS), expected(ROWS))
    assert again.cache_info() == RunInfo(rows=8, distinct=5, hits=3, computed=2)


def test_an_error_carries_what_was_finished() -> None:
    with pytest.raises(PartialResultError) as caught:
        embedder(Partial()).transform(ROWS)
    features = caught.value.results
    assert np.isnan(features).all(axis=1).nonzero()[0].tolist() == [1, 3, 5]
    np.testing.assert_array_equal(features[[0, 2]], expected(ROWS)[[0, 2]])
    with pytest.warns(PartialResultWarning):
        np.testing.assert_array_equal(embedder(Partial(), on_error="nan").transform(ROWS), features)


def test_weights_replaced_during_a_run_store_nothing(tmp_path: Path) -> None:
    class Replaced(ToyBackend):
        def namespace(self, model: str) -> Namespace:
            return Namespace(model, f"weights {len(self.outputs)}", self.numerics)  # others after the first run

    with pytest.raises(BackendError, match="replaced during the run"):
        ask(Replaced(), memory=tmp_path)
    backend = ToyBackend()
    ask(backend, memory=tmp_path)
    assert len(backend.asked) == len(SEQUENCES)


def test_a_plan_counts_what_a_transform_would_do_and_does_none_of_it(tmp_path: Path) -> None:
    backend = ToyBackend()
    planned = embedder(backend, memory=tmp_path).plan(ROWS)
    assert planned == TransformPlan(rows=8, distinct=5, stored=0, to_compute=5, requests=None)
    assert not backend.asked
    ask(backend, SEQUENCES[:2], memory=tmp_path)
    planned = embedder(backend, memory=tmp_path).plan(ROWS)
    assert planned == TransformPlan(rows=8, distinct=5, stored=2, to_compute=3, requests=None)
    assert embedder(backend).plan(ROWS).to_compute == 5
