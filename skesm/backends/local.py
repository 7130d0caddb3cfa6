"""The model on this machine."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from importlib.util import find_spec as find_module
from numbers import Integral
from typing import ClassVar, Generic, NamedTuple, TypeVar

from sklearn.utils._param_validation import Interval, StrOptions

from skesm._messages import warn
from skesm._optional import import_optional, install_line
from skesm._typing import Constraints
from skesm.backends.base import Backend, Batch
from skesm.backends.local_run import Engine, compute, refuse
from skesm.esm2 import kernels
from skesm.esm2.checkpoints.checkpoint import Checkpoint, find_spec, locate, open_weights
from skesm.esm2.machine.processor import has_bfloat16
from skesm.esm2.numpy_engine import NumpyEngine
from skesm.esm2.spec import DEMO_MODEL, ModelSpec
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import Parameters, read_parameters
from skesm.exceptions import (
    BackendError,
    DemoModelWarning,
    MissingDependencyError,
    SlowNumericsWarning,
    UntrainedHeadWarning,
)
from skesm.outputs.kinds import CONTACT_HEAD, KINDS, LANGUAGE_MODEL_HEAD
from skesm.outputs.spec import Namespace, OutputSpec

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: The engines that parameters and commands name.
ENGINES = ("auto", "numpy", "compiled", "torch")
#: Numerics of the records, by the type of the matrix products.
NUMERICS = {"float32": "fp32", "bfloat16": "bf16"}


class _Loaded(NamedTuple):
    """An engine, the files that it may still read from, and its heads that were never trained."""

    engine: Engine
    weights: WeightsFiles
    untrained_heads: set[str]  # until a warning has named them


class LocalBackend(Backend):
    """ESM-2 on this machine.

    Parameters
    ----------
    engine : {"auto", "numpy", "compiled", "torch"}, default="auto"
        ``"numpy"`` needs nothing beyond the core install. ``"compiled"`` (``pip install llvmlite``, the extra ``fast``)
        is compiled for this processor at first use. It is faster, and differs in the last digits. ``"torch"``
        (``pip install torch``) gives GPUs and bfloat16. ``"auto"`` is torch if `device` or `dtype` ask for it, or if it
        is installed and finds a GPU. Otherwise it is compiled if llvmlite is installed and new enough, or else NumPy.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. ``"auto"`` is a GPU if there is one.
    dtype : {"float32", "bfloat16"}, default="float32"
        Type of the matrix products. Features are float32 in either case.
    tokens_per_batch : int, default=8192
        Tokens computed between two saves to the record store. Changes no value.
    num_threads : int or None, default=None
        CPU threads. None means as many as BLAS would use: all cores, or fewer under joblib's workers. An estimator's
        ``n_jobs`` goes before it. Changes no value.

    Notes
    -----
    Loaded models are kept for the process, not by the backend: two at most, the least recently used is dropped.

    Values are centred before bfloat16 rounds them. Centring is exact, so that large constants in the weights do not
    drown the differences between variants. Against float32, as cosines after subtracting each side's mean over the
    library: 0.9991 on average and 0.9957 at least in the last layer of trained weights of the 8M shape, 0.9988 and
    0.9935 in the fourth. See "What low precision does to variants" in the page on performance.

    Examples
    --------
    >>> from skesm import ESM2Embedder
    >>> from skesm.backends import LocalBackend
    >>> embedder = ESM2Embedder("skesm-mini", backend=LocalBackend(num_threads=2))
    >>> embedder.transform(["MKTAYIAK"]).shape
    (1, 192)
    """

    _parameter_constraints: ClassVar[Constraints] = {
        "engine": [StrOptions(set(ENGINES))],
        "device": [str],
        "dtype": [StrOptions(set(NUMERICS))],
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
        return NUMERICS[self.dtype]

    def spec(self, model: str | os.PathLike[str]) -> ModelSpec:
        """Shape of `model`. It reads at most its ``config.json``."""
        return find_spec(model)

    def namespace(self, model: str | os.PathLike[str]) -> Namespace:
        """Digest of the weights, and of everything else in the checkpoint that changes values."""
        checkpoint = locate(model)
        fingerprint = _fingerprints.get(_file_key(checkpoint), lambda: _fingerprint(checkpoint))
        return Namespace(os.fspath(model), fingerprint, self.numerics)

    def has_contact_head(self, model: str | os.PathLike[str]) -> bool:
        """Whether `model` answers ``contacts``. It loads the model, as `run` does.

        Examples
        --------
        >>> LocalBackend().has_contact_head("skesm-mini")
        False
        """
        self._validate_params()
        return self._load(locate(model)).engine.has_contact_head

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
        engine, weights, untrained_heads = self._load(locate(model))
        refuse(engine, outputs)
        _warn_of_untrained(untrained_heads, engine.spec.name, outputs)
        yield from compute(
            engine,
            sequences,
            outputs,
            n_jobs=n_jobs,
            n_threads=self.num_threads,
            tokens_per_batch=self.tokens_per_batch,
            check=weights.check_unchanged,
        )

    def _load(self, checkpoint: Checkpoint) -> _Loaded:
        kind, device = self._resolve_engine()

        def load() -> _Loaded:
            if checkpoint.spec.name == DEMO_MODEL:
                # here, once a process, and not at every use: scikit-learn's searches show each repeat of a warning
                warn(
                    f"{DEMO_MODEL} is a small demo model for trials, tests and teaching. For research use a published "
                    "size, such as 'esm2_t6_8M_UR50D' or 'esm2_t33_650M_UR50D'.",
                    DemoModelWarning,
                )
            weights = open_weights(checkpoint)
            parameters = read_parameters(checkpoint.spec, weights)
            engine = self._make_engine(checkpoint.spec, parameters, kind, device)
            return _Loaded(engine, weights, set(parameters.untrained_heads))

        return _engines.get((kind, device, self.dtype, *_file_key(checkpoint)), load)

    def _make_engine(self, spec: ModelSpec, parameters: Parameters, kind: str, device: str) -> Engine:
        if kind == "numpy":
            return NumpyEngine(spec, parameters)
        if kind == "compiled":
            return self._make_compiled(spec, parameters)
        from skesm.esm2.torch_engine import TorchEngine

        if self.dtype == "bfloat16" and device == "cpu" and has_bfloat16() is False:
            warn(
                "this processor has no bfloat16 instructions: dtype='bfloat16' takes several times as long as "
                "dtype='float32' here. Use float32, or a GPU",
                SlowNumericsWarning,
            )
        return TorchEngine(spec, parameters, device=device, dtype=self.dtype)

    def _make_compiled(self, spec: ModelSpec, parameters: Parameters) -> Engine:
        """The compiled engine. If it cannot be compiled here and was not requested, the NumPy engine."""
        if self.engine == "compiled":
            import_optional("llvmlite", extra="fast")
            if kernels.is_outdated():
                raise MissingDependencyError(f"llvmlite is too old: {install_line('fast')}", name="llvmlite")
        try:
            from skesm.esm2.numpy_engine.compiled import CompiledEngine

            return CompiledEngine(spec, parameters)
        except kernels.FAILURES as error:
            message = f"llvmlite cannot compile for this processor: {error}"
            if self.engine == "compiled":
                raise BackendError(f"{message}. Use engine='numpy'") from error
            _log.warning("%s. The NumPy engine computes instead", message)
            return NumpyEngine(spec, parameters)

    def _resolve_engine(self) -> tuple[str, str]:
        """(engine, device) with "auto" decided."""
        needs_torch = self.dtype != "float32" or self.device not in ("auto", "cpu")
        if self.engine in ("numpy", "compiled"):
            if needs_torch:
                raise ValueError(
                    f"engine={self.engine!r} computes in float32 on the CPU: device={self.device!r}, "
                    f"dtype={self.dtype!r} need engine='torch'"
                )
            return self.engine, "cpu"
        without_torch = "compiled" if kernels.are_installed() else "numpy"
        if self.engine == "auto" and not needs_torch and (self.device == "cpu" or not _may_have_gpu()):
            return without_torch, "cpu"
        from skesm.esm2.machine.device import resolve_device

        device = resolve_device(self.device)
        if self.engine == "auto" and not needs_torch and device == "cpu":
            return without_torch, "cpu"
        return "torch", device


def _may_have_gpu() -> bool:
    """Whether it is worth a torch import, which takes seconds, to look for a GPU."""
    if find_module("torch") is None:
        return False
    return sys.platform == "darwin" or sys.platform == "win32" or os.path.exists("/dev/nvidiactl")


def _file_key(checkpoint: Checkpoint) -> tuple[Hashable, ...]:
    """Changes when a checkpoint's files are replaced."""
    # The modification time alone can be that of the old file: `cp -p`, rsync and archives set it.
    index = () if checkpoint.index is None else (checkpoint.index,)
    stats = [(os.fspath(path), path.stat()) for path in (*checkpoint.files, *index)]
    return (checkpoint.spec, *((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats))


def _fingerprint(checkpoint: Checkpoint) -> str:
    """Digest of all that a checkpoint's numbers depend on. It refuses one that cannot be computed.

    The text that is hashed is that of the first version, word for word, and ends in the rotary frequencies only where
    that version used others: records that it stored stay readable, but not those that it computed with wrong angles.
    """
    spec, weights = checkpoint.spec, open_weights(checkpoint)
    rotary = read_parameters(spec, weights).rotary_mark
    content = (
        f"ModelSpec(name='', n_layers={spec.n_layers}, width={spec.width}, n_heads={spec.n_heads}, "
        f"ffn_width={spec.ffn_width}, token_dropout={spec.token_dropout}, layer_norm_eps={spec.layer_norm_eps}, "
        f"repository=None) {weights.digest()}{rotary}"
    )
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _warn_of_untrained(heads: set[str], model: str, outputs: Sequence[OutputSpec]) -> None:
    needed = {KINDS[output.kind].head for output in outputs}
    for values, head in (("logits", LANGUAGE_MODEL_HEAD), ("contacts", CONTACT_HEAD)):
        if values in heads and head in needed:
            warn(
                f"{model}: the head that gives {values} looks newly initialised: it was probably never trained, and "
                "its values mean nothing. A fine-tuned classifier has no such head of its own. Use the model that it "
                "came from",
                UntrainedHeadWarning,
            )
            heads.discard(values)  # once for a loaded model: scikit-learn's searches show each repeat of a warning


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


_engines: _Kept[_Loaded] = _Kept(2)
_fingerprints: _Kept[str] = _Kept(64)
