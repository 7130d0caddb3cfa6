"""Both ways to compute linear layers: torch's public functions, and oneDNN's layout where it can be had."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.torch_engine import TorchEngine
from skesm.esm2.torch_engine.linear import PackedLinear, PlainLinear, choose_linear, is_usable, packed_pays
from skesm.esm2.torch_engine.trial import choose_exponential, exp2_by_numpy, exp2_by_torch, is_faster
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters
from skesm.outputs.spec import OutputSpec

CPU = torch.device("cpu")
OUTPUTS = [OutputSpec("mean", 2), OutputSpec("residues", 1), OutputSpec("logits"), OutputSpec("contacts")]

needs_packed = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64") or not is_usable(torch.float32),
    reason="this torch lays out no weights on this processor",
)


@pytest.fixture
def without_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a torch that has dropped the operator."""

    def absent(*args: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(PackedLinear, "of", absent)


@pytest.fixture
def layout_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial of speed says so, as it mostly does with AVX-512 and does not without."""
    monkeypatch.setattr("skesm.esm2.torch_engine.linear.packed_pays", lambda: True)


def load(folder: Path, dtype: str = "float32") -> TorchEngine:
    checkpoint = locate(folder)
    return TorchEngine(checkpoint.spec, read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files)), dtype=dtype)


@needs_packed
@pytest.mark.parametrize("pays", [True, False])
def test_packed_layers_are_chosen_on_x86_where_they_pay(pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skesm.esm2.torch_engine.linear.packed_pays", lambda: pays)
    assert choose_linear(CPU, torch.float32) is (PackedLinear if pays else PlainLinear)
    # In bfloat16 no trial of speed is made. Without AVX-512 the layout may not work there at all.
    assert choose_linear(CPU, torch.bfloat16) is (PackedLinear if is_usable(torch.bfloat16) else PlainLinear)


@needs_packed
@pytest.mark.parametrize("wide", [True, False])
def test_the_expected_way_remains_unless_another_is_clearly_faster(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skesm.esm2.torch_engine.linear.has_wide_vectors", lambda: wide)
    for faster in (True, False):
        monkeypatch.setattr("skesm.esm2.torch_engine.linear.is_faster", lambda *ways, faster=faster: faster)
        assert packed_pays.__wrapped__() is (wide != faster)


def test_a_way_is_faster_if_it_takes_less_time() -> None:
    assert is_faster(lambda: None, lambda: time.sleep(0.01))
    assert not is_faster(lambda: time.sleep(0.01), lambda: None)


def test_both_ways_to_the_power_of_two_agree() -> None:
    values = np.linspace(-140, 120, 4001, dtype=np.float32)
    by_numpy, by_torch = values.copy(), values.copy()
    with np.errstate(under="ignore"):
        exp2_by_numpy(by_numpy)
    exp2_by_torch(by_torch)
    np.testing.assert_allclose(by_torch, by_numpy, rtol=3e-7, atol=1e-38)
    assert choose_exponential() in (exp2_by_numpy, exp2_by_torch)


@pytest.mark.usefixtures("without_layout")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_layers_remain_where_torch_has_no_layout(dtype: torch.dtype) -> None:
    assert choose_linear(CPU, dtype) is PlainLinear


def test_plain_layers_are_chosen_on_other_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert choose_linear(CPU, torch.float32) is PlainLinear


@needs_packed
@pytest.mark.usefixtures("layout_pays")
@pytest.mark.parametrize(
    ("name", "other"), [("gelu", PackedLinear.__call__), ("channels", lambda weight, x: (x @ weight.T).T * 1.01)]
)
def test_a_layout_that_computes_something_else_is_not_used(
    name: str, other: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PackedLinear, name, other)
    assert choose_linear(CPU, torch.float32) is PlainLinear


@needs_packed
@pytest.mark.parametrize("rows", [1, 3, 17, 239, 512, 1024])
def test_packed_layers_agree_with_plain_ones(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((rows, 320), (1280, 320), (1280,)))
    weight /= 320**0.5
    packed, plain = PackedLinear.of(weight, bias), PlainLinear.of(weight, bias)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), plain(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(packed.product(x), plain.product(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(packed.gelu(x), plain.gelu(x), rtol=0, atol=1e-5)
        channels = PackedLinear.channels(weight, x)
        torch.testing.assert_close(channels, packed.product(x).T, rtol=0, atol=1e-5)
        torch.testing.assert_close(PlainLinear.channels(weight, x), channels, rtol=0, atol=1e-5)


@needs_packed
@pytest.mark.usefixtures("layout_pays")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_features_do_not_depend_on_the_layout(
    dtype: str, tolerance: float, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [tokenize(s) for s in ("MKTAYIAK", "M", "GAVLIPFMWSTCYNQDEKRH" * 5)]
    packed = load(tiny_checkpoint, dtype).forward(sequences, OUTPUTS)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    plain = load(tiny_checkpoint, dtype).forward(sequences, OUTPUTS)
    for one, other in zip(packed, plain, strict=True):
        for output in OUTPUTS:
            np.testing.assert_allclose(one[output], other[output], rtol=0, atol=tolerance, err_msg=str(output))


@needs_packed
@pytest.mark.usefixtures("layout_pays")
def test_the_layout_is_the_only_copy_that_stays(tiny_checkpoint: Path) -> None:
    """Nothing refers to the checkpoint's map any more, so that the system can drop its pages."""
    checkpoint = locate(tiny_checkpoint)
    weights = WeightsFiles(checkpoint.files)
    (data,) = {id(entry[0]): entry[0] for entry in weights._entries.values()}.values()
    engine = TorchEngine(checkpoint.spec, read_parameters(checkpoint.spec, weights))
    del weights
    gc.collect()
    data.close()  # raises BufferError while an array is a view of the map
    engine.forward([tokenize("MKT")], OUTPUTS)
