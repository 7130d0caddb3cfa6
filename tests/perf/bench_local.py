"""Residues a second of the local engines, beside transformers and fair-esm, on the same sequences in turn.

    python tests/perf/bench_local.py [--model esm2_t6_8M_UR50D] [--json results.json]

Random weights of the published shape; mean pooling of the last layer. Peers run as their users run them: batches of 8
padded sequences, sorted by length, without the language-model head. Prints medians, ratios and the largest difference
of a feature from transformers'.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import medians, mixed_lengths, random_checkpoint, random_sequences, write_results

from skesm import ESM2Embedder
from skesm.backends import LocalBackend
from skesm.esm2.spec import REGISTRY
from skesm.esm2.tokenizer import PAD, tokenize

PEER_BATCH = 8

Features = Callable[[list[str]], np.ndarray]


def padded_mean(forward: Callable[..., object]) -> Features:
    """A peer's features: `forward` maps padded (ids, mask) to representations."""
    import torch

    def run(sequences: list[str]) -> np.ndarray:
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        rows: dict[int, np.ndarray] = {}
        for start in range(0, len(order), PEER_BATCH):
            chosen = order[start : start + PEER_BATCH]
            tokens = [torch.from_numpy(tokenize(sequences[i]).astype(np.int64)) for i in chosen]
            ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD)
            with torch.inference_mode():
                hidden = forward(ids, (ids != PAD).long())
            for i, row in zip(chosen, hidden, strict=True):
                rows[i] = row[1 : len(sequences[i]) + 1].float().mean(0).numpy()
        return np.stack([rows[i] for i in range(len(sequences))])

    return run


def transformers_features(folder: Path, attention: str) -> Features:
    from transformers import EsmModel

    model = EsmModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation=attention).eval()
    return padded_mean(lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state)


def fair_esm_features(model: str) -> Features:
    import esm
    from esm.model.esm2 import ESM2

    spec = REGISTRY[model]
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    peer = ESM2(spec.n_layers, spec.width, spec.n_heads, alphabet, token_dropout=True).eval()  # speed only: own weights
    return padded_mean(lambda ids, mask: peer(ids, repr_layers=[spec.n_layers])["representations"][spec.n_layers])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="esm2_t6_8M_UR50D", choices=sorted(REGISTRY))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the default number of sequences")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    sets = {
        "equal 237": random_sequences([237] * round(64 * args.scale)),
        "mixed": random_sequences(mixed_lengths(round(96 * args.scale))),
        "peptides": random_sequences(np.random.default_rng(0).integers(5, 51, round(600 * args.scale))),
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder), args.model)

        def ours(**options: object) -> Features:
            backend = LocalBackend(num_threads=args.threads, **options)
            return ESM2Embedder(checkpoint, backend=backend).transform

        engines: dict[str, Features] = {
            "skesm numpy": ours(engine="numpy"),
            "skesm torch": ours(engine="torch", device="cpu"),
            "skesm torch bf16": ours(engine="torch", device="cpu", dtype="bfloat16"),
            "transformers eager": transformers_features(checkpoint, "eager"),
            "transformers sdpa": transformers_features(checkpoint, "sdpa"),
            "fair-esm": fair_esm_features(args.model),
        }
        results: dict[str, object] = {"model": args.model, "threads": args.threads}
        for name, sequences in sets.items():
            reference = engines["transformers sdpa"](sequences)
            seconds = medians({e: lambda f=f, s=sequences: f(s) for e, f in engines.items()}, rounds=args.rounds)
            residues = sum(map(len, sequences))
            base = seconds["transformers sdpa"]
            results[name] = {
                engine: {
                    "residues_per_s": round(residues / value),
                    "times_transformers_sdpa": round(base / value, 2),
                    **(
                        {"max_difference": float(f"{np.abs(engines[engine](sequences) - reference).max():.1e}")}
                        if engine.startswith("skesm")
                        else {}
                    ),
                }
                for engine, value in seconds.items()
            }
        write_results(args.json, results)


if __name__ == "__main__":
    main()
