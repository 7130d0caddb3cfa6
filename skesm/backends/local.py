"""The model on this machine."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import replace
from importlib.util import find_spec as find_module
from numbers import Integral
from typing import Any, ClassVar, Generic, TypeVar

from joblib import effective_n_jobs
from sklearn.utils._param_validation import Interval, StrOptions

from skesm._outputs import Namespace, OutputSpec
from skesm.backends.base import Backend, Batch
from skesm.backends.local_run import Engine, make_plan, refuse, run_ahead
from skesm.esm2.checkpoint import Checkpoint, find_spec, locate
from skesm.esm2.numpy_engine import NumpyEngine
from skesm.esm2.parameters import read_parameters
from skesm.esm2.spec import DEMO_MODEL, ModelSpec
from skesm.esm2.threads import default_workers
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.weights_file import WeightsFiles
from skesm.exceptions import DemoModelWarning

T = TypeVar("T")

_NUMERICS = {"float32": "fp32", "bfloat16": "bf16"}


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
        refuse(engine, outputs)
        n_threads = effective_n_jobs(n_jobs) if n_jobs is not None else self.num_threads or default_workers()
        tokens = [tokenize(sequence) for sequence in sequences]
        with engine.hold(n_threads) as workers:
            plan = make_plan(engine, [len(t) for t in tokens], outputs, workers, self.tokens_per_batch)
            yield from run_ahead(engine, plan, tokens, outputs, workers)

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
        from skesm.esm2.device import resolve_device

        device = resolve_device(self.device)
        if self.engine == "auto" and not needs_torch and device == "cpu":
            return "numpy", "cpu"
        return "torch", device


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
