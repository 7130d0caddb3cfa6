"""`skesm serve` as a process of its own, spoken to over real sockets."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from scipy.special import log_softmax

from skesm.backends import LocalBackend
from skesm.backends.biolm.limits import read_limits
from skesm.outputs.spec import OutputSpec, Record, parse_outputs
from skesm.server import ServerConfig, serve

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")

MODEL = "tiny"
N_LAYERS, WIDTH = 2, 40
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"
CANARY_SEQUENCE = "WCWCWCHHHMMMWCWCWCQQQKKK"
CANARY_TOKEN = "canary-token-5f1e"
CANARY_PASSWORD = "canary-password-77aa"
PATHS = {
    "v1": "/api/v1/models/{}/transform/",
    "v2": "/api/v2/{}/encode/",
    "v3": "/api/v3/{}/encode/",
    "hub": "/api/v1/{}/encode",
}
PROTOCOL = ("v2", "v3", "hub")
COMMAND = (sys.executable, "-m", "skesm", "serve")


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]
    log: Path

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=60, **options)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=60)

    def encode(self, dialect: str, sequences: Sequence[str], **params: Any) -> list[dict[str, Any]]:
        """The results of a request that must succeed."""
        if dialect == "v1":
            body: dict[str, Any] = {"instances": [{"data": {"text": s}} for s in sequences]}
        else:
            body = {"params": params, "items": [{"sequence": s} for s in sequences]}
        response = self.post(PATHS[dialect].format(MODEL), body)
        assert response.status_code == 200, response.text
        (results,) = response.json().values()
        assert len(results) == len(sequences)
        return list(results)

    def count(self, metric: str) -> float:
        (value,) = re.findall(rf"^{metric} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(value)

    def wait_until(self, metric: str, value: float) -> None:
        end = time.monotonic() + 30
        while self.count(metric) != value:
            assert time.monotonic() < end, f"{metric} never became {value}"
            time.sleep(0.005)

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def running(folder: Path, log: Path, *arguments: str, environ: dict[str, str] | None = None) -> Iterator[Server]:
    """A server; at the end it gets SIGTERM, and must leave with status 0."""
    command = [
        *COMMAND,
        "--model",
        f"{MODEL}={folder}",
        "--port",
        "0",
        "--threads",
        "1",
        *arguments,
    ]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **(environ or {})}
        )
        assert process.stdout is not None
        with process.stdout:
            try:
                url = process.stdout.readline().strip()
                assert url, log.read_text()
                yield Server(url, process, log)
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0
            finally:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For whoever asks on this machine."""
    with running(tiny_checkpoint, tmp_path_factory.mktemp("server") / "log", "--log-level", "debug") as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For those with a token or a password."""
    environ = {
        "SKESM_SERVER_TOKENS": f"other-token {CANARY_TOKEN}",
        "SKESM_SERVER_USERS": f"ada:{CANARY_PASSWORD} bob:second",
    }
    log = tmp_path_factory.mktemp("guarded") / "log"
    with running(tiny_checkpoint, log, "--log-level", "debug", environ=environ) as server:
        yield server


Local = Callable[..., list[Record]]


@pytest.fixture(scope="module")
def local(tiny_checkpoint: Path) -> Local:
    """Records of the local backend called directly."""
    backend = LocalBackend(engine="numpy", num_threads=1)

    def compute(sequences: Sequence[str], *names: str) -> list[Record]:
        distinct = list(dict.fromkeys(sequences))
        found: dict[str, Record] = {}
        for batch in backend.run(str(tiny_checkpoint), distinct, parse_outputs(names, N_LAYERS)):
            found |= {distinct[i]: record for i, record in zip(batch.indices, batch.records, strict=True)}
        return [found[s] for s in sequences]

    return compute


def float32(value: Any) -> np.ndarray:
    return np.array(value, dtype=np.float64).astype(np.float32)


def same(value: Any, expected: np.ndarray) -> bool:
    """To the last bit: JSON carries every float32 exactly, and the NumPy engine does not depend on company."""
    return float32(value).shape == expected.shape and np.array_equal(float32(value), expected)


def received(record: Record) -> np.ndarray:
    """Attention that each residue is given, layers as rows."""
    return np.stack([record[OutputSpec("attention_received", layer)] for layer in range(1, N_LAYERS + 1)])


# ------------------------------------------------------------------------------------------------------ answers


def test_v1_answers_everything_it_always_answers(server: Server, local: Local) -> None:
    sequences = ["MKTAYIAK", "GG", "MKTAYIAK", "ACDXBZUO"]
    records = local(sequences, "mean@-1", "logit_means", "contacts", "attention_received@*")
    results = server.encode("v1", sequences)
    for place, (result, record) in enumerate(zip(results, records, strict=True)):
        assert set(result) == {"name", "mean_representations", "logits", "contacts", "attentions"}
        assert result["name"] == str(place)
        assert list(result["mean_representations"]) == [str(N_LAYERS)]
        assert same(result["mean_representations"]["2"], record[OutputSpec("mean", 2)])
        assert same(result["logits"], record[OutputSpec("logit_means")])
        assert same(result["contacts"], record[OutputSpec("contacts")])
        assert same(result["attentions"], received(record))


KEYS = {
    "v2": ("mean_representations", "representations", "bos_representations"),
    "v3": ("embeddings", "per_token_embeddings", "bos_embeddings"),
    "hub": ("embeddings", "residue_embeddings", "bos_embeddings"),
}


@pytest.mark.parametrize("dialect", PROTOCOL)
@pytest.mark.parametrize("per_residue", ["per_residue", "per_token"])
def test_encode_answers_all_outputs(server: Server, local: Local, dialect: str, per_residue: str) -> None:
    sequences = ["MKTAYIAK", "GG"]
    names = [f"{kind}@{layer}" for kind in ("mean", "cls", "residues") for layer in (0, 2)]
    records = local(sequences, *names, "logits", "contacts", "attention_received@*")
    include = ["mean", per_residue, "bos", "logits", "contacts", "attentions"]
    results = server.encode(dialect, sequences, repr_layers=[-1, 2, 0], include=include)
    for result, record in zip(results, records, strict=True):
        for key, kind, inner in zip(
            KEYS[dialect], ("mean", "residues", "cls"), ("embedding", "embeddings", "embedding"), strict=True
        ):
            if dialect == "v2":
                layers = {int(layer): value for layer, value in result[key].items()}
            else:
                assert all(set(entry) == {"layer", inner} for entry in result[key])
                layers = {entry["layer"]: entry[inner] for entry in result[key]}
            assert list(layers) == [0, 2]  # ascending, duplicates merged
            for layer, value in layers.items():
                assert same(value, record[OutputSpec(kind, layer)])
        assert same(result["logits"], record[OutputSpec("logits")])
        assert same(result["contacts"], record[OutputSpec("contacts")])
        assert same(result["attentions"], received(record))  # of all layers, whatever repr_layers says
        assert result.get("vocab_tokens", list(AMINO_ACIDS)) == list(AMINO_ACIDS)
        assert ("vocab_tokens" in result) == (dialect != "v2")


@pytest.mark.parametrize("dialect", PROTOCOL)
def test_params_default_to_the_mean_of_the_last_layer(server: Server, local: Local, dialect: str) -> None:
    (record,) = local(["MKT"], "mean@2")
    response = server.post(PATHS[dialect].format(MODEL), {"items": [{"sequence": "MKT"}]})
    (result,) = response.json()["results"]
    assert result.pop("sequence_index", 0) == 0
    (key,) = {key for key, value in result.items() if value is not None}
    value = result[key]["2"] if dialect == "v2" else result[key][0]["embedding"]
    assert key == KEYS[dialect][0]
    assert same(value, record[OutputSpec("mean", 2)])
    # The hub names what was not asked for; the hosted service does not.
    assert len(result) == (7 if dialect == "hub" else 1)


@pytest.mark.parametrize("path", ["/api/v2/{}/predict/", "/api/v3/{}/predict/", "/api/v1/{}/predict"])
def test_predict(server: Server, local: Local, path: str) -> None:
    sequences = ["MK<mask>AY", "<mask>"]
    records = local(sequences, "logits")
    response = server.post(path.format(MODEL), {"items": [{"sequence": s} for s in sequences]})
    results = response.json()["results"]
    assert [result["sequence_tokens"] for result in results] == [["M", "K", "<mask>", "A", "Y"], ["<mask>"]]
    for result, record in zip(results, records, strict=True):
        assert same(result["logits"], record[OutputSpec("logits")])
        assert result["vocab_tokens"] == list(AMINO_ACIDS)


def test_log_prob_sums_over_the_canonical_residues(server: Server, local: Local) -> None:
    sequences = ["MKTAYIAK", "MXB", "XX"]
    response = server.post(f"/api/v1/{MODEL}/log_prob", {"items": [{"sequence": s} for s in sequences]})
    given = [result["log_prob"] for result in response.json()["results"]]
    expected = []
    for sequence, record in zip(sequences, local(sequences, "logits"), strict=True):
        scores = log_softmax(record[OutputSpec("logits")].astype(np.float64), axis=1)
        own = [row[AMINO_ACIDS.index(r)] for row, r in zip(scores, sequence, strict=True) if r in AMINO_ACIDS]
        expected.append(sum(own))
    np.testing.assert_allclose(given, expected, rtol=1e-12)


def test_gaps_are_encoded_as_the_services_do(server: Server) -> None:
    (result,) = server.encode("v3", ["MK-T"], include=["per_residue"])
    assert len(result["per_token_embeddings"][0]["embeddings"]) == 4


@pytest.mark.parametrize("accept", ["gzip, deflate", "identity"])
def test_answers_are_gzipped_for_those_who_take_it(server: Server, accept: str) -> None:
    body = {"items": [{"sequence": "MKTAYIAK"}], "params": {"include": ["logits", "mean"]}}
    response = server.post(PATHS["v3"].format(MODEL), body, headers={"Accept-Encoding": accept}, stream=True)
    raw = response.raw.read(decode_content=False)
    compressed = response.headers.get("Content-Encoding") == "gzip"
    assert compressed == (accept != "identity")
    assert response.headers["Vary"] == "Accept-Encoding"
    assert int(response.headers["Content-Length"]) == len(raw)
    assert json.loads(gzip.decompress(raw) if compressed else raw)["results"]


# ------------------------------------------------------------------------------------------------------ refusals

REFUSED_BODIES: list[tuple[Any, str, str]] = [
    # what follows "items" in the place, kind of the hub, a part of the message
    ([{"sequence": "MKT"}, {"sequence": "mkt"}], "1 sequence", "value_error"),
    ([{"sequence": "MK*"}], "0 sequence", "value_error"),
    ([{"sequence": "MKJ"}], "0 sequence", "value_error"),
    ([{"sequence": "MKT\n"}], "0 sequence", "value_error"),
    ([{"sequence": "MK<mask>T"}], "0 sequence", "value_error"),
    ([{"sequence": "--"}], "0 sequence", "value_error"),
    ([{"sequence": ""}], "0 sequence", "string_too_short"),
    ([{"sequence": "A" * 2049}], "0 sequence", "string_too_long"),
    ([{"sequence": None}], "0 sequence", "string_type"),
    ([{"sequence": 5}], "0 sequence", "string_type"),
    ([{}], "0 sequence", "missing"),
    ([{"sequence": "MKT", "name": "x"}], "0", "extra_forbidden"),
    (["MKT"], "0", "dict_type"),
    ([{"sequence": "MKT"}] * 9, "", "too_long"),
    ([], "", "too_short"),
    ("MKT", "", "list_type"),
]


@pytest.mark.parametrize(("items", "where", "kind"), REFUSED_BODIES)
@pytest.mark.parametrize("dialect", PROTOCOL)
def test_a_bad_item_is_named(server: Server, dialect: str, items: Any, where: str, kind: str) -> None:
    response = server.post(PATHS[dialect].format(MODEL), {"items": items})
    place = ["items", *(int(part) if part.isdecimal() else part for part in where.split())]
    if dialect == "hub":
        assert response.status_code == 422
        (entry,) = response.json()["detail"]
        assert entry["loc"] == ["body", *place]
        assert entry["type"] == kind
        assert "input" not in entry  # it would be the sequence
    else:
        assert response.status_code == 400
        assert list(response.json()["error"]) == ["__".join(map(str, place))]
    if kind == "too_long":
        assert "at most 8 item" in response.text


def test_a_bad_instance_of_v1_is_named(server: Server) -> None:
    body = {"instances": [{"data": {"text": "MKT"}}, {"data": {"text": "MK T"}}, {"data": {}}]}
    response = server.post(PATHS["v1"].format(MODEL), body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"instances__1__data__text", "instances__2__data__text"}
    assert "Residue 3 of 4" in response.text


@pytest.mark.parametrize("dialect", PROTOCOL)
@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"repr_layer": [-1]}, ()),
        ({"repr_layers": [3]}, ("repr_layers", 0)),
        ({"repr_layers": [-1, -4]}, ("repr_layers", 1)),
        ({"repr_layers": ["1"]}, ("repr_layers", 0)),
        ({"repr_layers": [True]}, ("repr_layers", 0)),
        ({"repr_layers": 1}, ("repr_layers",)),
        ({"repr_layers": []}, ("repr_layers",)),
        ({"include": ["max"]}, ("include", 0)),
        ({"include": [["mean"]]}, ("include", 0)),
        ([], ()),
    ],
)
def test_bad_params_are_named(server: Server, dialect: str, params: Any, place: tuple[str | int, ...]) -> None:
    response = server.post(PATHS[dialect].format(MODEL), {"params": params, "items": [{"sequence": "MKT"}]})
    body = response.json()
    if dialect == "hub":
        assert (response.status_code, body["detail"][0]["loc"]) == (422, ["body", "params", *place])
    else:
        assert (response.status_code, list(body["error"])) == (400, ["__".join(map(str, ("params", *place)))])


def test_without_a_contact_head_only_contacts_are_missing(
    tiny_checkpoint: Path, without_contact_head: Callable[[Path], Path], local: Local, tmp_path: Path
) -> None:
    (record,) = local(["MKT"], "attention_received@*")
    with running(without_contact_head(tiny_checkpoint), tmp_path / "log") as server:
        for dialect in PROTOCOL:
            body = {"params": {"include": ["mean", "contacts"]}, "items": [{"sequence": "MKT"}]}
            response = server.post(PATHS[dialect].format(MODEL), body)
            assert response.status_code == 400
            said = response.json()["detail" if dialect == "hub" else "error"]
            assert f"contacts are not available: the checkpoint of {MODEL} has no contact head" in said
            (result,) = server.encode(dialect, ["MKT"], include=["attentions"])
            assert same(result["attentions"], received(record))
            assert result.get("contacts") is None
        (result,) = server.encode("v1", ["MKT"])
        assert result["contacts"] is None
        assert same(result["attentions"], received(record))
        assert not [line for line in server.log_lines() if line["level"] == "error"]
        for dialect in ("v2", "v3"):
            assert "contacts" not in includable(server, dialect)


def includable(server: Server, dialect: str) -> list[str]:
    """What the schema says of `include`."""
    schema = server.get(f"/api/{dialect}/schema/{MODEL}/encode/").json()
    return list(schema["properties"]["params"]["properties"]["include"]["items"]["enum"])


@pytest.mark.parametrize("dialect", ["v1", *PROTOCOL])
def test_attention_does_not_depend_on_company(server: Server, dialect: str) -> None:
    together = server.encode(dialect, ["MKTAYIAKQR" * 20, "MKT"], include=["attentions", "contacts"])
    (alone,) = server.encode(dialect, ["MKT"], include=["attentions", "contacts"])
    assert together[1]["attentions"] == alone["attentions"]
    assert together[1]["contacts"] == alone["contacts"]


def test_predict_needs_a_mask(server: Server) -> None:
    response = server.post(f"/api/v3/{MODEL}/predict/", {"items": [{"sequence": "MKT"}]})
    assert response.status_code == 400
    assert "should hold <mask>" in response.text


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 422),
        (b"\xff\xfe", {}, 422),
        (b"[" * 100_000, {}, 422),
        (b'{"items": [{"sequence": "MKT"}]}', {"Content-Type": "text/plain"}, 415),
        (gzip.compress(b'{"items": [{"sequence": "MKT"}]}', mtime=0)[:-1], {"Content-Encoding": "gzip"}, 400),
        (b'{"items": [{"sequence": "MKT"}]}', {"Content-Encoding": "gzip"}, 400),
        (b'{"items": [{"sequence": "MKT"}]}', {"Content-Encoding": "br"}, 415),
        (b" " * ((1 << 20) + 1), {}, 413),
    ],
)
def test_a_body_that_cannot_be_read(server: Server, content: bytes, headers: dict[str, str], status: int) -> None:
    headers = {"Content-Type": "application/json", **headers}
    response = requests.post(server.url + PATHS["hub"].format(MODEL), data=content, headers=headers, timeout=60)
    assert response.status_code == status
    assert "detail" in response.json()


def test_a_body_without_a_length_is_not_read_for_ever(server: Server) -> None:
    chunks = iter([b" " * (1 << 16)] * 64)
    headers = {"Content-Type": "application/json"}
    try:
        response = requests.post(server.url + PATHS["hub"].format(MODEL), data=chunks, headers=headers, timeout=60)
    except requests.ConnectionError:  # the server may have closed before all was sent
        return
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("path", "status", "key"),
    [
        ("/api/v3/esm2-8m/encode/", 404, "error"),
        ("/api/v1/esm2-8m/encode", 404, "detail"),
        (f"/api/v3/{MODEL}/fold/", 404, "error"),
        (f"/api/v2/{MODEL}/log_prob/", 404, "error"),
        (f"/api/v1/{MODEL}/fold", 404, "detail"),
        ("/nothing", 404, "detail"),
        ("/metrics", 405, "detail"),
    ],
)
def test_unknown_paths(server: Server, path: str, status: int, key: str) -> None:
    response = server.post(path, {"items": [{"sequence": "MKT"}]})
    assert response.status_code == status
    assert list(response.json()) == [key]


@pytest.mark.parametrize("dialect", PATHS)
def test_the_last_slash_does_not_matter(server: Server, dialect: str) -> None:
    """A redirect would name plain http to clients of a proxy with TLS, and some clients do not follow any."""
    path = PATHS[dialect].format(MODEL)
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    body = {"instances": [{"data": {"text": "MKT"}}]} if dialect == "v1" else {"items": [{"sequence": "MKT"}]}
    answer = server.post(other, body, allow_redirects=False)
    assert answer.status_code == 200
    assert answer.content == server.post(path, body).content


@pytest.mark.parametrize("path", ["/metrics/", "/openapi.json/", "/readyz/", f"/api/v3/schema/{MODEL}/encode"])
def test_the_last_slash_of_descriptions_does_not_matter(server: Server, path: str) -> None:
    assert requests.get(server.url + path, timeout=60, allow_redirects=False).status_code == 200


# ------------------------------------------------------------------------------------------------------ descriptions


@pytest.mark.parametrize("dialect", ["v2", "v3"])
def test_schema(server: Server, dialect: str) -> None:
    schema = server.get(f"/api/{dialect}/schema/{MODEL}/encode/").json()
    limits = read_limits(schema, PATHS[dialect].format(MODEL))
    assert (limits.max_items, limits.max_length) == (8, 2048)
    assert {"contacts", "attentions"} <= set(includable(server, dialect))
    assert server.get(f"/api/{dialect}/schema/{MODEL}/fold/").status_code == 404
    assert server.get(f"/api/{dialect}/schema/other/encode/").status_code == 404


def test_openapi_describes_every_path(server: Server) -> None:
    document = server.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for dialect in ("v2", "v3", "hub"):
        limits = read_limits(document, PATHS[dialect].format(MODEL))
        assert (limits.max_items, limits.max_length) == (8, 2048)
    for path, item in document["paths"].items():
        if "post" in item:
            assert server.post(path, {}).status_code in (400, 422), path  # it is there: it reads the body
        else:
            assert server.get(path.replace("{model}", MODEL).replace("{action}", "encode")).status_code == 200, path


def test_health(server: Server) -> None:
    answer = server.get("/").json()
    assert (answer["status"], answer["models"]) == ("ok", [MODEL])


def test_limits_are_settable(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with running(tiny_checkpoint, tmp_path / "log", "--max-items", "2", "--max-length", "5") as server:
        limits = read_limits(server.get(f"/api/v3/schema/{MODEL}/encode/").json(), "")
        assert (limits.max_items, limits.max_length) == (2, 5)
        too_many = server.post(PATHS["hub"].format(MODEL), {"items": [{"sequence": "MKT"}] * 3})
        assert too_many.json()["detail"][0]["ctx"]["max_length"] == 2
        too_long = server.post(PATHS["hub"].format(MODEL), {"items": [{"sequence": "MKTAYI"}]})
        assert too_long.json()["detail"][0]["type"] == "string_too_long"
        # A mask counts as one residue.
        predict = {"items": [{"sequence": "MK<mask>AY"}]}
        assert server.post(f"/api/v1/{MODEL}/predict", predict).status_code == 200


# ------------------------------------------------------------------------------------------------------ who may ask

ITEM = {"items": [{"sequence": "MKT"}]}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Token wrong"},
        {"Authorization": f"Bearer {CANARY_TOKEN}"},
        {"Authorization": CANARY_TOKEN},
        {"Authorization": "Token"},
        {"Authorization": f"Token {CANARY_TOKEN[:-1]}"},
        {"Authorization": "Token \xe9"},
        {"Cookie": f"access={CANARY_TOKEN}"},
        {"Cookie": "access=access.9999999999.ab.cd"},
        {"Cookie": "access=."},
    ],
)
@pytest.mark.parametrize("dialect", list(PATHS))
def test_wrong_credentials(guarded: Server, dialect: str, headers: dict[str, str]) -> None:
    response = guarded.post(PATHS[dialect].format(MODEL), ITEM, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Token"
    assert CANARY_TOKEN not in response.text


@pytest.mark.parametrize("token", [CANARY_TOKEN, "other-token"])
@pytest.mark.parametrize("dialect", PROTOCOL)
def test_tokens(guarded: Server, dialect: str, token: str) -> None:
    response = guarded.post(PATHS[dialect].format(MODEL), ITEM, headers={"Authorization": f"Token {token}"})
    assert response.status_code == 200


def test_descriptions_are_public(guarded: Server) -> None:
    for path in ("/", "/openapi.json", "/metrics", f"/api/v3/schema/{MODEL}/encode/"):
        assert guarded.get(path).status_code == 200


@pytest.mark.parametrize("form", ["json", "data"])
def test_login_and_refresh(guarded: Server, form: str) -> None:
    user = {"username": "ada", "password": CANARY_PASSWORD}
    # The official client's own login sends a form.
    login = requests.post(f"{guarded.url}/api/auth/token/", **{form: user}, timeout=60)
    assert set(login.json()) == {"access", "refresh"}
    access, refresh = login.json()["access"], login.json()["refresh"]
    # As the notebook writes it, without a space.
    cookies = {"Cookie": f"access={access};refresh={refresh}"}
    body = {"instances": [{"data": {"text": "MKT"}}]}
    assert guarded.post(PATHS["v1"].format(MODEL), body, headers=cookies).status_code == 200
    renewed = guarded.post("/api/auth/token/refresh/", {}, headers={"Cookie": f"refresh={refresh}"})
    assert set(renewed.json()) == {"access"}
    cookies = {"Cookie": f"access={renewed.json()['access']}"}
    assert guarded.post(PATHS["v1"].format(MODEL), body, headers=cookies).status_code == 200
    assert guarded.post(PATHS["hub"].format(MODEL), ITEM, headers={"Authorization": f"Bearer {access}"}).ok
    # One is not the other.
    swapped = {"Cookie": f"access={refresh};refresh={access}"}
    assert guarded.post(PATHS["v1"].format(MODEL), body, headers=swapped).status_code == 401
    refused = guarded.post("/api/auth/token/refresh/", {}, headers=swapped)
    assert (refused.status_code, refused.json()["code"]) == (401, "token_not_valid")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"username": "ada", "password": "second"}, 401),  # bob's
        ({"username": "eve", "password": CANARY_PASSWORD}, 401),
        ({"username": "ada", "password": "\ud800"}, 401),
        ({"username": "ada"}, 400),
        ({"username": "ada", "password": 5}, 400),
        ([], 400),
    ],
)
def test_failed_logins(guarded: Server, body: Any, status: int) -> None:
    assert guarded.post("/api/auth/token/", body).status_code == status


def test_no_login_without_users(server: Server) -> None:
    assert server.post("/api/auth/token/", {"username": "ada", "password": "x"}).status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_listening_to_others_needs_credentials(host: str) -> None:
    with pytest.raises(ValueError, match="can be reached from other machines"):
        serve(ServerConfig(), host=host, port=0)


def test_listening_to_others_with_a_token_is_fine(tiny_checkpoint: Path, tmp_path: Path) -> None:
    environ = {"SKESM_SERVER_TOKENS": CANARY_TOKEN}
    with running(tiny_checkpoint, tmp_path / "log", "--host", "0.0.0.0", environ=environ) as server:
        port = server.url.rpartition(":")[2]
        assert requests.get(f"http://127.0.0.1:{port}/", timeout=60).status_code == 200


def test_a_taken_port_is_an_error(tiny_checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(ServerConfig((f"{MODEL}={tiny_checkpoint}",)), port=taken.getsockname()[1])


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "orjson"])
def test_the_extra_is_named_when_missing(module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from skesm.server import serve; serve()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"{module} is not installed: pip install 'orjson" in done.stderr


# ------------------------------------------------------------------------------------------------------ many at a time


def test_nothing_is_lost_or_crossed(server: Server, local: Local) -> None:
    """16 clients, all dialects, drawing from 60 sequences, so that many are in flight twice."""
    rng = np.random.default_rng(1)
    pool = ["".join(rng.choice(list(AMINO_ACIDS), rng.integers(1, 60))) for _ in range(60)]
    names = ("mean@2", "mean@1", "logits", "logit_means")
    known = dict(zip(pool, local(pool, *names), strict=True))
    mean = OutputSpec("mean", 2), OutputSpec("mean", 1)
    answered_before = server.count("skesm_sequences_total")

    def client(number: int) -> int:
        draw = random.Random(number)
        asked = 0
        for _ in range(40):
            sequences = draw.choices(pool, k=draw.randint(1, 8))
            dialect = draw.choice(list(PATHS))
            include = draw.choice([["mean"], ["mean", "logits"]])
            results = server.encode(dialect, sequences, repr_layers=[2, 1], include=include)
            for sequence, result in zip(sequences, results, strict=True):
                record = known[sequence]
                if dialect == "v1":
                    assert same(result["mean_representations"]["2"], record[mean[0]])
                    assert same(result["logits"], record[OutputSpec("logit_means")])
                    continue
                if dialect == "v2":
                    first, last = result["mean_representations"]["1"], result["mean_representations"]["2"]
                else:
                    first, last = (entry["embedding"] for entry in result["embeddings"])
                assert same(first, record[mean[1]])
                assert same(last, record[mean[0]])
                if "logits" in include:
                    assert same(result["logits"], record[OutputSpec("logits")])
            asked += len(sequences)
        return asked

    with ThreadPoolExecutor(16) as clients:
        asked = sum(clients.map(client, range(16)))
    assert server.count("skesm_sequences_total") - answered_before == asked
    assert server.count("skesm_open_requests") == server.count("skesm_open_residues") == 0
    # Requests did share batches, and sequences did share passes.
    assert server.count("skesm_batch_sequences_count") < asked / 4
    assert server.count("skesm_shared_total") > asked / 20
    assert server.count("skesm_failures_total") == 0


@pytest.fixture
def patient(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Server]:
    """Waits a second for more before it computes, and takes no more than ten residues at a time."""
    with running(tiny_checkpoint, tmp_path / "log", "--batch-wait", "1000", "--queue", "10") as server:
        yield server


def test_a_full_queue_is_a_429_that_says_when(patient: Server, local: Local) -> None:
    with ThreadPoolExecutor(1) as other:
        first = other.submit(patient.encode, "v3", ["MKTAYIA"])
        patient.wait_until("skesm_open_requests", 1)
        for dialect, key in (("v3", "error"), ("hub", "detail")):
            refused = patient.post(PATHS[dialect].format(MODEL), {"items": [{"sequence": "MKTA"}]})
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert list(refused.json()) == [key]
        fits = patient.encode("v3", ["MKT"])
        (record,) = local(["MKTAYIA"], "mean@2")
        assert same(first.result()[0]["embeddings"][0]["embedding"], record[OutputSpec("mean", 2)])
        assert fits
    # What is larger than the queue is taken when there is nothing else.
    assert patient.encode("v3", ["MKTAYIAKQRQISFVK"])


def test_the_same_sequence_in_flight_is_computed_once(patient: Server) -> None:
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: patient.encode("v3", ["MK"]), range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert patient.count("skesm_computed_total") == 1
    assert patient.count("skesm_shared_total") == 3


def test_sigterm_lets_it_finish_what_it_took(patient: Server, local: Local) -> None:
    (record,) = local(["MKTAYIA"], "mean@2")
    with ThreadPoolExecutor(1) as other:
        taken = other.submit(patient.encode, "v3", ["MKTAYIA"])
        patient.wait_until("skesm_open_requests", 1)
        patient.process.send_signal(signal.SIGTERM)
        (result,) = taken.result()
    assert same(result["embeddings"][0]["embedding"], record[OutputSpec("mean", 2)])
    assert patient.process.wait(timeout=30) == 0
    with pytest.raises(requests.ConnectionError):
        patient.get("/")
    assert "stopped" in [line["message"] for line in patient.log_lines()]


def test_a_client_that_leaves_harms_nobody(patient: Server) -> None:
    body = json.dumps({"items": [{"sequence": "MKT"}]})
    head = f"POST {PATHS['v3'].format(MODEL)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    port = int(patient.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as leaving:
        leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        patient.wait_until("skesm_open_requests", 1)
    with socket.create_connection(("127.0.0.1", port)) as leaving:  # before its body is there
        leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body[:5]}".encode())
    assert patient.encode("v3", ["MKT"])
    patient.wait_until("skesm_open_requests", 0)


def test_memory_keeps_records_for_the_next_server(tiny_checkpoint: Path, tmp_path: Path, local: Local) -> None:
    sequences = ["MKTAYIAK", "GG"]
    expected = local(sequences, "mean@2")
    for computed, hits in ((2, 0), (0, 2)):
        with running(tiny_checkpoint, tmp_path / "log", "--memory", str(tmp_path / "store")) as server:
            results = server.encode("v3", sequences)
            assert server.count("skesm_computed_total") == computed
            assert server.count("skesm_store_hits_total") == hits
        for result, record in zip(results, expected, strict=True):
            assert same(result["embeddings"][0]["embedding"], record[OutputSpec("mean", 2)])


# ------------------------------------------------------------------------------------------------------ secrets


def test_canaries_appear_nowhere(guarded: Server) -> None:
    token = {"Authorization": f"Token {CANARY_TOKEN}"}
    texts = []
    for dialect, path in PATHS.items():
        path = path.format(MODEL)
        key = "instances" if dialect == "v1" else "items"

        def item(sequence: Any, dialect: str = dialect) -> Any:
            return {"data": {"text": sequence}} if dialect == "v1" else {"sequence": sequence}

        good = guarded.post(path, {key: [item(CANARY_SEQUENCE)]}, headers=token)
        assert good.status_code == 200
        bad: list[Any] = [
            {key: [item(CANARY_SEQUENCE + "j")]},
            {key: [item({CANARY_SEQUENCE: CANARY_SEQUENCE})]},
            {key: [item(CANARY_SEQUENCE)], CANARY_SEQUENCE: CANARY_TOKEN},
            {key: [{CANARY_SEQUENCE: CANARY_TOKEN}]},
            {key: CANARY_SEQUENCE},
            {key: [item(CANARY_SEQUENCE)], "params": {"include": [CANARY_SEQUENCE], "repr_layers": [CANARY_TOKEN]}},
            {key: [item(CANARY_SEQUENCE)] * 9},
            {key: [item(CANARY_SEQUENCE * 100)]},
            CANARY_SEQUENCE,
        ]
        for body in bad:
            response = guarded.post(path, body, headers=token)
            assert response.status_code in (400, 422)
            texts.append(response.text)
        texts.append(guarded.post(path, {key: [item(CANARY_SEQUENCE)]}).text)
        texts.append(guarded.post(f"{path}?token={CANARY_TOKEN}", {key: [item(CANARY_SEQUENCE)]}).text)
    texts.append(guarded.post(f"/api/v3/{CANARY_SEQUENCE}/encode/", ITEM, headers=token).text)
    texts.append(guarded.post(f"/{CANARY_SEQUENCE}/{CANARY_TOKEN}", ITEM, headers=token).text)
    texts.append(guarded.post("/api/auth/token/", {"username": CANARY_SEQUENCE, "password": CANARY_PASSWORD}).text)
    login = guarded.post("/api/auth/token/", {"username": "ada", "password": CANARY_PASSWORD}).json()
    port = int(guarded.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:  # not HTTP
        raw.sendall(f"{CANARY_SEQUENCE} {CANARY_TOKEN}\r\n\r\n".encode())
        texts.append(raw.makefile().read())
    texts += [guarded.get("/metrics").text, guarded.get("/openapi.json").text, guarded.log.read_text()]
    assert len(guarded.log_lines()) > 40  # there was something to look at
    for text in texts:
        for secret in (CANARY_SEQUENCE, CANARY_TOKEN, CANARY_PASSWORD, login["access"], login["refresh"]):
            assert secret not in text


def test_every_request_has_a_line(server: Server) -> None:
    server.encode("v3", ["MKTAYIAK", "GG"])
    line = next(line for line in reversed(server.log_lines()) if line["message"] == "request")
    assert {key: line[key] for key in ("dialect", "action", "model", "sequences", "residues", "status")} == {
        "dialect": "v3",
        "action": "encode",
        "model": MODEL,
        "sequences": 2,
        "residues": 10,
        "status": 200,
    }
    assert line["milliseconds"] > 0


def test_the_example_of_the_notebook() -> None:
    """It starts its own server, asks both ways, and fails if they do not agree."""
    example = Path(__file__).resolve().parents[1] / "examples" / "biolm_notebook.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean_representations (8, 192)" in done.stdout
    assert "the notebook's way" in done.stdout
