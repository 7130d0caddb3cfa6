"""Settings of a server."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass, field, replace

from skesm._typing import Memory
from skesm.backends.local import LocalBackend
from skesm.esm2.spec import DEMO_MODEL, ModelSpec, find_registered
from skesm.outputs.kinds import CONTACT_HEAD, KINDS
from skesm.protocol.dialects import DIALECTS
from skesm.protocol.wire import MAX_ITEMS, MAX_LENGTH, model_slug
from skesm.sequences.alphabet import MASK_SYMBOL
from skesm.server.gatekeeper import Gatekeeper

#: Loaded models that `LocalBackend` keeps: with more, each batch would load one anew.
MAX_MODELS = 2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for.

    Attributes
    ----------
    max_items, max_length : int
        Sequences in a request, residues in a sequence.
    max_values : int
        Numbers in an answer. All of them are in memory at once.
    """

    max_items: int = MAX_ITEMS
    max_length: int = MAX_LENGTH
    max_values: int = 25_000_000

    @property
    def max_body(self) -> int:
        """Largest body in bytes. A body that breaks another limit by little still fits, so that the error names it."""
        return max(1 << 20, self.max_items * (len(MASK_SYMBOL) * self.max_length + 256))


@dataclass(frozen=True)
class ServedModel:
    """A model and its names.

    Attributes
    ----------
    source : str
        Source that the backend loads: registry name, Hub repository id or folder.
    spec : ModelSpec
        Its shape. `spec.name` is the name in paths.
    has_contacts : bool
        Whether it has a contact head. This is known when the model is loaded.
    """

    source: str
    spec: ModelSpec
    has_contacts: bool = False

    @property
    def names(self) -> set[str]:
        """Names of the model in paths, in lower case."""
        return {model_slug(self.spec, dialect).lower() for dialect in DIALECTS}

    def answers(self, kind: str) -> bool:
        """Whether the model has the head that this kind of output needs."""
        return self.has_contacts or KINDS[kind].head != CONTACT_HEAD


@dataclass(frozen=True)
class ServerConfig:
    """Settings of a server, except its address.

    Parameters
    ----------
    models : tuple of str, default=("skesm-mini",)
        Registry names, Hub repository ids or folders. ``"name=folder"`` serves a folder under another name, for example
        ``"esm2-650m=/data/checkpoint"``. At most two.
    backend : LocalBackend
        Engine, device, threads, and with ``tokens_per_batch`` the largest batch.
    memory : str, path or joblib.Memory, default=None
        Record store. Each sequence is computed only once.
    limits : Limits
        How much one request may ask for.
    queue_residues : int, default=262144
        Most residues in open requests. A request that would exceed it gets 429 with Retry-After, unless it is the only
        one.
    queue_values : int, default=50_000_000
        Most numbers in the answers to open requests. This bounds the memory.
    batch_wait : float, default=0.005
        Seconds that a sequence waits for others to share a batch.
    gatekeeper : Gatekeeper
        Checks credentials. By default everybody may ask.
    allowed_hosts : tuple of str, default=None
        Names of this server that a request may have in its header ``Host``. ``"*"`` allows every name. None stands
        for the names of this machine. Addresses are always allowed.

    Examples
    --------
    >>> [model.spec.name for model in ServerConfig(("esm2-8m",)).find_models()]
    ['esm2_t6_8M_UR50D']
    """

    models: tuple[str, ...] = (DEMO_MODEL,)
    backend: LocalBackend = field(default_factory=LocalBackend)
    memory: Memory = None
    limits: Limits = field(default_factory=Limits)
    queue_residues: int = 262_144
    queue_values: int = 50_000_000
    batch_wait: float = 0.005
    gatekeeper: Gatekeeper = field(default_factory=Gatekeeper)
    allowed_hosts: tuple[str, ...] | None = None

    def find_allowed_hosts(self) -> tuple[str, ...]:
        """Names in ``Host`` that are answered, in lower case."""
        return tuple(name.lower() for name in self.allowed_hosts or machine_names())

    def find_models(self) -> list[ServedModel]:
        """Look the models up, without loading their weights.

        Raises
        ------
        ValueError
            If there are too many, two have one name, or a name stands for a model of another shape.
        CheckpointError
            If a folder holds no ESM-2 model.
        """
        if not 1 <= len(self.models) <= MAX_MODELS:
            raise ValueError(f"{len(self.models)} models: a server can have 1 to {MAX_MODELS}")
        found = [_find_model(self.backend, text) for text in self.models]
        names = [name for model in found for name in model.names]
        if len(set(names)) != len(names):
            raise ValueError("two models have the same name: rename one with 'name=folder'")
        return found


def _find_model(backend: LocalBackend, text: str) -> ServedModel:
    name, equals, source = text.partition("=")
    if not equals:
        source = text
    spec = backend.spec(source)
    if equals or find_registered(source) is None:
        name = name if equals else os.path.basename(os.path.normpath(source))
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a model in a path: use letters, digits, '.', '_' and '-'")
        registered = find_registered(name)
        if registered is not None and _shape(registered) != _shape(spec):
            raise ValueError(f"{text!r}: the checkpoint does not have the shape of {registered.name}")
        spec = replace(spec, name=registered.name if registered is not None else name)
    return ServedModel(source, spec)


def _shape(spec: ModelSpec) -> tuple[int, ...]:
    return spec.n_layers, spec.width, spec.n_heads, spec.ffn_width


def machine_names() -> tuple[str, ...]:
    """Names of this machine."""
    name = socket.gethostname()
    return "localhost", name, f"{name}.local"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    # An empty host means every address of the machine.
    addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)} if host else set()
    return bool(addresses) and all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in addresses)
