"""The record store of an estimator that is used on many chunks, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from skesm._typing import Memory
from skesm.backends.base import Model
from skesm.cache import keep_open, resolve_location
from skesm.fetch.lookup import find_namespace
from skesm.outputs.spec import Namespace


def namespace_of(model: Model, memory: Memory) -> Namespace:
    """The namespace of the model's records. A store knows it from the last time if the weights are gone."""
    location = resolve_location(memory)
    return model.namespace() if location is None else find_namespace(model, location)[0]


@contextmanager
def store_kept_open(model: Model, memory: Memory) -> Iterator[None]:
    """Keep the store open, if there is one, for who calls ``transform`` once for each of many chunks."""
    location = resolve_location(memory)
    if location is None:
        yield
    else:
        with keep_open(location, namespace_of(model, memory)):
            yield
