"""``skesm models``: in this process for folders, in processes of its own against a Hub on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skesm.cli import main

ACTIONS = ("list", "download", "verify", "where", "convert")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(hub_environment: dict[str, str], tmp_path: Path) -> Run:
    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "skesm", "models", *arguments],
            env=hub_environment | settings,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_list_stands_alone_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    alone = capsys.readouterr().out
    assert main(["models", "list"]) == 0
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize("action", ACTIONS)
def test_help_has_an_example(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["models", action, "--help"])
    assert stopped.value.code == 0
    assert f"example: skesm models {action}" in capsys.readouterr().out


def test_download_where_and_verify(hub: Any, run: Run, tiny_checkpoint: Path) -> None:
    commit = hub.publish("lab/model", tiny_checkpoint, "main")
    absent = run("where", "lab/model")
    assert absent.returncode == 1
    assert absent.stderr.count("\n") == 1
    assert "skesm models download lab/model" in absent.stderr
    assert run("verify", "lab/model").returncode == 1
    assert hub.requests == [], "only download fetches"

    fetched = run("download", "lab/model")
    assert (fetched.returncode, fetched.stderr) == (0, "")
    folder = Path(fetched.stdout.strip())
    assert folder.name == commit
    assert (folder / "model.safetensors").is_file()
    asked = len(hub.requests)
    assert run("where", "lab/model").stdout == run("download", "lab/model").stdout == fetched.stdout

    verified = run("verify", "lab/model", HF_HUB_OFFLINE="1")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout.splitlines() == [
        "config.json: as the Hub sent it",
        "model.safetensors: as the Hub sent it",
        f"one peptide went through the model in {folder}",
    ]
    assert hub.requests[asked:] == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_verify_finds_a_changed_file(name: str, hub: Any, run: Run, tiny_checkpoint: Path) -> None:
    hub.publish("lab/model", tiny_checkpoint, "main")
    file = Path(run("download", "lab/model").stdout.strip()) / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b" " if name == "config.json" else content[:-1] + bytes([content[-1] ^ 1]))
    damaged = run("verify", "lab/model")
    assert damaged.returncode == 1
    assert f"{name} changed since it was fetched" in damaged.stderr


def test_digests_that_the_hub_does_not_tell_are_recorded(
    hub: Any, run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    hub.digests = False
    hub.publish("lab/model", tiny_checkpoint, "main")
    folder = Path(run("download", "lab/model").stdout.strip())
    assert "model.safetensors: as it was recorded" in run("verify", "lab/model").stdout
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run("download", "lab/model")  # does not record what is there now
    assert "model.safetensors changed" in run("verify", "lab/model").stderr


def test_what_was_fetched_by_others_has_no_record(hub: Any, run: Run, hub_environment, tiny_checkpoint: Path) -> None:
    hub.digests = False
    hub.publish("lab/model", tiny_checkpoint, "main")
    code = "from skesm.esm2.checkpoints.checkpoint import locate; locate('lab/model')"
    subprocess.run([sys.executable, "-c", code], env=hub_environment, check=True)
    verified = run("verify", "lab/model")
    assert verified.returncode == 0
    assert "model.safetensors: no digest to compare with" in verified.stdout


def test_download_converts_pickles(hub: Any, run: Run, pickled, tiny_checkpoint: Path, tmp_path: Path) -> None:
    hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large", 2), "main")
    fetched = run("download", "lab/large")
    assert fetched.returncode == 0
    assert "converting them to safetensors" in fetched.stderr
    folder = Path(fetched.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert run("where", "lab/large").stdout == fetched.stdout
    assert run("verify", "lab/large").stdout.count("as it was recorded") == 3
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
    assert check.returncode == 0


def test_convert_says_what_it_did(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, new = tmp_path / "source", tmp_path / "new"
    source.mkdir()
    (source / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    state = load_file(tiny_checkpoint / "model.safetensors")
    without = {f"module.{n}": t for n, t in state.items() if "contact_head" not in n and not n.startswith("lm_head")}
    torch.save(without, source / "last.pt")
    assert main(["models", "convert", str(source / "last.pt"), str(new)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"read {source / 'last.pt'}, which uses the names of transformers",
        "took off the prefixes module.",
        "the source has no language-model head: no logits",
        "the source has no contact head",
        f"wrote model.safetensors to {new}",
    ]
    assert main(["models", "verify", str(new)]) == 0
    assert "model.safetensors: as it was recorded" in capsys.readouterr().out
    assert main(["models", "where", str(new)]) == 0
    assert capsys.readouterr().out == f"{new}\n"
    assert main(["models", "convert", str(source), str(new)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_bundled_model(capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("download", "where", "verify"):
        assert main(["models", action, "skesm-mini"]) == 0
        assert "skesm-mini" in capsys.readouterr().out
