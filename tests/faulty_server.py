"""A BioLM-like service that misbehaves as it is told, for the tests of the client; its own process, real sockets.

Run as ``python faulty_server.py [CERTIFICATE]``: it prints its port and serves until its standard input ends. It
shares no code with skesm, so that a mistake there is not repeated here. Its numbers are a function of the sequence
alone: see `expected`.

Control, on the same port:

* ``PUT /_script`` ``{"settings": {…}, "rules": [{"when": {…}, "times": 1, "do": {…}}]}`` replaces everything.
* ``PUT /_open`` opens the gate that ``{"do": {"gate": true}}`` waits at.
* ``GET /_log`` gives what was received, and when.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import socket
import ssl
import struct
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"
MODELS = {"esm2-8m": (6, 320), "esm2_t6_8M_UR50D": (6, 320), "esm2-650m": (33, 1280)}
KEYS = {
    "v2": {"mean": "mean_representations", "per_residue": "representations", "bos": "bos_representations"},
    "v3": {"mean": "embeddings", "per_residue": "per_token_embeddings", "bos": "bos_embeddings"},
    "hub": {"mean": "embeddings", "per_residue": "residue_embeddings", "bos": "bos_embeddings"},
}


def tokens(sequence: str) -> list[str]:
    return re.findall("<mask>|.", sequence)


def bomb(megabytes: int) -> bytes:
    """So much of JSON's white space in one gzip member: a thousandth of its size."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(b" " * (1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + block * megabytes


def expected(sequence: str, kind: str, layer: int | None, width: int) -> np.ndarray:
    """The value that the server answers: kind is mean, bos, per_residue, logits, logit_means or contacts."""
    rng = np.random.default_rng(zlib.crc32(f"{sequence}|{kind}|{layer}".encode()))
    length = len(tokens(sequence))
    shape = {
        "mean": (width,),
        "bos": (width,),
        "per_residue": (length, width),
        "logits": (length, 20),
        "logit_means": (length,),
        "contacts": (length, length),
    }[kind]
    return rng.standard_normal(shape).round(4).astype(np.float32)


def expected_attentions(sequence: str, n_layers: int, longest: int | None = None) -> np.ndarray:
    """The mean over all tokens that the hub's gateway takes: padding up to the longest sequence gives nothing."""
    rng = np.random.default_rng(zlib.crc32(f"{sequence}|attentions".encode()))
    total = rng.uniform(size=(n_layers, len(sequence)))
    return (total / (2 + (len(sequence) if longest is None else longest))).astype(np.float32)


class State:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset({})

    def reset(self, script: dict[str, Any]) -> None:
        with self.lock:
            self.settings: dict[str, Any] = script.get("settings", {})
            self.rules: list[dict[str, Any]] = script.get("rules", [])
            self.log: list[dict[str, Any]] = []
            self.in_flight = 0
            self.gate = threading.Event()
            self.meetings: dict[int, threading.Barrier] = {}
            self.results: dict[str, Any] = {}
            self.access = self.settings.get("access")
            self.slots = threading.BoundedSemaphore(self.settings.get("slots", 1 << 20))

    def meeting(self, n_requests: int) -> threading.Barrier:
        """Where so many requests of a rule wait for each other; ``together`` counts requests of any kind."""
        with self.lock:
            return self.meetings.setdefault(n_requests, threading.Barrier(n_requests))

    def action(self, event: dict[str, Any], sequences: list[str]) -> dict[str, Any]:
        with self.lock:
            for rule in self.rules:
                when = rule.get("when", {})
                if (
                    rule.get("times", 1) > 0
                    and event["method"] == when.get("method", "POST")
                    and when.get("path", "") in event["path"]
                    and ("contains" not in when or any(when["contains"] in s for s in sequences))
                    and len(sequences) >= when.get("min_items", 0)
                ):
                    rule["times"] = rule.get("times", 1) - 1
                    return rule["do"]
        return {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: State

    def log_message(self, *args: Any) -> None:
        pass

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path == "/_open":
            self.state.gate.set()
        else:
            self.state.gate.set()
            self.state.reset(body)
        self.answer(200, {})

    def do_GET(self) -> None:
        if self.path == "/_log":
            with self.state.lock:
                log = list(self.state.log)
            self.answer(200, log)
            return
        event = self.note([], b"")
        action = self.state.action(event, [])
        if action:
            self.act(action, [], event)
        elif self.path.startswith("/_result/"):
            left, body = self.state.results[self.path]
            self.state.results[self.path] = (left - 1, body)
            if left > 0:
                self.answer(303, None, {"Location": self.path}, event)
            else:
                self.answer(200, body, {}, event)
        elif "/schema/" in self.path and "schema_max_items" in self.state.settings:
            items = {"maxItems": self.state.settings["schema_max_items"]}
            document = {"properties": {"items": items}, "throttle_rate": self.state.settings.get("throttle_rate")}
            self.answer(200, document, {}, event)
        elif self.path == "/openapi.json" and "schema_max_items" in self.state.settings:
            schemas = {
                "Items": {"type": "array", "maxItems": self.state.settings["schema_max_items"]},
                "Request": {"properties": {"items": {"$ref": "#/components/schemas/Items"}}},
            }
            content = {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}}
            paths = {f"/api/v1/{slug}/encode": {"post": {"requestBody": {"content": content}}} for slug in MODELS}
            self.answer(200, {"paths": paths, "components": {"schemas": schemas}}, {}, event)
        else:
            self.answer(404, {"detail": "Not found"}, {}, event)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        items = body.get("items", body.get("instances", []))
        sequences = [item["sequence"] if "sequence" in item else item["data"]["text"] for item in items]
        event = self.note(sequences, raw)
        with self.state.lock:
            self.state.in_flight += 1
            event["in_flight"] = self.state.in_flight
            over = self.state.in_flight > self.state.settings.get("cap", 1 << 30)
        try:
            if "/auth/" in self.path:
                self.log_in(body, event)
            elif over:
                self.answer(429, {"detail": "Too many requests"}, self.state.settings.get("cap_headers", {}), event)
            else:
                with self.state.slots:
                    if latency := self.state.settings.get("latency"):
                        time.sleep(latency)
                self.act(self.state.action(event, sequences), sequences, event, body)
        finally:
            with self.state.lock:
                self.state.in_flight -= 1

    def log_in(self, body: dict[str, Any], event: dict[str, Any]) -> None:
        settings = self.state.settings
        if "login_status" in settings:
            self.answer(settings["login_status"], {"detail": "later"}, {}, event)
            return
        if self.path == "/api/auth/token/refresh/":
            good = self.headers.get("Cookie") == f"refresh={settings.get('refresh')}"
        else:
            good = [body.get("username"), body.get("password")] == settings.get("login")
        if not good and settings.get("refusal_with_200"):
            self.answer(200, {"code": "token_not_valid", "detail": "Token is invalid"}, {}, event)
        elif not good:
            self.answer(401, {"detail": "No active account"}, {}, event)
        else:
            self.state.access = settings["next_access"]
            self.answer(200, {"access": self.state.access, "refresh": settings.get("refresh")}, {}, event)

    def authorised(self) -> bool:
        token, access = self.state.settings.get("token"), self.state.access
        if token is not None:
            return self.headers.get("Authorization") == f"Token {token}"
        return access is None or f"access={access}" in self.headers.get("Cookie", "")

    def note(self, sequences: list[str], raw: bytes) -> dict[str, Any]:
        event = {
            "time": time.monotonic(),
            "method": self.command,
            "path": self.path,
            "items": len(sequences),
            "lengths": sorted({len(s) for s in sequences}),
            "ids": [zlib.crc32(s.encode()) for s in sequences],
            "body": hashlib.sha1(raw).hexdigest(),
            "credentials": "Authorization" in self.headers or "Cookie" in self.headers,
            "host": self.headers.get("Host"),
            "status": None,
        }
        with self.state.lock:
            self.state.log.append(event)
        return event

    def act(self, action: dict[str, Any], sequences: list[str], event: dict[str, Any], body: Any = None) -> None:
        deadline = time.monotonic() + 10
        while self.state.in_flight < action.get("together", 0) and time.monotonic() < deadline:
            time.sleep(0.002)
        if "meet" in action:
            self.state.meeting(action["meet"]).wait(30)
        if action.get("gate"):
            self.state.gate.wait(30)
        if "reset" in action:
            event["status"] = "reset"
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            os.close(self.connection.detach())
        elif "drip" in action:
            event["status"] = "drip"
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            while not self.state.gate.wait(action["drip"]):
                self.wfile.write(b" ")
        elif "truncate" in action:
            event["status"] = "truncate"
            data = json.dumps(self.result(sequences, body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif "bomb" in action:
            event["status"] = "bomb"
            data = bomb(action["bomb"])
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        elif "endless" in action:
            event["status"] = "endless"
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            self.wfile.write(b'{"results": [')
            for _ in range(action["endless"]):  # megabytes, until the client has had enough
                self.wfile.write(b"[0.5]," * ((1 << 20) // 6))
        elif "raw" in action:
            self.answer(200, action["raw"].encode(), {}, event)
        elif "status" in action:
            self.answer(action["status"], action.get("body", {"detail": "as told"}), action.get("headers", {}), event)
        elif "poll" in action:
            place = f"/_result/{len(self.state.results)}"
            self.state.results[place] = (action["poll"] - 1, self.result(sequences, body))
            self.answer(303, None, {"Location": action.get("location", place)}, event)
        elif self.command == "POST":
            self.normal(action, sequences, event, body)

    def normal(self, action: dict[str, Any], sequences: list[str], event: dict[str, Any], body: Any) -> None:
        settings, hub = self.state.settings, self.path.startswith("/api/v1/") and "/models/" not in self.path
        if not self.authorised():
            self.answer(401, {"detail": "Authentication credentials were not provided."}, {}, event)
            return
        most = settings.get("max_items", 1 << 30)
        if len(sequences) > most:
            said = f"List should have at most {most} items after validation, not {len(sequences)}"
            error = {"type": "too_long", "loc": ["body", "items"], "msg": said, "ctx": {"max_length": most}}
            if hub:
                self.answer(422, {"detail": [error]}, {}, event)
            else:
                key = "instances" if "/models/" in self.path else "items"
                self.answer(400, {"error": {key: [said]}}, {}, event)
            return
        bad = [i for i, s in enumerate(sequences) if settings.get("unreadable", "?") in s]
        # Masks are what predict is for, and what encode does not read.
        bad = sorted({*bad, *(i for i, s in enumerate(sequences) if ("<mask>" in s) != ("predict" in self.path))})
        if bad:
            said = "Value error, cannot read {}"
            if hub:
                detail = [
                    {"type": "value_error", "loc": ["body", "items", i, "sequence"], "msg": said.format(sequences[i]),
                     "input": sequences[i]}
                    for i in bad
                ]  # fmt: skip
                self.answer(422, {"detail": detail}, {}, event)
            else:
                key = "instances__{}__data__text" if "/models/" in self.path else "items__{}__sequence"
                errors = {key.format(i): [said.format(sequences[i])] for i in bad}
                self.answer(settings.get("naming_status", 400), {"error": errors}, {}, event)
            return
        if any(settings.get("poison", "?") in s for s in sequences):
            self.answer(500, {"detail": "Internal error"}, {}, event)
            return
        answer = self.result(sequences, body)
        mutate(action.get("mutate", ""), answer)
        self.answer(200, answer, {}, event)

    def result(self, sequences: list[str], body: Any) -> dict[str, Any]:
        parts = self.path.strip("/").split("/")
        n_layers, width = MODELS[parts[-2]]
        if parts[2] == "models":
            predictions = [
                {
                    "name": str(i),
                    "mean_representations": {str(n_layers): expected(s, "mean", n_layers, width).tolist()},
                    "contacts": expected(s, "contacts", None, width).tolist(),
                    "logits": expected(s, "logit_means", None, width).tolist(),
                    "attentions": [[0.0]],
                }
                for i, s in enumerate(sequences)
            ]
            return {"predictions": predictions}
        dialect = "hub" if parts[1] == "v1" else parts[1]
        if parts[-1] == "predict":
            assert body.keys() == {"items"}, "predict takes no outputs and layers"
            results = [
                {
                    "logits": expected(s, "logits", None, width).tolist(),
                    "sequence_tokens": tokens(s),
                    "vocab_tokens": list(AMINO_ACIDS),
                }
                for s in sequences
            ]
            return {"results": results}
        params = body.get("params", {})
        results = []
        for i, s in enumerate(sequences):
            result: dict[str, Any] = (
                {} if dialect != "hub" else dict.fromkeys([*KEYS["hub"].values(), "contacts", "logits", "attentions"])
            )
            for name in params.get("include", ["mean"]):
                if name == "logits":
                    result["logits"] = expected(s, "logits", None, width).tolist()
                    if dialect != "v2":
                        result["vocab_tokens"] = list(AMINO_ACIDS)
                    continue
                if name == "contacts":
                    result["contacts"] = expected(s, "contacts", None, width).tolist()
                    continue
                if name == "attentions":
                    longest = max(map(len, sequences))
                    result["attentions"] = expected_attentions(s, n_layers, longest).tolist()
                    continue
                values = {layer: expected(s, name, layer, width).tolist() for layer in params["repr_layers"]}
                inner = "embeddings" if name == "per_residue" else "embedding"
                result[KEYS[dialect][name]] = (
                    {str(layer): value for layer, value in values.items()}
                    if dialect == "v2"
                    else [{"layer": layer, inner: value} for layer, value in sorted(values.items())]
                )
            if dialect == "hub":
                result["sequence_index"] = i
            results.append(result)
        return {"results": results}

    def answer(self, status: int, body: Any, headers: dict[str, str] = {}, event: Any = None) -> None:  # noqa: B006
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if event is not None:
            event["status"] = status
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(data) > 1000:
            data = gzip.compress(data, 1)
            self.send_header("Content-Encoding", "gzip")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def mutate(how: str, answer: dict[str, Any]) -> None:
    """Spoil an answer."""
    (results,) = answer.values()
    if how == "short":
        del results[1]
    elif how == "extra":
        results.append(results[0])
    elif how == "reorder":
        results[0], results[1] = results[1], results[0]
    elif how == "null":
        results[1] = None
    elif how == "error":
        answer["error"] = {"items__1__sequence": ["late failure"]}
    elif how in ("number_as_text", "true", "huge", "twins", "nan", "wrong_width", "text", "wrong_layer", "missing"):
        for key in ("embeddings", "mean_representations"):
            if results[1].get(key):
                layers = results[1][key]
                entry = layers[0] if isinstance(layers, list) else layers
                name = "embedding" if isinstance(layers, list) else next(iter(layers))
                if how == "nan":
                    entry[name][5] = None
                elif how == "number_as_text":
                    entry[name][5] = "1.5"
                elif how == "true":
                    entry[name][5] = True
                elif how == "huge":
                    entry[name][5] = 10**400
                elif how == "twins":
                    results[1][key] = results[0][key]
                elif how == "wrong_width":
                    entry[name].append(0.0)
                elif how == "text":
                    entry[name] = base64.b64encode(b"vector").decode()
                elif how == "missing":
                    del results[1][key]
                elif isinstance(layers, list):
                    entry["layer"] += 1
                else:
                    layers["1"] = layers.pop(name)
    elif how == "vocabulary":
        results[1]["vocab_tokens"] = sorted(AMINO_ACIDS)
    elif how == "contacts_with_ends":
        results[1]["contacts"] = np.pad(results[1]["contacts"], 1).tolist()
    elif how == "attentions_of_heads":
        results[1]["attentions"] = [[row] * 20 for row in results[1]["attentions"]]
    elif how == "logits_1d":
        results[1]["logits"] = [row[0] for row in results[1]["logits"]]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: Any) -> None:
        pass  # clients that break off are the point


def main() -> None:
    Handler.state = State()
    server = Server(("127.0.0.1", 0), Handler)
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
