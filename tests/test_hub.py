"""Models of the Hub: what is fetched, converted, kept and said. The Hub is a server on this machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skesm import ESM2Embedder
from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.checkpoints.hub import CONFIG, SINGLE
from skesm.models import convert

SCRIPT = """
import json, sys
from skesm.esm2.checkpoints.checkpoint import find_spec, locate
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
def said() -> list[str]:
    """What each process of `ask` wrote to stderr."""
    return []


@pytest.fixture
def ask(hub_environment: dict[str, str], said: list[str]) -> Callable[..., list[dict[str, Any]]]:
    """What `locate` finds for models, in a fresh process: huggingface_hub reads its settings when it is imported."""

    def ask(*models: str, **settings: str) -> list[dict[str, Any]]:
        answer = subprocess.run(
            [sys.executable, "-c", SCRIPT, *models],
            env=hub_environment | settings,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        said.append(answer.stderr)
        return json.loads(answer.stdout)

    return ask


def test_hub_files_are_fetched_once(hub: Any, ask, tiny_checkpoint: Path, make_checkpoint) -> None:
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


def test_what_the_hub_does_not_have(hub: Any, ask, tiny_checkpoint: Path, tmp_path: Path) -> None:
    empty, adapter = tmp_path / "empty", tmp_path / "adapter"
    empty.mkdir()
    adapter.mkdir()
    shutil.copy(tiny_checkpoint / CONFIG, empty / CONFIG)
    (adapter / "adapter_config.json").write_text("{}")
    hub.publish("lab/model", tiny_checkpoint, "main")
    hub.publish("lab/empty", empty, "main")
    hub.publish("lab/adapter", adapter, "main")
    # a registry name whose repository holds another shape
    hub.publish("facebook/esm2_t6_8M_UR50D", tiny_checkpoint, "main")

    absent, revision, nothing, unmerged, impostor = ask(
        "lab/absent", "lab/model@v9", "lab/empty", "lab/adapter", "esm2_t6_8M_UR50D"
    )

    assert absent["error"] == revision["error"] == nothing["error"] == "CheckpointNotFoundError"
    assert "lab/absent does not exist or is not public" in absent["message"]
    assert "lab/model at revision 'v9'" in revision["message"]
    assert f"lab/empty has neither {SINGLE} nor pytorch_model.bin" in nothing["message"]
    assert "merge_and_unload" in unmerged["message"]
    assert impostor["error"] == "CheckpointError"
    assert "does not describe esm2_t6_8M_UR50D" in impostor["message"]


def test_offline_the_error_says_what_to_do(hub: Any, ask) -> None:
    (answer,) = ask("esm2-8m@main", HF_HUB_OFFLINE="1")
    assert answer["error"] == "CheckpointNotFoundError"
    for part in (
        CONFIG,
        f"hf download facebook/esm2_t6_8M_UR50D {CONFIG} {SINGLE} --revision main --local-dir FOLDER",
        "skesm models download esm2-8m@main",
        "HF_HUB_OFFLINE",
        "skesm-mini",
    ):
        assert part in answer["message"]
    assert hub.requests == []


# repositories with pickles only ---------------------------------------------------------------------------------------

LARGE = "facebook/esm2_t36_3B_UR50D"


@pytest.mark.parametrize("shards", [1, 2])
def test_pickles_are_converted_once_and_kept(
    shards: int, hub: Any, ask, said: list[str], pickled, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    commit = hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large", shards), "main")
    (first,) = ask("lab/large")
    folder = tmp_path / "hf" / "assets" / "skesm" / "models--lab--large" / commit
    assert {Path(file).parent for file in first["files"]} == {folder}
    assert len(first["files"]) == shards
    assert (first["commit"], first["repository"]) == (commit, "lab/large")
    assert "lab/large holds pickles only: converting them to safetensors, once" in said[-1]
    assert str(folder) in said[-1]
    x = ["MKTAYIAKQR"]
    np.testing.assert_array_equal(ESM2Embedder(folder).transform(x), ESM2Embedder(tiny_checkpoint).transform(x))

    asked = len(hub.requests)
    assert ask("lab/large") == ask("lab/large", HF_HUB_OFFLINE="1") == [first]
    assert hub.requests[asked:] == [], "what is here is used without asking"
    assert said[-2:] == ["", ""]
    downloads = [request for request in hub.requests if request.startswith("GET /lab")]
    assert len(downloads) == len(set(downloads)) == 1 + shards + (shards > 1)


def test_a_fetched_repository_is_converted_without_the_hub(
    hub: Any, ask, pickled, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """As where the cache was copied from another machine."""
    hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large", 2), "main")
    (first,) = ask("lab/large")
    shutil.rmtree(tmp_path / "hf" / "assets")
    assert ask("lab/large", HF_HUB_OFFLINE="1") == [first]


def test_of_two_processes_one_converts(
    hub: Any, hub_environment: dict[str, str], pickled, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large", 2), "main")
    command = [sys.executable, "-c", SCRIPT, "lab/large"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=hub_environment, **pipes) for _ in range(3)]
    outs, errors = zip(*(process.communicate(timeout=120) for process in processes), strict=True)
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert len(set(outs)) == 1
    assert "".join(errors).count("converting") == 1
    kept = next((tmp_path / "hf" / "assets" / "skesm").iterdir())
    assert len([path for path in kept.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("shards", [1, 2])
def test_without_a_safe_torch_nothing_large_is_fetched(
    shards: int, hub: Any, ask, pickled, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    package = tmp_path / "packages" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '2.5.1'\n")
    hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large", shards), "main")
    path = os.pathsep.join([str(package.parent), str(Path(__file__).parents[1])])
    (answer,) = ask("lab/large", PYTHONPATH=path)
    assert answer["error"] == "MissingDependencyError"
    assert "'torch>=2.6'" in answer["message"]
    assert not any(request.startswith("GET") and request.endswith(".bin") for request in hub.requests)


def test_a_damaged_fetch_is_not_converted(hub: Any, ask, pickled, tiny_checkpoint: Path, tmp_path: Path) -> None:
    hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large"), "main")
    ask("lab/large")
    shutil.rmtree(tmp_path / "hf" / "assets")
    (file,) = (tmp_path / "hf" / "hub").rglob("snapshots/*/*.bin")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (answer,) = ask("lab/large", HF_HUB_OFFLINE="1")
    assert answer["error"] == "CheckpointError"
    assert "is not the file that the Hub sent" in answer["message"]


def test_a_pickle_that_would_run_code_is_refused(hub: Any, ask, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "evil"
    source.mkdir()
    shutil.copy(tiny_checkpoint / CONFIG, source)
    (source / "pytorch_model.bin").write_bytes(b"cposix\nmkdir\n(S'it_ran'\ntR.")
    hub.publish("lab/evil", source, "main")
    (answer,) = ask("lab/evil")
    assert answer["error"] == "CheckpointError"
    assert not list(Path(__file__).parents[1].glob("it_ran"))
    kept = tmp_path / "hf" / "assets" / "skesm" / "models--lab--evil"
    assert [path for path in kept.iterdir() if path.is_dir()] == []


def test_a_folder_that_cannot_be_written_is_named(
    hub: Any, ask, pickled, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large"), "main")
    (tmp_path / "file").write_text("")
    (answer,) = ask("lab/large", HF_ASSETS_CACHE=str(tmp_path / "file"))
    assert answer["error"] == "CheckpointError"
    assert "Set HF_ASSETS_CACHE to another folder" in answer["message"]


def test_offline_the_right_files_are_named(hub: Any, ask, pickled, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The two largest sizes are published as pickled shards; of others it is known once the Hub was asked."""
    (large,) = ask("esm2-3b", HF_HUB_OFFLINE="1")
    for part in (
        "skesm models download esm2-3b",
        f"hf download {LARGE} config.json 'pytorch_model*' --local-dir FOLDER",
        "skesm models convert FOLDER NEW_FOLDER",
    ):
        assert part in large["message"]
    hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large", 2), "main")
    ask("lab/large")
    shutil.rmtree(tmp_path / "hf" / "assets")
    sorted((tmp_path / "hf" / "hub").rglob("snapshots/*/*.bin"))[0].unlink()
    (answer,) = ask("lab/large", HF_HUB_OFFLINE="1")
    assert "pytorch_model-00001-of-00002.bin of lab/large is not on this machine" in answer["message"]
    assert "config.json 'pytorch_model*'" in answer["message"]


@pytest.mark.parametrize("kind", ["pickles", "shards"])
def test_the_line_in_the_message_fetches_the_model(
    kind: str,
    hub: Any,
    hub_environment: dict[str, str],
    ask,
    pickled,
    make_checkpoint,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    if kind == "pickles":
        hub.publish("lab/large", pickled(tiny_checkpoint, tmp_path / "large", 2), "main")
        ask("lab/large")
        shutil.rmtree(tmp_path / "hf" / "assets")
    else:
        hub.publish("lab/large", make_checkpoint(max_shard_size="60KB"), "main")
        ask("lab/large")
    sorted((tmp_path / "hf" / "hub").rglob("snapshots/*/*-00001-*"))[0].unlink()
    (answer,) = ask("lab/large", HF_HUB_OFFLINE="1")
    line = answer["message"].partition("`hf download ")[2].partition("`")[0]
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", *shlex.split(line)]
    done = subprocess.run(command, env=hub_environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "FOLDER"
    if kind == "pickles":
        convert(folder, tmp_path / "NEW_FOLDER")
        folder = tmp_path / "NEW_FOLDER"
    x = ["MKTAYIAKQR"]
    np.testing.assert_array_equal(ESM2Embedder(folder).transform(x), ESM2Embedder(tiny_checkpoint).transform(x))


def test_offline_a_missing_shard_of_safetensors_is_named(hub: Any, ask, make_checkpoint, tmp_path: Path) -> None:
    hub.publish("lab/sharded", make_checkpoint(max_shard_size="60KB"), "main")
    ask("lab/sharded")
    missing = sorted((tmp_path / "hf" / "hub").rglob("snapshots/*/*.safetensors"))[0]
    missing.unlink()
    (answer,) = ask("lab/sharded", HF_HUB_OFFLINE="1")
    assert missing.name in answer["message"]
    assert "hf download lab/sharded config.json 'model*.safetensors*'" in answer["message"]


# without a network ----------------------------------------------------------------------------------------------------


@pytest.mark.network  # needs none, but waits 25 s for huggingface_hub's retries
def test_without_a_network_the_error_says_what_to_do(ask) -> None:
    (answer,) = ask("lab/model", HF_ENDPOINT="http://127.0.0.1:9")  # the discard port: refused
    assert answer["error"] == "CheckpointNotFoundError"
    assert f"hf download lab/model {CONFIG} {SINGLE}" in answer["message"]


def test_an_unknown_host_is_noticed_at_once() -> None:
    """Without internet the Hub's own client tries for half a minute, and writes about it."""
    code = "from skesm import ESM2Embedder; ESM2Embedder('esm2_t6_8M_UR50D').transform(['MKT'])"
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": "http://no-such-host.invalid", "HF_HUB_CACHE": os.devnull, "HF_HUB_OFFLINE": "0"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "CheckpointNotFoundError: config.json of facebook/esm2_t6_8M_UR50D" in process.stderr
    assert "Retry" not in process.stderr
