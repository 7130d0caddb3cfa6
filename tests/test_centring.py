from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.torch_engine import TorchEngine
from skesm.esm2.torch_engine.centring import CALIBRATION_SEQUENCE
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters
from skesm.outputs.spec import OutputSpec


def test_centring_changes_no_output_but_what_is_rounded(checkpoint_8m: Path, proteins: list[str]) -> None:
    checkpoint = locate(checkpoint_8m)
    parameters = read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files))
    outputs = [*(OutputSpec("residues", layer) for layer in range(7)), OutputSpec("logits")]
    packs = [[tokenize(p)] for p in proteins[:12]]
    engine = TorchEngine(checkpoint.spec, parameters)
    expected = [engine.forward(pack, outputs)[0] for pack in packs]
    before = engine._blocks
    engine._blocks = engine._centred_blocks(parameters.blocks)
    for old, new in zip(before, engine._blocks, strict=True):
        assert new.projection.bias.unflatten(0, (3, -1))[2].count_nonzero() == 0, "of the values"
        assert all(not torch.equal(a.bias, b.bias) for a, b in zip(old[:3], new[:3], strict=True))
        assert all(a.weight is b.weight for a, b in zip(old[:-1], new[:-1], strict=True))
        assert new.layer == old.layer
    for pack, record in zip(packs, expected, strict=True):
        for output, value in engine.forward(pack, outputs)[0].items():
            np.testing.assert_allclose(value, record[output], rtol=0, atol=1e-5 * max(1, np.abs(value).max()))


def test_inputs_of_products_are_centred(checkpoint_8m: Path) -> None:
    """Over the sequence that the constants come from, the means are zero: they were taken at the right places."""
    checkpoint = locate(checkpoint_8m)
    parameters = read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files))
    engine = TorchEngine(checkpoint.spec, parameters, dtype="bfloat16")
    means: list[torch.Tensor] = []
    norm = engine._norm
    engine._norm = lambda x, affine: means.append(norm(x, affine).mean(0)) or norm(x, affine)
    engine.forward([tokenize(CALIBRATION_SEQUENCE)], [OutputSpec("mean", 6)])
    for mean in means[:-1]:  # the last LayerNorm's output is the features, which stay as they are
        assert mean.abs().max() < 1e-2
    assert means[-1].abs().max() > 1e-2
