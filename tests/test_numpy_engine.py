from __future__ import annotations

import copy
import json
import os
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
from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.numpy_engine.alignment import ALIGNMENTS, LEAST_ROWS, Alignment, is_invariant
from skesm.esm2.numpy_engine.compiled import CompiledEngine
from skesm.esm2.numpy_engine.engine import SPLIT_WIDTH, NumpyEngine
from skesm.esm2.packing import most_together
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters
from skesm.outputs.spec import OutputSpec
from skesm.sequences.alphabet import AMINO_ACIDS

#: Outputs that cost no more than the pass.
CHEAP = [
    OutputSpec("mean", 2),
    OutputSpec("max", 1),
    OutputSpec("cls", 2),
    OutputSpec("residues", 2),
    OutputSpec("logits"),
    OutputSpec("logit_means"),
]
#: And those of attention weights, which grow with the square of a length.
OUTPUTS = [
    *CHEAP,
    OutputSpec("contacts"),
    OutputSpec("attentions", 1),
    OutputSpec("attention_received", 2),
    OutputSpec("attention_heads", 2),
]


@pytest.fixture(scope="module")
def wide(make_checkpoint) -> Path:
    """One layer of the width of the 650M model, whose products are computed in parts."""
    return make_checkpoint(1, SPLIT_WIDTH, 20)


#: NumPy's own, and the one whose element-wise work is compiled: both keep every bit.
ENGINES: dict[str, type[NumpyEngine]] = {"numpy": NumpyEngine, "compiled": CompiledEngine}


def load(folder: Path, engine: str = "numpy") -> NumpyEngine:
    checkpoint = locate(folder)
    return ENGINES[engine](checkpoint.spec, read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files)))


def run(
    model: Path, sequences: list[str], engine: str = "numpy", outputs: list[OutputSpec] = OUTPUTS, **options: int | None
) -> list[dict]:
    records = {}
    for batch in LocalBackend(engine=engine, **options).run(model, sequences, outputs):
        records.update(zip(batch.indices, batch.records, strict=True))
    return [records[i] for i in range(len(sequences))]


def random_sequences(lengths: list[int], seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(AMINO_ACIDS), n)) for n in lengths]


#: Ways to run the same sequences that tell kernels apart. The others tell of threads and batches.
OF_KERNELS = ("shuffled", "with others")


def differences(
    model: Path,
    sequences: list[str],
    seed: int = 0,
    engine: str = "numpy",
    outputs: list[OutputSpec] = OUTPUTS,
    only: tuple[str, ...] = (),
) -> list[str]:
    """Ways to run the same sequences that change a bit of a feature; should be none."""
    expected = run(model, sequences, engine, outputs, num_threads=1)
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
    for name, (indices, variant, options) in ways.items():
        if only and name not in only:
            continue
        if not same_bits([expected[i] for i in indices], run(model, variant, engine, outputs, **options)):
            changed.append(f"{engine}, {name}")
    if not same_bits(expected, [run(model, [sequence], engine, outputs, num_threads=1)[0] for sequence in sequences]):
        changed.append(f"{engine}, one by one")
    return changed


def all_sizes_are_invariant(folder: Path) -> bool:
    """Whether the bits are the same in packs of any size: of every one with the bundled model, of some with this."""
    engines = [(load(folder), 7), (load(locate("skesm-mini").files[0].parent), 1)]
    with engines[0][0].hold(1):
        return all(
            engine.alignment is None
            or is_invariant(
                engine.alignment, engine._products_of_equal_rows, range(LEAST_ROWS, 1025, step * engine.alignment.rows)
            )
            for engine, step in engines
        )


def same_bits(expected: list[dict], records: list[dict]) -> bool:
    """`records` may go on: they are the company."""
    return all(
        value.tobytes() == record[output].tobytes()
        for one, record in zip(expected, records, strict=False)
        for output, value in one.items()
    )


# Lengths around those where the engine changes its ways, and a step that visits every residue class of tile sizes
LENGTHS = [1, 2, 3, 5, 10, 11, 13, 14, 15, 16, 40, 45, 46, 47, 125, 126, 127, 255, 300, 511, 700, 1022, 1023]

# With other kernels: whole packs of sequences, and one that is longer. Their products have no further kinds of shapes
SHORT = [n for n in LENGTHS if n <= 300] + [511]


@pytest.fixture(scope="module")
def shallow_8m(make_checkpoint) -> Path:
    """Products of the 8M model's shapes in two blocks instead of six."""
    return make_checkpoint(2, 320, 20, seed=1)


@pytest.mark.parametrize(("seed", "engine"), [(0, "numpy"), (2, "compiled")])
def test_features_do_not_move_by_a_bit(seed: int, engine: str, shallow_8m: Path) -> None:
    lengths = [*LENGTHS, *range(1 + seed, 301, 23)]
    assert differences(shallow_8m, random_sequences(lengths, seed), seed, engine, CHEAP) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_do_not_move_by_a_bit(engine: str, shallow_8m: Path) -> None:
    """With outputs of attention, in sequences on both sides of a tile, and in one that is many tiles long."""
    lengths = [1, 3, 13, 14, 15, 45, 46, 47, 125, 126, 700]
    assert differences(shallow_8m, random_sequences(lengths), 0, engine) == []


@pytest.mark.parametrize("width", [320, SPLIT_WIDTH])
def test_packs_are_shared_evenly_up_to_the_most(width: int, make_checkpoint) -> None:
    engine, most = load(make_checkpoint(1, width, 20)), most_together(width)
    assert engine.alignment is not None
    pad = engine.alignment.starts
    packs = engine.plan([20] * 1000, 2)
    assert sorted(i for pack in packs for i in pack) == list(range(1000))
    assert max(len(pack) for pack in packs) <= most // 20
    assert len(packs) % 2 == 0 or pad > 1  # several paddings add up to a pack
    assert len(engine.plan([most + 1, most + 1], 2)) == 2
    assert len(engine.plan([100, 100], 2)) == 2, "both workers have something to do"
    assert len(engine.plan([5, 5], 2)) == 1, "too little for two"
    assert all(own.start % pad == 0 for own in engine._layout([20] * 30)[0])


@pytest.mark.parametrize("alignment", [None, *ALIGNMENTS[-2:], Alignment(12, 12, turned=True)])
def test_any_layout_gives_the_same_numbers(
    alignment: Alignment | None, shallow_8m: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = random_sequences(SHORT)
    expected = run(shallow_8m, sequences)
    monkeypatch.setattr("skesm.esm2.numpy_engine.engine.find_alignment", lambda *args: alignment)
    engine = load(shallow_8m)
    tokens = [tokenize(sequence) for sequence in sequences]
    with engine.hold(1):
        packs = engine.plan([len(t) for t in tokens], 1)
        assert (max(map(len, packs)) == 1) == (alignment is None)
        for pack in packs:
            records = engine.forward([tokens[i] for i in pack], OUTPUTS)
            for i, record in zip(pack, records, strict=True):
                for output in OUTPUTS:
                    atol = 2e-6 * max(1, np.abs(expected[i][output]).max())
                    np.testing.assert_allclose(record[output], expected[i][output], rtol=0, atol=atol)


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


def _kernels() -> list[str]:
    """OpenBLAS's kernels, by the oldest processor that runs them, of which this one has the instructions."""
    from numpy._core._multiarray_umath import __cpu_features__ as has  # NumPy tells nobody else

    needs = {"Nehalem": "SSE42", "Sandybridge": "AVX", "Haswell": "AVX2", "SkylakeX": "AVX512_SKX"}
    usable = [kernel for kernel, feature in needs.items() if has.get(feature)]
    return ["", *usable[:-1]]  # the last ones are those that it chooses itself


@pytest.mark.parametrize("kernel", _kernels())
def test_features_do_not_move_on_other_processors(kernel: str, shallow_8m: Path) -> None:
    """OpenBLAS has kernels for each kind of processor; its Haswell ones treat a row by its place.

    The first are those that it chooses itself. Another BLAS ignores the wish for others.
    """
    answer = subprocess.run(
        [sys.executable, "-W", "error", __file__, os.fspath(shallow_8m)],
        env={**os.environ, **({"OPENBLAS_CORETYPE": kernel} if kernel else {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    assert report["differences"] == []
    assert report["all_sizes"], "the trial tries some sizes of packs; the others give the same bits"
    if report["architecture"] == "Haswell":
        assert report["alignment"] == [12, 12, True]
    elif report["architecture"] == "SkylakeX":
        assert report["alignment"] == [1, 16, False]


# Numbers


@pytest.mark.parametrize("engine", ENGINES)
def test_gelu_is_exact_to_float32(engine: str, tiny_checkpoint: Path) -> None:
    x = np.concatenate([np.linspace(-12, 12, 200_075), [-1e30, -100, -0.0, 100, 1e30]]).astype(np.float32)
    x = x.reshape(-1, 40)
    result = x.copy()
    with np.errstate(over="ignore", under="ignore"):
        load(tiny_checkpoint, engine)._head_gelu(result, np.zeros(40, dtype=np.float32))
    wide = x.astype(np.float64)
    exact = wide / 2 * (1 + erf(wide / np.sqrt(2)))
    np.testing.assert_allclose(result, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [30, 300])
@pytest.mark.parametrize("engine", ENGINES)
def test_sharp_attention(engine: str, factor: float, make_checkpoint) -> None:
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
        (record,) = load(folder, engine).forward([tokens], [output])
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
        "alignment": load(folder).alignment,
        "all_sizes": all_sizes_are_invariant(folder),
        "differences": differences(folder, random_sequences(SHORT), outputs=CHEAP, only=OF_KERNELS),
    }
    print(json.dumps(report))


@pytest.mark.parametrize("engine", ENGINES)
def test_helping_threads_change_no_bit(engine: str, wide: Path) -> None:
    """One sequence that has the machine for itself, and the same among others, on one thread each."""
    outputs = [
        OutputSpec("residues", 1),
        OutputSpec("logits"),
        OutputSpec("contacts"),
        OutputSpec("attention_heads", 1),
    ]
    chosen = load(wide, engine)
    lengths = [1, 20, 130, 250, 700]
    sequences = [tokenize(sequence) for sequence in random_sequences(lengths)]
    with chosen.hold(4), ThreadPoolExecutor(4) as helpers:
        for sequence in sequences:
            for wanted in (outputs, outputs[:2]):  # heads whose weights are read are computed in order
                (alone,), (helped,) = chosen.forward([sequence], wanted), chosen.forward([sequence], wanted, helpers)
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
