"""Have the numbers moved? Digests of everything that users see, from this tree and from another revision.

    python tests/perf/bits.py 5a7e660

compares features, scores and outputs of both engines bit for bit, with and without windows, masks and references;
compares the keys and values of the record store; and reads the other store with this tree, which must compute nothing.
It uses what is public in both revisions, and says "identical" or names what differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]

WILD_TYPE = "MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTL"
VARIANTS = [
    WILD_TYPE,
    WILD_TYPE[:10] + "W" + WILD_TYPE[11:],
    WILD_TYPE[:30] + "RD" + WILD_TYPE[32:],
    WILD_TYPE[:-1] + "X",
    WILD_TYPE[:5] + "<mask>" + WILD_TYPE[6:],
    WILD_TYPE,
]
SEQUENCES = [*VARIANTS, "M", "MKTAYIAKQR", WILD_TYPE * 3, "GSHMSLFDFFKNKGSA" * 2]
SCORABLE = VARIANTS[:3]
WINDOWS = {"long_sequences": "window", "max_length": 40, "window_overlap": 7}
LAYER_OUTPUTS = ("mean@*", "max@1", "cls@-1", "eos@2", "residues@0", "residues@-1")
OUTPUTS = (*LAYER_OUTPUTS, "logits", "logit_means", "contacts", "contact_profile")
ATTENTION = ("attentions@1", "attention_received@-1", "attention_heads@*")
PAIRWISE = ("contacts", "contact_profile", *ATTENTION)
POOLINGS = ("mean", "max", "cls", "eos")
STATISTICS = (
    *("mean", "sum", "log_likelihood", "unmasked_perplexity", "entropy_q25", "margin_min", "mean_logit"),
    *("mean_probability", "pseudo_perplexity", "pseudo_log_likelihood"),
)


def digest(value: Any) -> str:
    array = np.ascontiguousarray(value)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def estimators(model: str) -> Iterator[tuple[str, Any, list[str]]]:
    """(name, estimator, sequences) of every kind of use."""
    import skesm

    for suffix, options in (("", {}), (" in windows", WINDOWS)):
        embedder = skesm.ESM2Embedder(model, layers=(0, 1, -1), pooling=POOLINGS, **options)
        yield f"embedder{suffix}", embedder, SEQUENCES
        mutated = skesm.ESM2Embedder(
            model, pooling=("mutated", "mean"), reference=WILD_TYPE, prefetch=("logits", "max@0"), **options
        )
        yield f"mutated{suffix}", mutated, VARIANTS
        yield f"learnt{suffix}", skesm.ESM2Embedder(model, pooling="mutated", **options), VARIANTS
        yield f"logits{suffix}", skesm.ESM2LogitSummarizer(model, statistics=STATISTICS, **options), SEQUENCES
        residues = skesm.ESM2ResidueEmbedder(model, outputs=("residues@1", "logits", "logit_means"), **options)
        yield f"residues{suffix}", residues, VARIANTS
        for strategy in ("wt_marginal", "masked_marginal", "mutant_marginal", "pll_ratio"):
            scorer = skesm.ESM2VariantScorer(model, strategy=strategy, reference=WILD_TYPE, **options)
            yield f"{strategy}{suffix}", scorer, SCORABLE
    yield "contacts", skesm.ESM2ContactSummarizer(model, statistics=("density_short", "contact_order")), SEQUENCES
    attention = skesm.ESM2AttentionSummarizer(model, layers=(1, -1), statistics=("entropy", "distance", "received_max"))
    yield "attention", attention, SEQUENCES


def use(estimator: Any, sequences: list[str]) -> np.ndarray[Any, Any]:
    estimator.fit(sequences)
    return estimator.predict(sequences) if hasattr(estimator, "predict") else estimator.transform(sequences)


def digests(model: str, engine: str, memory: str | None) -> dict[str, Any]:
    """Digests of everything; with `memory`, what was computed and stored too."""
    import skesm

    found: dict[str, Any] = {}
    for name, estimator, sequences in estimators(model):
        estimator.set_params(backend=engine, memory=memory, n_jobs=1)
        found[name] = digest(use(estimator, sequences))
        if hasattr(estimator, "get_feature_names_out"):
            found[f"{name}, columns"] = digest(estimator.get_feature_names_out().astype(str))
    options: dict[str, Any]
    for suffix, outputs, options in (
        ("", (*OUTPUTS, *ATTENTION), {}),
        (" in windows", [name for name in OUTPUTS if name not in PAIRWISE], WINDOWS),
    ):
        records = skesm.compute_outputs(SEQUENCES, outputs, model, backend=engine, memory=memory, n_jobs=1, **options)
        for row, record in enumerate(records):
            found.update({f"{name}{suffix}, row {row}": digest(value) for name, value in record.items()})
    return found


def stored(memory: str, file: Path) -> dict[str, str]:
    """Digest of each value of a store, by its key."""
    import skesm.cache

    skesm.cache.export(memory, file)
    with np.load(file) as arrays:
        return {f"stored {name}": digest(arrays[name]) for name in arrays.files}


def computed_again(model: str, engine: str, memory: str) -> dict[str, int]:
    """Sequences that each use computes although the store was filled by the same use."""
    found = {}
    for name, estimator, sequences in estimators(model):
        estimator.set_params(backend=engine, memory=memory, n_jobs=1)
        use(estimator, sequences)
        found[name] = estimator.cache_info().computed
    return found


def make_checkpoint(folder: Path) -> None:
    """A random ESM-2 of two layers, with both heads."""
    import torch
    from transformers import EsmConfig, EsmForMaskedLM

    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    torch.manual_seed(0)
    config = EsmConfig(
        **{"vocab_size": len(vocabulary), "vocab_list": vocabulary, "mask_token_id": 32, "pad_token_id": 1},
        **{"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 160},
        **{"max_position_embeddings": 1026, "position_embedding_type": "rotary", "layer_norm_eps": 1e-5},
        **{"emb_layer_norm_before": False, "token_dropout": True, "hidden_dropout_prob": 0.0},
        attention_probs_dropout_prob=0.0,
    )
    model = EsmForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)


def run_here(folder: Path, tree: str, other: str | None) -> None:
    """Write the digests of the tree that is imported."""
    import skesm

    assert Path(skesm.__file__).is_relative_to(tree), f"{skesm.__file__} is not in {tree}"
    warnings.simplefilter("ignore")
    model = str(folder / "model")
    found: dict[str, Any] = {}
    for engine in ("numpy", "torch"):
        memory = str(folder / f"store {Path(tree).name} {engine}")
        for name, value in digests(model, engine, None).items():
            found[f"{engine} {name}"] = value
        for name, value in digests(model, engine, memory).items():
            found[f"{engine} with memory {name}"] = value
        file = folder / f"{Path(tree).name} {engine}.npz"
        found.update((f"{engine} {name}", value) for name, value in stored(memory, file).items())
        if other is not None:
            again = computed_again(model, engine, str(folder / f"store {other} {engine}"))
            assert not any(again.values()), f"the store of the other revision is not read: {again}"
    (folder / f"{Path(tree).name}.json").write_text(json.dumps(found), encoding="utf-8")


def compare(revision: str) -> int:
    """Run both trees in processes of their own; 0 if they agree."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = folder / "old"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", old, revision], cwd=ROOT, check=True)
        try:
            make_checkpoint(folder / "model")
            for tree, other in ((old, None), (ROOT, "old")):
                command = [sys.executable, __file__, "--here", name, "--tree", str(tree)]
                command += ["--other", other] if other else []
                subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, check=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)
        before, after = (json.loads((folder / f"{tree.name}.json").read_text()) for tree in (old, ROOT))
    # an estimator may have learnt to name its columns; what is stored must be the same on both sides
    common = before.keys() | {key for key in after if " stored " in key}
    changed = sorted(key for key in common if before.get(key) != after.get(key))
    print(f"{len(before)} digests of {revision}: " + ("identical" if not changed else f"{len(changed)} differ"))
    for key in changed[:40]:
        print(" ", key, before.get(key), after.get(key))
    return 1 if changed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", default="HEAD")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tree", help=argparse.SUPPRESS)
    parser.add_argument("--other", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here is not None:
        run_here(args.here, args.tree, args.other)
        return 0
    return compare(args.revision)


if __name__ == "__main__":
    sys.exit(main())
