"""``/docs``: the OpenAPI document as one page, which needs no script and no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape

from skesm._typing import Document

#: The page can load nothing and run nothing.
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.1rem; margin-top: 2rem; } pre { overflow-x: auto; padding: .75rem; background: #8881; }
code { font-family: ui-monospace, monospace; } td { padding: 0 1rem .25rem 0; vertical-align: top; }
:root { color-scheme: light dark; }
"""


def docs_page(document: Document) -> str:
    """HTML of an OpenAPI document.

    Examples
    --------
    >>> page = docs_page({"info": {"title": "skesm", "version": "1"}, "paths": {}, "components": {"schemas": {}}})
    >>> page.startswith("<!doctype html>"), "<script" in page
    (True, False)
    """
    title = f"{document['info']['title']} {document['info']['version']}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>This page shows <a href='openapi.json'>openapi.json</a>.",
    ]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            parts += _operation(method, path, operation)
    parts.append("<h1>Schemas</h1>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"<h2 id='{escape(name)}'>{escape(name)}</h2>{_schema(schema)}")
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Document) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}"
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        yield f"<details><summary>Body</summary>{_schema(body)}</details>"
    yield "<details><summary>Answers</summary><table>"
    for status, answer in sorted(operation["responses"].items()):
        (content,) = answer["content"].values()
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        link = f"<a href='#{escape(name)}'>{escape(name)}</a>" if name else ""
        yield f"<tr><td>{status}<td>{escape(answer['description'])}<td>{link}"
    yield "</table></details>"


def _schema(schema: Document) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=1))}</pre>"
