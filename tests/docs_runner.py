"""Runs the code of a page of the documentation, block by block, as a reader would.

Run as ``python docs_runner.py MODULE...``, with the modules that all pages share. Each line of its standard input is a
page in JSON: the folder to run in, and the blocks. It answers one line for each page: what each block printed, and the
error at which the page stopped. A page runs in a process of its own, which has nothing but what this script has
imported: that saves a second of imports for each page.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

SHELL_SECONDS = 120


def run_page(page: dict[str, Any]) -> dict[str, Any]:
    os.chdir(page["folder"])
    names: dict[str, Any] = {"__name__": "__main__"}
    printed: list[str] = []
    for block in page["blocks"]:
        try:
            run = run_python if block["language"] == "python" else run_shell
            printed.append(run(block["code"], block["place"], names))
        except BaseException:  # reported to the test, whatever it is
            return {"printed": printed, "error": f"{block['place']}\n{traceback.format_exc(limit=-6)}"}
    return {"printed": printed, "error": None}


def run_python(code: str, place: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, place, "exec"), names)
    return out.getvalue()


def run_shell(code: str, place: str, names: dict[str, Any]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SHELL_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def in_child(page: dict[str, Any]) -> dict[str, Any]:
    """Run a page in a fork, so that the next one starts afresh."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            json.dump(run_page(page), pipe)
        os._exit(0)  # no clean-up of what belongs to the parent
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(answer) if answer else {"printed": [], "error": f"the process ended with status {status}"}


def main() -> None:
    os.environ["MPLBACKEND"] = "agg"
    for module in sys.argv[1:]:
        importlib.import_module(module)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library writes past sys.stdout is no answer
    for line in sys.stdin:
        page = json.loads(line)
        Path(page["folder"]).mkdir(parents=True, exist_ok=True)
        answer = in_child(page) if hasattr(os, "fork") else run_page(page)
        print(json.dumps(answer), file=answers, flush=True)
        if not hasattr(os, "fork"):
            return


if __name__ == "__main__":
    main()
