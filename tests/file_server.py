"""A real HTTP server on this machine that tests tell what to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class FileServer(ThreadingHTTPServer):
    """Answers the n-th request with the n-th of `answers`, and any further one with the last."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = [send(b"")]
        self.paths: list[str] = []
        self.ranges: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that a test has the client cut."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        with self.server.lock:
            answer = self.server.answers[min(len(self.server.paths), len(self.server.answers) - 1)]
            self.server.paths.append(self.path)
            self.server.ranges.append(self.headers.get("Range"))
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


def send(
    body: bytes, *, status: int = 200, announced: int | None = None, length: bool = True, etag: str | None = None
) -> Answer:
    """Send the same to everybody."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length:
            handler.send_header("Content-Length", str(len(body) if announced is None else announced))
        if etag is not None:
            handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def send_range(body: bytes, *, etag: str | None = None) -> Answer:
    """Send the part that is asked for, as servers of files do."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        if asked is None or handler.headers.get("If-Range", etag) != etag:
            send(body, etag=etag)(handler)
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(body):
            send(b"", status=416)(handler)
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        handler.send_header("Content-Length", str(len(body) - begin))
        if etag is not None:
            handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(body[begin:])
        handler.close_connection = True

    return answer


def redirect(to: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@contextmanager
def serving() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
