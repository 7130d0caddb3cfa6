"""Checkpoints of the real architecture with random weights, made by transformers, and real sequences."""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from skesm.backends import Batch, LocalBackend
from skesm.exceptions import BackendError, PartialResultError
from skesm.outputs.spec import OutputSpec

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Folder of a random ESM-2 checkpoint: ``make_checkpoint(n_layers, width, n_heads, seed=0, **save_options)``.

    ``config`` holds further fields of the configuration; ``head=False`` saves it without the language-model head.
    """

    def make(
        n_layers: int = 2,
        width: int = 40,
        n_heads: int = 4,
        *,
        seed: int = 0,
        dtype: str = "float32",
        head: bool = True,
        config: Mapping[str, object] = MappingProxyType({}),
        **options: object,
    ) -> Path:
        import torch
        from transformers import EsmConfig, EsmForMaskedLM

        from skesm.esm2.tokenizer import VOCABULARY

        torch.manual_seed(seed)
        fields = {
            "vocab_size": len(VOCABULARY),
            "mask_token_id": VOCABULARY.index("<mask>"),
            "pad_token_id": VOCABULARY.index("<pad>"),
            "vocab_list": list(VOCABULARY),
            "hidden_size": width,
            "num_hidden_layers": n_layers,
            "num_attention_heads": n_heads,
            "intermediate_size": 4 * width,
            "max_position_embeddings": 1026,
            "position_embedding_type": "rotary",
            "emb_layer_norm_before": False,
            "token_dropout": True,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        model = EsmForMaskedLM(EsmConfig(**{**fields, **config})).eval()
        with (
            torch.no_grad()
        ):  # transformers starts biases at 0 and LayerNorms at 1: an engine that forgets them would pass
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
        folder = tmp_path_factory.mktemp("checkpoint")
        model = model.to(getattr(torch, dtype))
        (model if head else model.esm).save_pretrained(folder, **options)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """2 layers, 40 channels, 4 heads: fast."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def checkpoint_8m(make_checkpoint: MakeCheckpoint) -> Path:
    """The shape of esm2_t6_8M_UR50D: 6 layers, 320 channels, 20 heads."""
    return make_checkpoint(6, 320, 20)


@pytest.fixture(scope="session")
def without_contact_head(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Copy of a checkpoint's folder as some are saved: without the contact head."""

    def copy(folder: Path) -> Path:
        from safetensors.torch import load_file, save_file

        stripped = tmp_path_factory.mktemp("without_contact_head")
        (stripped / "config.json").write_bytes((folder / "config.json").read_bytes())
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if "contact_head" not in name}
        assert len(kept) == len(tensors) - 2
        save_file(kept, stripped / "model.safetensors", metadata={"format": "pt"})
        return stripped

    return copy


@pytest.fixture(scope="session")
def proteins() -> list[str]:
    """60 seeded random sequences of 1 to 400 residues."""
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("LAGVSERTIDPKQNFYMHWC"), rng.integers(1, 401))) for _ in range(60)]


class RefusingBackend(LocalBackend):
    """Fails on what holds a tryptophan, after it has computed all others."""

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        good = [i for i, sequence in enumerate(sequences) if "W" not in sequence]
        for batch in super().run(model, [sequences[i] for i in good], outputs, n_jobs=n_jobs):
            yield Batch([good[i] for i in batch.indices], batch.records)
        bad = set(range(len(sequences))) - set(good)
        if bad:
            raise PartialResultError("some failed", {i: BackendError("refused") for i in sorted(bad)})


@pytest.fixture
def refusing() -> LocalBackend:
    """A backend that fails on what holds a tryptophan."""
    return RefusingBackend()


@pytest.fixture(scope="session")
def gfp() -> tuple[list[str], np.ndarray]:
    """The first 200 GFP variants of TAPE's validation split: (sequences, log fluorescence)."""
    with (SHARED / "fluorescence.valid.csv").open(newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(200), strict=False)]
    return [row["seq"] for row in rows], np.array([float(row["label"]) for row in rows])


@pytest.fixture
def blas_threads() -> Callable[[], int]:
    """Gives the most threads that any BLAS of this process may use at the moment."""

    def most() -> int:
        return max((i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"), default=1)

    return most
