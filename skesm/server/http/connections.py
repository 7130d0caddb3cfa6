"""Connections: their time limits, their number, and the end of the server."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from skesm.server.http.app import Application

#: Connections that asyncio accepts at a time. Each holds a descriptor before this module can count it.
ACCEPTED_AT_ONCE = 64
#: Connections that wait in the kernel while the server is busy.
_WAITING = 2048
#: Descriptors for everything else: files, the record store, connections that were just accepted.
_RESERVED = ACCEPTED_AT_ONCE + 64
_MOST, _LEAST = 1024, 16
_NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


def default_max_connections() -> int:
    """Connections for which this process has descriptors."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return _MOST
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(min(_MOST, soft - _RESERVED), _LEAST)


class Connection(H11Protocol):
    """A connection that is closed if its client is too slow.

    The head of a request must arrive in time, and an answer must be read: a client that reads nothing for a while loses
    the connection, since its answer is held in memory. When there are too many connections, the one that has waited
    longest for a head is closed, so that clients that send nothing cannot keep others out.
    """

    #: Seconds for a head, from the start of the connection or from the head's first byte.
    head_seconds: float
    #: Seconds in which the client must read a part of its answer.
    write_seconds: float
    #: Connections at a time.
    most: int

    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._waiting_since = self.loop.time()
        self._await_head()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._head_has_come()
        self._answer_is_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Look whether the head is complete now."""
        super().data_received(data)
        if self._is_busy:
            self._head_has_come()
        elif self._deadline is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """Begin to wait for another request."""
        self._waiting_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to watch whether the client reads: more is waiting for it than the system holds."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Stop watching: the client has read nearly everything."""
        super().resume_writing()
        self._answer_is_read()

    def _watch_reader(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self.write_seconds, self._check_reader)

    def _check_reader(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread:
            self._watch_reader()
        else:
            # With this option the system throws its part of the answer away, too, and tells the client at once.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.transport.abort()

    def _answer_is_read(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    @property
    def _is_busy(self) -> bool:
        """Whether a request is open."""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _head_has_come(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        self._deadline = None
        if not self._is_busy:
            self.transport.abort()

    def _make_room(self) -> None:
        others = [c for c in self.connections if isinstance(c, Connection) and not c.transport.is_closing()]
        if len(others) <= self.most:
            return
        waiting = [c for c in others if c is not self and not c._is_busy]
        # Those that never sent a request go first.
        leaving = min(waiting, key=lambda c: (c.cycle is not None, c._waiting_since), default=self)
        leaving.transport.abort()


def connection_class(head_seconds: float, write_seconds: float, most: int) -> type[asyncio.Protocol]:
    """Class of the connections of one server."""
    settings = {"head_seconds": head_seconds, "write_seconds": write_seconds, "most": most}
    return type("Connection", (Connection,), settings)


class Server(uvicorn.Server):
    """Refuses new requests after the first signal, and ends when the open ones have been answered.

    Parameters
    ----------
    config : uvicorn.Config
    application : Application
        Is told to drain.
    grace : float
        Seconds in which open requests may finish.
    """

    def __init__(self, config: uvicorn.Config, application: Application, grace: float) -> None:
        super().__init__(config)
        self._application = application
        self._grace = grace
        self._end = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. The backlog of asyncio is also the number that it accepts at once, so it must be small."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_WAITING)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second."""
        again = self._application.draining
        self.should_exit = again
        super().handle_exit(sig, frame)
        if not again:
            self.should_exit = False
            self._end = time.monotonic() + self._grace
            self._application.drain()

    async def on_tick(self, counter: int) -> bool:
        """End as soon as no request is open."""
        if self._application.draining:
            left = self._end - time.monotonic()
            self.should_exit |= self._application.is_idle or left <= 0
            self.config.timeout_graceful_shutdown = max(int(left), 1)
        return await super().on_tick(counter)
