"""Have the numbers moved? Digests of everything that users see, from this tree and from another revision.

    python tests/perf/bits.py 5a7e660

compares features, scores and outputs of both engines bit for bit, with and without windows, masks and references;
compares the keys and values of the record store; and reads the other store with this tree, which must compute nothing.
It uses only names that are public in both revisions, and says "identical" or names the differences.

The extra ``fast`` changes the last bits of the torch engine. Compare with an older revision where it is not installed.

It does so for every way in which a checkpoint can state its rotary frequencies, see `CHECKPOINTS`. The first versions
of skesm did not read one of them and computed with other angles. Where the other revision is one of these, nothing that
it stored may be read again, and the script checks that instead.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]

BUNDLED = "skesm-mini"  # it has no contact head

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
    if model != BUNDLED:
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
    headless = ("contacts", "contact_profile") if model == BUNDLED else ()
    for suffix, outputs, options in (
        ("", [name for name in (*OUTPUTS, *ATTENTION) if name not in headless], {}),
        (" in windows", [name for name in OUTPUTS if name not in PAIRWISE], WINDOWS),
    ):
        records = skesm.compute_outputs(SEQUENCES, outputs, model, backend=engine, memory=memory, n_jobs=1, **options)
        for row, record in enumerate(records):
            found.update({f"{name}{suffix}, row {row}": digest(value) for name, value in record.items()})
    return found


def stored(memory: str, file: Path) -> dict[str, str]:
    """Digest of each value of a store, by its output and sequence. The order in which they were stored may differ."""
    import skesm.cache

    skesm.cache.export(memory, file)
    found = {}
    with np.load(file) as arrays:
        for output in {name.rpartition("/")[0] for name in arrays.files}:
            fields = ("sequence", "length", "values", "offsets", "shapes")
            held = {field: arrays[f"{output}/{field}"] for field in fields if f"{output}/{field}" in arrays}
            for row, (sequence, length) in enumerate(zip(held["sequence"], held["length"], strict=True)):
                begin, end = held["offsets"][row : row + 2] if "offsets" in held else (row, row + 1)
                value = held["values"][begin:end]
                value = value.reshape(held["shapes"][row]) if "shapes" in held else value
                found[f"stored {output} of {sequence}, {length} residues"] = digest(value)
    return found


def computed_again(model: str, engine: str, memory: str) -> dict[str, int]:
    """Sequences that each use computes although the store was filled by the same use."""
    found = {}
    for name, estimator, sequences in estimators(model):
        estimator.set_params(backend=engine, memory=memory, n_jobs=1)
        use(estimator, sequences)
        found[name] = estimator.cache_info().computed
    return found


#: Names under which checkpoints hold their rotary frequencies, from transformers before and after version 5.
OF_LAYER = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
FOR_ALL = OF_LAYER.format("*")

#: How the checkpoints state their rotary frequencies.
CHECKPOINTS = {
    BUNDLED: "bundled, no frequencies",
    "exact": "no frequencies",
    "rounded": "frequencies of each layer, rounded to float16, as the published models",
    "equal": "frequencies for all layers under a starred name, equal to exact ones",
    "starred": "frequencies for all layers under a starred name, as transformers 5 saves and rounds them",
}


def make_checkpoints(folder: Path) -> None:
    """The same random ESM-2 with rotary frequencies of every kind."""
    from safetensors.numpy import load_file, save_file

    make_checkpoint(folder / "starred")
    weights = load_file(folder / "starred" / "model.safetensors")
    width = 2 * len(weights.pop(FOR_ALL))
    exact = (1.0 / 10000.0 ** (np.arange(0, width, 2) / width)).astype(np.float32)
    rounded = exact.astype(np.float16).astype(np.float32)
    frequencies = {
        "exact": {},
        "rounded": {OF_LAYER.format(layer): rounded.copy() for layer in range(2)},
        "equal": {FOR_ALL: exact},
    }
    for name, tensors in frequencies.items():
        (folder / name).mkdir()
        shutil.copy(folder / "starred" / "config.json", folder / name)
        save_file({**weights, **tensors}, folder / name / "model.safetensors", metadata={"format": "pt"})


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
    """Write the digests of the imported tree, and how many sequences it computes although `other` stored them."""
    import skesm

    assert Path(skesm.__file__).is_relative_to(tree), f"{skesm.__file__} is not in {tree}"
    warnings.simplefilter("ignore")
    for checkpoint, engine in itertools.product(CHECKPOINTS, ("numpy", "torch")):
        model = str(folder / checkpoint) if (folder / checkpoint).is_dir() else checkpoint
        stem = f"{Path(tree).name} {checkpoint} {engine}"
        memory = str(folder / f"{stem} store")
        found = digests(model, engine, None)
        found.update((f"with memory {name}", value) for name, value in digests(model, engine, memory).items())
        found.update(stored(memory, folder / f"{stem}.npz"))
        again = computed_again(model, engine, str(folder / f"{other} {checkpoint} {engine} store")) if other else {}
        (folder / f"{stem}.json").write_text(json.dumps({"digests": found, "again": again}), encoding="utf-8")


def compare(revision: str) -> int:
    """Run both trees in processes of their own; 0 if they agree."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = folder / "old"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", old, revision], cwd=ROOT, check=True)
        try:
            make_checkpoints(folder)
            for tree, other in ((old, None), (ROOT, "old")):
                command = [sys.executable, __file__, "--here", name, "--tree", str(tree)]
                command += ["--other", other] if other else []
                subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, check=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)
        reads_stars = subprocess.run(["git", "grep", "-q", "mark_of_frequencies", revision], cwd=ROOT).returncode == 0
        verdicts = [
            check(folder, checkpoint, engine, same=reads_stars or checkpoint != "starred")
            for checkpoint, engine in itertools.product(CHECKPOINTS, ("numpy", "torch"))
        ]
    return 0 if all(verdicts) else 1


def check(folder: Path, checkpoint: str, engine: str, *, same: bool) -> bool:
    """Print how the trees compare for a checkpoint. `same` is False where the old one computed with wrong angles."""
    old, new = (json.loads((folder / f"{tree} {checkpoint} {engine}.json").read_text()) for tree in ("old", ROOT.name))
    before, after, again = old["digests"], new["digests"], new["again"]
    # an estimator may have learnt to name its columns; the stores must hold the same on both sides
    common = before.keys() | {key for key in after if key.startswith("stored ")}
    changed = sorted(key for key in common if before.get(key) != after.get(key))
    computed = sorted(name for name, count in again.items() if count)
    print(f"{checkpoint} ({CHECKPOINTS[checkpoint]}), {engine}: ", end="")
    if not same:
        afresh = again["embedder"] == len(set(SEQUENCES))
        print(f"wrong angles before, {len(changed)} of {len(before)} digests differ; ", end="")
        print("nothing is read from the old store, as it must be" if afresh else "THE OLD STORE IS READ")
        return afresh
    print(f"{len(before)} digests, ", end="")
    print("identical" if not changed else f"{len(changed)} differ", end="; ")
    print("the old store is read" if not computed else f"not read from the old store: {', '.join(computed)}")
    for key in changed[:40]:
        print(" ", key, before.get(key), after.get(key))
    return not changed and not computed


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
