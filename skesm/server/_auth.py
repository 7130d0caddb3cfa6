"""Who may ask: tokens, and users who log in."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

TOKENS_VARIABLE = "SKESM_SERVER_TOKENS"
USERS_VARIABLE = "SKESM_SERVER_USERS"

LOGIN_PATH = "/api/auth/token/"
REFRESH_PATH = "/api/auth/token/refresh/"

_ACCESS_SECONDS = 3600
_REFRESH_SECONDS = 7 * 86400


class Gatekeeper:
    """Tokens and users of a server; shows neither.

    Parameters
    ----------
    tokens : iterable of str
        Each opens every model.
    users : mapping of str to str
        Passwords of those who may log in.
    clock : callable
        Seconds since the epoch.

    Notes
    -----
    A login gives two signed strings, `access` and `refresh`, as BioLM's does. They are valid for an hour and a week,
    and no longer than the server runs: its signing key is made at the start and kept in memory only.
    """

    def __init__(
        self, tokens: Iterable[str] = (), users: Mapping[str, str] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        # Digests are of one length, so that comparing tells nothing of the length either.
        self._tokens = [_digest(token) for token in tokens]
        self._users = [(_digest(user), _digest(password)) for user, password in (users or {}).items()]
        self._key = secrets.token_bytes(32)
        self._clock = clock

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._tokens)} tokens, {len(self._users)} users)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Gatekeeper:
        """Tokens and ``user:password`` pairs of the environment, separated by white space.

        Raises
        ------
        ValueError
            If a variable is set and empty, which is more likely a mistake than a wish for no protection, or if a pair
            has no colon.
        """
        environ = os.environ if environ is None else environ
        found = {}
        for variable in (TOKENS_VARIABLE, USERS_VARIABLE):
            found[variable] = environ.get(variable, "").split()
            if variable in environ and not found[variable]:
                raise ValueError(f"{variable} is set but empty: give it a value, or unset it")
        users = {}
        for pair in found[USERS_VARIABLE]:
            user, _, password = pair.partition(":")
            if not user or not password:
                raise ValueError(f"{USERS_VARIABLE} holds something that is not user:password")
            users[user] = password
        return cls(found[TOKENS_VARIABLE], users)

    @property
    def required(self) -> bool:
        """Whether credentials are needed at all."""
        return bool(self._tokens or self._users)

    @property
    def has_users(self) -> bool:
        """Whether there is anybody to log in."""
        return bool(self._users)

    def admits(self, authorization: str | None, access: str | None) -> bool:
        """Whether a request with this ``Authorization`` header and this cookie ``access`` may be answered."""
        if not self.required:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "token" and self._knows(token.strip()):
            return True
        if scheme.lower() == "bearer":  # what a login gave may also come this way
            access = token.strip()
        return access is not None and self._valid("access", access)

    def log_in(self, user: str, password: str) -> tuple[str, str] | None:
        """(access, refresh), or None if user or password is wrong."""
        given = _digest(user), _digest(password)
        right = False
        for known in self._users:  # all of them, whoever comes: the time taken tells nothing
            same_user, same_password = (hmac.compare_digest(a, b) for a, b in zip(given, known, strict=True))
            right |= same_user & same_password
        return (self._issue("access", _ACCESS_SECONDS), self._issue("refresh", _REFRESH_SECONDS)) if right else None

    def refresh(self, refresh: str | None) -> str | None:
        """A new access string, or None if `refresh` is not valid."""
        if refresh is None or not self._valid("refresh", refresh):
            return None
        return self._issue("access", _ACCESS_SECONDS)

    def _knows(self, token: str) -> bool:
        given = _digest(token)
        right = False
        for known in self._tokens:
            right |= hmac.compare_digest(given, known)
        return right

    def _issue(self, kind: str, seconds: int) -> str:
        claim = f"{kind}.{int(self._clock()) + seconds}.{secrets.token_hex(8)}"
        return f"{claim}.{self._signature(claim)}"

    def _valid(self, kind: str, text: str) -> bool:
        claim, _, signature = text.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(claim).encode()):
            return False
        claimed, expiry, _ = claim.split(".")  # signed, so it is ours
        return claimed == kind and self._clock() < int(expiry)

    def _signature(self, claim: str) -> str:
        return hmac.new(self._key, claim.encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    # Whatever JSON can hold, also half a surrogate pair.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
