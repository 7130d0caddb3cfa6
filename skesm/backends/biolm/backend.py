"""ESM-2 behind BioLM's REST API, or behind a server of one's own that speaks it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from numbers import Integral, Real
from typing import ClassVar
from urllib.parse import urlsplit

from sklearn.utils._param_validation import Interval, StrOptions

from skesm._messages import first_and_more
from skesm._typing import Constraints
from skesm.backends.base import Backend, Batch, RequestPlan
from skesm.backends.biolm.auth import HOSTED_ORIGIN, Auth, origin_of
from skesm.backends.biolm.connection.failures import TransportFailure
from skesm.backends.biolm.connection.sockets import Sockets
from skesm.backends.biolm.connection.transport import Connection, check_base_url
from skesm.backends.biolm.job import Job
from skesm.backends.biolm.limits import Limits, read_limits
from skesm.backends.biolm.throttle import Pace, Timing
from skesm.backends.biolm.worker import Request
from skesm.esm2.checkpoints.names import explain_other_family, suggest_name
from skesm.esm2.spec import ModelSpec, find_registered
from skesm.exceptions import (
    AuthenticationError,
    BackendError,
    PartialResultError,
    RequestRejectedError,
    ServiceUnavailableError,
)
from skesm.outputs.spec import Namespace, OutputSpec
from skesm.protocol import wire
from skesm.protocol.dialects import DIALECTS, ENCODE, PREDICT, guess_dialect
from skesm.sequences.alphabet import MASK_SYMBOL, count_residues, split_residues

_LOGGER = logging.getLogger(__name__)


class BioLMBackend(Backend):
    """ESM-2 on a remote service: BioLM's REST API, a biolm-hub gateway, or your own server (``skesm serve``).

    Credentials are never parameters. They come from the environment (``BIOLM_TOKEN``, or ``BIOLM_USER`` and
    ``BIOLM_PASS``, or ``BIOLM_ACCESS`` and ``BIOLM_REFRESH``) or from the credential file of BioLM's own client.

    Parameters
    ----------
    base_url : str, default=None
        Address of the service. None takes ``BIOLM_BASE_API_URL`` from the environment, else ``"https://biolm.ai"``.
    dialect : {"auto", "v1", "v2", "v3", "hub"}, default="auto"
        Protocol. ``"auto"`` goes by the address: its end (``/api/v3``), else v3 for biolm.ai and hub for others.
    batch_size : int, default=None
        Most sequences in a request. None takes the limit from the service's schema, or 8 if it has none.
    max_concurrency : int, default=16
        Most requests at a time. The number starts at 4 and adapts to the service.
    timeout : float or (float, float), default=(10, 180)
        Seconds to connect, and seconds to wait for the next bytes of the answer.
    max_attempts : int, default=5
        Most times that one request is sent, while its failures are temporary.
    allow_http : bool, default=False
        Allow plain http to another machine. Others can then read sequences and credentials.

    See Also
    --------
    skesm.backends.LocalBackend : The model on this machine.

    Notes
    -----
    Every answer is checked before it is used: number and order of results, layers by their number, shapes, columns,
    finite values. A failed sequence does not stop the others. When all others are finished,
    `PartialResultError` names the failed ones.

    Examples
    --------
    >>> backend = BioLMBackend("https://biolm.ai")
    >>> backend.spec("esm2-650m").width
    1280
    >>> backend.namespace("esm2-650m").fingerprint
    'https://biolm.ai esm2-650m v3'
    """

    _parameter_constraints: ClassVar[Constraints] = {
        "base_url": [str, None],
        "dialect": [StrOptions({"auto", *DIALECTS})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "max_concurrency": [Interval(Integral, 1, None, closed="left")],
        "timeout": [Interval(Real, 0, None, closed="neither"), tuple],
        "max_attempts": [Interval(Integral, 1, None, closed="left")],
        "allow_http": ["boolean"],
    }
    # Durations that only tests change, in a subclass.
    _timing: ClassVar[Timing] = Timing()

    def __init__(
        self,
        base_url: str | None = None,
        *,
        dialect: str = "auto",
        batch_size: int | None = None,
        max_concurrency: int = 16,
        timeout: float | tuple[float, float] = (10, 180),
        max_attempts: int = 5,
        allow_http: bool = False,
    ) -> None:
        self.base_url = base_url
        self.dialect = dialect
        self.batch_size = batch_size
        self.max_concurrency = max_concurrency
        self.timeout = timeout
        self.max_attempts = max_attempts
        self.allow_http = allow_http

    @property
    def numerics(self) -> str:
        """``"remote-"`` and the dialect, since a service does not tell its precision."""
        return f"remote-{self._service()[1]}"

    def spec(self, model: str) -> ModelSpec:
        """Shape of a model, by its registry name or slug.

        Raises
        ------
        ValueError
            If `model` is neither: a service answers for named models only.
        """
        spec = find_registered(model)
        if spec is None:
            advice = explain_other_family(model) or suggest_name(model)
            raise ValueError(
                f"model {model!r} is not available from a remote service: use a name such as 'esm2_t33_650M_UR50D' or "
                f"'esm2-650m', or the local backend{f' ({advice})' if advice else ''}"
            )
        return spec

    def namespace(self, model: str) -> Namespace:
        """Identity of this model's records: address, slug and dialect.

        A service does not tell its weights and its precision. So records of a service are never mixed with those of
        another service or with local ones.
        """
        base, dialect = self._service()
        return Namespace(model, f"{base} {wire.model_slug(self.spec(model), dialect)} {dialect}", f"remote-{dialect}")

    def plan(self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec]) -> RequestPlan:
        """Count the requests that `run` would send. This sends no sequence and needs no credentials.

        It asks the service for its limits, which is free.

        Parameters
        ----------
        model : str
            Registry name or slug.
        sequences : sequence of str
            Sequences that are not in the store.
        outputs : sequence of OutputSpec
            Outputs that would be asked for.

        Returns
        -------
        plan : RequestPlan
            Requests and sequences.
        """
        asked = self._request(model, outputs)
        auth, pace, sockets = Auth(asked.base_url), Pace(1, 1, self._timing), Sockets()
        plan = RequestPlan(0, 0, 0, 0, 0)
        for request, some in _by_action(asked, list(dict.fromkeys(sequences))):
            limits = self._discover(request, lambda: self._connection(auth, sockets, pace))
            max_items = self._max_items(limits)
            order, failures = _order(request, some, limits)
            lengths = [count_residues(some[place]) for place in order]
            requests = done = 0
            while done < len(order):
                done += request.cut(lengths[done : done + max_items])
                requests += 1
            plan = RequestPlan(
                plan.requests + requests,
                plan.sequences + len(order),
                plan.residues + sum(lengths),
                plan.refused + len(failures),
                max(plan.batch_size, max_items),
            )
        return plan

    def run(
        self,
        model: str,
        sequences: Sequence[str],
        outputs: Sequence[OutputSpec],
        *,
        n_jobs: int | None = None,
    ) -> Generator[Batch, None, None]:
        """Ask the service for `outputs` of `sequences`, and yield batches as they are answered.

        A worker sends its next request only when the batch it has handed over was taken and the iterator was asked
        for more: if you store each batch before you ask for the next, a kill loses only the requests in flight.
        Ctrl-C stops the sending, yields the batches that finish within a second, and is raised again. Close the
        iterator to stop earlier.

        Parameters
        ----------
        model : str
            Registry name or slug.
        sequences : sequence of str
            Clean sequences. Equal ones are sent once.
        outputs : sequence of OutputSpec
            All of them come from one request for each batch. ``max@l`` is taken from the residues' representations.
            With ``attention_received@l``, a request holds sequences of one length only.
        n_jobs : int, default=None
            Ignored: `max_concurrency` says how many requests are in flight.

        Yields
        ------
        batch : Batch
            Checked records.

        Raises
        ------
        ValueError
            Before anything is sent, if an output, the model or a parameter is not possible.
        AuthenticationError, RateLimitError, RequestRejectedError, ServiceUnavailableError, InvalidAnswerError
            If the job cannot go on. Sequences not yielded until then are unfinished.
        PartialResultError
            If single sequences failed. All others have been yielded.
        """
        return self._run(self._request(model, outputs), list(sequences))

    def _run(self, request: Request, sequences: list[str]) -> Generator[Batch, None, None]:
        if not sequences:
            return
        auth = Auth.find(request.base_url)
        if not auth.present and origin_of(request.base_url) == HOSTED_ORIGIN:
            raise AuthenticationError(
                "no credentials for biolm.ai: set BIOLM_TOKEN, or BIOLM_USER and BIOLM_PASS, in the environment"
            )
        places: dict[str, list[int]] = {}
        for place, sequence in enumerate(sequences):
            places.setdefault(sequence, []).append(place)
        causes: dict[int, BackendError] = {}
        for part, some in _by_action(request, list(places)):
            copies = [places[sequence] for sequence in some]
            failures: dict[int, BackendError] = {}
            with closing(self._send(part, some, auth, failures)) as batches:
                for batch in batches:
                    pairs = [
                        (place, record)
                        for i, record in zip(batch.indices, batch.records, strict=True)
                        for place in copies[i]
                    ]
                    yield Batch(tuple(place for place, _ in pairs), tuple(record for _, record in pairs))
            causes.update((place, cause) for i, cause in failures.items() for place in copies[i])
        if causes:
            raise _partial_result(causes, sequences)

    def _send(
        self, request: Request, sequences: list[str], auth: Auth, failures: dict[int, BackendError]
    ) -> Generator[Batch, None, None]:
        """Answer distinct sequences that one action takes. Failed ones are added to `failures`."""
        sockets = Sockets()
        limits = self._discover(
            request, lambda: self._connection(Auth(request.base_url), sockets, Pace(1, 1, self._timing))
        )
        order, refused = _order(request, sequences, limits)
        failures.update(refused)
        pace = Pace(
            self.max_concurrency,
            self.max_attempts,
            self._timing,
            probe=limits.max_items is None,
            requests_per_second=limits.requests_per_second,
        )
        job = Job(
            request,
            sequences,
            order,
            failures,
            max_items=self._max_items(limits),
            auth=auth,
            pace=pace,
            connect=lambda: self._connection(auth, sockets, pace),
            sockets=sockets,
            timing=self._timing,
            max_attempts=self.max_attempts,
            n_workers=min(self.max_concurrency, len(order)),
        )
        with closing(job.batches()) as batches:
            yield from batches
        if job.failures and job.refused_altogether:
            raise job.refused_altogether

    # ------------------------------------------------------------------------------------------ parts

    def _service(self) -> tuple[str, str]:
        """Base URL without a path that belongs to the dialect, and the dialect."""
        self._validate_params()
        url = (self.base_url or os.environ.get("BIOLM_BASE_API_URL", "").strip() or HOSTED_ORIGIN).rstrip("/")
        check_base_url(url, allow_http=self.allow_http)
        dialect, prefix = guess_dialect(urlsplit(url).path, hosted=origin_of(url) == HOSTED_ORIGIN)
        return origin_of(url) + prefix, dialect if self.dialect == "auto" else self.dialect

    def _request(self, model: str, outputs: Iterable[OutputSpec]) -> Request:
        base_url, dialect = self._service()
        self._timeout()
        spec = self.spec(model)
        outputs = tuple(outputs)
        wire.check_outputs(dialect, spec, outputs)
        return Request(spec, dialect, base_url, wire.model_slug(spec, dialect), outputs)

    def _timeout(self) -> tuple[float, float]:
        parts = self.timeout if isinstance(self.timeout, tuple) else (self.timeout, self.timeout)
        if len(parts) != 2 or not all(isinstance(part, Real) and part > 0 for part in parts):
            raise ValueError(f"timeout must be a positive number or a pair of them, got {self.timeout!r}")
        return float(parts[0]), float(parts[1])

    def _connection(self, auth: Auth, sockets: Sockets, pace: Pace) -> Connection:
        return Connection(self._service()[0], auth, sockets, pace, self._timeout(), self._timing, self.max_attempts)

    def _max_items(self, limits: Limits) -> int:
        return min(self.batch_size or limits.max_items or wire.MAX_ITEMS, limits.max_items or sys.maxsize)

    def _discover(self, request: Request, connect: Callable[[], Connection]) -> Limits:
        """Ask the service for its limits, without credentials: they could only make this fail."""
        path = wire.schema_path(request.dialect, request.slug, request.action)
        if path is None:
            return Limits()
        try:
            with connect() as connection:
                reply = connection.get(path)
        except TransportFailure as failure:
            if failure.unreachable:
                raise ServiceUnavailableError(f"the service cannot be reached ({failure}): {failure.remedy}") from None
            _LOGGER.info("the service's limits are not known: %s", failure)
            return Limits()
        if reply.status != 200:
            _LOGGER.info("the service's limits are not known: status %d", reply.status)
            return Limits()
        limits = read_limits(reply.body, request.path)
        _LOGGER.debug("the service says: %s", limits)
        return limits


def _by_action(request: Request, sequences: list[str]) -> Iterator[tuple[Request, list[str]]]:
    """Sequences by the action that takes them: those that hold ``<mask>`` go to another, if it answers the outputs."""
    if wire.mask_refusal(request.dialect, request.outputs) is not None:
        yield request, sequences
        return
    for action, masked in ((ENCODE, False), (PREDICT, True)):
        some = [sequence for sequence in sequences if (MASK_SYMBOL in sequence) == masked]
        if some:
            yield replace(request, action=action), some


def _order(request: Request, sequences: Sequence[str], limits: Limits) -> tuple[list[int], dict[int, BackendError]]:
    """Places to send, longest first, and reasons for those that are not worth sending."""
    failures: dict[int, BackendError] = {}
    for place, sequence in enumerate(sequences):
        reason = _refusal(request, sequence, limits)
        if reason is not None:
            failures[place] = RequestRejectedError(f"not sent: {reason}")
    # Batches of like lengths waste little on padding, and the longest do not come last, when all others wait.
    order = sorted((i for i in range(len(sequences)) if i not in failures), key=lambda i: -count_residues(sequences[i]))
    return order, failures


def _refusal(request: Request, sequence: str, limits: Limits) -> str | None:
    """Why a sequence is not worth sending, None if it is."""
    letters = wire.ACCEPTED_RESIDUES
    if request.action == PREDICT:
        letters = letters - {"-"} | {MASK_SYMBOL}
    residues = split_residues(sequence)
    position = next((i for i, residue in enumerate(residues) if residue not in letters), None)
    if position is not None and residues[position] == MASK_SYMBOL:
        return wire.mask_refusal(request.dialect, request.outputs)
    if position is not None:
        return f"residue {position} is one that remote services do not take"
    if not sequence.strip("-"):
        return "there are no residues"
    if limits.max_length is not None and len(residues) > limits.max_length:
        return f"{len(residues)} residues, the service takes {limits.max_length}"
    return None


def _partial_result(causes: dict[int, BackendError], sequences: Sequence[str]) -> PartialResultError:
    places = sorted(causes)
    failed = (f"{place} ({count_residues(sequences[place])} residues): {causes[place]}" for place in places)
    shown = first_and_more(failed, "; ")
    return PartialResultError(
        f"{len(places)} of {len(sequences)} sequences failed. All others are finished. Failed: {shown}", causes
    )
