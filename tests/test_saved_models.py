"""Folders that transformers writes, each class and each way, against transformers on the same folder.

Rotary frequencies are those of published models: exact ones, rounded to float16. transformers keeps them in the file,
rounded once more if the model is in bfloat16, and computes with them in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import EsmConfig

from skesm.backends import LocalBackend
from skesm.esm2.checkpoints.checkpoint import SINGLE, locate
from skesm.esm2.tokenizer import tokenize
from skesm.exceptions import CheckpointError
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import AMINO_ACIDS

TOLERANCE = 1e-5  # of the layer's scale, see test_parity.py
N_LAYERS = 2
CLASSES = {
    "EsmModel": {},
    "EsmModel without pooler": {"add_pooling_layer": False},
    "EsmForMaskedLM": {},
    "EsmForSequenceClassification": {},
    "EsmForTokenClassification": {},
}
CONFIG = EsmConfig(
    vocab_size=33,
    mask_token_id=32,
    pad_token_id=1,
    hidden_size=40,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=4,
    intermediate_size=80,
    max_position_embeddings=1026,
    position_embedding_type="rotary",
    token_dropout=True,
    layer_norm_eps=1e-5,
    initializer_range=0.2,  # with transformers' own spread attention is almost uniform, which hides wrong angles
)
STAR = "encoder.layer.*.attention.self.rotary_embeddings.inv_freq"


def _sequences() -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(AMINO_ACIDS), n)) for n in (50, 300, 1000, 1500)]


SEQUENCES = _sequences()


def make_model(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = getattr(transformers, name.split()[0])(CONFIG, **CLASSES[name]).eval()
    with torch.no_grad():
        for tensor_name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor_name.endswith("inv_freq"):
                tensor.copy_(tensor.half())
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor += 0.1 * torch.randn_like(tensor)
    return model


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hidden_states(model: torch.nn.Module) -> list[list[FloatArray]]:
    base = getattr(model, "esm", model)
    answers = []
    with torch.inference_mode(), one_thread():
        for sequence in SEQUENCES:
            ids = torch.from_numpy(tokenize(sequence).astype(np.int64))[None]
            answers.append([h[0].numpy() for h in base(ids, output_hidden_states=True).hidden_states])
    return answers


def largest_differences(folder: Path, expected: list[list[FloatArray]], engine: str = "numpy") -> list[float]:
    """For each sequence: the largest difference in any layer, as a share of the layer's largest value."""
    outputs = [OutputSpec("residues", layer) for layer in range(N_LAYERS + 1)]
    records = {}
    for batch in LocalBackend(engine=engine, device="cpu", num_threads=1).run(folder, SEQUENCES, outputs):
        records.update(zip(batch.indices, batch.records, strict=True))
    return [
        max(
            float(np.abs(records[i][output] - state[1:-1]).max() / max(1, np.abs(state).max()))
            for output, state in zip(outputs, states, strict=True)
        )
        for i, states in enumerate(expected)
    ]


def load(name: str, folder: Path) -> torch.nn.Module:
    model = getattr(transformers, name.split()[0]).from_pretrained(folder, dtype=torch.float32, **CLASSES[name])
    return model.eval()


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", CLASSES)
def test_what_transformers_saves_is_what_it_computes(name: str, dtype: str, shards: bool, tmp_path: Path) -> None:
    options = {"max_shard_size": "25KB"} if shards else {}
    make_model(name).to(getattr(torch, dtype)).save_pretrained(tmp_path, **options)
    assert (len(locate(tmp_path).files) > 1) == shards
    expected = hidden_states(load(name, tmp_path))
    assert max(largest_differences(tmp_path, expected)) < TOLERANCE
    if dtype == "float32":
        assert max(largest_differences(tmp_path, expected, engine="torch")) < TOLERANCE


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    tensors = change(load_file(folder / SINGLE))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "new.safetensors")
    (folder / "new.safetensors").replace(folder / SINGLE)


def renamed(*names: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        (found,) = (name for name in tensors if name.endswith("inv_freq"))
        frequencies = tensors.pop(found)
        return {**tensors, **{name: frequencies.clone() for name in names}}

    return change


EACH = [STAR.replace("*", str(i)) for i in range(N_LAYERS)]


@pytest.mark.parametrize("names", [EACH, [STAR], ["rotary_embeddings.inv_freq"], [*EACH, STAR]], ids=str)
@pytest.mark.parametrize("name", ["EsmModel", "EsmForMaskedLM"])
def test_all_names_of_frequencies_are_read(name: str, names: list[str], tmp_path: Path) -> None:
    make_model(name).save_pretrained(tmp_path)
    expected = hidden_states(load(name, tmp_path))
    prefix = "" if name == "EsmModel" else "esm."
    edit(tmp_path, renamed(*(prefix + one for one in names)))
    assert max(largest_differences(tmp_path, expected)) < TOLERANCE


@pytest.mark.parametrize("theta", [10000, 500.0])
def test_frequencies_are_computed_where_a_file_has_none(theta: float, tmp_path: Path) -> None:
    model = make_model("EsmForMaskedLM")
    model.config.rope_theta = float(theta)
    model.save_pretrained(tmp_path)
    model.config.rope_theta = 10000.0
    edit(tmp_path, renamed())
    expected = hidden_states(load("EsmForMaskedLM", tmp_path))
    # transformers computes powers in float32: an angle at position 1,500 is up to 1e-4 off
    assert max(largest_differences(tmp_path, expected)) < 10 * TOLERANCE
    assert max(largest_differences(tmp_path, expected)[:1]) < TOLERANCE


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_layers_may_have_frequencies_of_their_own(engine: str, tmp_path: Path) -> None:
    model = make_model("EsmModel")
    model.save_pretrained(tmp_path)
    frequencies = [model.rotary_embeddings.inv_freq * share for share in (1, 0.5)]
    edit(tmp_path, lambda t: {**renamed()(t), **dict(zip(EACH, frequencies, strict=True))})

    def turn(layer: int) -> Callable[..., tuple[tuple, dict]]:
        def hook(_: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            angles = torch.arange(args[0].shape[1])[None, :, None] * frequencies[layer]
            angles = torch.cat([angles, angles], dim=-1)
            return args, {**kwargs, "position_embeddings": (angles.cos(), angles.sin())}

        return hook

    shared = hidden_states(model)
    for i, layer in enumerate(model.encoder.layer):
        layer.register_forward_pre_hook(turn(i), with_kwargs=True)
    expected = hidden_states(model)
    assert np.abs(expected[0][-1] - shared[0][-1]).max() > 0.01
    assert max(largest_differences(tmp_path, expected, engine)) < TOLERANCE


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["esm.encoder.layer.0.attention.self.rot_emb.inv_freq"], "does not say for which layers"),
        (["inv_freq"], "does not say for which layers"),
        (["encoder.layer.*.attention.self.rotary_embeddings.inv_freq"], "does not say for which layers"),
        (["esm.encoder.layer.00.attention.self.rotary_embeddings.inv_freq"], "does not say for which layers"),
        (["esm." + EACH[0]], "none for layer 1"),
        (["esm." + EACH[1]], "none for layer 0"),
        ([*("esm." + name for name in EACH), "esm." + STAR.replace("*", "2")], "2 layers"),
    ],
)
def test_unknown_frequencies_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    make_model("EsmForMaskedLM").save_pretrained(tmp_path)
    edit(tmp_path, renamed(*names))
    with pytest.raises(CheckpointError, match=message):
        LocalBackend().namespace(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {"esm." + STAR: f, "esm." + EACH[1]: f * 2}, "different rotary frequencies for layer 1"),
        (lambda f: {"esm." + STAR: f[:3]}, "has shape"),
        (lambda f: {"esm." + STAR: f.round().long()}, "I64"),
        (lambda f: {"esm." + STAR: f * torch.nan}, "not finite"),
    ],
)
def test_frequencies_that_make_no_sense_are_refused(change: Callable, message: str, tmp_path: Path) -> None:
    make_model("EsmForMaskedLM").save_pretrained(tmp_path)
    edit(tmp_path, lambda t: {**renamed()(t), **change(torch.tensor([1, 0.158, 0.025, 0.004, 0.0006]))})
    with pytest.raises(CheckpointError, match=message):
        LocalBackend().namespace(tmp_path)


# Adapters

# peft asks transformers under a name that transformers calls old
of_peft = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def adapted() -> torch.nn.Module:
    """A model with LoRA on queries and values, that is not zero."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(make_model("EsmForMaskedLM"), peft.LoraConfig(target_modules=["query", "value"], r=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


@of_peft
def test_a_merged_adapter_is_part_of_the_model(adapted: torch.nn.Module, tmp_path: Path) -> None:
    before = hidden_states(make_model("EsmForMaskedLM"))
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path)
    expected = hidden_states(load("EsmForMaskedLM", tmp_path))
    assert np.abs(expected[0][-1] - before[0][-1]).max() > 0.1
    assert max(largest_differences(tmp_path, expected)) < TOLERANCE


@of_peft
def test_an_adapter_that_is_not_merged_is_refused(adapted: torch.nn.Module, tmp_path: Path) -> None:
    adapted.base_model.model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"merge_and_unload\(\)"):
        LocalBackend().namespace(tmp_path)
