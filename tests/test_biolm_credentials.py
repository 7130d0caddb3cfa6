"""Credentials of the BioLM client, and where they may not go."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import socket
import subprocess
import time
import traceback
from pathlib import Path

import pytest
from biolm_service import (
    CANARY_SEQUENCE,
    CANARY_TOKEN,
    MEAN,
    MODEL,
    FastBackend,
    assert_right,
    collect,
    make_sequences,
    running_service,
)
from sklearn.base import clone

from skesm.backends.biolm import BioLMBackend
from skesm.exceptions import (
    AuthenticationError,
    BackendError,
    InvalidAnswerError,
    RequestRejectedError,
    ServiceUnavailableError,
)

# ------------------------------------------------------------------------------------------------ credentials


@pytest.mark.parametrize("name", ["BIOLM_TOKEN", "BIOLMAI_TOKEN"])
def test_token(service, monkeypatch, name):
    monkeypatch.setenv(name, CANARY_TOKEN)
    service.script(token=CANARY_TOKEN)
    records, error = collect(FastBackend(service.url, dialect="v3"), make_sequences(3))
    assert error is None
    assert len(records) == 3


def test_netrc_does_not_replace_the_token(service, monkeypatch, tmp_path):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    service.script(token=CANARY_TOKEN)
    assert collect(FastBackend(service.url), make_sequences(3))[1] is None


@pytest.mark.parametrize("dialect", ["v1", "v3"])
@pytest.mark.parametrize("source", ["environment", "login", ".biolm", ".biolmai"])
def test_cookies_are_found_and_refreshed_once(service, monkeypatch, tmp_path, source, dialect):
    if source == "environment":
        monkeypatch.setenv("BIOLM_ACCESS", "expired")
        monkeypatch.setenv("BIOLM_REFRESH", "refresh-1")
    elif source == "login":
        monkeypatch.setenv("BIOLM_USER", "ada")
        monkeypatch.setenv("BIOLM_PASSWORD", "lovelace")
    else:
        (tmp_path / source).mkdir()
        content = {"access": "expired", "refresh": "refresh-1", "token_url": f"{service.url}/oauth/token"}
        (tmp_path / source / "credentials").write_text(json.dumps(content))
    service.script(
        access="never", next_access="fresh", refresh="refresh-1", login=["ada", "lovelace"], schema_max_items=1
    )
    records, error = collect(FastBackend(service.url, dialect=dialect), make_sequences(40))
    assert error is None
    assert len(records) == 40
    logins = [event["path"] for event in service.log if "/auth/" in event["path"]]
    assert logins == ["/api/auth/token/" if source == "login" else "/api/auth/token/refresh/"]


def test_eight_workers_refresh_once(service, monkeypatch):
    """All eight requests are refused while they are under way together."""
    monkeypatch.setenv("BIOLM_ACCESS", "old")
    monkeypatch.setenv("BIOLM_REFRESH", "refresh-1")
    refusal = {"when": {"min_items": 1}, "do": {"meet": 8, "status": 401}, "times": 8}
    service.script(
        {"do": {}, "times": 60}, refusal, next_access="new", refresh="refresh-1", schema_max_items=1, latency=0.01
    )
    records, error = collect(FastBackend(service.url, max_concurrency=8), make_sequences(120))
    assert error is None
    assert len(records) == 120
    assert sum("/auth/" in event["path"] for event in service.log) == 1
    assert len(service.posts) == 128


@pytest.mark.parametrize("refusal_with_200", [False, True])
def test_refused_refresh_ends_the_job(service, monkeypatch, refusal_with_200):
    monkeypatch.setenv("BIOLM_ACCESS", "expired")
    monkeypatch.setenv("BIOLM_REFRESH", "expired too")
    service.script(access="x", refresh="y", next_access="z", refusal_with_200=refusal_with_200)
    _, error = collect(FastBackend(service.url), make_sequences(100))
    assert isinstance(error, AuthenticationError)
    assert "refresh" in str(error)
    assert sum("/auth/" in event["path"] for event in service.log) == 1
    assert len(service.posts) == 1


def test_no_credentials_no_request():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BIOLM_TOKEN", "BIOLMAI_TOKEN", "BIOLM_ACCESS", "BIOLM_REFRESH", "BIOLM_USER"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", "/nonexistent")
        with pytest.raises(AuthenticationError, match="BIOLM_TOKEN"):
            next(BioLMBackend("https://biolm.ai").run(MODEL, ["MKT"], [MEAN]))


def test_the_hosted_services_file_is_for_the_hosted_service(service, tmp_path):
    (tmp_path / ".biolm").mkdir()
    (tmp_path / ".biolm" / "credentials").write_text('{"access": "a", "refresh": "r"}')
    collect(FastBackend(service.url), make_sequences(3))
    assert not any(event["credentials"] for event in service.log)


# ------------------------------------------------------------------------------------------------ where nothing may go


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_other_origins_are_not_followed(service, monkeypatch, status):
    monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.setblocking(False)
        target = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/steal?signature=hidden"
        service.script({"do": {"status": status, "headers": {"Location": target}}, "times": 99})
        _, error = collect(FastBackend(service.url), make_sequences(100))
        assert isinstance(error, RequestRejectedError)
        assert "hidden" not in str(error)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert len(service.posts) == 1


def test_same_origin_redirects_keep_the_method(service):
    service.script({"do": {"status": 307, "headers": {"Location": "/api/v1/esm2-8m/encode"}}})
    records, error = collect(FastBackend(service.url, dialect="v3"), make_sequences(3))
    assert isinstance(error, InvalidAnswerError) or len(records) == 3
    assert [event["method"] for event in service.log if "encode" in event["path"]].count("POST") == 2


@pytest.mark.parametrize("url", ["http://example.org", "http://192.0.2.1:8000", "http://127.0.0.1.example.org"])
def test_plain_http_to_other_machines_is_refused_before_sending(monkeypatch, url):
    monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    with pytest.raises(ValueError, match="plain http"):
        BioLMBackend(url).run(MODEL, ["MKT"], [MEAN])
    assert BioLMBackend(url, allow_http=True).namespace(MODEL).fingerprint.startswith(url)


@pytest.mark.parametrize(
    "url", ["https://user:secret@example.org", "ftp://example.org", "example.org", "https://x.org/?k=v"]
)
def test_addresses_that_make_no_sense_are_refused(url):
    with pytest.raises(ValueError, match="base_url") as caught:
        BioLMBackend(url).namespace(MODEL)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_https(service, monkeypatch, tmp_path):
    """Certificates are checked, an authority of one's own can be named, and a request that hangs can be ended."""
    certificate = str(tmp_path / "certificate.pem")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", certificate + ".key", "-out", certificate]
    subprocess.run(["openssl", *command.split(), *files], check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text(Path(certificate + ".key").read_text() + Path(certificate).read_text())
    sequences = make_sequences(20)
    with running_service(str(both)) as secure:
        _, error = collect(FastBackend(secure.url), sequences)
        assert isinstance(error, ServiceUnavailableError)
        assert "certificate" in str(error)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
        records, error = collect(FastBackend(secure.url), sequences)
        assert error is None
        assert_right(records, sequences)
        assert len(records) == 20
        secure.script({"do": {}}, {"do": {"gate": True}, "times": 99}, schema_max_items=1)
        batches = FastBackend(secure.url).run(MODEL, sequences, [MEAN])
        next(batches)
        secure.wait_for_posts(4)
        begun = time.monotonic()
        batches.close()
        assert time.monotonic() - begun < 1
        secure.open_gate()


def everything_about(error):
    """An error as the most talkative tool shows it: all causes, all frames with their local variables."""
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    parts, errors = [], [error, *getattr(error, "causes", {}).values()]
    for one in errors:  # grows while it is walked
        errors += [e for e in (one.__cause__, one.__context__) if e is not None and e not in errors]
        parts += [repr(one), str(one), repr(vars(one)), repr(pickle.dumps(one))]
    return shown + "".join(parts)


FAULTS = [
    {"status": 400, "body": {"error": f"bad {CANARY_SEQUENCE} for {CANARY_TOKEN}"}},
    {"status": 400, "body": {"error": {"items__0__sequence": [f"{CANARY_SEQUENCE[:12]} {CANARY_TOKEN}"]}}},
    {"status": 422, "body": {"detail": [
        {"type": "x", "loc": ["body", "items", 0, "sequence"], "msg": f"cannot read {CANARY_SEQUENCE.lower()}",
         "input": CANARY_SEQUENCE}]}},
    {"status": 402, "body": {"detail": f"pay, {CANARY_TOKEN}"}},
    {"status": 500, "body": {"detail": f"trace of {CANARY_SEQUENCE} {CANARY_TOKEN}"}},
    {"status": 401, "body": {"detail": CANARY_TOKEN}},
    {"reset": True},
    {"truncate": True},
    {"mutate": "wrong_width"},
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("how", ["token", "cookies"])
def test_canaries_appear_nowhere(service, monkeypatch, caplog, fault, how):
    if how == "token":
        monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    else:
        monkeypatch.setenv("BIOLM_ACCESS", CANARY_TOKEN)
        monkeypatch.setenv("BIOLM_REFRESH", f"{CANARY_TOKEN}-2")
    caplog.set_level(logging.DEBUG)
    service.script({"do": fault, "times": 9999})
    backend = FastBackend(service.url, dialect="v3")
    sequences = [CANARY_SEQUENCE, CANARY_SEQUENCE + "A"]
    run = backend.run(MODEL, sequences, [MEAN])
    error = exhaust(run)
    assert isinstance(error, BackendError)
    # No part of the client may hold the token: not even a frame's variables, which some tools show.
    shown = everything_about(error) + repr(backend) + repr(pickle.dumps(backend)) + repr(clone(backend))
    assert CANARY_TOKEN not in shown + caplog.text + repr(backend.namespace(MODEL)) + repr(backend.get_params())
    # Frames of the caller hold the sequences, as they must; nothing that is told may.
    told = [str(e) + repr(e) for e in (error, *getattr(error, "causes", {}).values())]
    told += traceback.format_exception(error)
    for text in ("".join(told), caplog.text):
        assert CANARY_SEQUENCE[:12].lower() not in text.lower()
    assert set(getattr(error, "rows", (0, 1))) <= {0, 1}


def exhaust(run):
    try:
        for _ in run:
            pass
    except BackendError as error:
        return error
