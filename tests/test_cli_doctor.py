"""``skesm doctor``, ``skesm completion``, help, and errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skesm import ESM2Embedder
from skesm.cli import help_texts, main
from skesm.exceptions import StoreError

ROOT = Path(__file__).parents[1]
COMMANDS = ["embed", "logits", "score", "demo", "models", "cache", "cache merge", "serve", "doctor", "completion"]


def test_doctor(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ESM2Embedder(tiny_checkpoint, memory=tmp_path / "memory").transform(["MKT"])
    command = ["doctor", "--model", str(tiny_checkpoint), "--memory", str(tmp_path / "memory")]
    assert main([*command, "--json"]) == 0
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {"skesm", "torch", "engine", "processor", "threads", "precision", "hub", "models", "speed"} <= found.keys()
    assert "1 models" in found["memory"]["text"]
    assert found["engine"]["text"] == "the compiled engine computes, on the CPU"
    assert "proteins of 300 residues a minute, or" in found["speed"]["text"]
    assert "(the compiled engine, the CPU;" in found["speed"]["text"]
    for finding in found.values():
        assert finding["state"] in ("ok", "note")
        assert finding["text"]
        assert finding["remedy"] or finding["state"] == "ok"


def test_doctor_names_problems_and_shows_no_secret(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIOLM_TOKEN", "very-secret")
    assert main(["doctor", "--model", str(tiny_checkpoint), "--memory", str(tmp_path / "none")]) == 1
    out = capsys.readouterr().out
    lines = {line.split()[1]: line for line in out.splitlines()}
    assert lines["memory"].startswith("problem")
    assert StoreError.__name__ in lines["memory"]
    assert "found for backend='biolm'" in lines["credentials"]
    assert "very-secret" not in out


def test_doctor_asks_the_hub_only_if_told_to(
    hub: object, hub_environment: dict[str, str], tiny_checkpoint: Path
) -> None:
    command = [sys.executable, "-m", "skesm", "doctor", "--model", str(tiny_checkpoint), "--online"]
    done = subprocess.run(command, env=hub_environment, capture_output=True, text=True, check=False, timeout=120)
    line = next(line for line in done.stdout.splitlines() if " hub " in line)
    assert "reached, status" in line
    gone = {**hub_environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(command, env=gone, capture_output=True, text=True, check=False, timeout=120)
    line = next(line for line in done.stdout.splitlines() if " hub " in line)
    assert line.startswith("problem")
    assert "→" in line
    assert done.returncode == 1


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example(command: str) -> None:
    text = help_texts()[f"skesm {command}".strip()]
    assert "example" in text
    assert "  skesm " in text or "example: skesm " in text


def test_help_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a paragraph fills it. Examples, and choices of an option, stay whole."""
    monkeypatch.setenv("COLUMNS", "80")
    texts = help_texts()
    for name, text in texts.items():
        assert not [
            line for line in text.splitlines() if len(line) > 80 and " skesm " not in line and "{" not in line
        ], name
    assert "text with a\nsequence on each line" in texts["skesm embed"]
    assert "\n  fish   skesm completion fish | source       in" in texts["skesm completion"]


def complete(script: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in ("skesm", *words))
    code = f"""
source {script}
COMP_WORDS=({quoted}); COMP_CWORD={len(words)}
_skesm
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_completion_in_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    assert complete(script, "mo") == {"models"}
    assert complete(script, "cache", "me") == {"merge"}
    assert complete(script, "score", "in", "out", "--strategy", "wt") == {"wt_marginal"}
    assert complete(script, "embed", "--long") == {"--long-sequences"}
    assert complete(script, "embed", str(ROOT / "pyproj")) == {str(ROOT / "pyproject.toml")}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_scripts_of_other_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "wt_marginal" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=60)


def test_an_unexpected_error_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import skesm.models

    def fail(model: str) -> Path:
        raise KeyError("lost")

    monkeypatch.setattr(skesm.models, "where", fail)
    assert main(["models", "where", "esm2-8m"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("skesm: error: KeyError: 'lost'\n")
    assert "--traceback" in err
    with pytest.raises(KeyError):
        main(["--traceback", "models", "where", "esm2-8m"])


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m skesm completion bash | head -c 10"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, env=environment, timeout=60)
    assert done.stderr == b""
    assert done.returncode == 0


def test_the_page_of_the_command_line_is_filled_from_the_parsers() -> None:
    marker = "<!-- help of every command -->"
    assert marker in (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert marker in (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
