"""The torch engine on a GPU. Run it there with `pytest -m gpu`; elsewhere it is not selected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from skesm import ESM2Embedder, compute_outputs
from skesm.backends import LocalBackend
from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.torch_engine import TorchEngine
from skesm.esm2.torch_engine.attention import AttentionOnDevice, attend_by_runs, attend_packed, choose_attention
from skesm.esm2.torch_engine.linear import PlainLinear
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters
from skesm.outputs.spec import OutputSpec

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")
pytestmark = pytest.mark.gpu

#: Every kind of output that an engine computes.
OUTPUTS = (
    *("mean@*", "max@1", "cls@0", "eos@-1", "residues@-1", "logits", "logit_means"),
    *("contacts", "attentions@1", "attention_received@-1", "attention_heads@*"),
)
DEVICES = [pytest.param("cuda", marks=needs_cuda), pytest.param("mps", marks=needs_mps)]
#: Largest difference from the NumPy engine, of the output's largest value.
TOLERANCES = [("float32", 1e-5), ("bfloat16", 5e-2)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_every_output_agrees_with_the_cpu(
    device: str, dtype: str, tolerance: float, checkpoint_8m: Path, proteins: list[str]
) -> None:
    sequences = [*proteins, "M", "MK"]
    expected = compute_outputs(sequences, OUTPUTS, checkpoint_8m, backend="numpy")
    records = compute_outputs(sequences, OUTPUTS, checkpoint_8m, backend=LocalBackend(device=device, dtype=dtype))
    for record, other in zip(records, expected, strict=True):
        for name, value in other.items():
            scale = max(1, np.abs(value).max())
            np.testing.assert_allclose(record[name], value, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_company_changes_features_by_rounding_only(
    device: str, dtype: str, tolerance: float, checkpoint_8m: Path, proteins: list[str]
) -> None:
    embedder = ESM2Embedder(checkpoint_8m, backend=LocalBackend(device=device, dtype=dtype))
    together = embedder.transform(proteins)
    alone = np.vstack([embedder.transform([protein]) for protein in proteins[:8]])
    np.testing.assert_allclose(alone, together[:8], rtol=0, atol=tolerance * max(1, np.abs(together).max()))


@needs_cuda
def test_too_little_memory_makes_packs_smaller(checkpoint_8m: Path) -> None:
    checkpoint = locate(checkpoint_8m)
    parameters = read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files))
    engine, output = TorchEngine(checkpoint.spec, parameters, device="cuda"), OutputSpec("mean", 6)
    pack = [tokenize("MKTAYIAKQR" * 23)] * 64
    with engine.hold(1):
        expected = engine.forward(pack, [output])
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 100e6) / total)
        try:
            records = engine.forward(pack, [output])
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine._limit.tokens is not None, "the pack did not fit"
    for record, other in zip(records, expected, strict=True):
        np.testing.assert_allclose(record[output], other[output], rtol=0, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("width", [16, 24, 32, 64])
def test_all_sequences_of_a_pack_are_one_call(width: int) -> None:
    device, frequencies = torch.device("cuda"), torch.ones(width // 2).cuda()
    for dtype, expected in ((torch.bfloat16, attend_packed), (torch.float32, attend_by_runs)):
        attention = choose_attention(
            device, dtype, 4, frequencies, linear=PlainLinear, kernels=None, put=torch.from_numpy
        )
        assert isinstance(attention, AttentionOnDevice)
        assert attention._attend is expected
