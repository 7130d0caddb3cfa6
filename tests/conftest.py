"""Checkpoints of the real architecture with random weights, made by transformers, and real sequences."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from biolm_service import Service, running_service
from server_process import CANARY_PASSWORD, CANARY_TOKEN, N_LAYERS, Local, Server, running

from skesm.backends import Batch, LocalBackend
from skesm.datasets import load_gb1_stability, load_gfp_fluorescence
from skesm.exceptions import BackendError, PartialResultError
from skesm.outputs.spec import OutputSpec, Record, parse_outputs

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def hub() -> Iterator[Any]:
    """A Hub of models on this machine, `stub_hub.Hub`."""
    spec = importlib.util.spec_from_file_location("stub_hub", Path(__file__).with_name("stub_hub.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hub = module.Hub()
    yield hub
    hub.close()


@pytest.fixture
def hub_environment(hub: Any, tmp_path: Path) -> dict[str, str]:
    """Environment of a process that knows no other Hub and has an empty cache.

    A process of its own is needed, because huggingface_hub reads its settings when it is imported.
    """
    kept = {n: v for n, v in os.environ.items() if not n.startswith("HF_") and "proxy" not in n.lower()}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**kept, **settings, "PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.fixture
def pickled() -> Callable[..., Path]:
    """Turns a checkpoint's folder into one with pickles: ``pickled(folder, target, shards=1)``."""

    def write(folder: Path, target: Path, shards: int = 1) -> Path:

        import torch
        from safetensors.torch import load_file

        target.mkdir()
        (target / "config.json").write_bytes((folder / "config.json").read_bytes())
        tensors = load_file(folder / "model.safetensors")
        if shards == 1:
            torch.save(tensors, target / "pytorch_model.bin")
            return target
        weight_map = {n: f"pytorch_model-{i % shards + 1:05}-of-{shards:05}.bin" for i, n in enumerate(tensors)}
        for file in set(weight_map.values()):
            torch.save({n: t for n, t in tensors.items() if weight_map[n] == file}, target / file)
        index = {"metadata": {}, "weight_map": weight_map}
        (target / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return target

    return write


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Folder of a random ESM-2 checkpoint: ``make_checkpoint(n_layers, width, n_heads, seed=0, **save_options)``.

    ``config`` holds further fields of the configuration; ``head=False`` saves it without the language-model head.
    """

    def make(
        n_layers: int = 2,
        width: int = 40,
        n_heads: int = 4,
        *,
        seed: int = 0,
        dtype: str = "float32",
        head: bool = True,
        config: Mapping[str, object] = MappingProxyType({}),
        **options: object,
    ) -> Path:
        import torch
        from transformers import EsmConfig, EsmForMaskedLM

        from skesm.esm2.tokenizer import VOCABULARY

        torch.manual_seed(seed)
        fields = {
            "vocab_size": len(VOCABULARY),
            "mask_token_id": VOCABULARY.index("<mask>"),
            "pad_token_id": VOCABULARY.index("<pad>"),
            "vocab_list": list(VOCABULARY),
            "hidden_size": width,
            "num_hidden_layers": n_layers,
            "num_attention_heads": n_heads,
            "intermediate_size": 4 * width,
            "max_position_embeddings": 1026,
            "position_embedding_type": "rotary",
            "emb_layer_norm_before": False,
            "token_dropout": True,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        model = EsmForMaskedLM(EsmConfig(**{**fields, **config})).eval()
        with torch.no_grad():
            # transformers starts biases at 0 and LayerNorms at 1: an engine that forgets them would pass
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
            # the published models' frequencies were rounded to float16: an engine that computes its own would pass
            for name, buffer in model.named_buffers():
                if name.endswith("inv_freq"):
                    buffer.copy_(buffer.half())
        folder = tmp_path_factory.mktemp("checkpoint")
        model = model.to(getattr(torch, dtype))
        (model if head else model.esm).save_pretrained(folder, **options)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """2 layers, 40 channels, 4 heads: fast."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def checkpoint_8m(make_checkpoint: MakeCheckpoint) -> Path:
    """The shape of esm2_t6_8M_UR50D: 6 layers, 320 channels, 20 heads."""
    return make_checkpoint(6, 320, 20)


@pytest.fixture(scope="session")
def without_contact_head(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Copy of a checkpoint's folder as some are saved: without the contact head."""

    def copy(folder: Path) -> Path:
        from safetensors.torch import load_file, save_file

        stripped = tmp_path_factory.mktemp("without_contact_head")
        (stripped / "config.json").write_bytes((folder / "config.json").read_bytes())
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if "contact_head" not in name}
        assert len(kept) == len(tensors) - 2
        save_file(kept, stripped / "model.safetensors", metadata={"format": "pt"})
        return stripped

    return copy


@pytest.fixture(scope="session")
def proteins() -> list[str]:
    """60 seeded random sequences of 1 to 400 residues."""
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("LAGVSERTIDPKQNFYMHWC"), rng.integers(1, 401))) for _ in range(60)]


class RefusingBackend(LocalBackend):
    """Fails on what holds a tryptophan, after it has computed all others."""

    def run(
        self, model: Any, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        good = [i for i, sequence in enumerate(sequences) if "W" not in sequence]
        for batch in super().run(model, [sequences[i] for i in good], outputs, n_jobs=n_jobs):
            yield Batch([good[i] for i in batch.indices], batch.records)
        bad = set(range(len(sequences))) - set(good)
        if bad:
            raise PartialResultError("some failed", {i: BackendError("refused") for i in sorted(bad)})


@pytest.fixture
def refusing() -> LocalBackend:
    """A backend that fails on what holds a tryptophan."""
    return RefusingBackend()


@pytest.fixture(scope="session")
def gfp() -> tuple[list[str], np.ndarray]:
    """The first 200 of the bundled GFP variants: (sequences, log fluorescence)."""
    sequences, y = load_gfp_fluorescence(return_X_y=True)
    return sequences[:200].tolist(), y[:200]


@pytest.fixture
def blas_threads() -> Callable[[], int]:
    """Gives the most threads that any BLAS of this process may use at the moment."""

    def most() -> int:
        return max((i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"), default=1)

    return most


StartServer = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def start_server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> StartServer:
    """``start_server(*arguments, environ={}, before=None, status=0)``: a server of the tiny checkpoint."""

    def start(*arguments: str, **options: Any) -> AbstractContextManager[Server]:
        return running(tiny_checkpoint, tmp_path_factory.mktemp("served") / "log", *arguments, **options)

    return start


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for everybody on this machine."""
    with running(tiny_checkpoint, tmp_path_factory.mktemp("server") / "log", "--log-level", "debug") as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for those with a token or a password."""
    environ = {
        "SKESM_SERVER_TOKENS": f"other-token {CANARY_TOKEN}",
        "SKESM_SERVER_USERS": f"ada:{CANARY_PASSWORD} bob:second",
    }
    log = tmp_path_factory.mktemp("guarded") / "log"
    with running(tiny_checkpoint, log, "--log-level", "debug", environ=environ) as server:
        yield server


@pytest.fixture(scope="module")
def local(tiny_checkpoint: Path) -> Local:
    """Records of the local backend called directly."""
    backend = LocalBackend(num_threads=1)

    def compute(sequences: Sequence[str], *names: str) -> list[Record]:
        distinct = list(dict.fromkeys(sequences))
        found: dict[str, Record] = {}
        for batch in backend.run(str(tiny_checkpoint), distinct, parse_outputs(names, N_LAYERS)):
            found |= {distinct[i]: record for i, record in zip(batch.indices, batch.records, strict=True)}
        return [found[s] for s in sequences]

    return compute


@pytest.fixture(scope="module")
def problem() -> tuple[list[str], np.ndarray]:
    """60 seeded rows of the GB1 data."""
    sequences, y = load_gb1_stability(return_X_y=True)
    chosen = np.random.default_rng(0).choice(len(y), 60, replace=False)
    return list(sequences[chosen]), y[chosen]


@pytest.fixture
def patient(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that waits a second for more before it computes, and takes no more than ten residues at a time."""
    with running(tiny_checkpoint, tmp_path / "log", "--batch-wait", "1000", "--queue", "10") as server:
        yield server


@pytest.fixture(scope="module")
def process() -> Iterator[Service]:
    """A service that misbehaves as it is told."""
    with running_service() as service:
        yield service


@pytest.fixture
def service(process: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    """The service, behaving well, for a client without credentials."""
    for name in [name for name in os.environ if name.startswith("BIOLM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    process.script()
    yield process
    process.open_gate()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("skesm-biolm")]
    assert not left, "the client has left threads behind"
