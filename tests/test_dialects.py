"""The table of dialects: it alone decides how they differ."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from skesm.outputs.kinds import KINDS
from skesm.protocol.dialects import DIALECTS, PREDICTED, STACKED

PACKAGE = Path(__file__).resolve().parents[1] / "skesm"
TABLE = PACKAGE / "protocol" / "dialects.py"
SPEAKERS = [
    path
    for folder in ("server", "protocol", "backends/biolm")
    for path in sorted((PACKAGE / folder).rglob("*.py"))
    if path != TABLE
]


def branches_of(tree: ast.AST) -> Iterator[str]:
    """Strings on which code branches: operands of comparisons, and keys of mappings."""
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        for part in parts:
            for leaf in ast.walk(part):
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                    yield leaf.value


@pytest.mark.parametrize("path", SPEAKERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_branch_on_a_dialect_outside_the_table(path: Path) -> None:
    names = set(branches_of(ast.parse(path.read_text(encoding="utf-8"))))
    assert not names & {*DIALECTS, "openai"}


def test_the_counter_sees_branches() -> None:
    code = 'x == "v1"; x in ("v3", "hub"); {"v2": 1}; f"{x}v1"'
    assert sorted(branches_of(ast.parse(code))) == ["hub", "v1", "v2", "v3"]


@pytest.mark.parametrize("speaks", DIALECTS.values(), ids=lambda speaks: speaks.name)
def test_a_dialect_fits_the_table_of_kinds(speaks: object) -> None:
    speaks = DIALECTS[speaks.name]  # type: ignore[attr-defined]
    assert set(speaks.includes) <= set(KINDS)
    assert set(speaks.kinds.values()) == set(speaks.includes)
    assert set(speaks.aliases.values()) <= set(speaks.includes.values())
    assert {speaks.key(kind) for kind in speaks.includes} <= {*speaks.always} or not speaks.always
    for kind in speaks.includes:
        assert speaks.carrier(kind) == kind
        layered = KINDS[kind].first_layer is not None and kind not in STACKED
        assert (speaks.includes[kind] in speaks.layer_keys) == layered
    assert PREDICTED in speaks.includes or not speaks.choice
