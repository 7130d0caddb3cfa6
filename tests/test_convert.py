"""Checkpoints as torch saves them, made by transformers and fair-esm with random weights, to safetensors."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmForMaskedLM, EsmForSequenceClassification, EsmModel

from skesm.backends import LocalBackend
from skesm.esm2.checkpoints.checkpoint import find_spec, locate
from skesm.esm2.tokenizer import tokenize
from skesm.exceptions import CheckpointError, CheckpointNotFoundError
from skesm.models import convert, verify
from skesm.outputs.spec import OutputSpec

ROOT = Path(__file__).resolve().parents[1]
SEQUENCES = ["MKTAYIAKQR", "GS<mask>XB", "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"]
OUTPUTS = [OutputSpec("mean", 2), OutputSpec("residues", 1), OutputSpec("logits"), OutputSpec("contacts")]
CONFIG, SINGLE, BIN = "config.json", "model.safetensors", "pytorch_model.bin"
State = Mapping[str, torch.Tensor]


def embed(model: Path, outputs: list[OutputSpec] = OUTPUTS) -> list[dict[OutputSpec, np.ndarray]]:
    records = {}
    for batch in LocalBackend(engine="numpy").run(model, SEQUENCES, outputs):
        records.update(zip(batch.indices, batch.records, strict=True))
    return [records[i] for i in range(len(SEQUENCES))]


def assert_same_numbers(model: Path, expected: Path, outputs: list[OutputSpec] = OUTPUTS) -> None:
    for record, other in zip(embed(model, outputs), embed(expected, outputs), strict=True):
        for output in outputs:
            np.testing.assert_array_equal(record[output], other[output], err_msg=str(output))


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / SINGLE)


def as_safetensors(state: State, folder: Path) -> Path:
    """The same state written by the safetensors package, beside the configuration in `folder`."""
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / SINGLE)
    return folder


def nothing_is_left(folder: Path) -> None:
    assert not folder.exists()
    assert not [path for path in folder.parent.iterdir() if ".part" in path.name]


@pytest.fixture
def save(tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """A folder with config.json and a file that torch saved."""

    def save(content: Any, name: str = BIN, **options: Any) -> Path:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        shutil.copy(tiny_checkpoint / CONFIG, folder)
        torch.save(content, folder / name, **options)
        return folder

    return save


# transformers' names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_files_of_transformers(shards: int, pickled, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = pickled(tiny_checkpoint, tmp_path / "source", shards)
    done = convert(source, tmp_path / "new")
    assert (done.naming, done.prefixes, done.has_head, done.has_contact_head) == ("transformers", (), True, True)
    assert len(done.files) == shards
    assert locate(tmp_path / "new").files == done.files
    tensors = {n: t for file in done.files for n, t in load_file(file).items()}
    original = state_of(tiny_checkpoint)
    assert tensors.keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in tensors.items())
    assert_same_numbers(tmp_path / "new", tiny_checkpoint)
    backend = LocalBackend()
    assert backend.namespace(tmp_path / "new").fingerprint == backend.namespace(tiny_checkpoint).fingerprint
    assert verify(tmp_path / "new").files == {CONFIG: "record", **{file.name: "record" for file in done.files}}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_type_of_weights_stays(dtype: str, save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    source = save({n: t.to(kind) for n, t in state_of(tiny_checkpoint).items()})
    convert(source, tmp_path / "new")
    assert {tensor.dtype for tensor in state_of(tmp_path / "new").values()} == {kind}


def test_the_format_of_old_torch(save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    convert(save(state_of(tiny_checkpoint), _use_new_zipfile_serialization=False), tmp_path / "new")
    assert_same_numbers(tmp_path / "new", tiny_checkpoint)


def test_frequencies_and_position_ids_stay(save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The published frequencies are rounded to float16: exact ones would give other numbers."""
    name = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
    frequencies = (1 / 10000 ** (torch.arange(0, 10, 2) / 10)).half().float()
    positions = {"esm.embeddings.position_ids": torch.arange(1026)[None]}
    state = {**state_of(tiny_checkpoint), **{name.format(i): frequencies.clone() for i in range(2)}, **positions}
    convert(save(state), tmp_path / "new")
    new = state_of(tmp_path / "new")
    assert new.keys() == state.keys()
    assert all(torch.equal(new[name.format(i)], frequencies) for i in range(2))
    assert_same_numbers(tmp_path / "new", as_safetensors(state, tmp_path / "source"))


def test_views_and_tied_tensors_are_written_whole(save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    state = state_of(tiny_checkpoint)
    name = "esm.encoder.layer.0.intermediate.dense.weight"
    state[name] = state[name].t().contiguous().t()  # column by column
    state["lm_head.decoder.weight"] = state["esm.embeddings.word_embeddings.weight"]
    convert(save(state), tmp_path / "new")
    assert_same_numbers(tmp_path / "new", tiny_checkpoint)


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        ("module.", ("module.",)),
        ("_orig_mod.", ("_orig_mod.",)),
        ("model.", ("model.",)),
        ("backbone.", ("backbone.",)),
        ("model._orig_mod.module.", ("model.", "_orig_mod.", "module.")),
    ],
)
@pytest.mark.parametrize("nested", [None, "model", "state_dict", "model_state_dict"])
def test_prefixes_of_wrappers(
    wrapper: str, expected: tuple[str, ...], nested: str | None, save, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    state = {wrapper + name: tensor for name, tensor in state_of(tiny_checkpoint).items()}
    source = save({nested: state, "epoch": 3, "optimizer": {"lr": 0.1}} if nested else state, "best.ckpt")
    assert convert(source, tmp_path / "new").prefixes == expected
    assert_same_numbers(tmp_path / "new", tiny_checkpoint)


def test_a_wrapped_module(save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = EsmForMaskedLM.from_pretrained(tiny_checkpoint)
    source = save(torch.nn.DataParallel(model).state_dict(), "last.pt")
    assert convert(source, tmp_path / "new").prefixes == ("module.",)
    assert_same_numbers(tmp_path / "new", as_safetensors(model.state_dict(), source))


@pytest.mark.parametrize("kind", [EsmModel, EsmForSequenceClassification])
def test_no_head_is_invented(kind: Any, save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = kind.from_pretrained(tiny_checkpoint).state_dict()
    done = convert(save(state), tmp_path / "new")
    assert not done.has_head
    assert done.has_contact_head
    new = state_of(tmp_path / "new")
    assert not any(name.startswith("lm_head") for name in new)
    assert new.keys() == state.keys()
    assert_same_numbers(tmp_path / "new", as_safetensors(state, tmp_path / "source"), OUTPUTS[:2])


# fair-esm's names -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fair_esm(tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """A random model of fair-esm, and a file as its authors publish them."""

    def make(arguments: str = "cfg", **changes: Any) -> tuple[Any, Path]:
        with warnings.catch_warnings():
            from esm.model.esm2 import ESM2
        torch.manual_seed(1)
        model = ESM2(num_layers=2, embed_dim=40, attention_heads=4).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
            for layer in model.layers:
                frequencies = layer.self_attn.rot_emb.inv_freq
                frequencies.copy_(frequencies.half().float())
        state = {
            f"encoder.{'' if name.startswith('lm_head') else 'sentence_encoder.'}{name}": tensor
            for name, tensor in model.state_dict().items()
            if not name.startswith("contact_head")
        }
        fields: dict[str, Any] = {
            **{"encoder_layers": 2, "encoder_embed_dim": 40, "encoder_attention_heads": 4, "token_dropout": True},
            **changes,
        }
        space = argparse.Namespace(**{name: value for name, value in fields.items() if value is not None})
        folder = tmp_path / "fair"
        folder.mkdir()
        path = folder / "esm2_t2_UR50D.pt"
        torch.save({"model": state, **({"cfg": {"model": space}} if arguments == "cfg" else {"args": space})}, path)
        contacts = {n: t for n, t in model.state_dict().items() if n.startswith("contact_head")}
        torch.save({"model": contacts}, folder / "esm2_t2_UR50D-contact-regression.pt")
        return model, path

    return make


@pytest.mark.parametrize("arguments", ["cfg", "args"])
@pytest.mark.parametrize("give_folder", [True, False])
def test_files_of_fair_esm(arguments: str, give_folder: bool, fair_esm, tmp_path: Path) -> None:
    model, path = fair_esm(arguments)
    done = convert(path.parent if give_folder else path, tmp_path / "new")
    assert (done.naming, done.prefixes, done.has_head, done.has_contact_head) == ("fair-esm", (), True, True)
    new = state_of(tmp_path / "new")
    assert len(new) == len(model.state_dict())
    for sequence, record in zip(SEQUENCES, embed(tmp_path / "new"), strict=True):
        with torch.inference_mode():
            tokens = torch.tensor(tokenize(sequence)[None].astype(np.int64))
            answer = model(tokens, repr_layers=[1, 2], return_contacts=True)
        expected = {
            OUTPUTS[0]: answer["representations"][2][0, 1:-1].mean(0),
            OUTPUTS[1]: answer["representations"][1][0, 1:-1],
            OUTPUTS[2]: answer["logits"][0, 1:-1, 4:24],
            OUTPUTS[3]: answer["contacts"][0],
        }
        for output, value in expected.items():
            np.testing.assert_allclose(record[output], value.numpy(), rtol=0, atol=2e-5, err_msg=str(output))


def test_transformers_reads_what_came_from_fair_esm(fair_esm, tmp_path: Path) -> None:
    model, path = fair_esm()
    convert(path, tmp_path / "new")
    theirs, info = EsmForMaskedLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    tokens = torch.tensor(tokenize(SEQUENCES[2])[None].astype(np.int64))
    with torch.inference_mode():
        answer = theirs.eval()(tokens).logits
        np.testing.assert_allclose(answer.numpy(), model(tokens)["logits"].numpy(), rtol=0, atol=2e-5)


def test_without_the_regression_file_there_is_no_contact_head(fair_esm, tmp_path: Path) -> None:
    _, path = fair_esm()
    path.with_name("esm2_t2_UR50D-contact-regression.pt").unlink()
    assert not convert(path, tmp_path / "new").has_contact_head


def test_a_state_of_fair_esm_needs_a_configuration(fair_esm, save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What people save themselves, `torch.save(model.state_dict())`, tells no arguments."""
    model, path = fair_esm()
    torch.save(model.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"Put the config\.json"):
        convert(path, tmp_path / "new")
    nothing_is_left(tmp_path / "new")
    shutil.copy(tiny_checkpoint / CONFIG, path.parent)
    assert convert(path, tmp_path / "new").naming == "fair-esm"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layers": None}, "encoder_layers missing"),
        ({"encoder_layers": 3}, r"no tensor esm\.encoder\.layer\.2"),
        ({"encoder_embed_dim": 80}, "has shape"),
        ({"encoder_attention_heads": "4"}, "num_attention_heads"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, fair_esm, tmp_path: Path) -> None:
    _, path = fair_esm(**changes)
    with pytest.raises(CheckpointError, match=message):
        convert(path, tmp_path / "new")
    nothing_is_left(tmp_path / "new")


def test_arguments_and_configuration_must_agree(fair_esm, make_checkpoint, tmp_path: Path) -> None:
    _, path = fair_esm()
    shutil.copy(make_checkpoint(3, 40, 4) / CONFIG, path.parent)
    with pytest.raises(CheckpointError, match="do not describe the same model"):
        convert(path, tmp_path / "new")


# refusals -------------------------------------------------------------------------------------------------------------


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_does_not_run(zipped: bool, save, monkeypatch, tiny_checkpoint: Path, tmp_path: Path) -> None:
    state: dict[str, Any] = {**state_of(tiny_checkpoint), "extra": RunsCode()}
    source = save(state, _use_new_zipfile_serialization=zipped)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "new")
    assert "weights_only=False" not in str(caught.value)
    assert caught.value.__suppress_context__, "torch's advice to load it all the same is not shown"
    if zipped:
        assert "posix.mkdir" in str(caught.value)
        assert "state_dict" in str(caught.value)
    assert not (tmp_path / "it_ran").exists()
    nothing_is_left(tmp_path / "new")


def test_a_whole_module_is_refused(save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"modeling_esm\.EsmForMaskedLM.*state_dict"):
        convert(save(EsmForMaskedLM.from_pretrained(tiny_checkpoint)), tmp_path / "new")


def with_tensor(name: str, tensor: Any = None) -> Callable[[State], Any]:
    return lambda state: {**state, name: torch.zeros(3) if tensor is None else tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: list(state), "holds a list"),
        (lambda state: {}, "nothing"),
        (lambda state: {"model": state, "state_dict": state}, "several models: model, state_dict"),
        (with_tensor("note", "text"), "note"),
        (with_tensor("mask", torch.zeros(3, dtype=torch.bool)), "mask"),
        (with_tensor("holes", torch.zeros(3, 3).to_sparse()), "holes"),
        (with_tensor("module.lm_head.bias"), r"twice.*module\.lm_head\.bias"),
        (with_tensor("embed_tokens.weight"), "or two of them"),
        (lambda state: {f"encoder.{n}": t for n, t in state.items()}, r"no ESM-2 model.*encoder\.esm\.contact_head"),
        (with_tensor("esm.encoder.layer.0.attention.self.query.lora_A.default.weight"), "merge_and_unload"),
        (lambda state: {f"base_model.model.{n}": t for n, t in state.items()}, "merge_and_unload"),
        (lambda state: {n: t for n, t in state.items() if "layer.0.output.dense.bias" not in n}, "no tensor esm"),
    ],
)
def test_content_that_is_not_understood_is_named(
    change: Callable[[State], Any], message: str, save, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source = save(change(state_of(tiny_checkpoint)))
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "new")
    nothing_is_left(tmp_path / "new")


def test_other_models_of_fair_esm_are_named(fair_esm, tmp_path: Path) -> None:
    _, path = fair_esm()
    content = torch.load(path, weights_only=False)
    content["model"]["encoder.sentence_encoder.embed_positions.weight"] = torch.zeros(1026, 40)  # ESM-1b
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"does not have: encoder\.sentence_encoder\.embed_positions\.weight"):
        convert(path, tmp_path / "new")


@pytest.mark.parametrize("size", [0, 10, 1000, -1])
def test_a_damaged_file_is_refused(size: int, save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = save(state_of(tiny_checkpoint)) / BIN
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="damaged"):
        convert(file, tmp_path / "new")
    nothing_is_left(tmp_path / "new")


def test_shards_and_index_must_agree(pickled, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = pickled(tiny_checkpoint, tmp_path / "source", shards=2)
    index = source / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    first, *_ = content["weight_map"]
    shard = source / content["weight_map"].pop(first)
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"do not agree on {first}"):
        convert(source, tmp_path / "new")
    nothing_is_left(tmp_path / "new")
    shard.unlink()
    with pytest.raises(CheckpointNotFoundError, match=shard.name):
        convert(source, tmp_path / "new")


@pytest.mark.parametrize("name", ["../a.bin", "/etc/a.bin", "a.safetensors", 3, None, ["a.bin"]])
def test_an_index_stays_in_its_folder(name: Any, save, tmp_path: Path) -> None:
    source = save({})
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=r"not a \.bin file beside it"):
        convert(source, tmp_path / "new")


def test_sources_that_are_not_clear(save, tiny_checkpoint: Path, tmp_path: Path) -> None:
    def refuse(source: Path, message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "new")

    refuse(tmp_path / "absent", "absent does not exist")
    refuse(tiny_checkpoint, "holds safetensors already")
    refuse(tiny_checkpoint / SINGLE, "is a safetensors file already")
    refuse(tmp_path, "no file that can be converted")
    source = save(state_of(tiny_checkpoint), "a.pt")
    save(state_of(tiny_checkpoint), "b.pt")
    refuse(source, r"several files that may be the model: a\.pt, b\.pt")
    (source / "b.pt").rename(source / "optimizer.pt")  # no model
    convert(source, tmp_path / "new")
    refuse(source, "exists already")
    (source / "adapter_config.json").write_text("{}")
    refuse(source, "merge_and_unload")


# refusals of models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [BIN, "esm2_t6_8M_UR50D.pt", "best model.ckpt"])
@pytest.mark.parametrize("give_folder", [True, False])
def test_a_pickle_as_the_model_gets_the_line_that_converts_it(
    name: str, give_folder: bool, save, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source = save(state_of(tiny_checkpoint), name)
    (source / "training_args.bin").write_bytes(b"")
    model = source if give_folder else source / name
    with pytest.raises(CheckpointError) as caught:
        locate(model)
    line = str(caught.value).partition("skesm models convert ")[2]
    assert line
    assert shlex.split(line) == [str(model), "NEW_FOLDER"]
    convert(model, tmp_path / "new")
    assert_same_numbers(tmp_path / "new", tiny_checkpoint)


def test_a_file_as_the_model_is_told_that_it_is_one(tiny_checkpoint: Path) -> None:
    for name in (SINGLE, CONFIG):
        with pytest.raises(CheckpointError, match=rf"is a file\. Give the folder.*{tiny_checkpoint.name}"):
            locate(tiny_checkpoint / name)
        with pytest.raises(CheckpointError, match=r"is a file\."):
            find_spec(tiny_checkpoint / name)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("beside_a_model", [True, False])
def test_adapters_are_refused(name: str, beside_a_model: bool, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(tiny_checkpoint, folder) if beside_a_model else folder.mkdir()
    (folder / name).write_bytes(b"{}")
    for find in (locate, find_spec):
        with pytest.raises(CheckpointError, match="merge_and_unload"):
            find(folder)


# torch ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "message"),
    [("2.5.1+cpu", "torch 2.5.1+cpu cannot read"), ("1.13.1", "torch 1.13.1 cannot"), (None, "torch is not installed")],
)
def test_torch_that_is_old_or_absent(version: str | None, message: str, save, tmp_path: Path) -> None:
    """A package that would load anything stands in for an old torch."""
    source = save({})
    package = tmp_path / "packages" / "torch"
    package.mkdir(parents=True)
    absent = 'raise ModuleNotFoundError("No module named \'torch\'", name="torch")'
    loads = f"__version__ = {version!r}\ndef load(*_, **__):\n    open('loaded', 'x')\n"
    (package / "__init__.py").write_text(loads if version else absent)
    done = subprocess.run(
        [sys.executable, "-m", "skesm", "models", "convert", str(source), "new"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "pip install" in done.stderr
    assert "'torch>=2.6'" in done.stderr
    assert not (tmp_path / "loaded").exists()
    nothing_is_left(tmp_path / "new")
