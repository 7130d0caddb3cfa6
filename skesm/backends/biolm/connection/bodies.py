"""Bodies of answers: uncompressed no further than there is room for, and parsed."""

from __future__ import annotations

import contextlib
import json
import zlib

from skesm.backends.biolm.connection.failures import TransportFailure

_GZIP_WINDOW = 31  # zlib's way to ask for a gzip header


class Decoder:
    """Undoes a body's compression, no more of it than there is room for: a megabyte may stand for a gigabyte.

    Parameters
    ----------
    encoding : str or None
        The answer's ``Content-Encoding``.

    Attributes
    ----------
    damaged : bool
        Whether the body cannot be uncompressed.
    """

    def __init__(self, encoding: str | None) -> None:
        name = (encoding or "identity").strip().lower()
        self.damaged = name not in ("identity", "gzip", "x-gzip")  # nothing else was asked for
        self._inflate = None if name == "identity" else zlib.decompressobj(_GZIP_WINDOW)
        self._ended = False

    def decode(self, data: bytes, room: int) -> bytes:
        """Uncompressed bytes, at most about `room`. Any more are lost."""
        if self._inflate is None or self.damaged:
            return data
        parts = bytearray()
        while data and len(parts) < room:
            try:
                parts += self._inflate.decompress(data, room - len(parts))
            except zlib.error:
                self.damaged = not self._ended  # bytes after the end are padding
                break
            data = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._ended = True
                data = self._inflate.unused_data
                self._inflate = zlib.decompressobj(_GZIP_WINDOW)
        return bytes(parts)


def parse(content: bytes, status: int) -> object:
    """Parsed JSON. None for an error that is not JSON.

    Raises
    ------
    TransportFailure
        If the answer has status 200 and is not JSON.
    """
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(content)
    if status == 200:
        raise TransportFailure("the answer is cut short, or is not JSON")
    return None
