"""Credentials of a BioLM service: found at use, kept in one object, shown nowhere.

They come from the environment, then from the file that the official client's login writes:

1. ``BIOLM_TOKEN``, or ``BIOLMAI_TOKEN``: sent as ``Authorization: Token …``.
2. ``BIOLM_ACCESS`` with ``BIOLM_REFRESH``: sent as cookies, refreshed once if they are refused.
3. ``BIOLM_USER`` with ``BIOLM_PASS`` or ``BIOLM_PASSWORD``: exchanged for the cookies of 2.
4. ``~/.biolm/credentials``, else ``~/.biolmai/credentials``: the cookies of 2. They belong to biolm.ai, or to the
   origin of the file's ``token_url``, and are sent to no other.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, Protocol
from urllib.parse import urlsplit

from skesm.exceptions import AuthenticationError
from skesm.protocol.wire import at

HOSTED_ORIGIN = "https://biolm.ai"
LOGIN_PATH = "/api/auth/token/"
REFRESH_PATH = "/api/auth/token/refresh/"

#: Characters of a header: no control characters, nothing outside latin-1. A cookie must not hold its own end.
_HEADER = re.compile(r"[\x20-\x7e\xa0-\xff]*")
_COOKIE = re.compile(r"[\x20-\x3a\x3c-\x7e\xa0-\xff]*")
#: Text in a body of JSON: everything but control characters.
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")

_REMEDY = "set BIOLM_TOKEN, or BIOLM_USER and BIOLM_PASS, in the environment"


_VARIABLES: Mapping[str, re.Pattern[str]] = {
    "BIOLM_TOKEN": _HEADER,
    "BIOLMAI_TOKEN": _HEADER,
    "BIOLM_ACCESS": _COOKIE,
    "BIOLM_REFRESH": _COOKIE,
    "BIOLM_USER": _TEXT,
    "BIOLM_PASS": _TEXT,
    "BIOLM_PASSWORD": _TEXT,
}


class Exchange(Protocol):
    """Posts JSON or a form to a path of the service, with extra headers. Gives status and parsed body."""

    def __call__(
        self, url: str, headers: Mapping[str, str], *, json: object = None, form: Mapping[str, str] | None = None
    ) -> tuple[int, object]:
        """Post."""


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, in one spelling.

    Examples
    --------
    >>> origin_of("https://BioLM.ai:443/api/v3")
    'https://biolm.ai'
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, default) else "")


def check_secret(value: str | None, name: str, allowed: re.Pattern[str]) -> None:
    """Raise unless every character of a credential can be sent. The error names its source, never its value.

    Examples
    --------
    >>> check_secret("to\u201cken", "BIOLM_TOKEN", _HEADER)
    Traceback (most recent call last):
        ...
    skesm.exceptions.AuthenticationError: BIOLM_TOKEN cannot be sent: character 3 is not allowed there. It may be \
a curly quote, a line break or a semicolon. Copy the value again
    """
    found = allowed.match(value or "")
    if value is not None and found is not None and found.end() < len(value):
        raise AuthenticationError(
            f"{name} cannot be sent: character {found.end() + 1} is not allowed there. It may be a curly quote, a line "
            "break or a semicolon. Copy the value again"
        )


class Auth:
    """The credentials of one job, refreshed once for all its workers.

    Parameters
    ----------
    base_url : str
        Where they will be sent.
    token, access, refresh, user, password : str or None
        The credentials, as `find` found them.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        access: str | None = None,
        refresh: str | None = None,
        user: str | None = None,
        password: str | None = None,
        token_url: str | None = None,
        client_id: str | None = None,
    ) -> None:
        self._base_url = base_url
        self._token = token
        self._access = access
        self._refresh = refresh
        self._user = user
        self._password = password
        self._token_url = token_url
        self._client_id = client_id
        self._generation = 0
        self._failure: AuthenticationError | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "Auth(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled: each process finds them itself")

    @classmethod
    def find(cls, base_url: str, environ: Mapping[str, str] | None = None, home: Path | None = None) -> Auth:
        """Credentials of the environment or, for the service they belong to, of the credential file."""
        environ = os.environ if environ is None else environ
        values = {name: environ.get(name, "").strip() or None for name in _VARIABLES}
        # A password may begin or end with blanks.
        values["BIOLM_PASSWORD"] = environ.get("BIOLM_PASSWORD", "").strip("\r\n") or None
        for name, value in values.items():
            check_secret(value, name, _VARIABLES[name])
        user, password = values["BIOLM_USER"], values["BIOLM_PASS"] or values["BIOLM_PASSWORD"]
        found = {
            "token": values["BIOLM_TOKEN"] or values["BIOLMAI_TOKEN"],
            "access": values["BIOLM_ACCESS"],
            "refresh": values["BIOLM_REFRESH"],
            "user": user if password else None,
            "password": password if user else None,
        }
        if not any(found.values()):
            found = _read_files(base_url, Path.home() if home is None else home)
        return cls(base_url, **found)

    @property
    def present(self) -> bool:
        """Whether there is anything to send."""
        return any((self._token, self._access, self._refresh, self._user))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secrets that must appear nowhere. The longest come first, so that all can be replaced."""
        found = (self._token, self._access, self._refresh, self._password)
        return tuple(sorted((secret for secret in found if secret), key=len, reverse=True))

    def headers(self, exchange: Exchange) -> tuple[dict[str, str], int]:
        """Headers for a request, and the generation of the credentials in them. Logs in if needed."""
        with self._lock:
            if self._token is None and self._access is None and (self._refresh or self._user):
                self._renew_locked(exchange)
            if self._token is not None:
                return {"Authorization": f"Token {self._token}"}, self._generation
            if self._access is not None:
                cookie = f"access={self._access}" + (f";refresh={self._refresh}" if self._refresh else "")
                return {"Cookie": cookie}, self._generation
            return {}, self._generation

    def renew(self, generation: int, exchange: Exchange) -> None:
        """Replace credentials that were refused, unless another worker has done so since.

        Raises
        ------
        AuthenticationError
            If there is nothing to replace them with, or that is refused too.
        """
        with self._lock:
            if generation == self._generation:
                self._renew_locked(exchange)

    def _renew_locked(self, exchange: Exchange) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            if not (self._refresh and self._refreshed(exchange)):
                self._log_in(exchange)
        except AuthenticationError as error:
            self._failure = error
            raise
        self._generation += 1

    def _refreshed(self, exchange: Exchange) -> bool:
        assert self._refresh is not None
        if self._token_url and self._client_id:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._refresh,
                "client_id": self._client_id,
            }
            status, body = exchange(self._token_url, {}, form=form)
            access, refresh = at(body, "access_token"), at(body, "refresh_token")
        else:
            url = self._base_url + REFRESH_PATH
            status, body = exchange(url, {"Cookie": f"refresh={self._refresh}"}, json={})
            access, refresh = at(body, "access"), at(body, "refresh")
        # A refusal may come with status 200 and a `code`.
        if status != 200 or at(body, "code") or not isinstance(access, str) or not access:
            return False
        self._keep(access, refresh if isinstance(refresh, str) and refresh else self._refresh)
        return True

    def _keep(self, access: str, refresh: str | None) -> None:
        check_secret(access, "the access token that the service gave", _COOKIE)
        check_secret(refresh, "the refresh token that the service gave", _COOKIE)
        self._access, self._refresh = access, refresh

    def _log_in(self, exchange: Exchange) -> None:
        if not self._user:
            if self._refresh:
                raise AuthenticationError(f"the service refused to refresh the credentials: log in again, or {_REMEDY}")
            if self.present:
                raise AuthenticationError(f"the service refused the credentials (status 401): {_REMEDY} anew")
            raise AuthenticationError(f"the service wants credentials (status 401): {_REMEDY}")
        body = {"username": self._user, "password": self._password}
        status, answer = exchange(self._base_url + LOGIN_PATH, {}, json=body)
        access, refresh = at(answer, "access"), at(answer, "refresh")
        if status != 200 or not isinstance(access, str) or not access:
            raise AuthenticationError(
                f"the service refused the login (status {status}): check BIOLM_USER and BIOLM_PASS"
            )
        self._keep(access, refresh if isinstance(refresh, str) else None)


def _read_files(base_url: str, home: Path) -> dict[str, str | None]:
    for folder in (".biolm", ".biolmai"):
        path = home / folder / "credentials"
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            # The parser's message would quote the file.
            raise AuthenticationError(f"{path} cannot be read ({type(error).__name__}): log in again") from None
        fields = ("access", "refresh", "token_url", "client_id")
        found = {key: value if isinstance(value := at(content, key), str) else None for key in fields}
        kinds = {"access": _COOKIE, "refresh": _COOKIE, "token_url": _TEXT, "client_id": _TEXT}
        for key, allowed in kinds.items():
            check_secret(found[key], f"{key} in {path}", allowed)
        token_url = found["token_url"]
        owner = origin_of(token_url) if token_url else HOSTED_ORIGIN
        if owner != origin_of(base_url):
            return {}
        return found
    return {}
