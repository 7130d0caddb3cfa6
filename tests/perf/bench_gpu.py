"""What a GPU does, in ten minutes: are its numbers right, how fast is it, and what happens when memory runs out.

    python tests/perf/bench_gpu.py --json gpu.json             # one CUDA device, 650M and 3B
    python tests/perf/bench_gpu.py --device cpu --quick        # a tiny model, to see that the script works

Parity: every output in float32 and bfloat16 beside the NumPy engine, as the largest difference over the output's
largest value. Company: the same sequences alone and together. Throughput: residues a second on equal and mixed lengths
beside transformers' `sdpa` (and `flash_attention_2` where flash-attn is installed) in padded batches sorted by length,
of the size that is fastest for it, and, in bfloat16, beside NVIDIA's layers on sequences laid end to end where
transformer-engine is installed. Attention by torch's `varlen` is our own where it works: the result says so.
Memory: at most allocated on the device. Exhaustion: a run in too little memory.
All weights are random. Parts that do not fit into `--minutes` are left out and named.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from common import medians, mixed_lengths, random_checkpoint, random_sequences, write_results

from skesm import ESM2Embedder, compute_outputs
from skesm.backends import LocalBackend
from skesm.backends import local as loaded
from skesm.esm2.checkpoints.checkpoint import locate

OUTPUTS = (
    "mean@*",
    "max@-1",
    "cls@1",
    "eos@-1",
    "residues@-1",
    "logits",
    "logit_means",
    "contacts",
    "attention_heads@1",
)
DTYPES = ("float32", "bfloat16")
BATCHES = (8, 32, 128)
#: Sequences of each set, by model; less than a quarter of the table's minutes each on an H100.
COUNTS = {"esm2_t33_650M_UR50D": 1024, "esm2_t36_3B_UR50D": 256}
QUICK_MODEL, QUICK_COUNT = "skesm-mini", 8


def embedder(checkpoint: Path, device: str, dtype: str) -> ESM2Embedder:
    return ESM2Embedder(checkpoint, backend=LocalBackend("torch", device=device, dtype=dtype))


def parity(checkpoint: Path, device: str) -> dict[str, dict[str, float]]:
    """Largest difference from the NumPy engine over the largest value, by dtype and output."""
    sequences = random_sequences([1, 2, 30, 30, 120, 237, 400])
    expected = compute_outputs(sequences, OUTPUTS, checkpoint, backend=LocalBackend("numpy"))
    found: dict[str, dict[str, float]] = {}
    for dtype in DTYPES:
        backend = LocalBackend("torch", device=device, dtype=dtype)
        worst: dict[str, float] = {}
        for record, other in zip(
            compute_outputs(sequences, OUTPUTS, checkpoint, backend=backend), expected, strict=True
        ):
            for name, value in other.items():
                difference = float(np.abs(record[name] - value).max() / max(1, np.abs(value).max()))
                worst[name] = max(worst.get(name, 0.0), difference)
        found[dtype] = {name: float(f"{value:.1e}") for name, value in worst.items()}
    return found


def company(checkpoint: Path, device: str) -> dict[str, float]:
    """Largest difference of a feature, over the largest value, between a sequence alone and among others."""
    sequences = random_sequences([5, 50, 237, 237, 500])
    found = {}
    for dtype in DTYPES:
        model = embedder(checkpoint, device, dtype)
        together = model.transform([*sequences, *random_sequences(mixed_lengths(40), seed=1)])[: len(sequences)]
        alone = np.vstack([model.transform([sequence]) for sequence in sequences])
        found[dtype] = float(f"{np.abs(together - alone).max() / max(1, np.abs(alone).max()):.1e}")
    return found


def transformers(checkpoint: Path, device: str, dtype: str, attention: str, size: int) -> peers.Features:
    from transformers import EsmModel

    model = EsmModel.from_pretrained(
        checkpoint, add_pooling_layer=False, attn_implementation=attention, dtype=getattr(torch, dtype)
    )
    model = model.eval().to(device)

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state.cpu()

    return peers.padded_mean(forward, size=size)


def peak(device: str, run: Callable[[], object]) -> float:
    """Megabytes: allocated on the device by a run, at most; on the CPU of the process so far."""
    if device == "cpu":
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 1e6


def throughput(
    model: str, checkpoint: Path, device: str, count: int, rounds: int, left: Callable[[], float]
) -> dict[str, Any]:
    """Residues a second of ours and of transformers in its best batch, for each dtype and set of lengths."""
    sets = {"equal": random_sequences([237] * count), "mixed": random_sequences(mixed_lengths(count))}
    kinds = ["sdpa", *(["flash_attention_2"] if find_spec("flash_attn") and device != "cpu" else [])]
    results: dict[str, Any] = {"failures": (failures := {})}
    for dtype in DTYPES:
        for name, sequences in sets.items():
            if left() < 0:
                results[f"{dtype}, {name}"] = "no time left"
                continue
            residues = sum(map(len, sequences))
            ours = embedder(checkpoint, device, dtype)
            megabytes = peak(device, lambda ours=ours, some=sequences: ours.transform(some))
            found = {"skesm": residues / medians({"": lambda o=ours, s=sequences: o.transform(s)}, rounds)[""]}
            for kind in kinds if dtype == "bfloat16" else ["sdpa"]:
                for size in BATCHES:
                    try:
                        theirs = transformers(checkpoint, device, dtype, kind, size)
                        seconds = medians({"": lambda t=theirs, s=sequences: t(s)}, rounds)[""]
                    except torch.OutOfMemoryError:
                        continue
                    finally:
                        theirs = None
                    label = f"transformers {kind}"
                    found[label] = max(found.get(label, 0.0), residues / seconds)
            if dtype == "bfloat16" and device != "cpu" and find_spec("transformer_engine"):
                try:
                    theirs = peers.transformer_engine(model, device)
                    seconds = medians({"": lambda t=theirs, s=sequences: t(s)}, rounds)[""]
                    found["transformer-engine, thd"] = residues / seconds
                except Exception as error:  # a peer that does not run here costs us no other figure
                    failures[f"{dtype}, {name}"] = f"transformer-engine: {error}"
                finally:
                    theirs = None
            base = found["transformers sdpa"]
            results[f"{dtype}, {name}"] = {
                **{label: round(value) for label, value in found.items()},
                "times_sdpa": round(found["skesm"] / base, 2),
                "peak_mb": round(megabytes),
            }
    return results


def exhaustion(checkpoint: Path, device: str) -> dict[str, Any]:
    """A run in too little memory: the features are those of enough, and packs get smaller."""
    sequences = random_sequences([237] * 64)
    model = embedder(checkpoint, device, "float32")
    expected = model.transform(sequences)
    (engine,) = [kept.engine for key, kept in loaded._engines._values.items() if "torch" in key and "float32" in key]
    if device == "cpu":  # no allocator to limit: as if one were there
        compute = engine._compute

        def limited(some: Any, *rest: Any) -> Any:
            if sum(map(len, some)) > 600:
                raise torch.OutOfMemoryError("injected: out of memory")
            return compute(some, *rest)

        engine._compute = limited
    else:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 100e6) / total)
    got = model.transform(sequences)
    if device != "cpu":
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"most_tokens_after": engine._limit.tokens, "max_difference": float(np.abs(got - expected).max())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=list(COUNTS))
    parser.add_argument("--quick", action="store_true", help="a tiny model and few sequences")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    start = time.monotonic()

    def left() -> float:
        return 60 * args.minutes - (time.monotonic() - start)

    device = args.device
    results: dict[str, Any] = {"device": device, "torch": torch.__version__}
    if device != "cpu":
        results["device"] = torch.cuda.get_device_name()
    results["varlen attention"] = bool(find_spec("torch.nn.attention.varlen")) and device != "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = random_checkpoint(folder, "esm2_t6_8M_UR50D")
        results["parity"], results["company"] = parity(small, device), company(small, device)
        results["exhaustion"] = exhaustion(small, device)
        for model in [QUICK_MODEL] if args.quick else args.models:
            if left() < 0:
                results[model] = "no time left"
                continue
            checkpoint = locate(model).files[0].parent if args.quick else random_checkpoint(folder, model)
            count = QUICK_COUNT if args.quick else COUNTS.get(model, 256)
            results[model] = throughput(model, checkpoint, device, count, 1 if args.quick else args.rounds, left)
    results["minutes"] = round((time.monotonic() - start) / 60, 1)
    write_results(args.json, results)
    return int(max(results["parity"]["float32"].values()) > 1e-5 or results["exhaustion"]["most_tokens_after"] is None)


if __name__ == "__main__":
    sys.exit(main())
