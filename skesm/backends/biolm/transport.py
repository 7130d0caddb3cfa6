"""HTTP for the BioLM client: one exchange at a time, nothing sent where it should not go, every wait can be ended.

Everything that `requests` may raise is mapped here, once, to `TransportFailure`. The original exceptions are not
chained: they hold the request, and with it the credentials and the sequences.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError, NameResolutionError

from skesm.backends.biolm.auth import Auth, origin_of
from skesm.backends.biolm.sockets import AbortableAdapter, Sockets
from skesm.backends.biolm.throttle import Pace, Timing
from skesm.exceptions import AuthenticationError, RequestRejectedError

_CHUNK = 1 << 16
_MAX_REDIRECTS = 3
_MAX_ERROR_BODY = 1 << 20

#: Statuses of failures that may pass.
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class TransportFailure(Exception):
    """No usable answer came; never leaves the backend.

    Parameters
    ----------
    reason : str
        For people; names neither URL nor content.
    unreachable : bool
        Whether no connection could be made although it was waited for, or the name or certificate is wrong.
    slow : bool
        Whether the service had the request and did not answer in time.
    """

    def __init__(self, reason: str, *, unreachable: bool = False, slow: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        self.slow = slow


@dataclass(frozen=True, repr=False)
class Reply:
    """Status and parsed body of an answer; `body` is None unless it is JSON."""

    status: int
    body: Any
    retry_after: float | None = None
    location: str | None = None


def check_base_url(url: str, *, allow_http: bool) -> None:
    """Raise ValueError unless `url` is https, or http to this machine, or http was allowed."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url must be an address such as 'https://biolm.ai'")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must hold neither credentials nor a query: credentials come from the environment")
    if parts.scheme == "http" and not allow_http and not _is_loopback(parts.hostname):
        raise ValueError(
            f"base_url is plain http to {parts.hostname}: sequences and credentials would travel readable; use https, "
            "or allow_http=True in a network that is trusted"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, given as a number or a date; None if there is none that can be read.

    Examples
    --------
    >>> parse_retry_after("2"), parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), parse_retry_after("soon")
    (2.0, 0.0, None)
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


class Connection:
    """What one worker talks through; used by one thread, as a context manager.

    Parameters
    ----------
    base_url : str
        Scheme, host, port and prefix, without a slash at the end.
    auth : Auth
        Shared by all workers.
    sockets : Sockets
        Shared by all workers.
    pace : Pace
        Whose `sleep` ends when the job stops.
    timeout : (float, float)
        Seconds to connect, and between two signs of life of an answer.
    timing : Timing
        Durations.
    max_polls : int
        Failures in a row that are borne while an answer is polled for.
    """

    def __init__(
        self,
        base_url: str,
        auth: Auth,
        sockets: Sockets,
        pace: Pace,
        timeout: tuple[float, float],
        timing: Timing,
        max_polls: int,
    ) -> None:
        self._base_url = base_url
        self._origin = origin_of(base_url)
        self._auth = auth
        self._pace = pace
        self._timeout = timeout
        self._timing = timing
        self._max_polls = max_polls
        self._session = requests.Session()
        # The environment may hold a netrc that replaces our Authorization; its proxies and certificates are wanted.
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update({"User-Agent": "skesm", "Accept": "application/json", "Accept-Encoding": "gzip"})
        if base_url.startswith("https:"):
            # Plain http goes to this machine, and through a proxy it would leave it.
            self._session.proxies.update(requests.utils.get_environ_proxies(base_url))
            self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, AbortableAdapter(sockets))

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def get(self, path: str) -> Reply:
        """Read a public document, without credentials."""
        return self._exchange("GET", self._base_url + path, {})

    def post(self, path: str, body: Any) -> Reply:
        """Post `body`; credentials are refreshed once if refused, and an answer that is not ready is polled for.

        Raises
        ------
        TransportFailure
            If no usable answer came.
        AuthenticationError
            If the credentials are refused.
        RequestRejectedError
            If the service points somewhere else.
        """
        headers, generation = self._auth.headers(self._plain_post)
        reply = self._send(path, body, headers)
        if reply.status == 401:
            self._auth.renew(generation, self._plain_post)
            headers, _ = self._auth.headers(self._plain_post)
            reply = self._send(path, body, headers)
            if reply.status == 401:
                raise AuthenticationError(
                    "the service refused fresh credentials (status 401): may this account use it?"
                )
        return reply

    def _send(self, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        url = self._base_url + path
        for _ in range(_MAX_REDIRECTS + 1):
            reply = self._exchange("POST", url, headers, json_body=body)
            if reply.status not in (301, 302, 303, 307, 308):
                return reply
            target = self._same_origin(url, reply)
            if reply.status == 303:
                return self._poll(target, headers)
            if reply.status in (301, 302):
                # Clients turn these into a GET; which of the two the service means cannot be known.
                raise RequestRejectedError(
                    f"the service moved (status {reply.status}): correct base_url or dialect", reply.status
                )
            url = target
        raise RequestRejectedError("the service redirects in a circle", reply.status)

    def _same_origin(self, url: str, reply: Reply) -> str:
        target = urljoin(url, reply.location or "")
        if not reply.location or origin_of(target) != self._origin:
            # The full target may hold a signature.
            elsewhere = origin_of(target) if reply.location else "nowhere"
            raise RequestRejectedError(
                f"the service redirects to {elsewhere}, which is not {self._origin}: not followed",
                reply.status,
            )
        return target

    def _poll(self, url: str, headers: Mapping[str, str]) -> Reply:
        """Fetch an answer that is still being computed. It has been paid for: failures repeat only the fetching."""
        deadline = time.monotonic() + self._timing.answer_deadline
        failures = 0
        while time.monotonic() < deadline and not self._pace.stopped:
            begun = time.monotonic()
            wait = 0.0
            try:
                reply = self._exchange("GET", url, headers)
            except TransportFailure:
                failures += 1
                if failures >= self._max_polls:
                    raise
                wait = self._timing.backoff(failures)
            else:
                if reply.status == 303:
                    url, failures = self._same_origin(url, reply), 0
                elif reply.status in RETRYABLE_STATUSES and failures + 1 < self._max_polls:
                    failures += 1
                    wait = self._timing.backoff(failures)
                    if reply.retry_after is not None and reply.retry_after <= self._timing.longest_wait:
                        wait = max(wait, reply.retry_after)
                else:
                    return reply
            # A service that blocks until the answer is there needs no pause; one that answers at once does.
            self._pace.sleep(max(wait, self._timing.poll_interval - (time.monotonic() - begun)))
        raise TransportFailure("the answer was not ready in time", slow=True)

    def _plain_post(
        self, url: str, headers: Mapping[str, str], *, json: Any = None, form: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Exchange with the login service; retried while that may help."""
        if origin_of(url) != self._origin:
            raise AuthenticationError("the credential file names a token_url of another service: log in again")
        for attempt in range(1, self._max_polls + 1):
            try:
                reply = self._exchange("POST", url, headers, json_body=json, form=form)
            except TransportFailure:
                if attempt == self._max_polls or self._pace.stopped:
                    raise
            else:
                if reply.status not in RETRYABLE_STATUSES or attempt == self._max_polls:
                    break
            self._pace.sleep(self._timing.backoff(attempt))
        return reply.status, reply.body

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        json_body: Any = None,
        form: Mapping[str, str] | None = None,
    ) -> Reply:
        failure: TransportFailure
        try:
            with self._session.request(
                method,
                url,
                headers=dict(headers),
                json=json_body,
                data=form,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                content = self._read(response)
                return Reply(
                    response.status_code,
                    _parse(content, response.status_code),
                    parse_retry_after(response.headers.get("Retry-After")),
                    response.headers.get("Location"),
                )
        except (requests.RequestException, HTTPError) as error:
            failure = _explain(error)
        # Outside the handler, so that the exception that holds the request is not this one's context.
        raise failure

    def _read(self, response: requests.Response) -> bytes:
        deadline = time.monotonic() + self._timing.answer_deadline
        chunks = []
        size = 0
        # read1 gives what there is: anything else waits for a full chunk, and a trickle would never reach the deadline.
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            chunks.append(chunk)
            size += len(chunk)
            if time.monotonic() > deadline:
                raise TransportFailure("the answer did not end in time", slow=True)
            if response.status_code != 200 and size > _MAX_ERROR_BODY:
                break
        return b"".join(chunks)


def _parse(content: bytes, status: int) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(content)
    if status == 200:
        raise TransportFailure("the answer is cut short, or is not JSON")
    return None


def _explain(error: Exception) -> TransportFailure:
    """What happened, in words that hold no part of the request."""
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
        return TransportFailure("the certificate is not valid", unreachable=True)
    if any(type(cause).__name__ == "ReadTimeoutError" for cause in causes):
        return TransportFailure("no answer in time", slow=True)
    system = next((c for c in causes if isinstance(c, OSError) and c.errno and c.strerror), None)
    return TransportFailure(f"{type(error).__name__}: {system.strerror}" if system else type(error).__name__)
