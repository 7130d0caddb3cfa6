"""From a configuration to a listening server."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from skesm._optional import import_optional
from skesm.server.config import ServerConfig, is_loopback

if TYPE_CHECKING:
    from starlette.applications import Starlette

# Longer than the pause of a client between two batches. If the server closed the connection earlier, the next POST
# would need a retry.
_KEEP_ALIVE_SECONDS = 75

_logger = logging.getLogger(__name__)


def create_app(config: ServerConfig | None = None) -> Starlette:
    """Application for any ASGI server. Loads the models.

    Parameters
    ----------
    config : ServerConfig, default=None
        None serves the demo model to everybody.

    Returns
    -------
    app : starlette.applications.Starlette
        One process computes: run it in one worker. The ASGI server must look after slow clients, connections and
        signals. `serve` does this.

    Raises
    ------
    ValueError, CheckpointError
        If a model cannot be served.
    MissingDependencyError
        Without the extra ``server``.

    Examples
    --------
    >>> app = create_app()
    >>> sorted(route.path for route in app.routes if "transform" in route.path)
    ['/api/v1/models/{model}/transform', '/api/v1/models/{model}/transform/']
    """
    for module in ("starlette", "orjson"):
        import_optional(module, "server")
    from skesm.server.http import app

    return app.create_app(ServerConfig() if config is None else config)


def serve(
    config: ServerConfig | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_anonymous: bool = False,
    grace: int = 300,
    head_timeout: float = 10,
    write_timeout: float = 60,
    max_connections: int | None = None,
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Then answer the open requests and return.

    Between the signal and the end, new requests get status 503, and ``/readyz`` says that the server is draining.

    Parameters
    ----------
    config : ServerConfig, default=None
        None serves the demo model to everybody on this machine.
    host : str, default="127.0.0.1"
        Name or address to listen at.
    port : int, default=8000
        0 takes a free one.
    allow_anonymous : bool, default=False
        Allow other machines to connect without credentials.
    grace : int, default=300
        Seconds after the signal in which open requests may finish.
    head_timeout : float, default=10
        Seconds for the head of a request to arrive.
    write_timeout : float, default=60
        Seconds in which a client must read a part of its answer. A client that reads nothing is disconnected, because
        its answer is held in memory.
    max_connections : int, default=None
        Connections at a time. If there are more, the one that has waited longest for a request is closed. None takes
        the number from the limit on open files, at most 1,024.
    announce : callable, default=None
        Gets the address of the server as soon as it takes connections.

    Raises
    ------
    ValueError
        If other machines could connect without credentials, or if the configuration is not possible.
    OSError
        If the port is taken.
    MissingDependencyError
        Without the extra ``server``.
    """
    import_optional("uvicorn", "server")
    config = ServerConfig() if config is None else config
    if not config.gatekeeper.required and not allow_anonymous and not is_loopback(host):
        raise ValueError(
            f"host {host!r} can be reached from other machines, and no credentials are set: set SKESM_SERVER_TOKENS or "
            "SKESM_SERVER_USERS, or allow everybody with --allow-anonymous"
        )
    if config.allowed_hosts is None and host:
        config = replace(config, allowed_hosts=(*config.find_allowed_hosts(), host))
    app = create_app(config)
    import uvicorn

    from skesm.server.http.connections import ACCEPTED_AT_ONCE, Server, connection_class, default_max_connections

    with _listen(host, port) as listener:
        settings = uvicorn.Config(
            app,
            loop="asyncio",
            http=connection_class(head_timeout, write_timeout, max_connections or default_max_connections()),
            backlog=ACCEPTED_AT_ONCE,
            log_config=None,
            # Below INFO, headers are logged, with credentials in them.
            log_level=max(logging.getLogger("uvicorn").getEffectiveLevel(), logging.INFO),
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        bound = listener.getsockname()
        url = (
            f"http://[{bound[0]}]:{bound[1]}" if listener.family == socket.AF_INET6 else f"http://{bound[0]}:{bound[1]}"
        )
        _logger.info("listening at %s", url)
        if announce is not None:
            announce(url)
        with _survive_sigterm():
            Server(settings, app.state.application, grace).run(sockets=[listener])


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Take connections from now on. Early ones wait until the server runs."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        yield listener


@contextmanager
def _survive_sigterm() -> Iterator[None]:
    """Ignore the SIGTERM that uvicorn raises again after it has stopped: the process would end with a failure."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
