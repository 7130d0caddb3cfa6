"""The base classes of the estimators: shared parameters, validation, tags."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skesm._progress import AUTO
from skesm._typing import Column, Constraints, Memory, ModelName
from skesm.backends.base import Backend, Model
from skesm.backends.costs import RunInfo, TransformPlan, add_plans
from skesm.backends.resolve import BACKENDS, resolve_backend
from skesm.cache import note_memory, resolve_location, warn_if_elsewhere
from skesm.esm2.spec import ModelSpec
from skesm.features.common.links import LinkedEstimator
from skesm.features.common.parameters import as_tuple, complete_docstring
from skesm.features.common.transformer import SequenceTransformer
from skesm.features.recipe import Recipe
from skesm.fetch.records import estimate
from skesm.fetch.run import Run, last_runs
from skesm.fetch.windows import count_long
from skesm.outputs.spec import OutputSpec, parse_outputs
from skesm.outputs.types import Windows
from skesm.sequences.clean import LONG_SEQUENCES, clean_sequences


class _ESM2Estimator(LinkedEstimator, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn is untyped
    """An estimator of sequences: its parameters, their validation, and its last costs."""

    _long_sequences: ClassVar[tuple[str, ...]] = LONG_SEQUENCES
    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        "model": [str, HasMethods("__fspath__")],
        "backend": [StrOptions(set(BACKENDS)), Backend],
        "memory": [None, str, HasMethods("__fspath__"), HasMethods("cache")],
        "long_sequences": [StrOptions(set(_long_sequences))],
        "window_overlap": [Interval(Integral, 0, None, closed="left"), None],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "unknown_residues": [StrOptions({"error", "X"})],
        "prefetch": [str, "array-like"],
        "on_error": [StrOptions({"raise", "nan"})],
        "n_jobs": [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
        "verbose": ["verbose", StrOptions({AUTO})],
    }

    def __init__(
        self,
        model: ModelName = "esm2_t6_8M_UR50D",
        *,
        backend: str | Backend = "local",
        memory: Memory = None,
        long_sequences: str = "error",
        max_length: int | None = 1022,
        window_overlap: int | None = None,
        unknown_residues: str = "error",
        prefetch: str | Sequence[str] = (),
        on_error: str = "raise",
        n_jobs: int | None = None,
        verbose: bool | int | str = "auto",
    ) -> None:
        self.model = model
        self.backend = backend
        self.memory = memory
        self.long_sequences = long_sequences
        self.max_length = max_length
        self.window_overlap = window_overlap
        self.unknown_residues = unknown_residues
        self.prefetch = prefetch
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.verbose = verbose

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        complete_docstring(cls)

    def cache_info(self) -> RunInfo | None:
        """Return the costs of the last ``transform`` or ``predict`` of this object.

        Returns
        -------
        info : RunInfo or None
            Numbers of rows, of distinct sequences, of sequences from the record store, and of computed sequences. None
            before the first call.
        """
        return last_runs.get(self)

    def _prepare(self) -> tuple[Model, ModelSpec]:
        """Validate every parameter. ``transform`` does so too, because ``fit`` may never be called."""
        self._validate_params()
        backend = resolve_backend(self.backend)
        backend._validate_params()
        model = backend.model(self.model if isinstance(self.model, str) else str(self.model.__fspath__()))
        spec = model.spec
        self._windows()
        self._prefetched(spec)
        self._check(spec)
        warn_if_elsewhere(self)
        return model, spec

    def __getstate__(self) -> dict[str, object]:
        return note_memory(super().__getstate__())

    def _clean(self, X: Column) -> list[str]:
        return clean_sequences(
            X,
            long_sequences=self.long_sequences,
            max_length=self.max_length,
            unknown_residues=self.unknown_residues,
            choices=self._long_sequences,
        )

    def _windows(self) -> Windows | None:
        """The windows of long sequences. None if they are not cut."""
        if self.long_sequences != "window":
            return None
        if self.max_length is None:
            raise ValueError("long_sequences='window' needs a max_length: the number of residues in a window")
        overlap = self.max_length // 4 if self.window_overlap is None else self.window_overlap
        if overlap >= self.max_length:
            raise ValueError(f"window_overlap={overlap} must be less than max_length={self.max_length}")
        return Windows(int(self.max_length), int(overlap))

    def _check(self, spec: ModelSpec) -> None:
        """Validate parameters that depend on the model's dimensions."""

    def _prefetched(self, spec: ModelSpec) -> tuple[OutputSpec, ...]:
        return parse_outputs(as_tuple(self.prefetch), spec.n_layers)


class _ESM2Transformer(SequenceTransformer, _ESM2Estimator):
    """A transformer of sequences. A child names its columns in `_recipe`, and says how to make them."""

    @abstractmethod
    def _recipe(self, spec: ModelSpec) -> Recipe:
        """Columns, outputs and rows, from the parameters and the model's dimensions alone."""

    def _complete(self, recipe: Recipe, spec: ModelSpec, sequences: Sequence[str]) -> Recipe:
        """Complete the recipe for clean sequences. A child that needs a reference checks and adds it here."""
        return recipe

    def _check(self, spec: ModelSpec) -> None:
        self._recipe(spec)

    def _fit(self, X: Column) -> None:
        self._prepare()
        self._learn(self._clean(X))

    def _names(self) -> Sequence[str]:
        _, spec = self._prepare()
        return self._recipe(spec).columns

    def plan(self, X: Column) -> TransformPlan:
        """Estimate the cost of ``transform(X)`` without computing anything or sending a sequence.

        Parameters
        ----------
        X : list, tuple, array, Series, or one-column DataFrame of str
            n sequences.

        Returns
        -------
        plan : TransformPlan
            Numbers of rows, of distinct sequences, of sequences in the record store, and of sequences that would go
            through the model. For a remote backend also the requests.

        Raises
        ------
        InvalidSequenceError
            If X is not a column of sequences.
        """
        model, spec = self._prepare()
        check_is_fitted(self)
        sequences, windows = self._clean(X), self._windows()
        recipe = self._complete(self._recipe(spec), spec, sequences)
        stored = resolve_location(self.memory) is not None
        plans = [
            estimate(request, model=model, memory=self.memory, windows=windows)
            for request in recipe.requests(sequences, self._prefetched(spec), stored=stored)
        ]
        return add_plans(len(sequences), plans, windowed=count_long(sequences, windows))

    def _transform(
        self,
        X: Column,
        *,
        learn: bool = False,
        dtype: type[np.floating] = np.float32,
        one_column: bool = False,
    ) -> np.ndarray:
        model, spec = self._prepare()
        if not learn:
            check_is_fitted(self)
        sequences = self._clean(X)
        if learn:
            self._learn(sequences)
        recipe = self._complete(self._recipe(spec), spec, sequences)
        run = Run(self, model, self._windows())
        features = recipe.make_rows(run, sequences, self._prefetched(spec), dtype)
        if one_column:
            features = features[:, 0]
        run.finish(features, sequences)
        return features


class _WholeSequenceTransformer(_ESM2Transformer):
    """A transformer of values of pairs of residues. It cuts no sequence into windows: they do not hold every pair."""

    _long_sequences: ClassVar[tuple[str, ...]] = ("error", "truncate")
    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **{name: kinds for name, kinds in _ESM2Transformer._parameter_constraints.items() if name != "window_overlap"},
        "long_sequences": [StrOptions(set(_long_sequences))],
    }
