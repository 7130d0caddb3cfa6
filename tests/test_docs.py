"""Every block of Python and shell in README and docs runs as it is printed, and prints what the page says.

A page runs from top to bottom, in a new folder and a process of its own. The rules for pages:

- A fence of ``python``, ``sh`` or ``console`` runs. In ``console`` the lines after ``$`` and ``>`` are commands, and
  the other lines are what they print.
- A fence of ``text`` right after such a block is what it prints; ``...`` stands for anything.
- A word after the language says why a block does not run here: see `REASONS`. The text around it must say so too.
- A comment ``<!-- setup`` holds Python that runs at its place, for data that a reader has: a file, a list of sequences.
"""

from __future__ import annotations

import ast
import doctest
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pages import PageRunner

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "sh", "console"}
SHOWN = LANGUAGES | {"text", "toml", "json", "nginx", "bibtex", "yaml", "csv"}
#: What many pages import: the process that runs them imports it once.
SHARED = ("sklearn.linear_model", "sklearn.model_selection", "sklearn.pipeline", "sklearn.compose", "pandas", "skesm")
#: Why a block cannot run in a test.
REASONS = {
    "network": "needs the internet: published weights, or a service",
    "install": "changes the Python environment; `.ci/run` runs the README's",
    "server": "runs until it is stopped; the tests of the server start it",
    "gpu": "needs a GPU",
    "elsewhere": "takes long; `.ci/run` or a test of its own runs it",
    "sketch": "names something of the reader's that cannot be made here, such as a training loop",
}
MOST_COLUMNS = 88
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS

FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$", re.MULTILINE | re.DOTALL
)
SETUP = re.compile(r"^<!-- setup\n(?P<code>.*?)^-->$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """A fence, or a hidden set-up."""

    language: str
    marks: tuple[str, ...]
    code: str
    place: str
    wanted: str | None = None
    hidden: bool = False

    @property
    def runs(self) -> bool:
        return self.language in LANGUAGES and not self.marks


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = sorted([*FENCE.finditer(text), *SETUP.finditer(text)], key=lambda match: match.start())
    blocks: list[Block] = []
    end = 0
    for match in found:
        line = text.count("\n", 0, match.start()) + 1
        place = f"{page.relative_to(ROOT)}:{line}"
        code = match["code"]
        if match.re is SETUP:
            blocks.append(Block("python", (), code, place, hidden=True))
            continue
        language, *marks = match["info"].split() or [""]
        follows = bool(blocks) and not text[end : match.start()].strip()
        if language == "text" and follows and blocks[-1].language in LANGUAGES:
            blocks[-1].wanted = code
        elif language == "console":
            blocks.append(console(tuple(marks), code, place))
        elif language and not language.startswith("{"):
            blocks.append(Block(language, tuple(marks), re.sub(f"(?m)^{match['indent']}", "", code), place))
        end = match.end()
    return blocks


def console(marks: tuple[str, ...], code: str, place: str) -> Block:
    commands = "".join(f"{line[2:]}\n" for line in code.splitlines() if line[:2] in {"$ ", "> "})
    printed = [line for line in code.splitlines() if line[:2] not in {"$ ", "> "}]
    return Block("console", marks, commands, place, "\n".join(printed) + "\n" if printed else None)


BLOCKS = {page: blocks_of(page) for page in PAGES}
RUNNING = [page for page, blocks in BLOCKS.items() if any(block.runs for block in blocks)]


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[Block]], dict[str, Any]]]:
    home = tmp_path_factory.mktemp("docs")
    programs = home / "bin"
    programs.mkdir()
    for name, arguments in {"skesm": "-m skesm", "python": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("BIOLM", "SKESM"))},
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "HOME": str(home),
        "HF_HOME": str(home / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
    }
    runner = PageRunner(environment, SHARED)
    numbers = itertools.count()

    def run(blocks: list[Block]) -> dict[str, Any]:
        asked = [{"language": block.language, "code": block.code, "place": block.place} for block in blocks]
        return runner.run(home / f"page{next(numbers)}", asked)

    yield run
    runner.close()


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_what_a_page_prints_runs(page: Path, run_page: Callable[[list[Block]], dict[str, Any]]) -> None:
    blocks = [block for block in BLOCKS[page] if block.runs]
    answer = run_page(blocks)
    assert answer["error"] is None, answer["error"]
    for block, got in zip(blocks, answer["printed"], strict=True):
        if block.wanted is not None:
            assert doctest.OutputChecker().check_output(block.wanted, got, FLAGS), (
                f"{block.place} prints\n{got}\nand the page says\n{block.wanted}"
            )


@pytest.mark.parametrize(("code", "fault"), [("print(1 + 1)", None), ("print(no_such_name)", "no_such_name")])
def test_a_block_that_fails_is_seen(
    code: str, fault: str | None, run_page: Callable[[list[Block]], dict[str, Any]]
) -> None:
    answer = run_page([Block("python", (), code, "page.md:1"), Block("sh", (), "skesm --version; exit 3", "page.md:5")])
    assert ("page.md:1" if fault else "page.md:5") in answer["error"]
    assert (fault or "status 3") in answer["error"]
    assert answer["printed"] == ([] if fault else ["2\n"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_its_language_and_why_it_does_not_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    bare = [match.group() for match in FENCE.finditer(text) if not match["info"].strip()]
    assert not bare, f"a fence without a language (what a block prints is ```text): {bare}"
    for block in BLOCKS[page]:
        assert block.language in SHOWN, f"{block.place}: {block.language}"
        assert set(block.marks) <= set(REASONS), f"{block.place}: {block.marks}"
        if block.language == "python":
            ast.parse(block.code, block.place)  # also those that do not run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_fits_the_column_of_the_site(page: Path) -> None:
    wide = [
        f"{block.place}: {line}"
        for block in BLOCKS[page]
        for line in block.code.splitlines()
        if len(line) > MOST_COLUMNS and block.language in LANGUAGES and not block.hidden
    ]
    assert not wide


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("plot_*.py")), ids=lambda path: path.name)
def test_the_gallery_fits_too(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    body = text[text.index('"""', 3) :]
    assert not [line for line in body.splitlines() if len(line) > MOST_COLUMNS and not line.startswith("#")]


def test_most_blocks_run() -> None:
    """Marks are for what cannot run, and not for what was not made to run."""
    code = [block for blocks in BLOCKS.values() for block in blocks if block.language in LANGUAGES and not block.hidden]
    assert sum(block.runs for block in code) > 0.6 * len(code)
