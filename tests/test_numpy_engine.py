from __future__ import annotations

import copy
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from scipy.special import erf

from skesm import ESM2Embedder
from skesm.backends import LocalBackend
from skesm.esm2.batching import plan_packs
from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.numpy_engine import SHARED_LIMIT, SHARED_ROWS, SIZE_TRIALS, SPLIT_WIDTH, NumpyEngine
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters
from skesm.outputs.spec import OutputSpec
from skesm.sequences.alphabet import AMINO_ACIDS

OUTPUTS = [
    OutputSpec("mean", 2),
    OutputSpec("max", 1),
    OutputSpec("cls", 2),
    OutputSpec("residues", 2),
    OutputSpec("logits"),
    OutputSpec("logit_means"),
    OutputSpec("contacts"),
    OutputSpec("attentions", 1),
    OutputSpec("attention_received", 2),
    OutputSpec("attention_heads", 2),
]


@pytest.fixture(scope="module")
def wide(make_checkpoint) -> Path:
    """One layer of the width of the 650M model, whose products are computed in parts."""
    return make_checkpoint(1, SPLIT_WIDTH, 20)


def load(folder: Path) -> NumpyEngine:
    checkpoint = locate(folder)
    return NumpyEngine(checkpoint.spec, read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files)))


def run(model: Path, sequences: list[str], **options: int | None) -> list[dict]:
    records = {}
    for batch in LocalBackend(engine="numpy", **options).run(model, sequences, OUTPUTS):
        records.update(zip(batch.indices, batch.records, strict=True))
    return [records[i] for i in range(len(sequences))]


def random_sequences(lengths: list[int], seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(AMINO_ACIDS), n)) for n in lengths]


def run_in_large_packs(model: Path, sequences: list[str]) -> list[dict]:
    """As an engine does that has done some work."""
    engine = load(model)
    engine._work = 10**12
    tokens = [tokenize(sequence) for sequence in sequences]
    records: dict[int, dict] = {}
    with engine.hold(2):
        for pack in plan_packs([len(t) for t in tokens], *engine.sharing(10**6, 2)):
            records.update(zip(pack, engine.forward([tokens[i] for i in pack], OUTPUTS), strict=True))
    return [records[i] for i in range(len(sequences))]


def differences(model: Path, sequences: list[str], seed: int = 0) -> list[str]:
    """Ways to run the same sequences that change a bit of a feature; should be none."""
    expected = run(model, sequences, num_threads=1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sequences)).tolist()
    company = random_sequences(rng.integers(1, 200, 20).tolist(), seed + 1)
    ways = {
        "shuffled": (order, [sequences[i] for i in order], {"num_threads": 2}),
        "repeated": ([*order, *order], [sequences[i] for i in [*order, *order]], {"num_threads": 2}),
        "with others": (order, [*(sequences[i] for i in order), *company], {"num_threads": 1}),
        "four threads": (range(len(sequences)), sequences, {"num_threads": 4}),
        "small batches": (range(len(sequences)), sequences, {"tokens_per_batch": 1}),
    }
    changed = []
    if not same_bits(expected, run_in_large_packs(model, [*sequences, *company])):
        changed.append("in large packs")
    for name, (indices, variant, options) in ways.items():
        if not same_bits([expected[i] for i in indices], run(model, variant, **options)):
            changed.append(name)
    if not same_bits(expected, [run(model, [sequence], num_threads=1)[0] for sequence in sequences]):
        changed.append("one by one")
    return changed


def same_bits(expected: list[dict], records: list[dict]) -> bool:
    """`records` may go on: they are the company."""
    return all(
        value.tobytes() == record[output].tobytes()
        for one, record in zip(expected, records, strict=False)
        for output, value in one.items()
    )


# Lengths around those where the engine changes its ways, and a step that visits every residue class of tile sizes
LENGTHS = [1, 2, 3, 5, 13, 14, 15, 16, 40, SHARED_LIMIT - 3, SHARED_LIMIT - 2, SHARED_LIMIT - 1, 255, 300, 511, 700]


@pytest.fixture(scope="module")
def shallow_8m(make_checkpoint) -> Path:
    """Products of the 8M model's shapes in two blocks instead of six."""
    return make_checkpoint(2, 320, 20, seed=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_features_do_not_move_by_a_bit(seed: int, shallow_8m: Path) -> None:
    lengths = [*LENGTHS, *range(1 + seed, 301, 23)]
    assert differences(shallow_8m, random_sequences(lengths, seed), seed) == []


def test_large_packs_come_with_work_that_pays_for_their_trials(tiny_checkpoint: Path) -> None:
    engine = load(tiny_checkpoint)
    if not engine.places_are_equal:
        assert engine.sharing(10**12, 2) == (SHARED_ROWS, 0)
        return
    n_layers, before = engine.spec.n_layers, SHARED_LIMIT
    for most, pays in SIZE_TRIALS:
        trial = sum(range(before + 16, most + 1, 16))
        engine._work = pays * trial - 2 * n_layers
        assert engine.sharing(1, 2)[1] == before
        assert engine.sharing(1, 2)[1] == most
        assert engine.sharing(4 * most, 2) == (most, most)
        assert engine.sharing(600, 2) == (300, most), "both workers have something to do"
        assert engine.sharing(1, 2) == (SHARED_ROWS, most)
        before = most


def test_wide_models_keep_to_smaller_packs(wide: Path) -> None:
    engine = load(wide)
    engine._work = 10**12
    assert engine.sharing(10**6, 2)[1] == (512 if engine.places_are_equal else 0)


def test_the_trial_sees_products_that_depend_on_the_rows(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = NumpyEngine._product

    def moody(self: NumpyEngine, x: np.ndarray, *args: object) -> None:
        product(self, x, *args)
        if len(x) == 496:
            args[1][7] = np.nextafter(args[1][7], np.inf, dtype=np.float32)

    monkeypatch.setattr(NumpyEngine, "_product", moody)
    engine = load(tiny_checkpoint)
    assert engine._rows_are_equal([SHARED_ROWS, 480, 512])
    assert not engine._rows_are_equal([SHARED_ROWS, 480, 496, 512])


def test_the_embedder_keeps_the_bits(checkpoint_8m: Path, proteins: list[str]) -> None:
    proteins = proteins[:12]
    embedder = ESM2Embedder(checkpoint_8m, layers=(0, 3, -1), pooling=("mean", "max", "eos"), backend="numpy")
    expected = embedder.transform(proteins)
    order = np.random.default_rng(0).permutation(len(proteins))
    for n_jobs in (1, 2, 4):
        embedder.set_params(n_jobs=n_jobs)
        np.testing.assert_array_equal(embedder.transform([proteins[i] for i in order]), expected[order])
    np.testing.assert_array_equal(embedder.transform([*proteins, *proteins[:5]])[-5:], expected[:5])
    np.testing.assert_array_equal(np.vstack([embedder.transform([p]) for p in proteins]), expected)


def _openblas_architecture() -> str:
    """Whose kernels NumPy's OpenBLAS uses in this process; empty if it is another BLAS."""
    for info in threadpoolctl.threadpool_info():
        if info["internal_api"] == "openblas" and "numpy" in info["filepath"]:
            return str(info["architecture"])
    return ""


@pytest.mark.parametrize("processor", ["Haswell", "SkylakeX", "Sandybridge", "Nehalem"])
def test_features_do_not_move_on_other_processors(processor: str, shallow_8m: Path) -> None:
    """OpenBLAS has kernels for each kind of processor; its Haswell ones treat a row by its place."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("OPENBLAS_CORETYPE names x86 processors")
    if not _openblas_architecture():
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    answer = subprocess.run(
        [sys.executable, "-W", "error", __file__, os.fspath(shallow_8m)],
        env={**os.environ, "OPENBLAS_CORETYPE": processor},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    if report["architecture"].lower() != processor.lower():
        pytest.skip(f"OpenBLAS runs {report['architecture']} kernels here, not those of {processor}")
    assert report["differences"] == []
    if processor == "Haswell":
        assert not report["places_are_equal"]


# Numbers


def test_gelu_is_exact_to_float32(tiny_checkpoint: Path) -> None:
    x = np.concatenate([np.linspace(-12, 12, 200_001), [-1e30, -100, -0.0, 100, 1e30]]).astype(np.float32)[:, None]
    result = x.copy()
    with np.errstate(over="ignore", under="ignore"):
        load(tiny_checkpoint)._double_gelu(result, np.zeros(1, dtype=np.float32))
    wide = x.astype(np.float64)
    exact = wide / 2 * (1 + erf(wide / np.sqrt(2)))
    np.testing.assert_allclose(result / 2, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [30, 300])
def test_sharp_attention(factor: float, make_checkpoint) -> None:
    """Scores of any size neither overflow nor lose digits, measured against float64."""
    import torch
    from transformers import EsmForMaskedLM

    folder = make_checkpoint(1, 48, 4, config={"initializer_range": 0.1})
    model = EsmForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        model.esm.encoder.layer[0].attention.self.query.weight *= factor
    model.save_pretrained(folder)
    models = (copy.deepcopy(model).double(), model)
    output = OutputSpec("residues", 1)
    for sequence in random_sequences([3, 60, 200]):
        tokens = tokenize(sequence)
        with torch.inference_mode():
            exact, single = (
                m.esm(torch.from_numpy(tokens[None].astype(np.int64))).last_hidden_state[0, 1:-1].double().numpy()
                for m in models
            )
        (record,) = load(folder).forward([tokens], [output])
        # A softmax turns the absolute rounding errors of scores, 1 / 2²⁴ of their size, into relative ones of weights:
        # what float32 can do shrinks as scores grow. Seen: 6 times transformers' error at most; torch the same.
        error, transformers_error = (np.abs(x - exact).max() for x in (record[output], single))
        assert error < max(1e-5, 10 * transformers_error)


# Threads


def skesm_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("skesm")]


@pytest.fixture
def three_blas_threads(blas_threads: Callable[[], int]) -> Iterator[None]:
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        if blas_threads() != 3:
            pytest.skip("this BLAS cannot run on three threads")
        yield


@pytest.mark.usefixtures("three_blas_threads")
def test_blas_has_its_threads_back_after_use(tiny_checkpoint: Path, blas_threads: Callable[[], int]) -> None:
    engine = load(tiny_checkpoint)
    with engine.hold(2) as workers:
        assert workers == 2
        assert blas_threads() == 1
        with engine.hold(4):
            assert blas_threads() == 1
        assert blas_threads() == 1
    assert blas_threads() == 3
    with pytest.raises(KeyError), engine.hold(2):
        raise KeyError
    assert blas_threads() == 3


@pytest.mark.usefixtures("three_blas_threads")
def test_the_last_of_overlapping_holders_gives_blas_its_threads_back(
    tiny_checkpoint: Path, blas_threads: Callable[[], int]
) -> None:
    engine = load(tiny_checkpoint)
    second_in, first_out = threading.Event(), threading.Event()

    def second() -> int:
        with engine.hold(1):
            second_in.set()
            assert first_out.wait(10)
            return blas_threads()

    with ThreadPoolExecutor(1) as pool:
        with engine.hold(1):
            other = pool.submit(second)
            assert second_in.wait(10)
        first_out.set()
        assert other.result() == 1
    assert blas_threads() == 3


@pytest.mark.usefixtures("three_blas_threads")
def test_blas_is_held_from_any_thread(tiny_checkpoint: Path, blas_threads: Callable[[], int]) -> None:
    """threadpoolctl 3.8 listens to one thread only: here this one, inside the limits that the fixture set."""

    def use() -> tuple[int, int]:
        with load(tiny_checkpoint).hold(1):
            during = blas_threads()
        return during, blas_threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(use).result() == (1, 3)
        assert use() == (1, 3)
        assert pool.submit(use).result() == (1, 3)


@pytest.mark.usefixtures("three_blas_threads")
def test_an_abandoned_run_leaves_nothing_behind(
    tiny_checkpoint: Path, proteins: list[str], blas_threads: Callable[[], int]
) -> None:
    batches = LocalBackend("numpy", tokens_per_batch=500, num_threads=2).run(tiny_checkpoint, proteins, OUTPUTS)
    first = next(batches)
    assert len(first.indices) < len(proteins)
    assert blas_threads() == 1
    assert skesm_threads()
    batches.close()
    assert blas_threads() == 3
    assert skesm_threads() == []


@pytest.mark.usefixtures("three_blas_threads")
def test_an_interrupted_run_leaves_nothing_behind(
    tiny_checkpoint: Path, proteins: list[str], blas_threads: Callable[[], int]
) -> None:
    batches = LocalBackend("numpy", tokens_per_batch=1, num_threads=2).run(tiny_checkpoint, proteins, OUTPUTS)
    next(batches)
    with pytest.raises(KeyboardInterrupt):
        batches.throw(KeyboardInterrupt())
    assert blas_threads() == 3
    assert skesm_threads() == []


def test_threads_share_an_engine(checkpoint_8m: Path) -> None:
    """Scratch arrays are each thread's own."""
    sequences = random_sequences([20, 150, 7, 300])
    expected = run(checkpoint_8m, sequences)
    with ThreadPoolExecutor(4) as pool:
        runs = pool.map(lambda i: run(checkpoint_8m, [*sequences[i:], *sequences[:i]]), [0, 1, 2, 3] * 3)
        for i, records in zip([0, 1, 2, 3] * 3, runs, strict=True):
            assert same_bits([*expected[i:], *expected[:i]], records)


if __name__ == "__main__":  # in a process with another OPENBLAS_CORETYPE
    folder = Path(sys.argv[1])
    report = {
        "architecture": _openblas_architecture(),
        "places_are_equal": load(folder).places_are_equal,
        "differences": differences(folder, random_sequences(LENGTHS)),
    }
    print(json.dumps(report))


def test_helping_threads_change_no_bit(wide: Path) -> None:
    """One sequence that has the machine for itself, and the same among others, on one thread each."""
    outputs = [
        OutputSpec("residues", 1),
        OutputSpec("logits"),
        OutputSpec("contacts"),
        OutputSpec("attention_heads", 1),
    ]
    engine = load(wide)
    lengths = [1, 20, 130, 250, 700]
    sequences = [tokenize(sequence) for sequence in random_sequences(lengths)]
    with engine.hold(4), ThreadPoolExecutor(4) as helpers:
        for sequence in sequences:
            for wanted in (outputs, outputs[:2]):  # heads whose weights are read are computed in order
                (alone,), (helped,) = engine.forward([sequence], wanted), engine.forward([sequence], wanted, helpers)
                assert all(np.array_equal(alone[output], helped[output]) for output in wanted)


def test_a_sequence_alone_is_helped(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    part = NumpyEngine._double_gelu_part
    note = lambda self, *args: seen.add(threading.current_thread().name) or part(self, *args)  # noqa: E731
    monkeypatch.setattr(NumpyEngine, "_double_gelu_part", note)
    backend, output = LocalBackend(engine="numpy", num_threads=3), [OutputSpec("mean", 1)]
    (sequence,) = random_sequences([300])
    list(backend.run(wide, [sequence], output))  # the engine's trials at first use are over
    seen.clear()
    list(backend.run(wide, [sequence], output))
    assert {name.rpartition("_")[0] for name in seen} == {"skesm-helper"}
    seen.clear()
    assert sum(len(batch.records) for batch in backend.run(wide, random_sequences([300] * 3), output)) == 3
    assert {name.rpartition("_")[0] for name in seen} == {"skesm"}, "as many packs as threads: each has its own"
