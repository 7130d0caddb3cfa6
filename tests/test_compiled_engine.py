"""The compiled engine beside its definition; `test_numpy_engine` holds it to the same bits as the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skesm import ESM2Embedder, compute_outputs
from skesm.backends import LocalBackend
from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.kernels import find_kernels
from skesm.esm2.kernels.compilation import compile_text
from skesm.esm2.kernels.kernels import Kernels, _compile
from skesm.esm2.kernels.shape import choose_shape, has_own_products
from skesm.esm2.machine.threads import has_small_products
from skesm.esm2.numpy_engine.compiled import CompiledEngine
from skesm.esm2.packing import lay_out
from skesm.esm2.plain_attention import rotary_tables
from skesm.esm2.spec import ModelSpec
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import Affine, read_parameters
from skesm.esm2.workspace import Workspace
from skesm.exceptions import BackendError, MissingDependencyError
from skesm.outputs.spec import OutputSpec

OUTPUTS = ("mean@*", "max@1", "cls@-1", "residues@-1", "logits", "logit_means", "contacts", "attention_heads@*")


def spec_of(width: int, n_heads: int, ffn_width: int | None = None) -> ModelSpec:
    return ModelSpec("shape", 1, width, n_heads, ffn_width or 4 * width)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def softmax_attention(products: np.ndarray, bias: np.ndarray, spans: list[slice], n_heads: int) -> np.ndarray:
    """The definition, in float64, one sequence and head at a time; rows of no sequence are NaN."""
    d = products.shape[1] // 3
    h = d // n_heads
    out = np.full((len(products), d), np.nan)
    cos, sin = (parts[1, 0].T.astype(np.float64) for parts in rotary_tables(frequencies(h), [slice(0, 400)], 400))
    for own in spans:
        length = own.stop - own.start
        for head in range(n_heads):
            columns = [slice(part * d + head * h, part * d + (head + 1) * h) for part in range(3)]
            query, key, value = (products[own, c].astype(np.float64) + bias[c] for c in columns)
            turned = []
            for part in (query, key):
                low, high = part[:, : h // 2], part[:, h // 2 :]
                c, s = cos[:length], sin[:length]
                turned.append(np.hstack([low * c - high * s, high * c + low * s]))
            scores = turned[0] @ turned[1].T / np.sqrt(h)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[own, columns[0]] = weights @ value / weights.sum(axis=1, keepdims=True)
    return out


def frequencies(head_width: int) -> np.ndarray:
    return (10000.0 ** -(np.arange(0, head_width, 2) / head_width)).astype(np.float32)


@pytest.mark.parametrize(("n_heads", "head_width"), [(4, 10), (3, 16), (2, 24), (2, 64), (1, 2)])
def test_attention_is_as_defined(n_heads: int, head_width: int) -> None:
    """Widths of heads that are and are not whole vectors; lengths around those of tiles, with rows between them."""
    kernels, d = Kernels(spec_of(n_heads * head_width, n_heads)), n_heads * head_width
    spans = lay_out([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 300], alignment=12)
    products, bias = random(spans[-1].stop, 3 * d), random(3 * d, seed=1)
    out = np.full((len(products), d), np.nan, dtype=np.float32)
    table = Kernels.rotary_table(frequencies(head_width), 300)
    for first in range(n_heads):
        kernels.attend(products, bias, table, spans, slice(first, first + 1), out, Workspace())
    expected = softmax_attention(products, bias, spans, n_heads)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)  # rows of no sequence are not touched
    # and in blocks of channels
    size = kernels.shape.block
    parts = [np.ascontiguousarray(a.reshape(len(a), -1, size).swapaxes(0, 1)) for a in (products, out)]
    parts[1][:] = np.nan
    kernels.attend(parts[0], bias, table, spans, None, parts[1], Workspace())
    np.testing.assert_array_equal(parts[1].swapaxes(0, 1).reshape(out.shape), out)


@pytest.mark.parametrize("width", [10, 40, 320])
def test_rows_are_as_defined(width: int) -> None:
    spec = spec_of(width, 1)
    kernels, x = Kernels(spec), 3 * random(37, width)
    size = kernels.shape.block
    h = random(width // size, 37, size, seed=1)
    affine, out = Affine(random(width, seed=2), random(width, seed=3)), np.empty_like(x)
    kernels.norm(x, affine, out)
    exact = x.astype(np.float64)
    centred = exact - exact.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=1, keepdims=True) + spec.layer_norm_eps)
    np.testing.assert_allclose(out, centred / scale * affine.weight + affine.bias, rtol=0, atol=1e-5)
    in_blocks = np.empty_like(h)
    kernels.norm(x, affine, in_blocks)
    np.testing.assert_array_equal(in_blocks.swapaxes(0, 1).reshape(37, width), out)
    kernels.add(x, h, affine.bias)
    np.testing.assert_array_equal(x, exact.astype(np.float32) + (h.swapaxes(0, 1).reshape(37, width) + affine.bias))


def test_what_is_no_number_stays_so(tiny_checkpoint: Path) -> None:
    kernels = Kernels(spec_of(40, 4))
    x = np.full((2, kernels.shape.ffn_block), np.nan, dtype=np.float32)
    x[1] = 1
    kernels.gelu(x, np.zeros(x.shape[1], dtype=np.float32))
    assert np.isnan(x[0]).all()
    assert not np.isnan(x[1]).any()
    products = random(20, 120)
    products[3] = np.nan
    out = np.zeros((20, 40), dtype=np.float32)
    spans = [slice(0, 8), slice(8, 20)]
    kernels.attend(
        products,
        np.zeros(120, dtype=np.float32),
        Kernels.rotary_table(frequencies(10), 12),
        spans,
        slice(0, 4),
        out,
        Workspace(),
    )
    assert np.isnan(out[:8]).all()
    assert not np.isnan(out[8:]).any()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 40])
def test_broken_weights_of_queries_or_keys_are_seen(broken: float, column: int) -> None:
    """The values are sound then, and their mean would look like a result."""
    products = random(20, 120)
    products[:, column] = broken
    out, spans = np.zeros((20, 40), dtype=np.float32), [slice(0, 8), slice(8, 20)]
    table = Kernels.rotary_table(frequencies(10), 12)
    Kernels(spec_of(40, 4)).attend(products, random(120, seed=1), table, spans, None, out, Workspace())
    assert np.isnan(out[:, :10]).all(), "the head of the column"
    assert np.isfinite(out[:, 10:]).all()


@pytest.mark.parametrize("shape", [(2, 40, 4), (1, 320, 20)])
def test_outputs_agree_with_the_numpy_engine(shape: tuple[int, int, int], make_checkpoint, proteins: list[str]) -> None:
    folder, sequences = make_checkpoint(*shape), [*proteins[:8], "M", "MK"]
    ours, numpys = (
        compute_outputs(sequences, OUTPUTS, folder, backend=LocalBackend(engine)) for engine in ("compiled", "numpy")
    )
    for one, other in zip(ours, numpys, strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=0, atol=1e-5 * max(1, np.abs(value).max()))


def test_weights_change_no_other_output(tiny_checkpoint: Path, proteins: list[str]) -> None:
    backend = LocalBackend("compiled")
    alone = compute_outputs(proteins[:5], ["mean@2"], tiny_checkpoint, backend=backend)
    beside = compute_outputs(proteins[:5], ["mean@2", "contacts", "attentions@1"], tiny_checkpoint, backend=backend)
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one["mean@2"], other["mean@2"])


def test_auto_takes_it_where_llvmlite_is_installed(tiny_checkpoint: Path, proteins: list[str]) -> None:
    by_name = {
        engine: ESM2Embedder(tiny_checkpoint, backend=LocalBackend(engine, device="cpu")).transform(proteins[:5])
        for engine in ("auto", "compiled")
    }
    np.testing.assert_array_equal(by_name["auto"], by_name["compiled"])
    assert LocalBackend("auto").numerics == LocalBackend("numpy").numerics, "records are shared: they agree within 1e-5"


def test_a_processor_that_llvm_does_not_know(
    make_checkpoint, proteins: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(text: str, *, wide: bool) -> None:
        compile_text("no code", wide=wide)  # LLVM's own error

    monkeypatch.setattr("skesm.esm2.kernels.kernels.compile_text", fail)
    _compile.cache_clear()
    folder = make_checkpoint(1, 16, 2)
    with pytest.raises(BackendError, match="engine='numpy'"):
        ESM2Embedder(folder, backend=LocalBackend("compiled")).transform(proteins[:1])
    rows = ESM2Embedder(folder, backend=LocalBackend("auto", device="cpu")).transform(proteins[:1])
    np.testing.assert_array_equal(rows, ESM2Embedder(folder, backend="numpy").transform(proteins[:1]))
    assert "NumPy engine" in caplog.text


def test_an_old_llvmlite_is_not_used(make_checkpoint, proteins: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """numba pins llvmlite: an environment may have one that cannot read the code."""
    folder = make_checkpoint(1, 16, 2, seed=4)
    monkeypatch.setattr("llvmlite.__version__", "0.44.0")
    with pytest.raises(MissingDependencyError, match="llvmlite is too old: pip install 'llvmlite>="):
        ESM2Embedder(folder, backend=LocalBackend("compiled")).transform(proteins[:1])
    assert LocalBackend("auto", device="cpu")._resolve_engine() == ("numpy", "cpu")
    assert find_kernels(spec_of(16, 2)) is None, "torch does without, too"
    monkeypatch.setattr("llvmlite.__version__", "1.0.0rc1")
    assert LocalBackend("auto", device="cpu")._resolve_engine() == ("compiled", "cpu")


@pytest.fixture
def with_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products by NumPy, as on processors other than x86."""
    monkeypatch.setattr("skesm.esm2.kernels.shape.has_own_products", lambda: False)


@pytest.mark.usefixtures("with_blas")
@pytest.mark.parametrize("shape", [(2, 40, 4), (1, 1280, 20)])
def test_outputs_with_products_by_blas(shape: tuple[int, int, int], make_checkpoint, proteins: list[str]) -> None:
    folder = make_checkpoint(*shape, seed=3)  # of its own: engines are kept for the process
    sequences = [*proteins[:5], "M", "MK"]
    backend = LocalBackend("compiled", num_threads=2)
    ours = compute_outputs(sequences, OUTPUTS, folder, backend=backend)
    for one, other in zip(
        ours, compute_outputs(sequences, OUTPUTS, folder, backend=LocalBackend("numpy")), strict=True
    ):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=0, atol=1e-5 * max(1, np.abs(value).max()))
    for sequence, record in zip(sequences, ours, strict=True):
        (alone,) = compute_outputs([sequence], OUTPUTS, folder, backend=backend)  # helped by the other thread
        assert all((alone[name] == value).all() for name, value in record.items()), "company changes no bit"


@pytest.mark.parametrize(
    ("spec", "inputs", "outputs"), [((48, 3), 48, 48), ((40, 4), 160, 40), ((1280, 20), 1280, 640)]
)
def test_products_are_as_defined(
    monkeypatch: pytest.MonkeyPatch, spec: tuple[int, int], inputs: int, outputs: int
) -> None:
    monkeypatch.setattr("skesm.esm2.kernels.shape.has_own_products", lambda: True)  # other processors can do it too
    kernels = Kernels(spec_of(*spec))
    block = kernels.shape.block
    x, weight = random(inputs // block, 24, block), random(outputs, inputs, seed=1)
    out = np.full((24, outputs + 4), np.nan, dtype=np.float32)
    kernels.product(x, weight, out[:, :outputs], Workspace())
    expected = x.swapaxes(0, 1).reshape(24, inputs).astype(np.float64) @ weight.T.astype(np.float64)
    np.testing.assert_allclose(out[:, :outputs], expected, rtol=0, atol=1e-5 * np.sqrt(inputs))
    assert np.isnan(out[:, outputs:]).all(), "nothing beside it is written"


@pytest.mark.parametrize(
    ("width", "n_heads", "ffn_width"), [(320, 20, 1280), (480, 20, 1920), (640, 20, 2560), (192, 12, 768)]
)
def test_published_widths_use_whole_vectors(width: int, n_heads: int, ffn_width: int) -> None:
    shape = choose_shape(spec_of(width, n_heads, ffn_width))
    if not has_own_products():
        assert shape.product_lanes == 0
        return
    assert shape.product_lanes == shape.lanes
    assert width % shape.block == ffn_width % shape.block == shape.block % (2 * shape.product_lanes) == 0


def test_an_odd_width_leaves_products_to_blas() -> None:
    """A feed-forward network that no block of heads divides."""
    shape = choose_shape(spec_of(40, 4, 90))
    assert (shape.product_lanes, shape.block, shape.ffn_block) == (0, 40, 90)


def test_the_bits_are_those_of_other_processors(
    monkeypatch: pytest.MonkeyPatch, make_checkpoint, proteins: list[str]
) -> None:
    """With vectors of either width: what is computed side by side does not meet, and sums have one order."""
    checkpoint, results = locate(make_checkpoint(2, 320, 20)), []
    tokens, outputs = [tokenize(protein) for protein in proteins[:6]], [OutputSpec("residues", 2), OutputSpec("logits")]
    for wide in {False, has_small_products()}:  # the processor may not have the wider ones
        monkeypatch.setattr("skesm.esm2.kernels.shape.has_small_products", lambda wide=wide: wide)
        parameters = read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files))
        engine = CompiledEngine(checkpoint.spec, parameters)
        with engine.hold(1):
            results.append(engine.forward(tokens, outputs))
    if not has_own_products():
        return  # those of BLAS may differ
    for one, other in zip(results[0], results[-1], strict=True):
        for output in outputs:
            np.testing.assert_array_equal(one[output], other[output])


def test_models_of_one_shape_share_the_code() -> None:
    spec = spec_of(40, 4)
    assert Kernels(spec)._functions is Kernels(replace(spec, name="another"))._functions
    assert Kernels(spec)._functions is not Kernels(replace(spec, layer_norm_eps=1e-3))._functions
