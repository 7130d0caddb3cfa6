"""HTTP for the BioLM client: one exchange at a time, nothing sent where it should not go, every wait can be ended.

Everything that `requests` may raise is mapped here, once, to `TransportFailure`. The original exceptions are not
chained: they hold the request, and with it the credentials and the sequences.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from skesm.backends.biolm.auth import Auth, origin_of
from skesm.backends.biolm.connection.bodies import Decoder, parse
from skesm.backends.biolm.connection.failures import TransportFailure, explain
from skesm.backends.biolm.connection.sockets import AbortableAdapter, Sockets
from skesm.backends.biolm.decisions import RETRYABLE_STATUSES
from skesm.backends.biolm.throttle import Pace, Timing
from skesm.exceptions import AuthenticationError, RequestRejectedError

_CHUNK = 1 << 16
_MAX_REDIRECTS = 3
#: Most bytes of an error or of a login's answer, and most bytes of a public document such as a schema.
_MAX_ERROR_BODY, _MAX_DOCUMENT = 1 << 20, 1 << 24


@dataclass(frozen=True, repr=False)
class Reply:
    """Status and parsed body of an answer. `body` is None unless it is JSON.

    `accepted` marks an answer that was fetched after a 303. An answer that is `too_large` was not read to its end.
    """

    status: int
    body: object
    retry_after: float | None = None
    location: str | None = None
    too_large: bool = False
    accepted: bool = False


def check_base_url(url: str, *, allow_http: bool) -> None:
    """Raise ValueError unless `url` is https, or http to this machine, or http was allowed."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url must be an address such as 'https://biolm.ai'")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must not hold credentials or a query: credentials come from the environment")
    if parts.scheme == "http" and not allow_http and not _is_loopback(parts.hostname):
        raise ValueError(
            f"base_url is plain http to {parts.hostname}: others could read sequences and credentials. Use https, or "
            "allow_http=True in a trusted network"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date. None if it cannot be read.

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
    """The connections of one worker. One thread uses it, as a context manager.

    Parameters
    ----------
    base_url : str
        Scheme, host, port and prefix, without a slash at the end.
    auth : Auth
        Shared by all workers.
    sockets : Sockets
        Shared by all workers.
    pace : Pace
        Its `sleep` ends when the job stops.
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
        # The environment may hold a netrc that replaces our Authorization. Its proxies and certificates are used below.
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update({"User-Agent": "skesm", "Accept": "application/json", "Accept-Encoding": "gzip"})
        if base_url.startswith("https:"):
            # Plain http goes to this machine, and through a proxy it would leave it.
            self._session.proxies.update(requests.utils.get_environ_proxies(base_url))
            self._session.verify = _find_certificates()
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
        return self._exchange("GET", self._base_url + path, {}, bound=_MAX_DOCUMENT)

    def post(self, path: str, body: object, bound: int) -> Reply:
        """Post `body`. Credentials are refreshed once if they are refused. An answer that is not ready is polled for.

        Parameters
        ----------
        path : str
            Below the base URL.
        body : object
            JSON.
        bound : int
            Bytes of the answer, uncompressed, at which reading stops.

        Raises
        ------
        TransportFailure
            If no usable answer came.
        AuthenticationError
            If the credentials are refused.
        RequestRejectedError
            If the service points somewhere else.
        """
        target: str | None = None
        try:
            for renewed in (False, True):
                headers, generation = self._auth.headers(self._plain_post)
                if target is None:
                    reply = self._send(path, body, headers, bound)
                    target = reply.location if reply.status == 303 else None
                if target is not None:
                    # The service has taken this request, so it is not posted again. Only the answer is fetched.
                    reply = self._poll(target, headers, bound)
                if reply.status != 401:
                    return reply
                if not renewed:
                    self._auth.renew(generation, self._plain_post)
        except TransportFailure as failure:
            failure.accepted = target is not None
            raise
        raise AuthenticationError(
            "the service refused fresh credentials (status 401): check the rights of this account"
        )

    def _send(self, path: str, body: object, headers: Mapping[str, str], bound: int) -> Reply:
        """Post, and follow redirects that keep a POST a POST. A 303 is returned with an absolute address."""
        url = self._base_url + path
        seen: set[str] = set()
        while True:
            seen.add(url)
            reply = self._exchange("POST", url, headers, json_body=body, bound=bound)
            if reply.status not in (301, 302, 303, 307, 308):
                return reply
            target = self._same_origin(url, reply)
            if reply.status == 303:
                return replace(reply, location=target)
            if reply.status in (301, 302):
                # Clients turn these into a GET. Nobody can know which method the service means.
                raise RequestRejectedError(
                    f"the service moved (status {reply.status}): correct base_url or dialect", reply.status
                )
            if target in seen or len(seen) > _MAX_REDIRECTS:
                raise RequestRejectedError("the service redirects in a circle", reply.status)
            url = target

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

    def _poll(self, url: str, headers: Mapping[str, str], bound: int) -> Reply:
        """Fetch an answer that is still being computed. It has been paid for: failures repeat only the fetching."""
        deadline = time.monotonic() + self._timing.answer_deadline
        failures = 0
        while time.monotonic() < deadline and not self._pace.stopped:
            begun = time.monotonic()
            wait = 0.0
            try:
                reply = self._exchange("GET", url, headers, bound=bound)
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
                    return replace(reply, accepted=True)
            # A service that blocks until the answer is ready needs no pause. One that answers at once does.
            self._pace.sleep(max(wait, self._timing.poll_interval - (time.monotonic() - begun)))
        raise TransportFailure("the answer was not ready in time", slow=True)

    def _plain_post(
        self, url: str, headers: Mapping[str, str], *, json: object = None, form: Mapping[str, str] | None = None
    ) -> tuple[int, object]:
        """Exchange with the login service, with retries."""
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
        if reply.status in RETRYABLE_STATUSES or reply.status >= 500:
            # Nobody has refused the credentials.
            raise TransportFailure(f"the login service fails (status {reply.status})")
        return reply.status, reply.body

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        json_body: object = None,
        form: Mapping[str, str] | None = None,
        bound: int = _MAX_ERROR_BODY,
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
                content, too_large = self._read(response, bound)
                return Reply(
                    response.status_code,
                    None if too_large else parse(content, response.status_code),
                    parse_retry_after(response.headers.get("Retry-After")),
                    response.headers.get("Location"),
                    too_large=too_large,
                )
        except (requests.RequestException, HTTPError) as error:
            failure = explain(error)
        except UnicodeError:
            # This error would hold the header.
            failure = TransportFailure("the request cannot be put into bytes")
        # Outside the handler, so that the exception that holds the request is not this one's context.
        raise failure

    def _read(self, response: requests.Response, bound: int) -> tuple[bytes, bool]:
        """Read and uncompress a body up to `bound` bytes, and say whether it is larger."""
        deadline = time.monotonic() + self._timing.answer_deadline
        bound = bound if response.status_code == 200 else min(bound, _MAX_ERROR_BODY)
        decoder = Decoder(response.headers.get("Content-Encoding"))
        content = bytearray()
        # read1 gives the bytes that are there. read waits for a full chunk, perhaps beyond the deadline.
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            content += decoder.decode(chunk, bound + 1 - len(content))
            if len(content) > bound:
                return b"", response.status_code == 200
            if time.monotonic() > deadline:
                raise TransportFailure("the answer did not end in time", slow=True)
        if decoder.damaged and response.status_code == 200:
            raise TransportFailure("the answer cannot be decompressed")
        return bytes(content), False


def _find_certificates() -> str | bool:
    """File or folder of certificates that the environment names, True for those of `requests`."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(name)
        if not path:
            continue
        try:
            if os.path.isdir(path):
                ssl.create_default_context(capath=path)
            else:
                ssl.create_default_context(cafile=path)
        except (OSError, ValueError):
            raise ValueError(
                f"{name} names {path!r}, which is not a readable file of certificates: correct or unset it"
            ) from None
        return path
    return True
