"""Failures between the BioLM client and a service. Their texts hold no part of the request."""

from __future__ import annotations

import socket

import requests
from urllib3.exceptions import NameResolutionError

_CERTIFICATE_REMEDY = (
    "check base_url, or set REQUESTS_CA_BUNDLE to the file of the certificates that your network or service uses"
)


class TransportFailure(Exception):
    """No usable answer came. This error never leaves the backend.

    Parameters
    ----------
    reason : str
        Text for people, without URL or content.
    unreachable : bool
        Whether no connection could be made although it was waited for, or the name or certificate is wrong.
    slow : bool
        Whether the service had the request and did not answer in time.
    accepted : bool
        Whether the service took the request (303): it must not be posted again.
    remedy : str
        Advice to the user.
    """

    def __init__(
        self,
        reason: str,
        *,
        unreachable: bool = False,
        slow: bool = False,
        accepted: bool = False,
        remedy: str = "check base_url",
    ) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        self.slow = slow
        self.accepted = accepted
        self.remedy = remedy


def explain(error: Exception) -> TransportFailure:
    """Describe a failure without any part of the request."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return TransportFailure("no connection in time", unreachable=True)
    if isinstance(error, requests.exceptions.ReadTimeout):
        return TransportFailure("no answer in time", slow=True)
    causes: list[BaseException] = [error]
    for cause in causes:  # grows while it is walked
        followers = (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args)
        causes += [f for f in followers if isinstance(f, BaseException) and f not in causes]
    if any(isinstance(cause, (NameResolutionError, socket.gaierror)) for cause in causes):
        return TransportFailure("the host name is not known", unreachable=True)
    if any(type(cause).__name__ == "SSLCertVerificationError" for cause in causes):
        return TransportFailure("the certificate is not valid", unreachable=True, remedy=_CERTIFICATE_REMEDY)
    if any(type(cause).__name__ == "ReadTimeoutError" for cause in causes):
        return TransportFailure("no answer in time", slow=True)
    system = next((c for c in causes if isinstance(c, OSError) and c.errno and c.strerror), None)
    return TransportFailure(f"{type(error).__name__}: {system.strerror}" if system else type(error).__name__)
