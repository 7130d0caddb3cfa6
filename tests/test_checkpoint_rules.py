"""One rule for all that a checkpoint holds: it is used, is known to be harmless, or the checkpoint is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from skesm.backends import LocalBackend
from skesm.esm2.checkpoints.checkpoint import CONFIG, INDEX, SINGLE, find_spec, locate
from skesm.esm2.tokenizer import VOCABULARY
from skesm.exceptions import CheckpointError, UntrainedHeadWarning
from skesm.outputs.spec import OutputSpec

Tensors = dict[str, np.ndarray]

LAYER = "esm.encoder.layer.0."
ROTARY = "attention.self.rotary_embeddings.inv_freq"
MEAN = OutputSpec("mean", 2)


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own, to change: 2 layers, 40 channels, 4 heads."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def edit_tensors(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    save_file(edit(load_file(folder / SINGLE)), folder / "new.safetensors")
    (folder / "new.safetensors").replace(folder / SINGLE)


def run(model: Path, *outputs: OutputSpec, **options: Any) -> list[np.ndarray]:
    (batch,) = LocalBackend(**{"engine": "numpy", **options}).run(model, ["MKTAYIAK"], outputs)
    return [batch.records[0][output] for output in outputs]


def with_gamma(tensors: Tensors) -> Tensors:
    """LayerNorms of the blocks under their oldest names, which transformers still reads and, from version 5, writes."""
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }


# Tensors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classifier.dense.weight", np.ones((40, 40), np.float32)),
        ("classifier.out_proj.bias", np.ones(3, np.float16)),
        ("classifier.weight", np.ones((2, 40), np.int8)),
        ("esm.pooler.dense.weight", np.ones((40, 40), np.float32)),
        ("esm.pooler.dense.bias", np.ones(40, np.float32)),
        ("esm.embeddings.position_ids", np.arange(1026)[None]),
        ("esm.embeddings.position_ids", np.arange(1026, dtype=np.int32)[None]),
        ("esm.embeddings.position_embeddings.weight", np.ones((1026, 40), np.float32)),
    ],
)
def test_harmless_tensors_change_nothing(name: str, value: np.ndarray, folder: Path, tiny_checkpoint: Path) -> None:
    edit_tensors(folder, lambda tensors: {**tensors, name: value})
    outputs = [MEAN, OutputSpec("logits")]
    for found, expected in zip(run(folder, *outputs), run(tiny_checkpoint, *outputs), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}adapter.down_proj.weight",
        f"{LAYER}output.adapters.mine.adapter_down.0.weight",
        f"{LAYER}attention.gate",
        f"{LAYER}attention.self.query.scale",
        f"{LAYER}attention.LayerNorm.bias",
        f"{LAYER}LayerNorm.weight",
        f"{LAYER}crossattention.self.query.weight",
        "esm.encoder.layer.2.output.dense.bias",
        "esm.embeddings.layer_norm.weight",
        "esm.embeddings.norm2.weight",
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.output.dense.bias",
        "pooler.dense.weight",
        "contact_head.regression.weight",
        "lm_head.extra.weight",
        "regressor.weight",
        "classifier",
    ],
)
def test_a_tensor_that_is_not_understood_is_refused_by_name(name: str, folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {**with_gamma(tensors), name: np.ones(40, np.float32)})
    for use in (LocalBackend().namespace, lambda model: run(model, MEAN)):
        with pytest.raises(CheckpointError, match=r"not part of ESM-2") as caught:
            use(folder)
        assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}attention.self.query.lora_A.default.weight",
        f"{LAYER}attention.self.query.lora_A.weight",
        f"{LAYER}attention.self.key.ia3_l.default",
        "base_model.model.esm.embeddings.word_embeddings.weight",
        f"{LAYER}attention.self.query.base_layer.weight",
    ],
)
def test_an_adapter_names_the_call_that_merges_it(name: str, folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {**tensors, name: np.ones((2, 40), np.float32)})
    with pytest.raises(CheckpointError, match=r"merge_and_unload\(\)"):
        run(folder, MEAN)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "backbone."])
def test_other_prefixes_name_the_command_that_strips_them(prefix: str, folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match=f"'{prefix}esm.'.*skesm models convert SOURCE FOLDER"):
        run(folder, MEAN)


@pytest.mark.parametrize(
    "name", [f"{LAYER}output.dense.weight", "esm.encoder.emb_layer_norm_after.bias", "lm_head.bias"]
)
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_])
def test_weights_that_are_no_floating_point_numbers_are_refused(name: str, dtype: type, folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {**tensors, name: tensors[name].astype(dtype)})
    with pytest.raises(CheckpointError, match=name):
        run(folder, MEAN)


def test_the_last_shard_does_not_win(folder: Path) -> None:
    """Two shards hold one tensor: the index says which one counts, and a change of the index is another model."""
    name, tensors = f"{LAYER}output.dense.bias", load_file(folder / SINGLE)
    expected = run(folder, MEAN)[0]
    (folder / SINGLE).unlink()
    save_file(tensors, folder / "a.safetensors")
    save_file({name: tensors[name] + 1, "lm_head.bias": tensors["lm_head.bias"]}, folder / "b.safetensors")
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {**dict.fromkeys(tensors, "a.safetensors"), name: "b.safetensors"}})
    )
    other, of_b = run(folder, MEAN)[0], LocalBackend().namespace(folder).fingerprint
    assert not np.array_equal(other, expected)
    # the index alone changes: both shards are still named
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {**dict.fromkeys(tensors, "a.safetensors"), "lm_head.bias": "b.safetensors"}})
    )
    np.testing.assert_array_equal(run(folder, MEAN)[0], expected)
    assert LocalBackend().namespace(folder).fingerprint != of_b


def test_biases_of_the_decoder_may_not_contradict_each_other(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {**tensors, "lm_head.decoder.bias": tensors["lm_head.bias"].copy()})
    run(folder, MEAN)
    edit_tensors(folder, lambda tensors: {**tensors, "lm_head.decoder.bias": tensors["lm_head.bias"] + 1})
    with pytest.raises(CheckpointError, match="contradict"):
        run(folder, MEAN)


# Heads ----------------------------------------------------------------------------------------------------------------


def untrained(tensors: Tensors) -> Tensors:
    new = dict(tensors)
    for name in tensors:
        if name.endswith("contact_head.regression.bias") or (name.startswith("lm_head") and name.endswith("bias")):
            new[name] = np.zeros_like(tensors[name])
    return {**new, "lm_head.layer_norm.weight": np.ones(40, np.float32)}


@pytest.mark.parametrize(
    ("output", "head"), [("logits", "logits"), ("logit_means", "logits"), ("contacts", "contacts")]
)
def test_a_head_that_was_never_trained_is_used_with_a_warning(output: str, head: str, folder: Path) -> None:
    run(folder, OutputSpec(output))  # warnings are errors
    edit_tensors(folder, untrained)
    run(folder, MEAN)
    with pytest.warns(UntrainedHeadWarning, match=f"gives {head} .*never trained"):
        run(folder, OutputSpec(output))
    run(folder, OutputSpec(output))  # once for a loaded model


# Fields of config.json ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("rope_theta", [None, 0, -1, "10000", True, float("nan"), float("inf"), 10**400]),
        (
            "rope_parameters",
            [{"rope_type": "default", "rope_theta": 500.0}, {"rope_type": "linear", "factor": 2}, "x", []],
        ),
        ("rope_scaling", [{"type": "linear", "factor": 2.0}, {"rope_type": "yarn"}]),
        ("partial_rotary_factor", [0.5, "1", True]),
        ("head_dim", [5, 20, "10"]),
        ("mask_token_id", [None, 4, 31, "32", True, 32.0]),
        ("layer_norm_eps", [None, "1e-5", 0, 0.0, float("inf"), float("nan"), -1e-5, True, 1e-60, 1e60, []]),
        ("token_dropout", ["false", "true", 0, 1, []]),
        ("tie_word_embeddings", ["false", 0, 1]),
        ("hidden_size", [10**12, 10**400, True, 40.0, "40", None, -40, 0]),
        ("num_hidden_layers", [10**12, True, 2.0]),
        ("num_attention_heads", [10**9, True, 4.0, 0]),
        ("intermediate_size", [10**12, True, 0]),
        ("vocab_size", [34, 33.0, "33", None]),
        ("vocab_list", ["".join(VOCABULARY), 5, {}, [*VOCABULARY, "<new>"], list(range(33))]),
        ("is_decoder", [True, "false", 0]),
        ("add_cross_attention", [True]),
        ("emb_layer_norm_before", [True, "false"]),
        ("is_folding_model", [True]),
        ("pruned_heads", [{"0": [1]}]),
        ("quantization_config", [{"load_in_8bit": True}]),
        ("hidden_act", ["gelu_new", "relu", ["gelu"]]),
        ("position_embedding_type", [None, "absolute", ["rotary"]]),
        ("model_type", ["esm2", None, {}]),
    ],
)
def test_a_field_that_changes_numbers_must_hold_what_is_computed(field: str, values: list[Any], folder: Path) -> None:
    for value in values:
        edit_config(folder, **{field: value})
        for use in (find_spec, locate):
            with pytest.raises(CheckpointError, match="vocabulary" if field == "vocab_list" else f"'{field}'"):
                use(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_scaling": None, "head_dim": 10, "partial_rotary_factor": 1.0, "pruned_heads": {}},
        {"rope_theta": 10000, "emb_layer_norm_before": None, "vocab_list": None, "esmfold_config": None},
        {"classifier_dropout": 0.5, "hidden_dropout_prob": 0.5, "dtype": "bfloat16", "id2label": {"0": "x"}},
    ],
)
def test_fields_that_change_nothing_are_accepted(fields: dict[str, Any], folder: Path, tiny_checkpoint: Path) -> None:
    edit_config(folder, **fields)
    assert LocalBackend().namespace(folder).fingerprint == LocalBackend().namespace(tiny_checkpoint).fingerprint
    np.testing.assert_array_equal(run(folder, MEAN), run(tiny_checkpoint, MEAN))


def test_a_head_without_decoder_must_be_tied(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="'tie_word_embeddings' is false"):
        run(folder, MEAN)
    edit_tensors(folder, lambda t: {**t, "lm_head.decoder.weight": t["esm.embeddings.word_embeddings.weight"].copy()})
    run(folder, OutputSpec("logits"))
    edit_tensors(folder, lambda t: {name: tensor for name, tensor in t.items() if not name.startswith("lm_head")})
    run(folder, MEAN)


def test_no_mask_token_is_needed_without_token_dropout(folder: Path) -> None:
    edit_config(folder, token_dropout=None, mask_token_id=None)
    assert not find_spec(folder).token_dropout


# Other files of the folder --------------------------------------------------------------------------------------------


def tokenizer_json(vocabulary: object, added: object = None) -> str:
    return json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": added})


IDS = {symbol: i for i, symbol in enumerate(VOCABULARY)}
SWAPPED = {**IDS, "A": IDS["L"], "L": IDS["A"]}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("vocab.txt", "\n".join(VOCABULARY), ["\n".join(sorted(VOCABULARY)), "\n".join([*VOCABULARY, "KR"]), ""]),
        (
            "tokenizer.json",
            tokenizer_json(IDS, [{"id": 32, "content": "<mask>", "special": True}]),
            [
                tokenizer_json(SWAPPED),
                tokenizer_json({**IDS, "KR": 33}),
                tokenizer_json(IDS, [{"id": 33, "content": "KR"}]),
                tokenizer_json(IDS, [{"id": 4, "content": "A"}]),
                tokenizer_json(IDS, [3]),
                tokenizer_json([["A", 0.1]]),
                tokenizer_json(None),
                "{}",
                "[]",
                "{",
            ],
        ),
        ("added_tokens.json", json.dumps({"<mask>": 32}), ['{"KR": 33}', '{"<mask>": 4}', "[]", '{"<mask>": true}']),
        (
            "tokenizer_config.json",
            json.dumps({"added_tokens_decoder": {"0": {"content": "<cls>"}, "32": {"content": "<mask>"}}}),
            [
                json.dumps({"added_tokens_decoder": {"33": {"content": "KR"}}}),
                json.dumps({"added_tokens_decoder": {"0": {"content": "<mask>"}}}),
                json.dumps({"added_tokens_decoder": {"x": {"content": "<mask>"}}}),
                json.dumps({"added_tokens_decoder": [1]}),
            ],
        ),
    ],
)
def test_another_vocabulary_is_refused(name: str, right: str, wrong: list[str], folder: Path) -> None:
    (folder / name).write_text(right)
    locate(folder)
    for content in wrong:
        (folder / name).write_text(content)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            locate(folder)
    (folder / name).write_bytes(b"\xff\xfe\x00L")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        locate(folder)


@pytest.mark.parametrize("name", [CONFIG, "vocab.txt", "tokenizer.json", "tokenizer_config.json"])
def test_what_is_no_text_file_is_refused(name: str, folder: Path) -> None:
    def as_folder(path: Path) -> None:
        path.mkdir()

    def as_pipe(path: Path) -> None:
        os.mkfifo(path)

    def as_loop(path: Path) -> None:
        path.symlink_to(path)

    def deep(path: Path) -> None:
        path.write_text('{"a":' + "[" * 200_000 + "]" * 200_000 + "}")

    def huge(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(1 << 27)  # zeros that take no room

    path = folder / name
    for make in (as_folder, as_pipe, deep, huge, *([as_loop] if name == CONFIG else [])):
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            locate(folder)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()


@pytest.mark.parametrize(
    "shard",
    ["x" * 300 + ".safetensors", "../a.safetensors", "a\\b.safetensors", "\ud800.safetensors", "a\n.safetensors", 3],
)
def test_shards_are_files_beside_the_index(shard: object, folder: Path) -> None:
    (folder / SINGLE).rename(folder / "a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file beside it") as caught:
        locate(folder)
    str(caught.value).encode()


def test_a_folder_without_permission_is_refused(folder: Path) -> None:
    if os.geteuid() == 0:
        return  # root may read everything
    (folder / CONFIG).chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        locate(folder)


def test_a_file_that_shrinks_between_runs_is_an_error_and_no_crash(folder: Path) -> None:
    run(folder, MEAN)
    with (folder / SINGLE).open("r+b") as file:
        file.truncate((folder / SINGLE).stat().st_size // 2)
    with pytest.raises(CheckpointError, match="truncated"):
        run(folder, MEAN)


def test_a_file_that_is_overwritten_during_a_run_is_noticed(folder: Path) -> None:
    sequences = ["MKTAYIAK" * n for n in range(20, 0, -1)]
    batches = LocalBackend(engine="numpy", tokens_per_batch=8).run(folder, sequences, [MEAN])
    next(batches)
    content = (folder / SINGLE).read_bytes()
    with (folder / SINGLE).open("r+b") as file:  # in place, with the same bytes here
        file.write(content)
    os.utime(folder / SINGLE, ns=(1, 1))
    with pytest.raises(CheckpointError, match="overwritten while it was in use"):
        list(batches)
