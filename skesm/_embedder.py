"""`ESM2Embedder`: sequences to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skesm._base import _ESM2Transformer, as_tuple
from skesm._outputs import POOLINGS, FloatArray, OutputSpec, Record, resolve_layer
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec


class ESM2Embedder(_ESM2Transformer):
    """Protein sequences to fixed-length vectors: ESM-2 representations, pooled over residues.

    Parameters
    ----------
    model : str or path-like, default="esm2_t6_8M_UR50D"
        A published size (``skesm models`` lists them), a folder with a checkpoint in transformers' format, a Hub
        repository ``"organisation/name"`` (``@revision`` may follow), or ``"skesm-mini"``, the small demo model that is
        bundled for trying, tests and teaching, and not for research.
    layers : int or sequence of int, default=-1
        Layers whose representations are used: 0 is the embedding, n (or -1) the last, after the final LayerNorm. The
        columns of several are laid side by side.
    pooling : {"mean", "max", "cls", "eos"} or sequence of these, default="mean"
        How L residue vectors become one: their mean or maximum, or the vector of the start or end token. Start and end
        are part of no mean or maximum.
    backend : {"local", "numpy", "torch"} or Backend, default="local"
        Where the model runs; see `skesm.backends.LocalBackend`.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store. With it, no sequence goes through the model twice: not in other folds, other
        grids, other processes or tomorrow. None keeps nothing.
    long_sequences : {"error", "truncate"}, default="error"
        What happens to sequences of more than `max_length` residues; ``"truncate"`` uses their first ones, and warns.
    max_length : int or None, default=1022
        The longest sequences that ESM-2 was trained on. None sets no limit.
    unknown_residues : {"error", "X"}, default="error"
        ``"X"`` reads letters that ESM-2 does not know (``J``) as any residue.
    prefetch : str or sequence of str, default=()
        Further outputs to store from the same forward passes, for other settings to find: ``"mean@*"`` (every layer),
        ``"max@6"``, ``"logits"``, ``"logit_means"`` … Changes no value.
    on_error : {"raise", "nan"}, default="raise"
        What happens if a backend fails on some rows. All others are finished and stored first. Then ``"raise"`` raises
        a `PartialResultError`, which carries what was finished; ``"nan"`` gives rows of NaN, and warns.
    n_jobs : int or None, default=None
        CPU threads that compute; -1 is all cores. None leaves it to the backend. Changes no value.
    verbose : bool, default=False
        Show a progress bar on stderr.

    See Also
    --------
    ESM2LogitSummarizer : Statistics of the model's predictions.

    Notes
    -----
    Stateless: ``fit`` learns nothing and need not be called. The weights live in the process, not in the object, so
    that clones are cheap and pickles small.

    The features of a sequence do not depend on the other rows, their order, `n_jobs` or the batch size: on the NumPy
    engine to the last bit, elsewhere within 1e-5.

    References
    ----------
    Lin et al., "Evolutionary-scale prediction of atomic-level protein structure with a language model", Science 379,
    1123-1130 (2023).

    Examples
    --------
    >>> from skesm import ESM2Embedder
    >>> embedder = ESM2Embedder("skesm-mini", pooling=("mean", "max"))
    >>> embedder.fit_transform(["MKTAYIAKQR", "GSHMSLFDFF"]).shape
    (2, 384)
    >>> embedder.get_feature_names_out()[[0, -1]].tolist()
    ['mean_l6_0', 'max_l6_191']
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Transformer._parameter_constraints,
        "layers": [Integral, "array-like"],
        "pooling": [StrOptions(set(POOLINGS)), "array-like"],
    }

    def __init__(
        self,
        model: Any = "esm2_t6_8M_UR50D",
        *,
        layers: int | Sequence[int] = -1,
        pooling: str | Sequence[str] = "mean",
        backend: str | Backend = "local",
        memory: Any = None,
        long_sequences: str = "error",
        max_length: int | None = 1022,
        unknown_residues: str = "error",
        prefetch: str | Sequence[str] = (),
        on_error: str = "raise",
        n_jobs: int | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.model = model
        self.layers = layers
        self.pooling = pooling
        self.backend = backend
        self.memory = memory
        self.long_sequences = long_sequences
        self.max_length = max_length
        self.unknown_residues = unknown_residues
        self.prefetch = prefetch
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _outputs(self, spec: ModelSpec) -> list[OutputSpec]:
        """Layers in the order given, for each the poolings in the order given."""
        layers, poolings = as_tuple(self.layers), as_tuple(self.pooling)
        if not layers or not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in layers):
            raise ValueError(f"layers must be one or several whole numbers, got {self.layers!r}")
        if not poolings or not all(isinstance(pooling, str) and pooling in POOLINGS for pooling in poolings):
            raise ValueError(f"pooling must be one or several of {', '.join(POOLINGS)}, got {self.pooling!r}")
        outputs = [
            OutputSpec(pooling, resolve_layer(int(layer), spec.n_layers)) for layer in layers for pooling in poolings
        ]
        if len(set(outputs)) < len(outputs):
            raise ValueError(f"layers={self.layers!r}, pooling={self.pooling!r} name the same columns twice")
        return outputs

    def _row(self, record: Record, spec: ModelSpec) -> FloatArray:
        return np.concatenate([record[output] for output in self._outputs(spec)])

    def _column_names(self, spec: ModelSpec) -> list[str]:
        return [f"{output.kind}_l{output.layer}_{i}" for output in self._outputs(spec) for i in range(spec.width)]
