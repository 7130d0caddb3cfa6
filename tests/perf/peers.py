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


def transformer_engine(model: str, device: str, tokens: int = 16_384) -> Features:
    """NVIDIA's layers on sequences laid end to end ("THD", as its recipe for ESM-2 has them), bfloat16, random weights.

    It shows a speed: its features are those of other weights.
    """
    import torch
    import transformer_engine.pytorch as te

    try:
        from transformer_engine.pytorch.attention.rope import RotaryPositionEmbedding
    except ImportError:
        from transformer_engine.pytorch.attention import RotaryPositionEmbedding

    spec = REGISTRY[model]
    options = {"attn_input_format": "thd", "self_attn_mask_type": "padding", "params_dtype": torch.bfloat16}
    layers = [
        te.TransformerLayer(
            spec.width,
            spec.ffn_width,
            spec.n_heads,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            device=device,
            **options,
        ).eval()
        for _ in range(spec.n_layers)
    ]
    embedding = torch.randn(33, spec.width, dtype=torch.bfloat16, device=device)
    rotary = RotaryPositionEmbedding(spec.width // spec.n_heads)(1024).to(device)

    def pack(sequences: list[str]) -> np.ndarray:
        lengths = [len(sequence) + 2 for sequence in sequences]
        bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
        ids = torch.from_numpy(np.concatenate([tokenize(s) for s in sequences]).astype(np.int64)).to(device)
        x = embedding[ids]
        with torch.inference_mode():
            for layer in layers:
                x = layer(
                    x,
                    self_attn_mask_type="padding",
                    cu_seqlens_q=bounds,
                    cu_seqlens_kv=bounds,
                    max_seqlen_q=max(lengths),
                    max_seqlen_kv=max(lengths),
                    rotary_pos_emb=rotary,
                )
            return np.stack([part[1:-1].float().mean(0).cpu().numpy() for part in torch.split(x, lengths)])

    def run(sequences: list[str]) -> np.ndarray:
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        rows: dict[int, np.ndarray] = {}
        while order:
            chosen = [order.pop()]
            while order and sum(len(sequences[i]) + 2 for i in [*chosen, order[-1]]) <= tokens:
                chosen.append(order.pop())
            rows.update(zip(chosen, pack([sequences[i] for i in chosen]), strict=True))
        return np.stack([rows[i] for i in range(len(sequences))])

    return run


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
