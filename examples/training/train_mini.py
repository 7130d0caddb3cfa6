"""Train `skesm-mini`, the demo checkpoint that is bundled with skesm.

Masked language modelling with the published ESM-2 recipe (Lin et al. 2023), at a size that a laptop
trains in an hour or two: the architecture is transformers' ``EsmForMaskedLM``, so that the result is an ordinary
ESM-2 checkpoint. The data are the UniProt proteins of Debian's package ``mmseqs2-examples``.

    apt-get install mmseqs2-examples
    pip install torch transformers
    python train_mini.py /usr/share/doc/mmseqs2/example-data/DB.fasta.gz --out mini

The run is a function of its arguments: every step draws its crops and masks from ``(seed, step)``. It can be stopped
and started again with the same ``--out``; it goes on from its last saved state. The learning rate is constant after the
warm-up and falls to zero over the last fifth of the steps, so ``--steps`` may also be changed between two starts as
long as the fall has not begun.

Writes ``model.safetensors`` (float16), ``config.json``, their ``SHA256SUMS``, and ``training.json`` (the figures of
the model card).
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import EsmConfig, EsmForMaskedLM

from skesm.esm2.weights.digests import RECORD, write_record

VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
CLS, PAD, EOS, MASK = 0, 1, 2, 32
FIRST_AMINO_ACID, N_AMINO_ACIDS = 4, 20
MASKED_FRACTION = 0.15  # of these, 80 % become <mask>, 10 % a random amino acid, 10 % stay
KMER = 8  # a training protein that shares one 8-mer with a held-out protein is left out
STATE_EVERY = 200  # steps


def read_proteins(path: Path) -> list[str]:
    """Distinct sequences of a (gzipped) FASTA file, in file order."""
    opener = gzip.open if path.suffix == ".gz" else open
    proteins: dict[str, None] = {}
    parts: list[str] = []
    with opener(path, "rt") as lines:
        for line in lines:
            if line.startswith(">"):
                proteins["".join(parts)] = None
                parts = []
            else:
                parts.append(line.strip())
    proteins["".join(parts)] = None
    proteins.pop("", None)
    return list(proteins)


def split(proteins: list[str], n_held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Random held-out proteins, and the training proteins that share no 8-mer with any of them."""
    order = np.random.default_rng(seed).permutation(len(proteins))
    held_out = [proteins[i] for i in order[:n_held_out]]
    known = {p[i : i + KMER] for p in held_out for i in range(len(p) - KMER + 1)}
    train = [
        proteins[i]
        for i in sorted(order[n_held_out:])
        if not any(proteins[i][j : j + KMER] in known for j in range(len(proteins[i]) - KMER + 1))
    ]
    return train, held_out


def tokenize(proteins: list[str]) -> list[np.ndarray]:
    index = {symbol: i for i, symbol in enumerate(VOCABULARY)}
    return [np.array([index[c] for c in p], dtype=np.int64) for p in proteins]


def make_batch(
    proteins: list[np.ndarray], weights: np.ndarray, crop: int, tokens: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random crops of similar length, padded, with 15 % of the residues to be predicted.

    Proteins are drawn in proportion to their length up to four crops, so that residues, not proteins, count
    about equally; the draw is sorted by length and one run of it is used, so that little is padding.
    """
    draw = rng.choice(len(proteins), size=64 * tokens // crop, p=weights)
    lengths = np.array([min(len(proteins[i]), crop) for i in draw])
    # the place of the run is uniform over tokens: short and long proteins keep their share of residues
    order = np.argsort(lengths, kind="stable")
    cumulative = np.cumsum(lengths[order] + 2)
    start = int(np.searchsorted(cumulative, rng.random() * max(1, cumulative[-1] - tokens)))
    chosen: list[np.ndarray] = []
    longest = 0
    for i in draw[order[start:]]:
        protein = proteins[i]
        length = min(len(protein), crop)
        if max(longest, length + 2) * (len(chosen) + 1) > tokens and chosen:
            break
        longest = max(longest, length + 2)
        offset = int(rng.integers(0, len(protein) - length + 1))
        chosen.append(protein[offset : offset + length])
    ids = np.full((len(chosen), longest), PAD, dtype=np.int64)
    for row, residues in zip(ids, chosen, strict=True):
        row[0] = CLS
        row[1 : len(residues) + 1] = residues
        row[len(residues) + 1] = EOS
    return corrupt(ids, rng)


def corrupt(ids: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(masked ids, attention mask, labels): labels are -100 where nothing is to be predicted."""
    residue = (ids >= FIRST_AMINO_ACID) & (ids < FIRST_AMINO_ACID + N_AMINO_ACIDS)
    chosen = residue & (rng.random(ids.shape) < MASKED_FRACTION)
    labels = np.where(chosen, ids, -100)
    fate = rng.random(ids.shape)
    masked = np.where(chosen & (fate < 0.8), MASK, ids)
    random = rng.integers(FIRST_AMINO_ACID, FIRST_AMINO_ACID + N_AMINO_ACIDS, ids.shape)
    masked = np.where(chosen & (fate >= 0.8) & (fate < 0.9), random, masked)
    return torch.from_numpy(masked), torch.from_numpy((ids != PAD).astype(np.int64)), torch.from_numpy(labels)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    fall = steps // 5
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / fall)


@torch.no_grad()
def evaluate(model: EsmForMaskedLM, proteins: list[np.ndarray], crop: int, seed: int) -> tuple[float, float]:
    """Mean masked cross-entropy (nats) and accuracy on the first `crop` residues of every protein; fixed masks."""
    model.eval()
    total, right, count = 0.0, 0, 0
    for i, residues in enumerate(proteins):
        ids = np.concatenate([[CLS], residues[:crop], [EOS]])[None]
        masked, attention, labels = corrupt(ids, np.random.default_rng([seed, i]))
        picked = labels[0] >= 0
        if not picked.any():
            continue
        logits = model(input_ids=masked, attention_mask=attention).logits[0][picked].float()
        target = labels[0][picked]
        total += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
        right += int((logits.argmax(-1) == target).sum())
        count += len(target)
    model.train()
    return total / count, right / count


def unigram_loss(train: list[np.ndarray], held_out: list[np.ndarray]) -> float:
    """Cross-entropy (nats) of the training proteins' amino-acid frequencies on the held-out residues."""
    counts = collections.Counter(np.concatenate(train).tolist())
    amino_acids = range(FIRST_AMINO_ACID, FIRST_AMINO_ACID + N_AMINO_ACIDS)
    total = sum(counts[a] for a in amino_acids)
    held = collections.Counter(np.concatenate(held_out).tolist())
    n = sum(held[a] for a in amino_acids)
    return -sum(held[a] * math.log(counts[a] / total) for a in amino_acids) / n


def save(model: EsmForMaskedLM, out: Path, figures: dict[str, object]) -> None:
    """The checkpoint as float16 safetensors under transformers' names, without what can be derived."""
    derived = ("inv_freq", "position_ids", "lm_head.decoder.", "contact_head", "position_embeddings")
    tensors = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if not any(part in name for part in derived)
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_record(out / RECORD, [out / "config.json", out / "model.safetensors"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--out", type=Path, default=Path("mini"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens a step, padding included")
    parser.add_argument("--crop", type=int, default=254, help="longest crop, in residues")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--peak", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    train_text, held_out_text = split(read_proteins(args.fasta), args.held_out, args.seed)
    train, held_out = tokenize(train_text), tokenize(held_out_text)
    weights = np.array([min(len(p), 4 * args.crop) for p in train], dtype=float)
    weights /= weights.sum()
    unigram = unigram_loss(train, held_out)
    print(f"{len(train)} training proteins, {len(held_out)} held out, unigram loss {unigram:.4f}", flush=True)

    config = EsmConfig(
        vocab_size=len(VOCABULARY),
        mask_token_id=MASK,
        pad_token_id=PAD,
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=4 * args.width,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        vocab_list=VOCABULARY,
    )
    model = EsmForMaskedLM(config)
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim == 2]
    other = [p for p in model.parameters() if p.requires_grad and p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": other, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    first, seconds = 0, 0.0
    state_path = args.out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]

    started, running = time.perf_counter(), None
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.peak, args.warmup)
        ids, attention, labels = make_batch(
            train, weights, args.crop, args.tokens, np.random.default_rng([args.seed, step])
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits = model(input_ids=ids, attention_mask=attention).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            rate = (step + 1 - first) * args.tokens / (time.perf_counter() - started)
            print(f"step {step + 1} loss {running:.4f} {rate:.0f} tokens/s", flush=True)
        if (step + 1) % STATE_EVERY == 0:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "seconds": seconds + time.perf_counter() - started,
            }
            torch.save(state, state_path.with_suffix(".new"))
            state_path.with_suffix(".new").replace(state_path)
        if (step + 1) % (5 * STATE_EVERY) == 0:
            held_loss, accuracy = evaluate(model, held_out, args.crop, args.seed)
            print(f"step {step + 1} held-out loss {held_loss:.4f} accuracy {accuracy:.4f}", flush=True)

    held_loss, accuracy = evaluate(model, held_out, args.crop, args.seed)
    figures = {
        "arguments": {k: v for k, v in vars(args).items() if k not in ("fasta", "out", "threads")},
        "training_proteins": len(train),
        "held_out_proteins": len(held_out),
        "held_out_loss": round(held_loss, 4),
        "held_out_perplexity": round(math.exp(held_loss), 3),
        "held_out_accuracy": round(accuracy, 4),
        "unigram_loss": round(unigram, 4),
        "unigram_perplexity": round(math.exp(unigram), 3),
        "parameters": sum(p.numel() for n, p in model.named_parameters() if "contact_head" not in n),
        "seconds": round(seconds + time.perf_counter() - started),
    }
    save(model, args.out, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
