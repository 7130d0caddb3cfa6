from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
import torch

from skesm.backends import LocalBackend
from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.machine.device import resolve_device
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.torch_engine.attention import AttentionOnDevice, attend_by_runs
from skesm.esm2.torch_engine.engine import TorchEngine
from skesm.esm2.torch_engine.linear import PlainLinear
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters
from skesm.exceptions import BackendError, MissingDependencyError
from skesm.outputs.spec import OutputSpec

MEAN = OutputSpec("mean", 2)
OUTPUTS = [MEAN, OutputSpec("max", 1), OutputSpec("cls", 0), OutputSpec("residues", 2), OutputSpec("logits")]


def load(folder: Path, **options: str) -> TorchEngine:
    checkpoint = locate(folder)
    return TorchEngine(checkpoint.spec, read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files)), **options)


def run(backend: LocalBackend, model: Path, sequences: list[str], outputs: list[OutputSpec]) -> list[dict]:
    records = {}
    for batch in backend.run(model, sequences, outputs):
        records.update(zip(batch.indices, batch.records, strict=True))
    return [records[i] for i in range(len(sequences))]


def assert_close(records: list[dict], expected: list[dict], tolerance: float = 1e-5) -> None:
    for record, other in zip(records, expected, strict=True):
        for output, value in other.items():
            scale = max(1, np.abs(value).max())
            np.testing.assert_allclose(record[output], value, rtol=0, atol=tolerance * scale, err_msg=str(output))


# Devices


@pytest.mark.parametrize("name", ["gpu", "CPU", "", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "mps:0", "cpu:0", "xla"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown device"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99", "mps"])
def test_absent_devices_are_refused(name: str) -> None:
    present = torch.cuda.device_count() if name.startswith("cuda") else torch.backends.mps.is_available()
    if present and name != "cuda:99":
        pytest.skip("this machine has the device")
    with pytest.raises(BackendError, match=f"device='{name}'"):
        resolve_device(name)


def test_auto_is_a_gpu_or_the_cpu() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto") == expected


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'torch>=2\.6'"):
        resolve_device("auto")
    with pytest.raises(MissingDependencyError, match=r"pip install 'torch>=2\.6'"):
        list(LocalBackend(engine="torch").run(tiny_checkpoint, ["MKT"], [MEAN]))


def test_a_device_that_cannot_compute_is_a_backend_error(tiny_checkpoint: Path) -> None:
    with pytest.raises(BackendError, match="cannot be used on device 'meta' in float32"):
        load(tiny_checkpoint, device="meta")  # torch's device that has shapes but no memory


# Values


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_what_gpus_do_agrees_with_numpy(
    dtype: str, tolerance: float, checkpoint_8m: Path, proteins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their attention and plain products, on the CPU."""

    def choose(device, dtype, n_heads, inverse_frequencies, *, linear, kernels, put) -> AttentionOnDevice:
        return AttentionOnDevice(inverse_frequencies, attend_by_runs, put)

    monkeypatch.setattr("skesm.esm2.torch_engine.engine.choose_attention", choose)
    monkeypatch.setattr("skesm.esm2.torch_engine.engine.choose_linear", lambda device, dtype: PlainLinear)
    outputs = [*OUTPUTS, OutputSpec("contacts"), OutputSpec("attention_heads", 3)]
    expected = run(LocalBackend(engine="numpy"), checkpoint_8m, proteins[:12], outputs)
    engine = load(checkpoint_8m, dtype=dtype)
    with engine.hold(1):
        records = engine.forward([tokenize(protein) for protein in proteins[:12]], outputs)
    assert_close(records, expected, tolerance)


def test_features_do_not_depend_on_company_order_or_threads(checkpoint_8m: Path, proteins: list[str]) -> None:
    backend = LocalBackend(engine="torch", device="cpu", num_threads=2)
    proteins = proteins[:24]
    expected = run(backend, checkpoint_8m, proteins, OUTPUTS)
    order = np.random.default_rng(1).permutation(len(proteins))
    shuffled = run(backend, checkpoint_8m, [proteins[i] for i in order], OUTPUTS)
    assert_close(shuffled, [expected[i] for i in order])
    one_thread = LocalBackend(engine="torch", device="cpu", num_threads=1, tokens_per_batch=1)
    assert_close(run(one_thread, checkpoint_8m, proteins, OUTPUTS), expected)
    assert_close([run(backend, checkpoint_8m, [p], OUTPUTS)[0] for p in proteins], expected)


def test_threads_share_an_engine(checkpoint_8m: Path, proteins: list[str]) -> None:
    engine = load(checkpoint_8m)
    packs = [[tokenize(p) for p in proteins[begin : begin + 3]] for begin in range(0, 24, 3)]
    with engine.hold(4) as workers, ThreadPoolExecutor(workers) as pool:
        assert workers == 4
        expected = list(ThreadPoolExecutor(1).map(engine.forward, packs, [OUTPUTS] * len(packs)))
        for _ in range(3):
            for records, alone in zip(pool.map(engine.forward, packs, [OUTPUTS] * len(packs)), expected, strict=True):
                assert_close(records, alone)


def _features(dtype: str, model: str | Path, sequences: list[str], output: OutputSpec) -> np.ndarray:
    backend = LocalBackend("torch", "cpu", dtype, num_threads=2)
    return np.stack([record[output] for record in run(backend, model, sequences, [output])])


def _fidelity(exact: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Cosine of each variant's features after subtracting each side's mean variant.

    In a library of variants the signal is what differs; without the subtraction the cosine is 1.0000, whatever happens.
    """
    a, b = (features - features.mean(axis=0) for features in (exact, low))
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(params=["trained", "random", "large constants"])
def weights_of_each_kind(request: pytest.FixtureRequest, make_checkpoint) -> str | Path:
    """A model of six layers: the bundled one, or the 8M shape, with biases like the embeddings or far above them."""
    if request.param == "trained":
        return "skesm-mini"
    return make_checkpoint(6, 320, 20, config={"initializer_range": 0.05 if request.param == "random" else 0.02})


def test_bfloat16_keeps_the_differences_between_variants(
    weights_of_each_kind: str | Path, gfp: tuple[list[str], np.ndarray]
) -> None:
    """Measured: .9996 (.9985), .9999 (.9998), .9995 (.9991), the last .983 (.962) if nothing is centred.

    Activations of four bits fail on all.
    """
    last = OutputSpec("mean", 6)
    exact, low = (_features(d, weights_of_each_kind, gfp[0][:24], last) for d in ("float32", "bfloat16"))
    assert low.dtype == np.float32
    assert not np.array_equal(exact, low)
    cosine = _fidelity(exact, low)
    assert cosine.mean() > 0.999
    assert cosine.min() > 0.99


def test_bfloat16_has_every_output(checkpoint_8m: Path, proteins: list[str]) -> None:
    outputs = [*OUTPUTS, OutputSpec("eos", 6), OutputSpec("residues", 6), OutputSpec("logit_means")]
    expected = run(LocalBackend(engine="numpy"), checkpoint_8m, proteins[:12], outputs)
    records = run(LocalBackend(device="cpu", dtype="bfloat16", num_threads=2), checkpoint_8m, proteins[:12], outputs)
    assert all(value.dtype == np.float32 for record in records for value in record.values())
    assert_close(records, expected, tolerance=3e-2)  # bfloat16 has 8 bits; the errors of 6 blocks add up


def test_rounded_float32_products_are_refused(tiny_checkpoint: Path) -> None:
    """A process may tell torch to compute float32 products in bfloat16: features would be off without a word."""
    a, b = torch.full((256, 256), 1 + 2**-12), torch.ones(256, 256)
    exact = a @ b
    backend = LocalBackend(engine="torch", device="cpu")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        if torch.equal(a @ b, exact):  # this processor computes in float32 all the same, and nothing is refused
            assert next(backend.run(tiny_checkpoint, ["MKT"], [MEAN])).records
        else:
            with pytest.raises(BackendError, match="set_float32_matmul_precision"):
                next(backend.run(tiny_checkpoint, ["MKT"], [MEAN]))
    finally:
        torch.set_float32_matmul_precision(before)
    assert next(backend.run(tiny_checkpoint, ["MKT"], [MEAN])).records


# Weights and threads


def test_float32_weights_of_plain_products_are_the_mapped_file_itself(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    checkpoint = locate(tiny_checkpoint)
    parameters = read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files))
    weight = next(iter(parameters.blocks)).ffn_in.weight
    assert not weight.flags.writeable
    engine = TorchEngine(checkpoint.spec, parameters)
    assert engine._blocks[0].ffn_in.weight.data_ptr() == weight.ctypes.data
    engine.forward([tokenize("MKT")], OUTPUTS)
    # the engine keeps the map alive by itself
    before = engine.forward([tokenize("MKT")], OUTPUTS)
    del parameters, weight
    assert_close(engine.forward([tokenize("MKT")], OUTPUTS), before, 0)


def _in_new_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.fixture
def three_threads():
    """torch on three threads, in this thread and in those to come."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_hold_gives_new_threads_one_and_restores(tiny_checkpoint: Path) -> None:
    engine = load(tiny_checkpoint)
    with engine.hold(2) as workers:
        assert workers == 2
        assert _in_new_thread(torch.get_num_threads) == 1
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == _in_new_thread(torch.get_num_threads) == 3
    with pytest.raises(KeyError), engine.hold(2):
        raise KeyError
    assert torch.get_num_threads() == _in_new_thread(torch.get_num_threads) == 3


def test_attention_on_cpus_gets_one_blas_thread(tiny_checkpoint: Path, blas_threads: Callable[[], int]) -> None:
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        before = blas_threads()  # 3, where this BLAS can
        engine = load(tiny_checkpoint)
        with engine.hold(2):
            assert blas_threads() == 1
        assert blas_threads() == before


@pytest.mark.usefixtures("three_threads")
def test_overlapping_holders_restore_when_the_last_leaves(tiny_checkpoint: Path) -> None:
    engine = load(tiny_checkpoint)
    second_ready, first_in, second_in, first_out = (threading.Event() for _ in range(4))

    def second() -> tuple[int, int]:
        assert torch.get_num_threads() == 3
        second_ready.set()
        assert first_in.wait(10)
        with engine.hold(1):
            second_in.set()
            assert first_out.wait(10)
            during = _in_new_thread(torch.get_num_threads)
        return during, torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        assert second_ready.wait(10)
        with engine.hold(1):
            first_in.set()
            assert second_in.wait(10)
        first_out.set()
        during, after = other.result()
    assert during == 1
    assert after == torch.get_num_threads() == _in_new_thread(torch.get_num_threads) == 3
