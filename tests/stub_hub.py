"""A server that speaks as much of the Hub's protocol as `huggingface_hub.hf_hub_download` needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub:
    """Repositories of models; digests as the Hub gives them: git's for small files, SHA-256 for weights."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.digests = True  # else entity tags are opaque, as those of some mirrors
        self._files: dict[tuple[str, str], tuple[Path, str]] = {}
        self._repositories: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                listing = hub._listing(self.path.partition("?")[0])
                if listing is not None:
                    body = json.dumps(listing).encode()
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                repository, _, rest = self.path.lstrip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                folder, commit = hub._files.get((repository, revision), (None, ""))
                body, error = b"", ""
                if repository not in hub._repositories:
                    error = "RepoNotFound"
                elif folder is None:
                    error = "RevisionNotFound"
                elif not (folder / name).is_file():
                    error = "EntryNotFound"
                else:
                    body = (folder / name).read_bytes()
                self.send_response(404 if error else 200)
                if error:
                    self.send_header("X-Error-Code", error)
                else:
                    for header, value in hub._tags(name, body).items():
                        self.send_header(header, f'"{value}"')
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def _listing(self, path: str) -> Any:
        """What ``hf download`` asks for: the commit of a revision, and its files; None for any other path."""
        match = re.fullmatch(r"/api/models/(.+/.+)/(revision|tree)/(.+)", path)
        if match is None or (match[1], match[3]) not in self._files:
            return None
        folder, commit = self._files[match[1], match[3]]
        files = sorted(file for file in folder.iterdir() if file.is_file())
        if match[2] == "tree":
            return [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": commit} for f in files]
        return {"id": match[1], "sha": commit, "siblings": [{"rfilename": f.name} for f in files]}

    def _tags(self, name: str, body: bytes) -> dict[str, str]:
        sha256 = hashlib.sha256(body).hexdigest()
        if not self.digests:
            return {"ETag": f"opaque-{sha256[:16]}"}
        if name.endswith(".json"):
            return {"ETag": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}
        return {"ETag": f"of-storage-{sha256[:16]}", "X-Linked-ETag": sha256}

    def publish(self, repository: str, folder: Path, *revisions: str) -> str:
        """Serve a folder under revisions and their commit, which is returned."""
        commit = hashlib.sha1(f"{repository} {folder}".encode()).hexdigest()
        self._repositories.add(repository)
        for revision in (*revisions, commit):
            self._files[repository, revision] = folder, commit
        return commit

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
