"""Clients that are not ours against our server: BioLM's own, and OpenAI's."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests

pytest.importorskip("starlette", reason="needs the extra 'server'")

SEQUENCES = ["MKTAYIAK" * 12, "GGWC", "ACDEFGHIKLMNPQRSTVWY" * 5, "MKT", "TTAW"]
BASES = {"v2": "/api/v2", "v3": "/api/v3", "hub": "/api/v1"}

# The official client caches schemas and starts threads: each run is a process of its own.
SDK = """
import json, sys
import biolm.core.http as http

url, base, asks = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
http._PLATFORM_API_URL = url + "/api/v3"  # where it asks for schemas, whatever the server
client = http.BioLMApi("tiny", api_key="not-needed", base_url=url + base)
print(json.dumps([getattr(client, action)(items=items, params=params) for action, items, params in asks]))
"""


@pytest.fixture(scope="module")
def server(start_server: Any) -> Iterator[Any]:
    """With its defaults."""
    with start_server() as server:
        yield server


def ask_by_sdk(server: Any, dialect: str, *asks: Any) -> list[Any]:
    command = [sys.executable, "-c", SDK, server.url, BASES[dialect], json.dumps(asks)]
    # Its default number of threads is more than it allows itself where there are two cores.
    environ = {**os.environ, "BIOLM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


def plainly(server: Any, path: str, body: Any, **options: Any) -> requests.Response:
    return requests.post(server.url + path, json=body, timeout=60, **options)


@pytest.mark.parametrize("dialect", BASES)
def test_the_official_client_with_its_defaults(server: Any, dialect: str) -> None:
    items = [{"sequence": s} for s in SEQUENCES]
    bad = [*items[:2], {"sequence": "mkt" + SEQUENCES[0]}, *items[3:]]
    masked = [{"sequence": "<mask>" + s} for s in SEQUENCES]
    everything = {
        "repr_layers": [0, -1],
        "include": ["mean", "per_residue", "bos", "logits", "contacts", "attentions"],
    }
    asks = [
        ("encode", items, None),
        ("encode", items, everything),
        ("predict", masked, None),
        ("encode", bad, None),
    ]
    answers = ask_by_sdk(server, dialect, *asks)
    slash = "" if dialect == "hub" else "/"
    for (action, given, params), answer in zip(asks[:3], answers[:3], strict=True):
        body = {"items": given, **({"params": params} if params else {})}
        expected = plainly(server, f"{BASES[dialect]}/tiny/{action}{slash}", body)
        assert answer == expected.json()["results"]
    # Of five, one is bad: it alone has no answer.
    assert ["error" in result for result in answers[3]] == [False, False, True, False, False]
    # The official client replays a refused batch one by one, so places start again from 0.
    key = "mean_representations" if dialect == "v2" else "embeddings"
    for place in (0, 1, 3, 4):
        assert answers[3][place][key] == answers[0][place][key]


COMPRESS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "DEFLATE": lambda data: zlib.compress(data, wbits=-15),  # without a header
}
PATHS = {
    "v1": "/api/v1/models/tiny/transform/",
    "v2": "/api/v2/tiny/encode/",
    "v3": "/api/v3/tiny/encode/",
    "hub": "/api/v1/tiny/encode",
    "openai": "/v1/embeddings",
}


def body_of(dialect: str) -> dict[str, Any]:
    if dialect == "v1":
        return {"instances": [{"data": {"text": s}} for s in SEQUENCES]}
    if dialect == "openai":
        return {"model": "tiny", "input": SEQUENCES}
    return {"items": [{"sequence": s} for s in SEQUENCES]}


def post_bytes(server: Any, path: str, content: Any, encoding: str) -> requests.Response:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    return requests.post(server.url + path, data=content, headers=headers, timeout=60)


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("dialect", PATHS)
def test_compressed_bodies(server: Any, dialect: str, encoding: str) -> None:
    path, body = PATHS[dialect], body_of(dialect)
    answer = post_bytes(server, path, COMPRESS[encoding](json.dumps(body).encode()), encoding)
    assert answer.status_code == 200, answer.text
    assert answer.content == plainly(server, path, body).content


def test_a_compressed_body_in_pieces(server: Any) -> None:
    text = json.dumps(body_of("v3")).encode()
    two = gzip.compress(text[:50]) + gzip.compress(text[50:])  # which gzip allows
    for size in (2, 7, len(two)):
        pieces = iter([two[i : i + size] for i in range(0, len(two), size)])
        answer = post_bytes(server, PATHS["v3"], pieces, "gzip")
        assert answer.content == plainly(server, PATHS["v3"], body_of("v3")).content


@pytest.mark.parametrize("dialect", PATHS)
def test_what_comes_out_of_a_compressed_body_is_bounded(server: Any, dialect: str) -> None:
    for encoding in ("gzip", "deflate"):
        bomb = COMPRESS[encoding](b" " * (1 << 28))
        assert len(bomb) < 1 << 19
        answer = post_bytes(server, PATHS[dialect], bomb, encoding)
        assert answer.status_code == 413, answer.text


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:20] + b"x" + b[21:]])
def test_a_damaged_body_is_refused(server: Any, damage: Any) -> None:
    content = damage(gzip.compress(json.dumps(body_of("v3")).encode()))
    answer = post_bytes(server, PATHS["v3"], content, "gzip")
    assert answer.status_code == 400
    assert "not compressed as Content-Encoding says" in answer.json()["error"]


def test_another_compression_is_refused_with_those_that_are_understood(server: Any) -> None:
    answer = post_bytes(server, PATHS["hub"], b"", "br")
    assert answer.status_code == 415
    assert answer.headers["Accept-Encoding"] == "gzip, deflate"


# ------------------------------------------------------------------------------------------------------ OpenAI


def means(server: Any) -> np.ndarray:
    results = plainly(server, PATHS["v3"], body_of("v3")).json()["results"]
    return np.array([result["embeddings"][0]["embedding"] for result in results], np.float32)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openai_client(server: Any, encoding: str | None) -> None:
    """In a process of its own: our tests turn its warnings into errors."""
    program = """
import json, sys
import openai
url, sequences, options = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
client = openai.OpenAI(base_url=url + "/v1", api_key="not-needed")
answer = client.embeddings.create(model="tiny", input=sequences, **options)
print(json.dumps([[item.embedding for item in answer.data], answer.usage.total_tokens, answer.model]))
"""
    options = {} if encoding is None else {"encoding_format": encoding}
    command = [sys.executable, "-c", program, server.url, json.dumps(SEQUENCES), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    vectors, tokens, model = json.loads(done.stdout)
    if encoding == "base64":  # asked for by name, its client hands it on as it is
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    assert np.array_equal(np.array(vectors, np.float32), means(server))
    assert (tokens, model) == (sum(map(len, SEQUENCES)), "tiny")


def test_embeddings_of_one_string(server: Any) -> None:
    answer = plainly(server, PATHS["openai"], {"model": "tiny", "input": "MKT", "dimensions": 40, "user": "x"}).json()
    assert answer["object"] == "list"
    assert [item["index"] for item in answer["data"]] == [0]
    assert len(answer["data"][0]["embedding"]) == 40


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": "MKT"}, 400, "model"),
        ({"model": "tiny"}, 400, "input"),
        ({"model": "other", "input": "MKT"}, 404, None),
        ({"model": "tiny", "input": ["MKT", "mkt"]}, 400, "input.1"),
        ({"model": "tiny", "input": [[1, 2]]}, 400, "input.0"),
        ({"model": "tiny", "input": []}, 400, "input"),
        ({"model": "tiny", "input": "MKT", "dimensions": 7}, 400, "dimensions"),
        ({"model": "tiny", "input": "MKT", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"model": 5, "input": "MKT"}, 400, "model"),
        ([], 400, None),
    ],
)
def test_refused_embeddings(server: Any, body: Any, status: int, param: str | None) -> None:
    answer = plainly(server, PATHS["openai"], body)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    if status == 400:
        assert answer.json()["error"]["param"] == param


def test_embeddings_take_a_token_as_a_bearers(start_server: Any) -> None:
    with start_server(environ={"SKESM_SERVER_TOKENS": "a-token"}) as server:
        body = {"model": "tiny", "input": "MKT"}
        for header, status in (("Bearer a-token", 200), ("Token a-token", 200), ("Bearer b-token", 401), ("", 401)):
            answer = plainly(server, PATHS["openai"], body, headers={"Authorization": header})
            assert answer.status_code == status
        assert plainly(server, PATHS["v3"], {}, headers={"Authorization": "Bearer a-token"}).status_code == 401
