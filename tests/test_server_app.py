"""The application for other ASGI servers, and what the examples say of the server."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra 'server'")

ROOT = Path(__file__).resolve().parents[1]


def test_another_server_runs_the_application(tiny_checkpoint: Path) -> None:
    """uvicorn as it comes, without our connections and signals."""
    program = """
import sys, threading, time
import requests, uvicorn
from skesm.server import ServerConfig, create_app

server = uvicorn.Server(uvicorn.Config(create_app(ServerConfig((f"tiny={sys.argv[1]}",))), port=0, log_level="error"))
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    time.sleep(0.01)
url = "http://127.0.0.1:%d" % server.servers[0].sockets[0].getsockname()[1]
answer = requests.post(url + "/api/v3/tiny/encode/", json={"items": [{"sequence": "MKT"}]}, timeout=60)
print(answer.status_code, len(answer.json()["results"][0]["embeddings"][0]["embedding"]))
print(requests.get(url + "/readyz", timeout=60).status_code)
server.should_exit = True
thread.join()
"""
    command = [sys.executable, "-c", program, str(tiny_checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["200", "40", "200"], done.stderr


def test_importing_the_server_needs_no_extra() -> None:
    program = """
import sys
sys.modules["starlette"] = None
from skesm.server import ServerConfig, create_app
try:
    create_app()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("starlette is not installed: pip install 'orjson")


def serve_parser() -> argparse.ArgumentParser:
    from skesm.server import add_serve_parser

    parser = argparse.ArgumentParser()
    add_serve_parser(parser.add_subparsers(), print)
    return parser


def test_the_dockerfile_starts_the_server_with_options_that_it_has() -> None:
    text = (ROOT / "examples" / "Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    skesm, *arguments = json.loads(entry)
    assert skesm == "skesm"
    args = serve_parser().parse_args([*arguments, "--model", "esm2-8m"])
    assert (args.host, args.allowed_hosts) == ("0.0.0.0", ["*"])
    for path in re.findall(r"^COPY (.*) \./?\S*$", text, re.MULTILINE)[0].split():
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", ["docs/server.md", "docs/several-gpus.md"])
def test_the_options_that_the_docs_name_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    known: set[str] = set()
    for action in serve_parser()._subparsers._group_actions[0].choices["serve"]._actions:  # type: ignore[union-attr]
        known |= set(action.option_strings)
    named = set(re.findall(r"`(--[a-z-]+)", text)) | set(re.findall(r"skesm serve[^`\n]*?(--[a-z-]+)", text))
    assert named
    assert named <= known


def test_the_example_for_ray_builds_an_application(tiny_checkpoint: Path) -> None:
    """Up to the lines that need Ray."""
    (code,) = re.findall(r"```python[^\n]*\n(.*?)```", (ROOT / "docs" / "several-gpus.md").read_text(), re.DOTALL)
    code = code.replace("from ray import serve\n", "").partition("replicas = ")[0]
    code = code.replace('"esm2-650m"', repr(f"tiny={tiny_checkpoint}")).replace('device="cuda"', 'device="cpu"')
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["build"]().state.application.is_idle
