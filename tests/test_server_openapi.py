"""The description that the server publishes, against the server itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

pytest.importorskip("starlette", reason="needs the extra 'server'")

STATUSES = {"200", "400", "403", "404", "408", "413", "415", "429", "500", "503"}


@pytest.fixture(scope="module")
def server(start_server: Any) -> Iterator[Any]:
    with start_server("--max-length", "50") as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Any) -> dict[str, Any]:
    return dict(requests.get(f"{server.url}/openapi.json", timeout=60).json())


def fuzz(server: Any, folder: Path, examples: int, *options: str) -> None:
    """Schemathesis: answers of described statuses and shapes to what is valid, refusals of what is not."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *options]
    command += ["--seed", "1", "--max-examples", str(examples), "--generation-database", "none", "--no-color"]
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environ)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_schemathesis_finds_nothing(server: Any, tmp_path: Path) -> None:
    fuzz(server, tmp_path, 4)


def test_schemathesis_finds_nothing_where_credentials_are_needed(start_server: Any, tmp_path: Path) -> None:
    environ = {"SKESM_SERVER_TOKENS": "a-token", "SKESM_SERVER_USERS": "ada:word"}
    # Credentials change logins, and every other path in one way: one path of each shape of errors is enough.
    paths = r"^/api/auth/|^/api/v3/tiny/encode/|^/api/v1/tiny/log_prob|^/v1/embeddings|^/readyz"
    # Short sequences: larger bodies than the server takes get 413, which schemathesis does not count as a refusal.
    with start_server("--max-length", "50", environ=environ) as server:
        fuzz(server, tmp_path, 2, "--header", "Authorization: Token a-token", "--include-path-regex", paths)


def test_every_path_with_a_body_tells_its_statuses(document: dict[str, Any]) -> None:
    posts = {path: item["post"] for path, item in document["paths"].items() if "post" in item}
    assert len(posts) == 9
    for path, operation in posts.items():
        assert operation["responses"].keys() >= STATUSES, path
        assert "Retry-After" in operation["responses"]["429"]["headers"]
        for answer in operation["responses"].values():
            assert answer["content"]["application/json"]["schema"]["$ref"].startswith("#/components/schemas/")


def test_names_from_which_a_client_is_generated(document: dict[str, Any]) -> None:
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    referred = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert len(referred) > 20
    assert referred <= document["components"]["schemas"].keys()


EVERYTHING = {"include": ["mean", "per_residue", "bos", "logits", "contacts", "attentions"], "repr_layers": [1.0, -1]}
ITEMS = {"items": [{"sequence": "MKT"}, {"sequence": "WC-"}]}
ASKS = {
    "/api/v1/models/tiny/transform/": {"instances": [{"data": {"text": "MKT"}}]},
    "/api/v2/tiny/encode/": {**ITEMS, "params": EVERYTHING},
    "/api/v3/tiny/encode/": {**ITEMS, "params": EVERYTHING},
    "/api/v1/tiny/encode": {**ITEMS, "params": EVERYTHING},
    "/api/v2/tiny/predict/": {"items": [{"sequence": "M<mask>T"}], "params": None},
    "/api/v3/tiny/predict/": {"items": [{"sequence": "<mask>" * 50}]},
    "/api/v1/tiny/predict": {"items": [{"sequence": "M<mask>T"}]},
    "/api/v1/tiny/log_prob": ITEMS,
    "/v1/embeddings": {"model": "tiny", "input": ["MKT"], "dimensions": 40},
}
REFUSED = {
    "/api/v3/tiny/predict/": {"items": [{"sequence": "MKT"}]},
    "/api/v1/tiny/predict": {"items": [{"sequence": "<mask>" * 51}]},
    "/api/v2/tiny/encode/": {"items": [{"sequence": "---"}]},
    "/api/v1/tiny/encode": {**ITEMS, "params": {"repr_layers": [1.5]}},
    "/v1/embeddings": {"model": "tiny", "input": ["MKT"], "dimensions": 41},
}


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize("path", ASKS)
def test_what_is_asked_and_answered_is_as_described(server: Any, document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    validator(document, operation["requestBody"]["content"]["application/json"]["schema"]).validate(ASKS[path])
    answer = requests.post(server.url + path, json=ASKS[path], timeout=60)
    assert answer.status_code == 200
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    validator(document, schema).validate(answer.json())
    assert not validator(document, schema).is_valid({"results": [{}], "else": 1})


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_refused_is_not_described(server: Any, document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert not validator(document, schema).is_valid(REFUSED[path])
    answer = requests.post(server.url + path, json=REFUSED[path], timeout=60)
    described = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
    validator(document, described).validate(answer.json())


@pytest.mark.parametrize("dialect", ["v3", "hub"])
def test_answers_are_numbered(server: Any, dialect: str) -> None:
    path = "/api/v3/tiny/encode/" if dialect == "v3" else "/api/v1/tiny/encode"
    results = requests.post(server.url + path, json=ITEMS, timeout=60).json()["results"]
    assert [result["sequence_index"] for result in results] == [0, 1]


class Page(HTMLParser):
    """What a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_the_page_needs_nothing_from_elsewhere(server: Any, document: dict[str, Any]) -> None:
    answer = requests.get(f"{server.url}/docs", timeout=60)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = Page()
    page.feed(answer.text)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert all(link == "openapi.json" or link.startswith("#") for link in page.links)
    assert "//" not in re.sub(r"<pre>.*?</pre>", "", answer.text, flags=re.DOTALL)
    for path in document["paths"]:
        assert path in answer.text


def test_two_models_are_described_by_their_own_widths(start_server: Any, make_checkpoint: Any) -> None:
    with start_server("--model", f"wide={make_checkpoint(1, 80, 4)}") as server:
        document = requests.get(f"{server.url}/openapi.json", timeout=60).json()
        schema = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for model, width, valid in (("tiny", 40, True), ("wide", 80, True), ("wide", 40, False)):
            body = {"model": model, "input": "MKT", "dimensions": width}
            assert validator(document, schema).is_valid(body) == valid
            answer = requests.post(f"{server.url}/v1/embeddings", json=body, timeout=60)
            assert answer.status_code == (200 if valid else 400)
