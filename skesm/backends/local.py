"""The model on this machine."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from importlib.util import find_spec as find_module
from numbers import Integral
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from joblib import effective_n_jobs
from sklearn.utils._param_validation import Interval, StrOptions

from skesm._outputs import CONTACTS, HEAD_KINDS, FloatArray, Namespace, OutputSpec
from skesm.backends.base import Backend, Batch
from skesm.esm2.checkpoint import Checkpoint, find_spec, locate
from skesm.esm2.numpy_engine import NumpyEngine, Tokens
from skesm.esm2.packing import split_batches
from skesm.esm2.parameters import read_parameters
from skesm.esm2.spec import DEMO_MODEL, ModelSpec
from skesm.esm2.threads import default_workers
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.weights_file import WeightsFiles
from skesm.exceptions import BackendError, DemoModelWarning

T = TypeVar("T")

_NUMERICS = {"float32": "fp32", "bfloat16": "bf16"}

#: Values in records that weigh as much as a token: a batch of 8,192 tokens holds 0.25 GB at most, or one sequence.
_VALUES_PER_TOKEN = 8192


class Engine(Protocol):
    """What the backend needs of an engine."""

    spec: ModelSpec
    has_head: bool
    has_contact_head: bool

    def plan(self, lengths: Sequence[int], workers: int) -> list[list[int]]:
        """Group sequences of so many tokens into packs, each a list of their places, for so many workers."""

    def hold(self, n_threads: int) -> AbstractContextManager[int]:
        """Prepare this process for `n_threads` threads of work; gives the number of packs to run at once."""

    def forward(
        self, sequences: Sequence[Tokens], outputs: Sequence[OutputSpec], helpers: Executor | None = None
    ) -> list[dict[OutputSpec, FloatArray]]:
        """Compute a pack; `helpers` are threads that have nothing else to do."""


class LocalBackend(Backend):
    """ESM-2 on this machine.

    Parameters
    ----------
    engine : {"auto", "numpy", "torch"}, default="auto"
        ``"numpy"`` needs nothing beyond the core install. ``"torch"`` (``pip install "skesm[torch]"``) gives GPUs and
        bfloat16. ``"auto"`` is torch if `device` or `dtype` ask for it, or if it is installed and finds a GPU; else
        NumPy.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``"auto"`` is a GPU if there is one.
    dtype : {"float32", "bfloat16"}, default="float32"
        Type of the matrix products. Features are float32 in either case.
    tokens_per_batch : int, default=8192
        Tokens computed between two saves to the record store. Changes no value.
    num_threads : int or None, default=None
        CPU threads. None is what BLAS would use: all cores, or fewer under joblib's workers. An estimator's
        ``n_jobs`` goes before it. Changes no value.

    Notes
    -----
    Loaded models are kept for the process, not by the backend: two at most, the least recently used is dropped.

    What bfloat16 rounds is centred first, which is exact, so that large constants in the weights do not drown what
    tells variants apart. Against float32 on 300 variants of GFP, as cosines after subtracting each side's mean: 0.9999
    on average and 0.999 at least with skesm-mini, 0.9998 and 0.998 or more with random weights of published shapes,
    outliers among them; see "What low precision does to variants" in the page on performance.

    Examples
    --------
    >>> from skesm import ESM2Embedder
    >>> from skesm.backends import LocalBackend
    >>> embedder = ESM2Embedder("skesm-mini", backend=LocalBackend(num_threads=2))
    >>> embedder.transform(["MKTAYIAK"]).shape
    (1, 192)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "engine": [StrOptions({"auto", "numpy", "torch"})],
        "device": [str],
        "dtype": [StrOptions(set(_NUMERICS))],
        "tokens_per_batch": [Interval(Integral, 1, None, closed="left")],
        "num_threads": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        engine: str = "auto",
        device: str = "auto",
        dtype: str = "float32",
        tokens_per_batch: int = 8192,
        num_threads: int | None = None,
    ) -> None:
        self.engine = engine
        self.device = device
        self.dtype = dtype
        self.tokens_per_batch = tokens_per_batch
        self.num_threads = num_threads

    @property
    def numerics(self) -> str:
        """``"fp32"`` or ``"bf16"``."""
        return _NUMERICS[self.dtype]

    def spec(self, model: str | os.PathLike[str]) -> ModelSpec:
        """Shape of `model`; reads at most its ``config.json``."""
        return find_spec(model)

    def namespace(self, model: str | os.PathLike[str]) -> Namespace:
        """Digest of the weights and of what else in the checkpoint changes values."""
        checkpoint = locate(model)
        fingerprint = _fingerprints.get(_file_key(checkpoint), lambda: _fingerprint(checkpoint))
        return Namespace(os.fspath(model), fingerprint, self.numerics)

    def has_contact_head(self, model: str | os.PathLike[str]) -> bool:
        """Whether `model` answers ``contacts``; loads it, as `run` does.

        Examples
        --------
        >>> LocalBackend().has_contact_head("skesm-mini")
        False
        """
        self._validate_params()
        return self._load(locate(model)).has_contact_head

    def run(
        self,
        model: str | os.PathLike[str],
        sequences: Sequence[str],
        outputs: Sequence[OutputSpec],
        *,
        n_jobs: int | None = None,
    ) -> Generator[Batch, None, None]:
        """Compute `outputs` for `sequences`, in batches of `tokens_per_batch` tokens, longest sequences first."""
        self._validate_params()
        if not sequences:
            return
        engine = self._load(locate(model))
        beyond = max((output.layer or 0 for output in outputs), default=0)
        if beyond > engine.spec.n_layers:
            raise ValueError(
                f"layer {beyond} does not exist: {engine.spec.name} has layers 0 to {engine.spec.n_layers}"
            )
        if not engine.has_head and any(output.kind in HEAD_KINDS for output in outputs):
            raise BackendError(
                f"the checkpoint of {engine.spec.name} was saved without its language-model head: it has embeddings, "
                "but no logits"
            )
        if not engine.has_contact_head and any(output.kind == CONTACTS for output in outputs):
            raise BackendError(
                f"the checkpoint of {engine.spec.name} has no contact head: it has embeddings and attentions, but no "
                "contacts; those of the published sizes have one"
            )
        tokens = [tokenize(sequence) for sequence in sequences]
        lengths = [len(t) for t in tokens]
        sizes = [_size(length, outputs, engine.spec) for length in lengths]
        n_threads = effective_n_jobs(n_jobs) if n_jobs is not None else self.num_threads or default_workers()
        with ExitStack() as stack:
            workers = stack.enter_context(engine.hold(n_threads))
            packs = engine.plan(lengths, workers)
            batches = split_batches(packs, sizes, self.tokens_per_batch)
            pool = stack.enter_context(ThreadPoolExecutor(workers, "skesm"))
            helpers = None
            if len(packs) < workers:
                helpers = stack.enter_context(ThreadPoolExecutor(workers, "skesm-helper"))

            def submit(batch: list[list[int]]) -> list[Future[list[dict[OutputSpec, FloatArray]]]]:
                return [pool.submit(engine.forward, [tokens[i] for i in pack], outputs, helpers) for pack in batch]

            try:
                running = submit(batches[0])
                for batch, following in zip(batches, [*batches[1:], []], strict=True):
                    # The workers go on while the consumer stores this batch, unless its records are too large for two.
                    alone = sum(sizes[i] for pack in batch for i in pack) > self.tokens_per_batch
                    ahead = None if alone else submit(following)
                    records = [record for future in running for record in future.result()]
                    running = []
                    yield Batch([index for pack in batch for index in pack], records)
                    del records
                    running = submit(following) if ahead is None else ahead
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, checkpoint: Checkpoint) -> Engine:
        kind, device = self._resolve_engine()

        def load() -> Engine:
            if checkpoint.spec.name == DEMO_MODEL:
                # here, once a process, and not at every use: scikit-learn's searches show each repeat of a warning
                warnings.warn(
                    f"{DEMO_MODEL} is a small demo model for trying, tests and teaching. For research use a published "
                    "size, such as 'esm2_t6_8M_UR50D' or 'esm2_t33_650M_UR50D'.",
                    DemoModelWarning,
                    stacklevel=2,
                )
            parameters = read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files))
            if kind == "numpy":
                return NumpyEngine(checkpoint.spec, parameters)
            from skesm.esm2.torch_engine import TorchEngine

            return TorchEngine(checkpoint.spec, parameters, device=device, dtype=self.dtype)

        return _engines.get((kind, device, self.dtype, *_file_key(checkpoint)), load)

    def _resolve_engine(self) -> tuple[str, str]:
        """(engine, device) with "auto" decided."""
        needs_torch = self.dtype != "float32" or self.device not in ("auto", "cpu")
        if self.engine == "numpy":
            if needs_torch:
                raise ValueError(
                    f"engine='numpy' computes in float32 on the CPU: device={self.device!r}, dtype={self.dtype!r} need "
                    "engine='torch'"
                )
            return "numpy", "cpu"
        if self.engine == "auto" and not needs_torch and (self.device == "cpu" or not _may_have_gpu()):
            return "numpy", "cpu"
        from skesm.esm2.torch_engine import resolve_device

        device = resolve_device(self.device)
        if self.engine == "auto" and not needs_torch and device == "cpu":
            return "numpy", "cpu"
        return "torch", device


def _size(length: int, outputs: Sequence[OutputSpec], spec: ModelSpec) -> int:
    """Tokens of a sequence, or more if its records are large: what counts between two saves."""
    values = sum(output.size(length - 2, spec) for output in outputs)
    return max(length, values // _VALUES_PER_TOKEN)


def _may_have_gpu() -> bool:
    """Whether it is worth a torch import, which takes seconds, to look for a GPU."""
    if find_module("torch") is None:
        return False
    return sys.platform == "darwin" or sys.platform == "win32" or os.path.exists("/dev/nvidiactl")


def _file_key(checkpoint: Checkpoint) -> tuple[Hashable, ...]:
    """Changes when a checkpoint's files are replaced."""
    # The modification time alone can be that of the old file: `cp -p`, rsync and archives set it.
    stats = [(os.fspath(path), path.stat()) for path in checkpoint.files]
    return (checkpoint.spec, *((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats))


def _fingerprint(checkpoint: Checkpoint) -> str:
    anonymous = replace(checkpoint.spec, name="", repository=None)
    content = f"{anonymous} {WeightsFiles(checkpoint.files).digest()}"
    return hashlib.sha256(content.encode()).hexdigest()[:32]


class _Kept(Generic[T]):
    """The most recently used values by key, made once even if several threads ask at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
            return self._values[key]


_engines: _Kept[Engine] = _Kept(2)
_fingerprints: _Kept[str] = _Kept(64)
