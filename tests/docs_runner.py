"""Runs the code of a page of the documentation, block by block, as a reader would.

Run as ``python docs_runner.py MODULE...``, with the modules that all pages share. Each line of its standard input is a
page in JSON: the folder to run in, and the blocks. It answers one line for each page: what each block printed, and the
error at which the page stopped. A page runs in a process of its own, which has nothing but what this script has
imported: that saves a second of imports for each page. So does a command ``skesm ...``, if nothing on its line needs a
shell: it runs in a fork of a process that has imported skesm and nothing has run in.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
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
    bare = re.sub(r"(?m)(^|\s)#.*$", "", code)
    if COMMANDS is not None and bare.startswith("skesm ") and not set(bare) & set("|&;<>$*`\"'"):
        lines = [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines()]
        if all(line[:1] in ([], ["skesm"]) for line in lines):
            return "".join(COMMANDS.run(line[1:]) for line in lines if line)
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


class Commands:
    """A fork of this process, before a page has used it, that runs commands of skesm in forks of its own."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        if os.fork() == 0:
            self._ours.close()
            with theirs, theirs.makefile("rw", encoding="utf-8") as pipe:
                for line in pipe:
                    print(json.dumps(self._run(json.loads(line))), file=pipe, flush=True)
            os._exit(0)
        theirs.close()
        self._pipe = self._ours.makefile("rw", encoding="utf-8")

    def run(self, arguments: list[str]) -> str:
        """Run the command in the folder of today: what it prints."""
        print(json.dumps({"folder": os.getcwd(), "arguments": arguments}), file=self._pipe, flush=True)
        status, printed, errors = json.loads(self._pipe.readline())
        if status:
            raise RuntimeError(f"status {status}\n{printed}{errors}")
        return str(printed)

    @staticmethod
    def _run(command: dict[str, Any]) -> tuple[int, str, str]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.chdir(command["folder"])
                nothing = os.open(os.devnull, os.O_RDONLY)
                for number, descriptor in enumerate((nothing, out.fileno(), err.fileno())):
                    os.dup2(descriptor, number)
                sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
                os._exit(finished(command["arguments"]))
            _, status = os.waitpid(child, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8"))
            return os.waitstatus_to_exitcode(status), texts[0], texts[1]


def finished(arguments: list[str]) -> int:
    """Status of the command, with everything written."""
    from skesm.cli import main

    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


COMMANDS: Commands | None = None


def in_child(page: dict[str, Any]) -> dict[str, Any]:
    """Run a page in a fork, so that the next one starts afresh."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        global COMMANDS
        os.close(reader)
        if any(block["language"] != "python" for block in page["blocks"]):
            COMMANDS = Commands()
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
