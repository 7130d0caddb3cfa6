"""fair-esm's checkpoints: their names and arguments as transformers spells them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from skesm.esm2.spec import VOCABULARY_SIZE
from skesm.esm2.tokenizer import VOCABULARY
from skesm.exceptions import CheckpointError

EMBEDDING = "embed_tokens.weight"

#: fairseq, in which the models were trained, puts these before some names.
_FAIRSEQ = re.compile(r"encoder\.(sentence_encoder\.)?")

_TOP = {
    "embed_tokens": "esm.embeddings.word_embeddings",
    "emb_layer_norm_after": "esm.encoder.emb_layer_norm_after",
    "contact_head.regression": "esm.contact_head.regression",
    "lm_head": "lm_head.decoder",
    "lm_head.dense": "lm_head.dense",
    "lm_head.layer_norm": "lm_head.layer_norm",
}
_IN_LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}
_FREQUENCIES = ("self_attn.rot_emb.inv_freq", "attention.self.rotary_embeddings.inv_freq")

#: The arguments of fair-esm's ESM2, and the fields of config.json that hold them.
_ARGUMENTS = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_attention_heads": "num_attention_heads",
    "token_dropout": "token_dropout",
}


def without_fairseq(name: str) -> str:
    """A name without the prefix that fairseq gives it.

    Examples
    --------
    >>> without_fairseq("encoder.sentence_encoder.embed_tokens.weight")
    'embed_tokens.weight'
    """
    return _FAIRSEQ.sub("", name, count=1) if _FAIRSEQ.match(name) else name


def to_transformers(name: str) -> str | None:
    """Name in transformers of a tensor of fair-esm's ESM-2. None if ESM-2 has no such tensor.

    Examples
    --------
    >>> to_transformers("encoder.sentence_encoder.layers.3.fc1.bias")
    'esm.encoder.layer.3.intermediate.dense.bias'
    >>> to_transformers("embed_positions.weight") is None
    True
    """
    name = without_fairseq(name)
    if name == "lm_head.bias":
        return name
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
    stem, _, kind = (layer[2] if layer else name).rpartition(".")
    prefix = f"esm.encoder.layer.{layer[1]}." if layer else ""
    if layer and layer[2] == _FREQUENCIES[0]:
        return prefix + _FREQUENCIES[1]
    new = (_IN_LAYER if layer else _TOP).get(stem)
    return f"{prefix}{new}.{kind}" if new and kind in ("weight", "bias") else None


def arguments_of(content: object) -> Mapping[str, object] | None:
    """The model's arguments in a checkpoint of fair-esm. None if there are none."""
    if not isinstance(content, Mapping):
        return None
    cfg = content.get("cfg")
    arguments = cfg.get("model") if isinstance(cfg, Mapping) else content.get("args")
    if isinstance(arguments, argparse.Namespace):
        return vars(arguments)
    return arguments if isinstance(arguments, Mapping) else None


def config_from(path: Path, arguments: Mapping[str, object]) -> dict[str, object]:
    """The ``config.json`` of transformers from the arguments of fair-esm's ESM-2.

    Raises
    ------
    CheckpointError
        If an argument is missing. The message names it.
    """
    missing = [name for name in _ARGUMENTS if name not in arguments]
    if missing:
        raise CheckpointError(f"{path}: these are not the arguments of an ESM-2 model: {', '.join(missing)} missing")
    fields = {field: arguments[name] for name, field in _ARGUMENTS.items()}
    width = fields["hidden_size"]
    return {
        **fields,
        "model_type": "esm",
        "vocab_size": VOCABULARY_SIZE,
        "vocab_list": list(VOCABULARY),
        "mask_token_id": VOCABULARY.index("<mask>"),
        "pad_token_id": VOCABULARY.index("<pad>"),
        "intermediate_size": 4 * width if isinstance(width, int) else width,  # fixed in fair-esm
        "layer_norm_eps": 1e-5,  # fixed in fair-esm
        "hidden_act": "gelu",
        "position_embedding_type": "rotary",
        "max_position_embeddings": 1026,
        "emb_layer_norm_before": False,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
