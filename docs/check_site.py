"""Look at the built site: a page for each public name with each of its methods, and no link that leads nowhere.

Run as ``python docs/check_site.py HTML``. It ends with status 1 and a list if something is missing.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import reference


class Page(HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in {"id", "name"} and value:
                self.anchors.add(value)
            elif name in {"href", "src"} and value and "://" not in value:
                self.links.add(value)


def missing_names(html: Path, pages: dict[Path, Page]) -> tuple[list[str], int]:
    """Public names and methods that have no place in the site, and how many were looked for."""
    wanted: dict[str, list[str]] = {}
    for module in reference.MODULES:
        for name, value in reference.public_names(module).items():
            full = f"{module}.{name}"
            members = reference.members_of(value) if isinstance(value, type) else {}
            wanted[full] = [full, *(f"{full}.{member}" for kind in members.values() for member in kind)]
    missing = []
    for full, anchors in wanted.items():
        page = pages.get(html / "generated" / f"{full}.html")
        missing += [anchor for anchor in anchors if page is None or anchor not in page.anchors]
    return missing, sum(map(len, wanted.values()))


def broken_links(html: Path, pages: dict[Path, Page]) -> tuple[list[str], int]:
    """Links within the site to a file or an anchor that is not there, and how many were followed."""
    broken, followed = [], 0
    for path, page in pages.items():
        for link in page.links:
            if link.startswith(("mailto:", "javascript:", "data:")):
                continue
            followed += 1
            target, anchor = urldefrag(link)
            file = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            there = file.is_file() and (not anchor or file not in pages or unquote(anchor) in pages[file].anchors)
            if not there:
                broken.append(f"{path.relative_to(html)} -> {link}")
    return broken, followed


def main(folder: str) -> int:
    html = Path(folder).resolve()
    pages = {path: Page(path) for path in html.rglob("*.html") if "_static" not in path.parts}
    missing, names = missing_names(html, pages)
    broken, links = broken_links(html, pages)
    for line in [f"missing: {name}" for name in missing] + [f"broken link: {link}" for link in broken]:
        print(line)
    print(f"{len(pages)} pages, {names} public names and methods, {links} links")
    return 1 if missing or broken or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
