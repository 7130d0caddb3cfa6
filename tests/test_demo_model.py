"""The bundled checkpoint: small, ordinary, announced, and better than knowing how common each amino acid is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import skesm
from skesm.backends import LocalBackend
from skesm.datasets import load_gb1_stability
from skesm.esm2.spec import REGISTRY, find_registered
from skesm.esm2.weights.config import spec_from_config
from skesm.fetch.records import fetch, keep
from skesm.fetch.request import Request
from skesm.outputs.spec import OutputSpec
from skesm.sequences.alphabet import AMINO_ACIDS

FOLDER = Path(skesm.__file__).parent / "esm2" / "weights" / "skesm-mini"

#: Human ubiquitin, hen egg-white lysozyme, bovine pancreatic trypsin inhibitor, horse cytochrome c (UniProt).
PROTEINS = [
    "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG",
    "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNCAKKIVSDGNGMNAW"
    "VAWRNRCKGTDVQAWIRGCRL",
    "RPDFCLEPPYTGPCKARIIRYFYNAKAGLCQTFVYGGCRAKRNNFKSAEDCMRTCGGA",
    "GDVEKGKKIFVQKCAQCHTVEKGGKHKTGPNLHGLFGRKTGQAPGFTYTDANKNKGITWKEETYLEPKKMQEYLENPKKYIPGTKMIFAGIKKKTEREDLIAYLKKATNE",
]

#: Percent of the residues of UniProtKB/Swiss-Prot, from its release statistics.
FREQUENCIES = dict(
    zip(
        "ARNDCQEGHILKMFPSTWYV",
        (8.25, 5.53, 4.06, 5.46, 1.38, 3.93, 6.71, 7.07, 2.27, 5.91)
        + (9.64, 5.79, 2.41, 3.86, 4.74, 6.65, 5.36, 1.10, 2.92, 6.85),
        strict=True,
    )
)


def test_it_is_small_and_what_the_registry_says() -> None:
    import json

    assert (FOLDER / "model.safetensors").stat().st_size <= 6_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    assert spec_from_config("skesm-mini", config) == find_registered("skesm-mini")
    assert REGISTRY["skesm-mini"].n_parameters == json.loads((FOLDER / "training.json").read_text())["parameters"]


def test_it_is_announced_once() -> None:
    code = """
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from skesm import ESM2Embedder
X = ["MKT", "MKV", "MRV", "MRT"] * 3
cross_val_score(make_pipeline(ESM2Embedder("skesm-mini"), Ridge()), X, range(12), cv=3)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stderr.count("DemoModelWarning: skesm-mini is a small demo model") == 1


def test_transformers_reads_it_and_agrees() -> None:
    import torch
    from transformers import EsmForMaskedLM

    from skesm.esm2.tokenizer import tokenize

    model = EsmForMaskedLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokens = torch.from_numpy(tokenize(PROTEINS[0])[None].astype(np.int64))
    with torch.inference_mode():
        expected = model(tokens, torch.ones_like(tokens), output_hidden_states=True)
    outputs = [OutputSpec("residues", 6), OutputSpec("logits")]
    record = fetch(Request(PROTEINS[:1], outputs), keep, model=LocalBackend().model("skesm-mini")).values[0]
    np.testing.assert_allclose(record[outputs[0]], expected.hidden_states[-1][0, 1:-1], atol=1e-5)
    np.testing.assert_allclose(record[outputs[1]], expected.logits[0, 1:-1, 4:24], atol=2e-5)


@pytest.mark.filterwarnings("ignore::skesm.exceptions.DemoModelWarning")
def test_masked_residues_are_better_predicted_than_by_their_frequency() -> None:
    """Every residue masked once, in proteins that everybody knows."""
    proteins = [*PROTEINS, load_gb1_stability().wild_type]
    masked = [p[:i] + "<mask>" + p[i + 1 :] for p in proteins for i in range(len(p))]
    truth = np.array([AMINO_ACIDS.index(residue) for p in proteins for residue in p])
    places = [i for p in proteins for i in range(len(p))]
    logits = OutputSpec("logits")
    answer = fetch(Request(masked, [logits]), keep, model=LocalBackend().model("skesm-mini"))
    rows = np.stack([record[logits][i] for record, i in zip(answer.values, places, strict=True)])
    rows = rows - rows.max(axis=1, keepdims=True)
    log_probability = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    loss = -log_probability[np.arange(len(truth)), truth].mean()
    frequency = np.array([FREQUENCIES[residue] for residue in AMINO_ACIDS])
    assert loss < -np.log(frequency / frequency.sum())[truth].mean()
