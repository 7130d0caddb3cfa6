"""Draw the floors of the package, for docs/design.md, from the list that tests/test_architecture.py holds.

    python docs/floors.py

writes docs/images/floors.svg. A test compares the file with the list.
"""

from __future__ import annotations

import ast
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "floors.svg"

_WIDTH, _HEIGHT, _GAP, _NAMES, _LONGEST = 860, 26, 5, 150, 96


def floors() -> list[tuple[str, str]]:
    """Names of the floors from the ground up, each with the first line of its docstring."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    (names,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS"
    )
    found = []
    for name in eval(ast.unparse(names)):
        path = ROOT / "skesm" / name
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
            found.append((f"{name}/" if path.is_dir() else f"{name}.py", first))
    return found


def draw(found: list[tuple[str, str]]) -> str:
    """An SVG image with the ground floor at the bottom."""
    step = _HEIGHT + _GAP
    height = step * len(found) + _GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="12">',
        "<title>Floors of skesm: each imports only from the floors below it</title>",
    ]
    for place, (name, text) in enumerate(reversed(found)):
        top = _GAP + place * step
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST].rsplit(' ', 1)[0]} …"
        lines += [
            f'<rect x="{_GAP}" y="{top}" width="{_WIDTH - 2 * _GAP}" height="{_HEIGHT}" rx="4" fill="#eef3f8" '
            'stroke="#5b7690"/>',
            f'<text x="16" y="{top + 17}" fill="#12263a" font-weight="bold">{escape(name)}</text>',
            f'<text x="{_NAMES}" y="{top + 17}" fill="#12263a">{escape(shown)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(floors()), encoding="utf-8")
