from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skesm.backends import LocalBackend
from skesm.esm2.checkpoint import CONFIG, INDEX, SINGLE, find_spec, locate
from skesm.esm2.parameters import read_parameters
from skesm.esm2.tokenizer import VOCABULARY
from skesm.esm2.torch_engine import TorchEngine
from skesm.esm2.weights_file import WeightsFiles
from skesm.exceptions import BackendError, CheckpointError, CheckpointNotFoundError
from skesm.outputs.spec import OutputSpec

SEQUENCES = ["MKTAYIAKQR", "GS<mask>XB"]
OUTPUTS = [OutputSpec("mean", 2), OutputSpec("residues", 1), OutputSpec("logits")]
GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "data" / "biolm_golden" / "esm2_8m.json"


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
    frequencies = 1 / 10000 ** (torch.arange(0, 10, 2, dtype=torch.int64).float() / 10)
    name = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
    return {**tensors, **{name.format(i): frequencies.clone() for i in range(2)}}


def with_extras(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        **tensors,
        "esm.embeddings.position_ids": torch.arange(1026)[None],
        "esm.embeddings.position_embeddings.weight": torch.zeros(1026, 40),
    }


@pytest.mark.parametrize("edit", [old_norms, with_decoder, with_frequencies, with_extras])
def test_spellings(edit: Callable, folder: Path, tiny_checkpoint: Path) -> None:
    edit_tensors(folder, edit)
    # frequencies computed in float32 differ from ours in the last bit
    assert_same(embed(folder), embed(tiny_checkpoint), tolerance=1e-6 if edit is with_frequencies else 0)


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
    with pytest.raises(CheckpointError, match="not a safetensors file beside it"):
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


# The Hub


class Hub:
    """A server that speaks as much of the Hub's protocol as `huggingface_hub.hf_hub_download` needs."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._files: dict[tuple[str, str], tuple[Path, str]] = {}
        self._repositories: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                repository, _, rest = self.path.lstrip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                folder, commit = hub._files.get((repository, revision), (None, ""))
                body, error = b"", ""
                if repository not in hub._repositories:
                    error = "RepoNotFound"
                elif folder is None:
                    error = "RevisionNotFound"
                elif not (folder / name).is_file():
                    error = "EntryNotFound"
                else:
                    body = (folder / name).read_bytes()
                self.send_response(404 if error else 200)
                if error:
                    self.send_header("X-Error-Code", error)
                else:
                    self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def publish(self, repository: str, folder: Path, *revisions: str) -> str:
        """Serve a folder under revisions and their commit, which is returned."""
        commit = hashlib.sha1(f"{repository} {folder}".encode()).hexdigest()
        self._repositories.add(repository)
        for revision in (*revisions, commit):
            self._files[repository, revision] = folder, commit
        return commit

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


SCRIPT = """
import json, sys
from skesm.esm2.checkpoint import find_spec, locate
from skesm.exceptions import SkesmError
answers = []
for model in sys.argv[1:]:
    try:
        found = locate(model)
        assert find_spec(model) == found.spec
        answers.append({"files": [str(f) for f in found.files], "revision": found.revision, "commit": found.commit,
                        "width": found.spec.width, "name": found.spec.name, "repository": found.spec.repository})
    except SkesmError as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
print(json.dumps(answers))
"""


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """What `locate` finds for models, in a fresh process: huggingface_hub reads its settings when it is imported."""

    def ask(*models: str, **settings: str) -> list[dict[str, Any]]:
        environment = {n: v for n, v in os.environ.items() if not n.startswith("HF_") and "proxy" not in n.lower()}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        answer = subprocess.run(
            [sys.executable, "-c", SCRIPT, *models],
            env=environment | settings,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    return ask


def test_hub_files_are_fetched_once(hub: Hub, ask, tiny_checkpoint: Path, make_checkpoint) -> None:
    other = make_checkpoint(1, 24, 2)
    sharded = make_checkpoint(max_shard_size="60KB")
    commit = hub.publish("lab/model", tiny_checkpoint, "main")
    tagged = hub.publish("lab/tagged", other, "v1.2")
    hub.publish("lab/sharded", sharded, "main")
    models = ("lab/model", "lab/tagged@v1.2", "lab/sharded")

    single, revised, shards = ask(*models)

    assert (single["revision"], single["commit"]) == ("main", commit)
    assert (single["width"], single["repository"]) == (40, "lab/model")
    assert Path(single["files"][0]).read_bytes() == (tiny_checkpoint / SINGLE).read_bytes()
    assert (revised["revision"], revised["commit"], revised["width"]) == ("v1.2", tagged, 24)
    assert len(shards["files"]) == len(locate(sharded).files) > 1
    downloads = [request for request in hub.requests if request.startswith("GET")]
    assert len(downloads) == len(set(downloads))
    assert not any(".bin" in request or ".pt" in request for request in hub.requests)

    asked = len(hub.requests)
    assert ask("lab/model", "lab/tagged@v1.2") == [single, revised]
    assert hub.requests[asked:] == [], "what is here is used without asking"
    assert ask(*models, HF_HUB_OFFLINE="1") == [single, revised, shards]
    # by the commit, which no cached reference names
    assert ask(f"lab/model@{commit}")[0]["files"] == single["files"]


def test_what_the_hub_does_not_have(hub: Hub, ask, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(tiny_checkpoint / CONFIG, pickled / CONFIG)
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    hub.publish("lab/model", tiny_checkpoint, "main")
    hub.publish("lab/pickled", pickled, "main")
    # a registry name whose repository holds another shape
    hub.publish("facebook/esm2_t6_8M_UR50D", tiny_checkpoint, "main")

    absent, revision, pickles, impostor = ask("lab/absent", "lab/model@v9", "lab/pickled", "esm2_t6_8M_UR50D")

    assert absent["error"] == revision["error"] == pickles["error"] == "CheckpointNotFoundError"
    assert "lab/absent does not exist or is not public" in absent["message"]
    assert "lab/model at revision 'v9'" in revision["message"]
    assert f"lab/pickled has no file {SINGLE}" in pickles["message"]
    assert impostor["error"] == "CheckpointError"
    assert "does not describe esm2_t6_8M_UR50D" in impostor["message"]
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_offline_the_error_says_what_to_do(hub: Hub, ask, tmp_path: Path) -> None:
    (answer,) = ask("esm2-8m@main", HF_HUB_OFFLINE="1")
    assert answer["error"] == "CheckpointNotFoundError"
    for part in (
        CONFIG,
        f"hf download facebook/esm2_t6_8M_UR50D {CONFIG} {SINGLE} --revision main",
        str(tmp_path / "hf" / "hub"),
        "HF_HUB_OFFLINE",
        "skesm-mini",
    ):
        assert part in answer["message"]
    assert hub.requests == []


@pytest.mark.network  # needs none, but waits 25 s for huggingface_hub's retries
def test_without_a_network_the_error_says_what_to_do(ask) -> None:
    (answer,) = ask("lab/model", HF_ENDPOINT="http://127.0.0.1:9")  # the discard port: refused
    assert answer["error"] == "CheckpointNotFoundError"
    assert f"hf download lab/model {CONFIG} {SINGLE}" in answer["message"]


@pytest.mark.network
def test_the_published_8m_model_gives_biolms_numbers() -> None:
    """BioLM's service runs the same weights; its answers were captured. It runs in lower precision than float32."""
    if not GOLDEN.exists():
        pytest.skip("the captured answers are not at hand")
    golden = json.loads(GOLDEN.read_text())
    outputs = [OutputSpec(kind, layer) for kind in ("mean", "residues") for layer in range(7)]
    records = embed("esm2_t6_8M_UR50D", outputs, golden["encode_sequences"])
    for record, answer in zip(records, golden["encode"]["results"], strict=True):
        for item in answer["embeddings"]:
            np.testing.assert_allclose(record[OutputSpec("mean", item["layer"])], item["embedding"], atol=1e-3)
        for item in answer["per_token_embeddings"]:
            np.testing.assert_allclose(record[OutputSpec("residues", item["layer"])], item["embeddings"], atol=1e-3)
    logits = OutputSpec("logits")
    records = embed("esm2_t6_8M_UR50D", [logits], golden["predict_sequences"])
    for record, answer in zip(records, golden["predict"]["results"], strict=True):
        np.testing.assert_allclose(record[logits], answer["logits"], atol=1e-3)


def test_an_unknown_host_is_noticed_at_once() -> None:
    """Without internet the Hub's own client tries for half a minute, and writes about it."""
    code = "from skesm import ESM2Embedder; ESM2Embedder('esm2_t6_8M_UR50D').transform(['MKT'])"
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": "http://no-such-host.invalid", "HF_HUB_CACHE": os.devnull, "HF_HUB_OFFLINE": "0"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "CheckpointNotFoundError: config.json of facebook/esm2_t6_8M_UR50D" in process.stderr
    assert "Retry" not in process.stderr
