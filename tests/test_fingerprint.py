"""What the record store calls a checkpoint: no record answers that was computed with other rotary frequencies."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from skesm import ESM2Embedder
from skesm.backends import LocalBackend
from skesm.cache import RecordStore, remember_model, resolve_location
from skesm.esm2.checkpoints.checkpoint import CONFIG, SINGLE
from skesm.exceptions import CheckpointNotFoundError
from skesm.outputs.spec import Namespace, OutputSpec

Tensors = dict[str, np.ndarray]

ROTARY = "attention.self.rotary_embeddings.inv_freq"
MEAN = OutputSpec("mean", 2)
FREQUENCIES = np.array([1, 0.046, 0.0021], np.float16)
SMALL = {
    **{"model_type": "esm", "position_embedding_type": "rotary", "vocab_size": 33, "mask_token_id": 32},
    **{"num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 24},
    **{"token_dropout": True, "layer_norm_eps": 1e-5},
}


def small_checkpoint(folder: Path, frequencies: Tensors, **config: Any) -> Path:
    """The same bytes on every machine, so that fingerprints can be written down."""
    d, f = SMALL["hidden_size"], SMALL["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"esm.embeddings.word_embeddings.weight": (33, d)}
    norms = ["esm.encoder.emb_layer_norm_after"]
    for i in range(2):
        layer = f"esm.encoder.layer.{i}."
        norms += [f"{layer}attention.LayerNorm", f"{layer}LayerNorm"]
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= {f"{layer}attention.{part}.weight": (d, d), f"{layer}attention.{part}.bias": (d,)}
        shapes |= {f"{layer}intermediate.dense.weight": (f, d), f"{layer}intermediate.dense.bias": (f,)}
        shapes |= {f"{layer}output.dense.weight": (d, f), f"{layer}output.dense.bias": (d,)}
    shapes |= {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}
    tensors = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        counted = (np.arange(np.prod(shape)) * 7919 + i * 104729) % 997 - 498
        tensors[name] = (counted / 512).astype(np.float32).reshape(shape)
    folder.mkdir()
    save_file({**tensors, **frequencies}, folder / SINGLE)
    (folder / CONFIG).write_text(json.dumps({**SMALL, **config}))
    return folder


EACH = {f"esm.encoder.layer.{i}.{ROTARY}": FREQUENCIES for i in range(2)}
STAR = {f"esm.encoder.layer.*.{ROTARY}": FREQUENCIES}
DIFFERENT = {f"esm.encoder.layer.{i}.{ROTARY}": FREQUENCIES * np.float16(1 + i) for i in range(2)}


@pytest.mark.parametrize(
    ("frequencies", "config", "before", "kept"),
    [
        ({}, {}, "e7ddaf8c9a04d421ebdf608f1cfb9ae1", True),
        (EACH, {}, "144d1d33ac02a27c34be6af78375523f", True),
        ({"esm.rotary_embeddings.inv_freq": FREQUENCIES}, {}, "899a7749c03a65df88a9002aa5fc6cbf", True),
        (STAR, {}, "a7229e7d1eee4565a250e665f412f768", False),
        (DIFFERENT, {}, "c7de60e2ad29d09a5cf72edaeb86b79d", False),
        ({}, {"rope_theta": 500.0}, "e7ddaf8c9a04d421ebdf608f1cfb9ae1", False),
    ],
    ids=["none", "of each layer", "of all", "with a star", "of each layer, different", "rope_theta"],
)
def test_records_of_the_first_version_answer_only_if_they_are_right(
    frequencies: Tensors, config: dict[str, Any], before: str, kept: bool, tmp_path: Path
) -> None:
    """`before` is the fingerprint that the first version of skesm gave; its records are marked here by a value."""
    folder, memory = small_checkpoint(tmp_path / "model", frequencies, **config), tmp_path / "memory"
    assert (LocalBackend().namespace(folder).fingerprint == before) == kept
    with RecordStore(resolve_location(memory), Namespace(str(folder), before, "fp32")) as store:
        store.put(["MKTAYIAK"], [{MEAN: np.full(12, 77, np.float32)}])
    (row,) = ESM2Embedder(str(folder), backend="numpy", memory=memory).transform(["MKTAYIAK"])
    assert (row == 77).all() == kept


def test_the_fingerprint_of_the_bundled_model_stays() -> None:
    assert LocalBackend().namespace("skesm-mini").fingerprint == "7b56399358987b47f68f72ba4c238c47"


def test_records_of_a_folder_that_is_gone_answer_only_for_a_version_that_knew_its_frequencies(tmp_path: Path) -> None:
    folder, memory = small_checkpoint(tmp_path / "model", STAR), tmp_path / "memory"
    embedder = ESM2Embedder(str(folder), backend="numpy", memory=memory, layers=2)
    (row,) = embedder.transform(["MKTAYIAK"])
    (folder / SINGLE).unlink()
    np.testing.assert_array_equal(embedder.transform(["MKTAYIAK"]), [row])
    # the first version noted no rope_theta
    details = {"name": str(folder), "n_layers": 2, "width": 12}
    fingerprint = "a7229e7d1eee4565a250e665f412f768"
    namespace, location = Namespace(str(folder), fingerprint, "fp32"), resolve_location(memory)
    remember_model(location, os.path.abspath(folder), namespace, details)
    with RecordStore(location, namespace) as store:
        store.put(["MKTAYIAK"], [{MEAN: np.full(12, 77, np.float32)}])
    with pytest.raises(CheckpointNotFoundError):
        embedder.transform(["MKTAYIAK"])
