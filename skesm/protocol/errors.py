"""Read the errors of BioLM's services, and make their messages safe to show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from skesm.protocol.dialects import DIALECTS
from skesm.protocol.wire import at

# Errors are read liberally: keys of any dialect are understood.
_ITEMS = {dialect.items for dialect in DIALECTS.values()}
_RESULTS = {dialect.results for dialect in DIALECTS.values()}


@dataclass(frozen=True)
class Refusal:
    """Contents of an error's body, in any dialect.

    Attributes
    ----------
    items : mapping of int to str
        Reasons for the items that it names, counted from 0 within the request.
    oversize : bool
        Whether the request held too many items. `max_items` is the limit, if the error names it.
    code : str
        The service's error code, "" if none.
    reason : str
        One line for people. It may quote the request: pass it through `scrub`.
    """

    items: Mapping[int, str] = field(default_factory=dict)
    oversize: bool = False
    max_items: int | None = None
    code: str = ""
    reason: str = ""


def carries_error(body: object) -> bool:
    """Whether a body with status 200 is an error."""
    return bool(at(body, "error")) or (isinstance(body, Mapping) and "detail" in body and not _RESULTS & body.keys())


def decode_error(body: object) -> Refusal:
    """Read an error's body, hosted (``error``, ``detail``, ``description``) or hub (pydantic's list).

    Examples
    --------
    >>> decode_error({"error": {"items__3__sequence": ["Invalid residue"]}}).items
    {3: 'Invalid residue'}
    >>> too_long = {"type": "too_long", "loc": ["body", "items"], "msg": "", "ctx": {"max_length": 4}}
    >>> decode_error({"detail": [too_long]}).max_items
    4
    """
    said = next((each for key in ("error", "detail", "description", "message") if (each := at(body, key))), None)
    entries: list[tuple[tuple[str, ...], str, object]] = []
    if isinstance(said, list):
        for entry in said:
            if isinstance(entry, Mapping) and isinstance(entry.get("loc"), list):
                loc = tuple(str(part) for part in entry["loc"] if part != "body")
                entries.append((loc, str(entry.get("msg", "")), at(entry, "ctx", "max_length")))
    elif isinstance(said, Mapping):
        for key, messages in said.items():
            text = "; ".join(map(str, messages)) if isinstance(messages, list) else str(messages)
            limit = re.search(r"at most (\d+) item", text)
            entries.append((tuple(str(key).split("__")), text, int(limit[1]) if limit else None))
    items: dict[int, str] = {}
    oversize, max_items = False, None
    for loc, text, most in entries:
        if loc[0] not in _ITEMS:
            continue
        if len(loc) == 1:
            oversize, max_items = True, most if isinstance(most, int) and most > 0 else None
        elif loc[1].isdecimal():
            items[int(loc[1])] = text
    reason = said if isinstance(said, str) else "; ".join(f"{'.'.join(loc)}: {text}" for loc, text, _ in entries)
    code = at(body, "code")
    return Refusal(items, oversize, max_items, code if isinstance(code, str) else "", reason)


def scrub(text: str, sequences: Iterable[str], secrets: Iterable[str] = ()) -> str:
    """Make a service's message safe to show: one short line without sequences or secrets.

    Every run of eight capitals or more is removed, since a service may quote a part of a sequence.

    Examples
    --------
    >>> scrub("cannot read MKTAYIAKQR at 3: J", ["MKTAYIAKQRJ"])
    'cannot read [...] at 3: J'
    """
    for secret in secrets:
        text = text.replace(secret, "[...]")
    for sequence in {s for s in sequences if len(s) < 8}:
        text = re.sub(rf"(?<!\w){re.escape(sequence)}(?!\w)", "[...]", text, flags=re.IGNORECASE)
    text = re.sub(r"[A-Z*\-]{8,}|[a-z*\-]{24,}", "[...]", text)
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}…"
