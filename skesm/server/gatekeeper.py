"""Credentials: tokens, and users who log in."""

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
KEY_VARIABLE = "SKESM_SERVER_KEY"

LOGIN_PATH = "/api/auth/token/"
REFRESH_PATH = "/api/auth/token/refresh/"

_ACCESS_SECONDS = 3600
_REFRESH_SECONDS = 7 * 86400
_SHORTEST_KEY = 32  # characters: if a key can be guessed, anybody can log in


class Gatekeeper:
    """Tokens and users of a server. It shows neither.

    Parameters
    ----------
    tokens : iterable of str
        Each of them gives access to every model.
    users : mapping of str to str
        Passwords by user.
    clock : callable
        Seconds since the epoch.
    key : str, default=None
        Signs logins. It needs at least 32 characters. Servers with the same key and users accept each other's logins,
        also after a restart. None makes a new key, which is lost at the end of the process.

    Notes
    -----
    A login gives two signed strings, `access` and `refresh`, as BioLM's does. They are valid for an hour and a week,
    and end earlier if the user is removed or gets another password.
    """

    def __init__(
        self,
        tokens: Iterable[str] = (),
        users: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        key: str | None = None,
    ) -> None:
        if key is not None and len(key) < _SHORTEST_KEY:
            raise ValueError(f"the key that signs logins has {len(key)} characters: use at least {_SHORTEST_KEY}")
        # Digests have one length, so that the time of a comparison does not tell the length of a token.
        self._tokens = [_digest(token) for token in tokens]
        self._users = [(_digest(user), _digest(password)) for user, password in (users or {}).items()]
        self._key = secrets.token_bytes(32) if key is None else _digest(key)
        self._owners = {self._owner(user) for user in self._users}
        self._clock = clock

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._tokens)} tokens, {len(self._users)} users)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Gatekeeper:
        """Tokens and ``user:password`` pairs of the environment, separated by white space, and the key for logins.

        Raises
        ------
        ValueError
            If a variable is set but empty, since this is probably a mistake. If a pair has no colon. If the key is
            short.
        """
        environ = os.environ if environ is None else environ
        found = {}
        for variable in (TOKENS_VARIABLE, USERS_VARIABLE):
            found[variable] = environ.get(variable, "").split()
            if variable in environ and not found[variable]:
                raise ValueError(f"{variable} is set but empty: give it a value or unset it")
        users = {}
        for pair in found[USERS_VARIABLE]:
            user, _, password = pair.partition(":")
            if not user or not password:
                raise ValueError(f"{USERS_VARIABLE} holds an entry that is not user:password")
            users[user] = password
        key = environ.get(KEY_VARIABLE)
        if key is not None and len(key.strip()) < _SHORTEST_KEY:
            raise ValueError(f"{KEY_VARIABLE} must have at least {_SHORTEST_KEY} characters, or be unset")
        return cls(found[TOKENS_VARIABLE], users, key=key)

    @property
    def required(self) -> bool:
        """Whether credentials are needed."""
        return bool(self._tokens or self._users)

    @property
    def has_users(self) -> bool:
        """Whether anybody can log in."""
        return bool(self._users)

    def admits(self, authorization: str | None, access: str | None, *, token_scheme: str = "Token") -> bool:
        """Whether a request with this ``Authorization`` header and this cookie ``access`` may be answered.

        A token comes as ``Token``, and also in `token_scheme`.
        """
        if not self.required:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() in ("token", token_scheme.lower()) and self._knows(token.strip()):
            return True
        if scheme.lower() == "bearer":  # the access string of a login may also come this way
            access = token.strip()
        return access is not None and self._owner_of("access", access) is not None

    def log_in(self, user: str, password: str) -> tuple[str, str] | None:
        """(access, refresh), or None if user or password is wrong."""
        given = _digest(user), _digest(password)
        right = False
        for known in self._users:  # always all of them, so that the time tells nothing
            same_user, same_password = (hmac.compare_digest(a, b) for a, b in zip(given, known, strict=True))
            right |= same_user & same_password
        if not right:
            return None
        owner = self._owner(given)
        return self._issue("access", _ACCESS_SECONDS, owner), self._issue("refresh", _REFRESH_SECONDS, owner)

    def refresh(self, refresh: str | None) -> str | None:
        """A new access string, or None if `refresh` is not valid."""
        owner = None if refresh is None else self._owner_of("refresh", refresh)
        return None if owner is None else self._issue("access", _ACCESS_SECONDS, owner)

    def _knows(self, token: str) -> bool:
        given = _digest(token)
        right = False
        for known in self._tokens:
            right |= hmac.compare_digest(given, known)
        return right

    def _owner(self, user: tuple[bytes, bytes]) -> str:
        """Name of a user with this password. It tells neither."""
        return self._signature(b"owner" + b"".join(user))[:16]

    def _issue(self, kind: str, seconds: int, owner: str) -> str:
        claim = f"{kind}.{int(self._clock()) + seconds}.{owner}.{secrets.token_hex(8)}"
        return f"{claim}.{self._signature(claim.encode())}"

    def _owner_of(self, kind: str, text: str) -> str | None:
        """Owner of the login that gave `text`. None if `text` is not valid."""
        claim, _, signature = text.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(claim.encode()).encode()):
            return None
        claimed, expiry, owner, _ = claim.split(".")  # it is signed, so this server wrote it
        return owner if claimed == kind and self._clock() < int(expiry) and owner in self._owners else None

    def _signature(self, claim: bytes) -> str:
        return hmac.new(self._key, claim, hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    # Whatever JSON can hold, also half a surrogate pair.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
