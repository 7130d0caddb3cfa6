"""Other ways to get the same features: transformers, fair-esm and esm-cpp, as their users run them.

Each is a function of a list of sequences that gives the mean over residues of the last layer, (n, d) float32.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from skesm.esm2.spec import REGISTRY
from skesm.esm2.tokenizer import PAD, tokenize

Features = Callable[[list[str]], np.ndarray]

PADDED_BATCH = 8


def padded_mean(forward: Callable[..., object], *, by_length: bool = True, size: int = PADDED_BATCH) -> Features:
    """Features by batches of padded sequences; `forward` maps (ids, mask) to representations."""
    import torch

    def run(sequences: list[str]) -> np.ndarray:
        order = sorted(range(len(sequences)), key=lambda i: by_length and len(sequences[i]))
        rows: dict[int, np.ndarray] = {}
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            tokens = [torch.from_numpy(tokenize(sequences[i]).astype(np.int64)) for i in chosen]
            ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD)
            with torch.inference_mode():
                hidden = forward(ids, (ids != PAD).long())
            for i, row in zip(chosen, hidden, strict=True):
                rows[i] = row[1 : len(sequences[i]) + 1].float().mean(0).numpy()
        return np.stack([rows[i] for i in range(len(sequences))])

    return run


def transformers(
    folder: Path, attention: str, dtype: str = "float32", *, by_length: bool = True, size: int = PADDED_BATCH
) -> Features:
    import torch
    from transformers import EsmModel

    model = EsmModel.from_pretrained(
        folder, add_pooling_layer=False, attn_implementation=attention, dtype=getattr(torch, dtype)
    ).eval()
    return padded_mean(
        lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state, by_length=by_length, size=size
    )


#: Places of a block's tensors: transformers' names, and fair-esm's.
_FAIR_ESM_NAMES = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}


def fair_esm(folder: Path, model: str) -> Features:
    import esm
    from esm.model.esm2 import ESM2
    from transformers import EsmModel

    spec = REGISTRY[model]
    peer = ESM2(spec.n_layers, spec.width, spec.n_heads, esm.data.Alphabet.from_architecture("ESM-1b")).eval()
    ours = EsmModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
    weights = {
        f"layers.{i}.{theirs}.{kind}": ours[f"encoder.layer.{i}.{name}.{kind}"]
        for i in range(spec.n_layers)
        for name, theirs in _FAIR_ESM_NAMES.items()
        for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        weights[f"emb_layer_norm_after.{kind}"] = ours[f"encoder.emb_layer_norm_after.{kind}"]
    weights["embed_tokens.weight"] = ours["embeddings.word_embeddings.weight"]
    unknown = peer.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, unknown
    return padded_mean(lambda ids, mask: peer(ids, repr_layers=[spec.n_layers])["representations"][spec.n_layers])


# esm-cpp wants an older NumPy than we do: it runs in an environment of its own and is spoken to by lines of JSON.
_ESM_CPP = """
import json, sys
import numpy as np
import esm_cpp
model = esm_cpp.Model.load_from_safetensors(sys.argv[1])
if sys.argv[2] == "int8":
    model.quantize_weights()
tokenizer = esm_cpp.Tokenizer()
for line in sys.stdin:
    rows = []
    for sequence in json.loads(line):
        _, states = model.forward_with_hidden_states(np.asarray(tokenizer.encode(sequence), dtype=np.int32))
        rows.append(states[-1][1:-1].mean(0).tolist())
    print(json.dumps(rows), flush=True)
"""


def _as_published(folder: Path, model: str) -> Path:
    """The checkpoint with the tensor names of the published files, which esm-cpp insists on."""
    from safetensors.numpy import load_file, save_file

    path = folder / "published.safetensors"
    if not path.exists():
        spec = REGISTRY[model]
        names = {".gamma": ".weight", ".beta": ".bias"}
        tensors = {}
        for name, tensor in load_file(folder / "model.safetensors").items():
            stem, dot, kind = name.rpartition(".")
            tensors[stem + names.get(dot + kind, dot + kind)] = tensor
        head_width = spec.width // spec.n_heads
        frequencies = 10000.0 ** -(np.arange(0, head_width, 2) / head_width)
        for i in range(spec.n_layers):
            name = f"esm.encoder.layer.{i}.attention.self.rotary_embeddings.inv_freq"
            tensors[name] = frequencies.astype(np.float32)
        tensors["lm_head.decoder.weight"] = tensors["esm.embeddings.word_embeddings.weight"].copy()
        save_file(tensors, path)
    return path


def esm_cpp(folder: Path, model: str, python: Path, threads: int, stack: ExitStack, numerics: str = "fp32") -> Features:
    """esm-cpp's hidden states (its packed call gives only logits), in an environment whose interpreter is `python`."""
    child = stack.enter_context(
        subprocess.Popen(
            [python, "-c", _ESM_CPP, _as_published(folder, model), numerics],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"ESM_NUM_THREADS": str(threads)},
        )
    )
    assert child.stdin is not None
    assert child.stdout is not None
    send, receive = child.stdin, child.stdout

    def run(sequences: list[str]) -> np.ndarray:
        print(json.dumps(sequences), file=send, flush=True)
        return np.array(json.loads(receive.readline()), dtype=np.float32)

    return run
