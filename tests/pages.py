"""Runs blocks of code in a process that has imported what they share: each page of them in a fork of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("docs_runner.py")


class PageRunner:
    """The other end of ``docs_runner.py``. It starts the process at the first page, and again if it has ended."""

    def __init__(self, environment: Mapping[str, str], shared: Sequence[str]) -> None:
        self._environment = dict(environment)
        self._command = [sys.executable, str(PROGRAM), *shared]
        self._started: list[subprocess.Popen[str]] = []

    def run(self, folder: Path, blocks: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Run the blocks in `folder`: what each printed, and the error at which the page stopped, or None."""
        if not self._started or self._started[-1].poll() is not None:
            self._started.append(
                subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=self._environment,
                    text=True,
                    encoding="utf-8",
                )
            )
        process = self._started[-1]
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps({"folder": str(folder), "blocks": list(blocks)}), file=process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the processes."""
        for process in self._started:
            with process:  # closes the pipes and waits
                assert process.stdin is not None
                process.stdin.close()
