"""Limits on requests that a service publishes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from skesm.protocol.wire import at


@dataclass(frozen=True)
class Limits:
    """Limits that a service publishes. None where it publishes none."""

    max_items: int | None = None
    max_length: int | None = None
    requests_per_second: float | None = None


def read_limits(document: object, path: str) -> Limits:
    """Limits in a hosted schema, or in an OpenAPI document that describes `path`.

    Examples
    --------
    >>> read_limits({"properties": {"items": {"maxItems": 4}}, "throttle_rate": "30/minute"}, "/api/v3/m/encode/")
    Limits(max_items=4, max_length=None, requests_per_second=0.5)
    """
    schema = document
    paths = at(document, "paths")
    if isinstance(paths, Mapping):
        operation = paths.get(path, paths.get(path.rstrip("/")))
        schema = at(operation, "post", "requestBody", "content", "application/json", "schema")
    items = _resolve(at(_resolve(schema, document), "properties", "items"), document)
    sequence = at(_resolve(at(items, "items"), document), "properties", "sequence")
    return Limits(
        _positive(at(items, "maxItems")),
        _positive(at(_resolve(sequence, document), "maxLength")),
        _rate(at(document, "throttle_rate")),
    )


def _resolve(schema: object, document: object) -> object:
    """The schema itself, or the one of the same document that it refers to."""
    reference = at(schema, "$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    return at(document, *reference[2:].split("/"))


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _rate(value: object) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*/\s*(second|sec|s|minute|min|m|hour|h)", str(value).strip())
    if found is None or float(found[1]) <= 0:
        return None
    return float(found[1]) / {"s": 1, "m": 60, "h": 3600}[found[2][0]]
