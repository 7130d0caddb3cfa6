"""What the performance scripts share: random checkpoints of published shapes, sequences, medians, results as JSON."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"


def random_checkpoint(folder: Path, model: str) -> Path:
    """Folder of a checkpoint of a registry model's shape with random weights, made once."""
    import torch
    from transformers import EsmConfig, EsmForMaskedLM

    from skesm.esm2.spec import REGISTRY
    from skesm.esm2.tokenizer import VOCABULARY

    spec = REGISTRY[model]
    target = folder / model
    if not (target / "config.json").exists():
        torch.manual_seed(0)
        config = EsmConfig(
            vocab_size=len(VOCABULARY),
            mask_token_id=VOCABULARY.index("<mask>"),
            pad_token_id=VOCABULARY.index("<pad>"),
            hidden_size=spec.width,
            num_hidden_layers=spec.n_layers,
            num_attention_heads=spec.n_heads,
            intermediate_size=spec.ffn_width,
            max_position_embeddings=1026,
            position_embedding_type="rotary",
            emb_layer_norm_before=False,
            token_dropout=True,
            layer_norm_eps=1e-5,
        )
        EsmForMaskedLM(config).save_pretrained(target)
    return target


def random_sequences(lengths: Any, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(AMINO_ACIDS), length)) for length in lengths]


def mixed_lengths(n: int, seed: int = 0) -> list[int]:
    """Log-normal like the lengths of proteins: median 200, from 20 to 1,000."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.lognormal(np.log(200), 0.7, n), 20, 1000).astype(int).tolist()


def medians(competitors: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each competitor; they take turns, so that a slow minute of the machine hits all."""
    times: dict[str, list[float]] = {name: [] for name in competitors}
    for run in competitors.values():
        run()  # warm-up
    for _ in range(rounds):
        for name, run in competitors.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def write_results(path: Path | None, results: Mapping[str, Any]) -> None:
    """Print, and write as JSON with what is known of the machine."""
    import os

    content = {
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **results,
    }
    text = json.dumps(content, indent=1)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
