"""How far features are from transformers' on the same folder, by class that was saved and by length.

    python tests/perf/bench_rotary.py [--layers 6 --width 320 --heads 20] [--dtypes float32 bfloat16 float16]

Checkpoints have random weights, and rotary frequencies as published: exact ones, rounded to float16. A figure is the
largest difference of any value in any layer, as a share of the layer's largest value.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from skesm.backends import LocalBackend
from skesm.esm2.tokenizer import tokenize
from skesm.outputs.spec import OutputSpec

CLASSES = ("EsmModel", "EsmForMaskedLM", "EsmForSequenceClassification", "EsmForTokenClassification")
LENGTHS = (50, 300, 1000, 1500)


def save(name: str, dtype: str, shape: argparse.Namespace, folder: str) -> None:
    torch.manual_seed(0)
    config = transformers.EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        position_embedding_type="rotary",
        token_dropout=True,
        layer_norm_eps=1e-5,
        initializer_range=0.08,  # with transformers' own spread attention is almost uniform, which hides wrong angles
    )
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("inv_freq"):
                buffer.copy_(buffer.half())
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def differences(name: str, folder: str, sequences: list[str]) -> list[float]:
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    base = getattr(model, "esm", model)
    outputs = [OutputSpec("residues", layer) for layer in range(model.config.num_hidden_layers + 1)]
    worst = []
    for sequence in sequences:
        with torch.inference_mode():
            ids = torch.from_numpy(tokenize(sequence).astype(np.int64))[None]
            states = [state[0, 1:-1].numpy() for state in base(ids, output_hidden_states=True).hidden_states]
        (batch,) = LocalBackend(engine="numpy").run(Path(folder), [sequence], outputs)
        shares = (
            np.abs(batch.records[0][o] - state).max() / np.abs(state).max()
            for o, state in zip(outputs, states, strict=True)
        )
        worst.append(float(max(shares)))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"])
    shape = parser.parse_args()
    transformers.logging.disable_progress_bar()
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("LAGVSERTIDPKQNFYMHWC"), n)) for n in LENGTHS]
    print("| saved as | dtype |", " | ".join(f"{n} residues" for n in LENGTHS), "|")
    for name in CLASSES:
        for dtype in shape.dtypes:
            with tempfile.TemporaryDirectory() as folder:
                save(name, dtype, shape, folder)
                print(
                    f"| {name} | {dtype} |", " | ".join(f"{d:.1e}" for d in differences(name, folder, sequences)), "|"
                )


if __name__ == "__main__":
    main()
