"""Who may ask `skesm serve`, and secrets that it keeps."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from server_process import CANARY_PASSWORD, CANARY_SEQUENCE, CANARY_TOKEN, MODEL, PATHS, PROTOCOL, Server, running

from skesm.server import ServerConfig, serve

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")

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
