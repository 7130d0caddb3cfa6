"""Connections that another thread can end while they wait, also in TLS and while they connect."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError


class Sockets:
    """The open connections of a job, so that any thread can end all waits in them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._aborted = False

    def adopt(self, sock: socket.socket) -> socket.socket:
        """Keep a twin of a socket: it outlives the wrapping of the original in TLS."""
        # Not sock.dup(), which a socket in TLS does not have.
        twin = socket.fromfd(sock.fileno(), sock.family, sock.type)
        with self._lock:
            if self._aborted:
                twin.close()
                raise ConnectionAbortedError("the job has ended")
            self._open.add(twin)
        return twin

    def release(self, twin: socket.socket) -> None:
        """Forget a twin. Otherwise its connection would stay open."""
        with self._lock:
            self._open.discard(twin)
        twin.close()

    def abort(self) -> None:
        """End every wait, and allow no new connection."""
        with self._lock:
            self._aborted = True
            for twin in self._open:
                with contextlib.suppress(OSError):  # not connected any more
                    twin.shutdown(socket.SHUT_RDWR)


def _pool_classes(sockets: Sockets) -> dict[str, type[HTTPConnectionPool]]:
    """Connection pools that tell `sockets` of each connection before it connects."""

    class Abortable(HTTPConnection):
        _twin: socket.socket | None = None

        def connect(self) -> None:
            super().connect()
            # `_new_conn` is a private name of urllib3. Where that does not call it any more, only the wait for a
            # connection cannot be ended, which has a time limit.
            if self._twin is None and self.sock is not None:
                self._twin = sockets.adopt(self.sock)

        def _new_conn(self) -> socket.socket:
            timeout = self.timeout if isinstance(self.timeout, (int, float)) else None
            deadline = None if timeout is None else time.monotonic() + timeout
            problem: OSError = OSError("the name has no address")
            try:
                addresses = socket.getaddrinfo(
                    getattr(self, "_dns_host", self.host), self.port, type=socket.SOCK_STREAM
                )
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            for family, kind, protocol, _, address in addresses:
                sock = socket.socket(family, kind, protocol)
                try:
                    for option in self.socket_options or ():
                        sock.setsockopt(*option)
                    # One deadline for all addresses of the name.
                    sock.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
                    self._release()
                    self._twin = sockets.adopt(sock)
                    sock.connect(address)
                except OSError as error:
                    sock.close()
                    problem = error
                else:
                    return sock
            self._release()
            if isinstance(problem, TimeoutError):
                raise ConnectTimeoutError(self, "no connection in time") from problem
            raise NewConnectionError(self, "no connection") from problem

        def close(self) -> None:
            super().close()
            self._release()

        def _release(self) -> None:
            if self._twin is not None:
                sockets.release(self._twin)
                self._twin = None

    class AbortableTLS(Abortable, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Abortable

    class PoolTLS(HTTPSConnectionPool):
        ConnectionCls = AbortableTLS

    return {"http": Pool, "https": PoolTLS}


class AbortableAdapter(HTTPAdapter):
    """Transport of a `requests.Session` that tells `sockets` of its connections."""

    def __init__(self, sockets: Sockets) -> None:
        self._classes = _pool_classes(sockets)
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools, with our connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._classes

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> ProxyManager:
        """Make the pools of a proxy, with our connections."""
        manager: ProxyManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._classes
        return manager
