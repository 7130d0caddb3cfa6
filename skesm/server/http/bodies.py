"""Receive and decompress the bodies of requests, within limits."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from skesm.protocol.shapes import Errors
from skesm.server.api.refusals import Refusal, refusal

JSON, FORM = "application/json", "application/x-www-form-urlencoded"

_SECONDS = 30.0  # time for a body to arrive
_ZLIB_OR_GZIP = 47  # zlib's way to ask for either, told apart by their headers
_RAW = -15  # deflate without a header, which some clients send under that name
#: Values of Content-Encoding that are understood.
ENCODINGS = ("gzip", "deflate")


_T = TypeVar("_T")


class TooLarge(Exception):
    """A body holds more bytes than it may."""


class Inflater:
    """Decompresses gzip or deflate, chunk by chunk, up to a size.

    Parameters
    ----------
    at_most : int
        Bytes that may come out.

    Examples
    --------
    >>> inflater = Inflater(100)
    >>> inflater.feed(zlib.compress(b"MKT"))
    b'MKT'
    >>> inflater.finish()
    """

    def __init__(self, at_most: int) -> None:
        self._left = at_most
        self._stream = zlib.decompressobj(_ZLIB_OR_GZIP)
        self._begun = self._raw = False

    def feed(self, data: bytes) -> bytes:
        """Decompress one more chunk.

        Raises
        ------
        TooLarge
            If more comes out than is allowed.
        zlib.error
            If the data is not gzip or deflate.
        """
        parts = []
        while data:
            if self._stream.eof:  # gzip may hold several streams, one after the other
                self._stream = zlib.decompressobj(_RAW if self._raw else _ZLIB_OR_GZIP)
            part = self._inflate(data)
            self._left -= len(part)
            if self._left < 0:
                raise TooLarge
            parts.append(part)
            data = self._stream.unused_data
        return b"".join(parts)

    def _inflate(self, data: bytes) -> bytes:
        begun, self._begun = self._begun, True
        try:
            # One byte more than is allowed, to learn that there is more.
            return self._stream.decompress(data, self._left + 1)
        except zlib.error:
            if begun:
                raise
            self._raw = True
            self._stream = zlib.decompressobj(_RAW)
            return self._stream.decompress(data, self._left + 1)

    def finish(self) -> None:
        """Check that the data is complete.

        Raises
        ------
        zlib.error
            If it is not.
        """
        if not self._stream.eof:
            raise zlib.error("incomplete")


def content_type(request: Request) -> str:
    """Content type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, errors: Errors, at_most: int, types: Sequence[str] = (JSON,)) -> bytes:
    """Receive a body, decompressed.

    Parameters
    ----------
    request : Request
        A request with a body that nobody has read.
    errors : Errors
        Shape of refusals.
    at_most : int
        Bytes that the body may hold, before and after it is decompressed.
    types : sequence of str
        Content types that it may have.

    Raises
    ------
    Refusal
        If the body is too large, too slow, of another type, or compressed in a way that is not understood.
    """
    if content_type(request) not in types:
        # This also stops pages in a browser on this machine from posting here.
        raise refusal(errors, 415, f"the content type must be {' or '.join(types)}")
    inflater = _inflater(request, errors, at_most)
    try:
        async with asyncio.timeout(_SECONDS):
            chunks = await _receive(request, at_most, inflater.feed if inflater else bytes)
        if inflater is not None:
            inflater.finish()
    except TooLarge:
        raise refusal(errors, 413, f"the body is larger than {at_most} bytes", Connection="close") from None
    except TimeoutError:
        raise refusal(errors, 408, "the body did not arrive in time", Connection="close") from None
    except zlib.error:
        raise _not_compressed(errors) from None
    return b"".join(chunks)


async def _receive(request: Request, at_most: int, feed: Callable[[bytes], bytes]) -> list[bytes]:
    chunks: list[bytes] = []
    received = size = 0
    async for chunk in request.stream():
        received += len(chunk)
        chunks.append(feed(chunk))
        size += len(chunks[-1])
        if max(received, size) > at_most:
            raise TooLarge
    return chunks


def _inflater(request: Request, errors: Errors, at_most: int) -> Inflater | None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return None
    if encoding.removeprefix("x-") not in ENCODINGS:
        known = {"Accept-Encoding": ", ".join(ENCODINGS)}
        raise refusal(errors, 415, f"the body may be compressed with {' or '.join(ENCODINGS)} only", **known)
    return Inflater(at_most)


def _not_compressed(errors: Errors) -> Refusal:
    return refusal(errors, 400, "the body is incomplete, or is not compressed as Content-Encoding says")


async def unless_client_leaves(request: Request, work: Coroutine[object, None, _T]) -> _T:
    """Do some work for a client, and give it up when the client closes its connection.

    Parameters
    ----------
    request : Request
        Its body has been read.
    work : coroutine
        Is cancelled when the client leaves.

    Raises
    ------
    ClientDisconnect
        If the client has left.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
