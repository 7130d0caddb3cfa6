"""From a cold process to the first embedding, and what the core install weighs, beside transformers.

    python tests/perf/bench_cold.py [--models esm2_t6_8M_UR50D esm2_t33_650M_UR50D] [--json results.json]

Every figure is the median of fresh processes; the two libraries take turns. `import` is the time of the import alone;
`first embedding` includes it, loading the weights, and one sequence of 237 residues.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import medians, random_checkpoint, random_sequences, write_results

from skesm.esm2.spec import REGISTRY

SKESM = """
import sys, warnings
warnings.simplefilter("ignore")
from skesm import ESM2Embedder
if len(sys.argv) > 2:
    assert ESM2Embedder(sys.argv[1]).transform([sys.argv[2]]).ndim == 2
"""

TRANSFORMERS = """
import sys, torch
from transformers import EsmModel, EsmTokenizer
if len(sys.argv) > 2:
    from skesm.esm2.tokenizer import tokenize
    model = EsmModel.from_pretrained(sys.argv[1], add_pooling_layer=False).eval()
    with torch.inference_mode():
        tokens = torch.tensor(tokenize(sys.argv[2])[None].astype("int64"))
        model(tokens, torch.ones_like(tokens)).last_hidden_state[:, 1:-1].mean(1)
"""


def process(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def install_size(root: Path) -> dict[str, float]:
    """MB of a fresh virtual environment with the core install, and of skesm itself in it."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        site = next(Path(folder).glob("lib/python*/site-packages"))
        before = size(site)
        subprocess.run([f"{folder}/bin/pip", "install", "-q", str(root)], check=True, capture_output=True)
        return {"core_install_mb": size(site) - before, "skesm_mb": size(site / "skesm")}


def size(folder: Path) -> float:
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    models = ["skesm-mini", "esm2_t6_8M_UR50D"]
    parser.add_argument("--models", nargs="+", default=models, choices=sorted(REGISTRY), metavar="MODEL")
    args = parser.parse_args()
    sequence = random_sequences([237])[0]
    with tempfile.TemporaryDirectory() as folder:
        competitors: dict[str, Callable[[], None]] = {
            "import skesm": lambda: process(SKESM),
            "import transformers": lambda: process(TRANSFORMERS),
        }
        for model in args.models:
            checkpoint = str(random_checkpoint(Path(folder), model))
            competitors[f"{model}, skesm"] = partial(process, SKESM, checkpoint, sequence)
            competitors[f"{model}, transformers"] = partial(process, TRANSFORMERS, checkpoint, sequence)
        seconds = medians(competitors, rounds=args.rounds)
    ratios = {m: round(seconds[f"{m}, skesm"] / seconds[f"{m}, transformers"], 3) for m in args.models}
    results = {"seconds": {name: round(value, 3) for name, value in seconds.items()}, "skesm / transformers": ratios}
    write_results(args.json, results | install_size(Path(__file__).resolve().parents[2]))


if __name__ == "__main__":
    main()
