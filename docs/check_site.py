"""Look at the built site: a page for each public name with each of its methods, and no link that leads nowhere.

Nothing on a page may come from another site, so that it works without a network. No page may show a warning of an
example, or a path of the machine that built it. No line of code may be wider than its column, and no image of a page
may be without a text.

Run as ``python docs/check_site.py HTML``. It ends with status 1 and a list if something is missing.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import reference

#: Columns of code that fit beside the navigation at 1440 pixels, and without it at 768.
MOST_COLUMNS = 88


class Page(HTMLParser):
    """Anchors and links of a page, its files of other sites, its text and code, and its images without a text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.foreign: set[str] = set()
        self.code = ""
        self.unnamed: set[str] = set()
        self._in_code = False
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    @property
    def wide(self) -> list[str]:
        return [line for line in self.code.splitlines() if len(line) > MOST_COLUMNS]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._in_code |= tag == "pre"
        given = dict(attributes)
        if tag == "img" and not given.get("alt") and "thumb" not in (given.get("src") or ""):  # a title is beside those
            self.unnamed.add(given.get("src") or "")
        if tag != "a":
            self.foreign |= {value for name, value in attributes if name in {"href", "src"} and "//" in (value or "")}
        for name, value in attributes:
            if name in {"id", "name"} and value:
                self.anchors.add(value)
            elif name in {"href", "src"} and value and "://" not in value:
                self.links.add(value)

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._in_code = False
            self.code += "\n"

    def handle_data(self, data: str) -> None:
        if self._in_code:
            self.code += data


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


def leaks(html: Path, pages: dict[Path, Page]) -> list[str]:
    """Pages that show a warning or a path of this machine."""
    marks = ("/site-packages/", "Warning: ", str(Path(__file__).resolve().parents[1]))
    return [
        f"{path.relative_to(html)} shows {mark}" for path, page in pages.items() for mark in marks if mark in page.text
    ]


def main(folder: str) -> int:
    html = Path(folder).resolve()
    pages = {path: Page(path) for path in html.rglob("*.html") if "_static" not in path.parts}
    missing, names = missing_names(html, pages)
    broken, links = broken_links(html, pages)
    foreign = [f"{path.relative_to(html)} loads {url}" for path, page in pages.items() for url in page.foreign]
    shown = leaks(html, pages)
    wide = [f"{path.relative_to(html)}: {line}" for path, page in pages.items() for line in page.wide]
    unnamed = [f"{path.relative_to(html)}: {image}" for path, page in pages.items() for image in page.unnamed]
    problems = [f"missing: {name}" for name in missing] + [f"broken link: {link}" for link in broken]
    problems += [f"not of this site: {line}" for line in foreign] + [f"not for readers: {line}" for line in shown]
    problems += [f"wider than {MOST_COLUMNS} columns: {line}" for line in wide]
    problems += [f"image without a text: {line}" for line in unnamed]
    for line in problems:
        print(line)
    print(f"{len(pages)} pages, {names} public names and methods, {links} links, {len(foreign)} files of other sites")
    return 1 if problems or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
