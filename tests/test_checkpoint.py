from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skesm.backends import BioLMBackend, LocalBackend
from skesm.esm2.checkpoints.checkpoint import CONFIG, INDEX, SINGLE, find_spec, locate
from skesm.esm2.tokenizer import VOCABULARY
from skesm.esm2.torch_engine import TorchEngine
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters
from skesm.exceptions import BackendError, CheckpointError, CheckpointNotFoundError
from skesm.outputs.spec import OutputSpec

SEQUENCES = ["MKTAYIAKQR", "GS<mask>XB"]
OUTPUTS = [OutputSpec("mean", 2), OutputSpec("residues", 1), OutputSpec("logits")]
#: Cut to the first channels of each vector.
GOLDEN = Path(__file__).parent / "data" / "biolm_answers.json"


def embed(
    model: str | Path, outputs: list[OutputSpec] = OUTPUTS, sequences: list[str] = SEQUENCES
) -> list[dict[OutputSpec, np.ndarray]]:
    records = {}
    for batch in LocalBackend(engine="numpy").run(model, sequences, outputs):
        records.update(zip(batch.indices, batch.records, strict=True))
    return [records[i] for i in range(len(sequences))]


def assert_same(records: list[dict], expected: list[dict], tolerance: float = 0) -> None:
    for record, other in zip(records, expected, strict=True):
        for output, value in record.items():
            np.testing.assert_allclose(value, other[output], rtol=0, atol=tolerance, err_msg=str(output))


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own, to change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file({n: t.contiguous() for n, t in edit(load_file(folder / SINGLE)).items()}, folder / "new.safetensors")
    (folder / "new.safetensors").replace(folder / SINGLE)


# Spellings of the same weights


def old_norms(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """LayerNorms as older checkpoints spell them."""
    new = {}
    for name, tensor in tensors.items():
        if "LayerNorm" in name or "layer_norm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        new[name] = tensor
    return new


def with_decoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "lm_head.decoder.weight": tensors["esm.embeddings.word_embeddings.weight"].clone()}


def with_frequencies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As facebook's own checkpoints hold them, for each layer."""
    name = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
    others = {n: t for n, t in tensors.items() if not n.endswith("inv_freq")}
    frequencies = (1 / 10000 ** (torch.arange(0, 10, 2) / 10)).half()
    return {**others, **{name.format(i): frequencies.clone() for i in range(2)}}


def with_extras(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        **tensors,
        "esm.embeddings.position_ids": torch.arange(1026)[None],
        "esm.embeddings.position_embeddings.weight": torch.zeros(1026, 40),
    }


@pytest.mark.parametrize("edit", [old_norms, with_decoder, with_frequencies, with_extras])
def test_spellings(edit: Callable, folder: Path, tiny_checkpoint: Path) -> None:
    edit_tensors(folder, edit)
    assert_same(embed(folder), embed(tiny_checkpoint))


def test_an_untied_decoder_is_used(folder: Path, tiny_checkpoint: Path) -> None:
    edit_tensors(folder, lambda t: {**with_decoder(t), "lm_head.decoder.weight": torch.zeros(len(VOCABULARY), 40)})
    bias = load_file(folder / SINGLE)["lm_head.bias"][4:24].numpy()
    assert_same(embed(folder, OUTPUTS[:2]), embed(tiny_checkpoint, OUTPUTS[:2]))
    np.testing.assert_allclose(embed(folder)[0][OUTPUTS[2]], np.tile(bias, (10, 1)), atol=1e-6)


def test_shards_are_the_same_model(make_checkpoint, tiny_checkpoint: Path) -> None:
    sharded = make_checkpoint(max_shard_size="60KB")
    assert not (sharded / SINGLE).exists()
    assert len(locate(sharded).files) > 1
    assert_same(embed(sharded), embed(tiny_checkpoint))
    backend = LocalBackend()
    assert backend.namespace(sharded).fingerprint == backend.namespace(tiny_checkpoint).fingerprint


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-2), ("bfloat16", 1e-1)])
def test_half_precision_files(dtype: str, tolerance: float, make_checkpoint, tiny_checkpoint: Path) -> None:
    half = make_checkpoint(dtype=dtype)
    assert_same(embed(half), embed(tiny_checkpoint), tolerance)
    # exactly the model whose weights are the rounded ones
    whole = make_checkpoint(dtype=dtype)
    edit_tensors(whole, lambda tensors: {name: tensor.float() for name, tensor in tensors.items()})
    assert_same(embed(half), embed(whole))


def test_a_half_precision_file_is_never_whole_in_float32(make_checkpoint) -> None:
    """What the torch engine converts to its own type and layout, it reads block by block."""
    checkpoint = locate(make_checkpoint(24, 128, 4, dtype="bfloat16"))
    parameters = read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files))
    TorchEngine(checkpoint.spec, parameters, dtype="bfloat16")  # what is made once, such as compiled code, is made here
    tracemalloc.start()
    TorchEngine(checkpoint.spec, parameters, dtype="bfloat16")
    _, peak = tracemalloc.get_traced_memory()  # of Python and NumPy; torch keeps its own books
    tracemalloc.stop()
    assert peak < 4 * checkpoint.spec.n_parameters / 4


def test_without_a_head_there_are_embeddings_but_no_logits(make_checkpoint, tiny_checkpoint: Path) -> None:
    headless = make_checkpoint(head=False)
    assert_same(embed(headless, OUTPUTS[:2]), embed(tiny_checkpoint, OUTPUTS[:2]))
    with pytest.raises(BackendError, match="without its language-model head"):
        embed(headless)


def test_changed_weights_are_another_model_of_the_same_name(folder: Path, tiny_checkpoint: Path) -> None:
    backend = LocalBackend(engine="numpy")
    before, first = backend.namespace(folder), embed(folder)
    assert before.fingerprint == backend.namespace(tiny_checkpoint).fingerprint

    def nudge(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n: t + 0.01 if n.endswith("word_embeddings.weight") else t for n, t in tensors.items()}

    edit_tensors(folder, nudge)  # same name, same size
    after = backend.namespace(folder)
    assert after.model == before.model
    assert after.fingerprint != before.fingerprint
    assert not np.array_equal(embed(folder)[0][OUTPUTS[0]], first[0][OUTPUTS[0]])


# Damage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "'model_type'"),
        ({"position_embedding_type": "absolute", "emb_layer_norm_before": True}, "ESM-1b"),
        ({"emb_layer_norm_before": True}, "'emb_layer_norm_before'"),
        ({"is_folding_model": True}, "ESMFold"),
        ({"vocab_size": 30}, "'vocab_size'"),
        ({"vocab_list": sorted(VOCABULARY)}, "vocabulary"),
        ({"hidden_act": "relu"}, "'hidden_act'"),
        ({"num_hidden_layers": "2"}, "'num_hidden_layers'"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers'"),
        ({"num_attention_heads": 7}, "'hidden_size'"),
        ({"num_hidden_layers": 3}, r"no tensor esm\.encoder\.layer\.2\."),
        ({"intermediate_size": 80}, r"intermediate\.dense\.weight has shape \(160, 40\)"),
    ],
)
def test_other_configurations_are_refused(changes: dict[str, Any], message: str, folder: Path) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        embed(folder)


@pytest.mark.parametrize("name", ["esm.encoder.layer.1.output.dense.bias", "esm.embeddings.word_embeddings.weight"])
def test_a_missing_tensor_is_named(name: str, folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(CheckpointError, match="no tensor"):
        embed(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    content = (folder / SINGLE).read_bytes()
    for size in (len(content) - 1, len(content) // 2, 100, 5):
        (folder / SINGLE).write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="truncated"):
            embed(folder)


def test_another_vocabulary_file_is_refused(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    embed(folder)
    (folder / "vocab.txt").write_text("\n".join(sorted(VOCABULARY)))
    with pytest.raises(CheckpointError, match=r"vocab\.txt"):
        embed(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "esm2_t6_8M_UR50D.pt"])
def test_pickles_are_refused_unread(name: str, folder: Path) -> None:
    (folder / SINGLE).rename(folder / name)
    with pytest.raises(CheckpointError, match=f"{name}, a pickle"):
        embed(folder)


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/etc/model.safetensors", "sub/a.safetensors", "a.bin", "..", 3, None, ["a"]]
)
def test_an_index_stays_in_its_folder(shard: Any, folder: Path) -> None:
    shutil.copy(folder / SINGLE, folder.parent / "outside.safetensors")
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file beside it"):
        locate(folder)


def test_a_missing_shard_is_named(make_checkpoint) -> None:
    sharded = make_checkpoint(max_shard_size="60KB")
    victim = locate(sharded).files[1]
    victim.unlink()
    with pytest.raises(CheckpointNotFoundError, match=victim.name):
        embed(sharded)


@pytest.mark.parametrize("content", ["{", "[]", "", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_a_damaged_index_is_refused(content: str, folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match="index"):
        locate(folder)


@pytest.mark.parametrize("content", ["{", "[]", "", "{}"])
def test_a_damaged_configuration_is_refused(content: str, folder: Path) -> None:
    (folder / CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match="config"):
        find_spec(folder)


def test_folders_that_hold_no_checkpoint_say_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="config"):
        locate(tmp_path)
    (folder / SINGLE).unlink()
    with pytest.raises(CheckpointNotFoundError, match="neither"):
        locate(folder)


@pytest.mark.parametrize("name", ["", "nothing", "a/b/c", "../up", "./here", "a\\b/c", "/absent/folder", "@main"])
def test_what_is_no_name_is_refused_before_any_request(name: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match="not a known name"):
        locate(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("esm2_t33_650M", "esm2_t33_650M_UR50D"),
        ("esm2_t33_650M_UR50S", "esm2_t33_650M_UR50D"),
        ("ESM2_T6_8M_UR50D", "esm2_t6_8M_UR50D"),
        ("esm2_t6_8M_UR50D ", "esm2_t6_8M_UR50D"),
        ("esm2_8m", "esm2-8m"),
        ("ems2-35m", "esm2-35m"),
        ("esm2_t48_15b", "esm2_t48_15B_UR50D"),
        ("skesm_mini", "skesm-mini"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=f"; did you mean '{suggestion}'\\?"):
        locate(name)
    with pytest.raises(ValueError, match=f"\\(did you mean '{suggestion}'\\?\\)"):
        BioLMBackend("http://127.0.0.1:9").spec(name)


@pytest.mark.parametrize("name", ["protein", "prot_t5", "variants"])
def test_a_name_that_is_close_to_none_gets_no_suggestion(name: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"'organisation/name'\)\. Run") as caught:
        locate(name)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("esm1v_t33_650M_UR90S_1", "ESM-1v"),
        ("facebook/esm1v_t33_650M_UR90S_5@main", "ESM-1v"),
        ("esm1b_t33_650M_UR50S", "ESM-1b"),
        ("facebook/esm1b_t33_650M_UR50S", "ESM-1b"),
        ("esm1_t34_670M_UR50S", "ESM-1"),
        ("esm_msa1b_t12_100M_UR50S", "MSA Transformer"),
        ("esmc_300m", "ESM C"),
        ("ESMC", "ESM C"),
        ("EvolutionaryScale/esmc-600m-2024-12", "ESM C"),
        ("esm3", "ESM3"),
        ("esm3_sm_open_v1", "ESM3"),
        ("EvolutionaryScale/esm3-sm-open-v1", "ESM3"),
        ("esmfold_v1", "ESMFold"),
        ("facebook/esmfold_v1", "ESMFold"),
        ("esm_if1_gvp4_t16_142M_UR50", "ESM-IF"),
    ],
)
def test_other_families_are_not_supported_and_not_asked_for(name: str, family: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=f"not supported: it is of the family {family}. skesm supports"):
        find_spec(name)
    with pytest.raises(ValueError, match=f"it is of the family {family}. skesm supports"):
        BioLMBackend("http://127.0.0.1:9").spec(name)


@pytest.mark.network
def test_the_published_8m_model_gives_biolms_numbers() -> None:
    """BioLM's service runs the same weights; its answers were captured. It runs in lower precision than float32."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["8m"]
    outputs = [OutputSpec(kind, layer) for kind in ("mean", "residues") for layer in range(7)]
    records = embed("esm2_t6_8M_UR50D", outputs, golden["encode_sequences"])
    for record, answer in zip(records, golden["encode"]["results"], strict=True):
        for item in answer["embeddings"]:
            mean = record[OutputSpec("mean", item["layer"])][: len(item["embedding"])]
            np.testing.assert_allclose(mean, item["embedding"], atol=1e-3)
        for item in answer["per_token_embeddings"]:
            residues = record[OutputSpec("residues", item["layer"])][:, : len(item["embeddings"][0])]
            np.testing.assert_allclose(residues, item["embeddings"], atol=1e-3)
    logits = OutputSpec("logits")
    records = embed("esm2_t6_8M_UR50D", [logits], golden["predict_sequences"])
    for record, answer in zip(records, golden["predict"]["results"], strict=True):
        np.testing.assert_allclose(record[logits], answer["logits"], atol=1e-3)
