"""Requests that `skesm serve` refuses, and how it says so."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from server_process import MODEL, PATHS, PROTOCOL, Local, Server, includable, received, running, same

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")

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
