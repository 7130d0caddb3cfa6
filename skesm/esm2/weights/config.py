"""The text files of a checkpoint: its configuration, its vocabulary, and the index of its shards.

Every field of ``config.json`` on which transformers' numbers depend is honoured, or must have the value that skesm
computes with. Fields that change nothing here, such as dropout, are not looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skesm.esm2.spec import DEFAULT_ROPE_THETA, VOCABULARY_SIZE, ModelSpec
from skesm.esm2.tokenizer import MASK, VOCABULARY
from skesm.esm2.weights.files import checked
from skesm.exceptions import CheckpointError

_MOST_BYTES = 1 << 26  # of a text file. A tokenizer.json of ESM-2 has a few thousand
_MOST_NAME_BYTES = 255  # of a file name, on all common file systems

_OFF = (None, False)

#: Fields that must have one of these values, and how to call them. None is also a missing field.
_FIXED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "model_type": (("esm",), "'esm'"),
    "position_embedding_type": (("rotary",), "'rotary' (ESM-1b and older models are not supported)"),
    "emb_layer_norm_before": (_OFF, "false"),
    "is_folding_model": (_OFF, "false (this is ESMFold)"),
    "is_decoder": (_OFF, "false"),
    "add_cross_attention": (_OFF, "false"),
    "vocab_size": ((VOCABULARY_SIZE,), str(VOCABULARY_SIZE)),
    "hidden_act": ((None, "gelu"), "'gelu'"),
    "partial_rotary_factor": ((None, 1, 1.0), "1"),
    "pruned_heads": ((None, {}, []), "none"),
    "quantization_config": ((None,), "none: save the model in float32, float16 or bfloat16"),
}

#: The largest numbers that are accepted: several times the numbers of the largest published model.
_SIZES: Mapping[str, int] = {
    "num_hidden_layers": 1_000,
    "hidden_size": 100_000,
    "num_attention_heads": 10_000,
    "intermediate_size": 1_000_000,
}


def spec_from_config(name: str, config: Mapping[str, object], repository: str | None = None) -> ModelSpec:
    """Spec of a checkpoint in transformers' format, from its ``config.json``.

    Raises
    ------
    CheckpointError
        If the configuration does not describe an ESM-2 model. The message names the field.
    """
    fields = _Fields(name, config)
    for field, (values, expected) in _FIXED.items():
        if not any(_is(config.get(field), value) for value in values):
            raise fields.wrong(field, expected)
    n_layers, width, n_heads, ffn_width = (fields.size(field, most) for field, most in _SIZES.items())
    if width % (2 * n_heads):
        raise fields.wrong("hidden_size", "a multiple of twice the number of attention heads")
    if not any(_is(config.get("head_dim"), value) for value in (None, width // n_heads)):
        raise fields.wrong("head_dim", f"{width // n_heads}, the share of a head in 'hidden_size'")
    token_dropout = fields.flag("token_dropout", default=False)
    if token_dropout and not _is(config.get("mask_token_id"), MASK):
        raise fields.wrong("mask_token_id", str(MASK))
    _check_symbols(f"{name}: the vocabulary in config.json", config.get("vocab_list"))
    return ModelSpec(
        name=name,
        n_layers=n_layers,
        width=width,
        n_heads=n_heads,
        ffn_width=ffn_width,
        token_dropout=token_dropout,
        layer_norm_eps=fields.positive("layer_norm_eps", default=1e-12),
        repository=repository,
        rope_theta=fields.rope_theta(),
        tied_decoder=fields.flag("tie_word_embeddings", default=True),
    )


class _Fields:
    """Checked values of a configuration."""

    def __init__(self, name: str, config: Mapping[str, object]) -> None:
        self._name = name
        self._config = config

    def wrong(self, field: str, expected: str) -> CheckpointError:
        value = repr(self._config.get(field))
        shown = value if len(value) <= 100 else f"{value[:100]}…"
        return CheckpointError(
            f"{self._name}: config.json does not describe an ESM-2 model: {field!r} is {shown}, expected {expected}"
        )

    def size(self, field: str, most: int) -> int:
        value = self._config.get(field)
        if type(value) is not int or not 1 <= value <= most:
            raise self.wrong(field, f"a positive whole number, {most:,} at most")
        return value

    def flag(self, field: str, default: bool) -> bool:
        value = self._config.get(field)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.wrong(field, "true or false")
        return value

    def positive(self, field: str, default: float) -> float:
        """A number that is positive, and finite, in float32 too."""
        value = self._config.get(field, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not _is_positive(value):
            raise self.wrong(field, "a positive number")
        return float(value)

    def rope_theta(self) -> float:
        """The base of the rotary frequencies. Used where the checkpoint holds no frequencies."""
        theta = self.positive("rope_theta", DEFAULT_ROPE_THETA)
        plain = {"rope_type": "default", "type": "default", "rope_theta": theta, "partial_rotary_factor": 1.0}
        for field in ("rope_parameters", "rope_scaling"):
            value = self._config.get(field)
            if value is None:
                continue
            if not isinstance(value, dict) or not all(key in plain and v == plain[key] for key, v in value.items()):
                raise self.wrong(field, f"none, or the default rope type with 'rope_theta' {theta:g} as in config.json")
        return theta


def _is(value: object, expected: object) -> bool:
    return type(value) is type(expected) and value == expected  # True equals 1


def _is_positive(value: float) -> bool:
    try:
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(np.float32(float(value)))
    except OverflowError:  # an integer beyond all floats
        return False
    return math.isfinite(rounded) and rounded > 0


def read_spec(name: str, path: Path) -> ModelSpec:
    """Spec of a checkpoint from its ``config.json``."""
    return spec_from_config(name, read_json(path))


def read_json(path: Path) -> Mapping[str, object]:
    """The JSON object in a file.

    Raises
    ------
    CheckpointNotFoundError
        If there is no such file.
    CheckpointError
        If it is not a file, cannot be read, or does not hold a JSON object.
    """
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


def _read_text(path: Path) -> str:
    with checked(path, missing=f"{path.parent} holds no {path.name}: it is not a checkpoint folder"):
        n_bytes = path.stat().st_size
        if n_bytes > _MOST_BYTES:
            raise CheckpointError(f"{path} has {n_bytes:,} bytes: it is not a file of a checkpoint")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is not UTF-8 text: {error}") from error


def check_vocabulary(name: str, folder: Path) -> None:
    """Refuse a folder if its tokenizer gives other tokens than ours, because features would belong to other residues.

    Raises
    ------
    CheckpointError
    """
    text, tokenizer, added, settings = (
        folder / file for file in ("vocab.txt", "tokenizer.json", "added_tokens.json", "tokenizer_config.json")
    )
    if text.exists():
        _check_symbols(f"{name}: the vocabulary in {text.name}", _read_text(text).split())
    if tokenizer.exists():
        content = read_json(tokenizer)
        model = content.get("model")
        _check_tokens(name, tokenizer, model.get("vocab") if isinstance(model, dict) else None, whole=True)
        _check_tokens(name, tokenizer, _by_content(name, tokenizer, content.get("added_tokens") or []))
    if added.exists():
        _check_tokens(name, added, dict(read_json(added)))
    if settings.exists():
        decoder = read_json(settings).get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict):
            raise CheckpointError(f"{name}: 'added_tokens_decoder' in {settings.name} is not a JSON object")
        tokens = [
            {"id": int(i), **entry} if i.isdigit() and isinstance(entry, dict) else i for i, entry in decoder.items()
        ]
        _check_tokens(name, settings, _by_content(name, settings, tokens))


def _check_symbols(where: str, symbols: object) -> None:
    if symbols is not None and (not isinstance(symbols, list) or tuple(symbols) != VOCABULARY):
        raise CheckpointError(f"{where} is not the vocabulary of ESM-2")


def _by_content(name: str, path: Path, tokens: object) -> dict[str, object]:
    """Numbers of added tokens by their text."""
    if not isinstance(tokens, list) or not all(
        isinstance(t, dict) and isinstance(t.get("content"), str) for t in tokens
    ):
        raise CheckpointError(f"{name}: the added tokens in {path.name} cannot be read")
    return {token["content"]: token.get("id") for token in tokens}


def _check_tokens(name: str, path: Path, tokens: object, whole: bool = False) -> None:
    """Refuse tokens that are not ours, or, of a whole vocabulary, that are not all of ours."""
    ours = {symbol: i for i, symbol in enumerate(VOCABULARY)}
    if not isinstance(tokens, dict) or (whole and len(tokens) != len(ours)):
        raise CheckpointError(f"{name}: the vocabulary in {path.name} is not the vocabulary of ESM-2")
    for symbol, number in tokens.items():
        if not _is(number, ours.get(symbol)):
            raise CheckpointError(
                f"{name}: the vocabulary in {path.name} is not the vocabulary of ESM-2: it has token {symbol!r} with "
                f"number {number!r}"
            )


def read_index(path: Path, endings: tuple[str, ...] = (".safetensors",)) -> dict[str, str]:
    """Read the file name of each tensor's shard from an index of shards. The shards are files beside the index.

    `endings` are the endings that the names may have, in any case.

    Raises
    ------
    CheckpointError
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} holds no 'weight_map'")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not shard.lower().endswith(endings) or not _is_plain(shard):
            raise CheckpointError(f"{path} names a file that is not a {endings[0]} file beside it: {shard!r:.100}")
    return weight_map


def _is_plain(name: str) -> bool:
    """Whether this is the name of a file in a folder, on all systems."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False
    return Path(name).name == name and name.isprintable() and "\\" not in name and size <= _MOST_NAME_BYTES
