"""Batches out of many requests, with a function in place of the model: which sequences it gets, and who gets what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from skesm.outputs.spec import OutputSpec, Record
from skesm.server.work.batcher import Batcher, Compute, Computed
from skesm.server.work.metrics import Metrics

MEAN, LOGITS = OutputSpec("mean", 1), OutputSpec("logits")


def value(model: str, sequence: str) -> float:
    return float(sum(map(ord, model + sequence)))


class Model:
    """Answers with numbers that tell model and sequence apart; fails where it is told to."""

    def __init__(self, poison: str = "") -> None:
        self.calls: list[tuple[str, list[str], list[OutputSpec]]] = []
        self.threads: list[int] = []
        self._poison = poison
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], threads: int) -> Computed:
        self.calls.append((model, list(sequences), list(outputs)))
        self.threads.append(threads)
        assert self.gate.wait(30)
        if self._poison in sequences:
            raise RuntimeError("too hard")
        return Computed([{o: np.float32(value(model, s)) for o in outputs} for s in sequences], hits=0)


def run(
    compute: Compute,
    work: Callable[[Batcher], Awaitable[object]],
    *,
    tokens_per_batch: int = 1000,
    wait: float = 0.02,
    metrics: Metrics | None = None,
    threads: int = 4,
) -> object:
    async def main() -> object:
        settings = {
            "threads": threads,
            "tokens_per_batch": tokens_per_batch,
            "wait": wait,
            "metrics": metrics or Metrics(),
        }
        async with Batcher(compute, **settings) as batcher:
            return await work(batcher)

    return asyncio.run(main())


def values(records: Sequence[Record], output: OutputSpec = MEAN) -> list[float]:
    return [float(record[output]) for record in records]


def test_requests_share_a_batch() -> None:
    model = Model()

    async def work(batcher: Batcher) -> object:
        return await asyncio.gather(*(batcher.records("m", [s, s + "K"], [MEAN]) for s in ("A", "C", "D")))

    answers = run(model, work)
    assert [values(answer) for answer in answers] == [[value("m", s), value("m", s + "K")] for s in "ACD"]
    assert [sorted(sequences) for _, sequences, _ in model.calls] == [["A", "AK", "C", "CK", "D", "DK"]]


def test_a_batch_holds_no_more_tokens_than_it_may() -> None:
    model = Model()
    sequences = ["A" * n for n in range(1, 31)] + ["A" * 99]

    async def work(batcher: Batcher) -> object:
        return await batcher.records("m", sequences, [MEAN])

    assert values(run(model, work, tokens_per_batch=50)) == [value("m", s) for s in sequences]
    for _, batch, _ in model.calls:
        assert sum(len(s) + 2 for s in batch) <= 50 or len(batch) == 1
    assert sorted(s for _, batch, _ in model.calls for s in batch) == sorted(sequences)


def test_models_and_outputs_do_not_mix() -> None:
    model = Model()

    async def work(batcher: Batcher) -> object:
        return await asyncio.gather(
            batcher.records("m", ["A"], [MEAN]),
            batcher.records("n", ["A"], [MEAN]),
            batcher.records("m", ["C"], [LOGITS]),
        )

    first, second, third = run(model, work)
    assert (values(first), values(second)) == ([value("m", "A")], [value("n", "A")])
    assert values(third, LOGITS) == [value("m", "C")]
    assert sorted(model.calls) == [("m", ["A"], [MEAN]), ("m", ["C"], [LOGITS]), ("n", ["A"], [MEAN])]


def test_a_pass_that_is_under_way_is_shared_if_it_has_all_that_is_needed() -> None:
    model, metrics = Model(), Metrics()
    model.gate.clear()

    async def work(batcher: Batcher) -> object:
        both = asyncio.create_task(batcher.records("m", ["A"], [MEAN, LOGITS]))
        while not model.calls:
            await asyncio.sleep(0.001)
        less = asyncio.create_task(batcher.records("m", ["A", "A"], [MEAN]))
        more = asyncio.create_task(batcher.records("m", ["A"], [MEAN, OutputSpec("cls", 1)]))
        await asyncio.sleep(0)
        model.gate.set()
        return await asyncio.gather(both, less, more)

    run(model, work, metrics=metrics)
    assert [outputs for _, _, outputs in model.calls] == [[LOGITS, MEAN], [OutputSpec("cls", 1), MEAN]]
    assert "skesm_shared_total 2" in metrics.text()
    assert "skesm_computed_total 2" in metrics.text()


def test_what_is_done_is_computed_anew() -> None:
    model = Model()

    async def work(batcher: Batcher) -> None:
        for _ in range(2):
            await batcher.records("m", ["A"], [MEAN])

    run(model, work)
    assert len(model.calls) == 2


@pytest.mark.parametrize("n_others", [0, 1, 6])
def test_a_bad_sequence_costs_nobody_else_an_answer(n_others: int) -> None:
    model, metrics = Model(poison="BAD"), Metrics()

    async def work(batcher: Batcher) -> object:
        others = [batcher.records("m", ["A" * n], [MEAN]) for n in range(1, n_others + 1)]
        return await asyncio.gather(*others, batcher.records("m", ["C", "BAD"], [MEAN]), return_exceptions=True)

    *others, bad = run(model, work, metrics=metrics)
    assert [values(answer) for answer in others] == [[value("m", "A" * n)] for n in range(1, n_others + 1)]
    assert isinstance(bad, RuntimeError)
    assert "skesm_failures_total 1" in metrics.text()
    assert f"skesm_computed_total {n_others + 1}" in metrics.text()


def test_a_wrong_count_is_an_error_and_shifts_nobody() -> None:
    def short(model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], threads: int) -> Computed:
        return Computed([{MEAN: np.float32(1)}] * max(len(sequences) - 1, 0), hits=0)

    async def work(batcher: Batcher) -> None:
        await batcher.records("m", ["A", "C"], [MEAN])

    with pytest.raises(ValueError, match="zip"):
        run(short, work)


def test_giving_up_a_request_does_not_take_the_sequence_from_others() -> None:
    model = Model()
    model.gate.clear()

    async def work(batcher: Batcher) -> object:
        leaving = asyncio.create_task(batcher.records("m", ["A"], [MEAN]))
        staying = asyncio.create_task(batcher.records("m", ["A"], [MEAN]))
        while not model.calls:
            await asyncio.sleep(0.001)
        leaving.cancel()
        await asyncio.wait([leaving])
        model.gate.set()
        return await staying

    assert values(run(model, work)) == [value("m", "A")]


def test_no_kind_of_request_starves_another() -> None:
    model = Model()

    async def work(batcher: Batcher) -> object:
        many = [batcher.records("m", ["A" * n], [MEAN]) for n in range(30, 90)]
        return await asyncio.gather(*many, batcher.records("m", ["C"], [LOGITS]))

    run(model, work, tokens_per_batch=100)
    place = next(i for i, (_, _, outputs) in enumerate(model.calls) if outputs == [LOGITS])
    assert place <= 3 < len(model.calls) - 10


@pytest.mark.parametrize(("threads", "shares"), [(4, {4, 2}), (2, {2, 1}), (1, {1})])
def test_batches_share_the_threads(threads: int, shares: set[int]) -> None:
    model = Model()

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.records("m", ["A" * n], [MEAN]) for n in range(30, 60)))
        await asyncio.sleep(0)
        await batcher.records("m", ["C"], [MEAN])

    run(model, work, tokens_per_batch=100, threads=threads)
    assert set(model.threads) <= shares
    assert model.threads[0] == model.threads[-1] == threads  # alone: all of them


def test_a_request_that_is_given_up_is_not_computed() -> None:
    model, metrics = Model(), Metrics()

    async def work(batcher: Batcher) -> object:
        leaving = asyncio.create_task(batcher.records("m", ["A", "C", "A"], [MEAN]))
        staying = asyncio.create_task(batcher.records("m", ["C", "D"], [MEAN]))
        alone = asyncio.create_task(batcher.records("m", ["E"], [LOGITS]))
        await asyncio.sleep(0)
        leaving.cancel()
        alone.cancel()
        await asyncio.wait([leaving, alone])
        assert leaving.cancelled()
        # What nobody waits for any longer can be asked for again.
        return values(await staying), values(await batcher.records("m", ["A"], [MEAN]))

    kept, again = run(model, work, metrics=metrics)  # type: ignore[misc]
    assert kept == [value("m", "C"), value("m", "D")]
    assert again == [value("m", "A")]
    assert [sequences for _, sequences, _ in model.calls] == [["C", "D"], ["A"]]
    assert metrics.dropped.lines()[2:] == ["skesm_dropped_total 2"]


def test_a_failure_that_nobody_waits_for_is_silent() -> None:
    model = Model(poison="W")
    model.gate.clear()

    async def work(batcher: Batcher) -> object:
        leaving = asyncio.create_task(batcher.records("m", ["W"], [MEAN]))
        while not model.calls:
            await asyncio.sleep(0.001)
        leaving.cancel()
        await asyncio.wait([leaving])
        model.gate.set()
        return values(await batcher.records("m", ["A"], [MEAN]))

    assert run(model, work) == [value("m", "A")]
