"""`RandomWeightsBackend`: a model that was never trained, to see how much training adds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from skesm._typing import Constraints, ModelName
from skesm.backends import Backend, Batch, ModelSpec, Namespace, OutputSpec, resolve_backend
from skesm.backends.local_run import compute, refuse
from skesm.esm2.numpy_engine import NumpyEngine
from skesm.esm2.spec import VOCABULARY_SIZE
from skesm.esm2.weights.parameters import Affine, Block, Head, Parameters

_SPREAD = 0.02  # standard deviation of the weights at the start of ESM-2's training, as transformers has it
_TOKENS_PER_BATCH = 8192


class RandomWeightsBackend(Backend):
    """A model's shape with random weights, on this machine.

    Its features depend on the sequence, its length and the model's way of mixing residues. They know nothing of
    proteins, because the model was never trained. A published model scores higher by as much as its training adds.
    Weights are drawn as before training: normal with a standard deviation of 0.02, biases 0, LayerNorms 1.

    Parameters
    ----------
    seed : int, default=0
        Seed of the weights.
    shape_of : {"local", "numpy", "torch", "biolm"} or Backend, default="local"
        The backend that knows the model's shape. It computes nothing here.

    Notes
    -----
    Weights are drawn in memory at first use, and written nowhere. Contacts are not computed: a contact head is fitted
    to a trained model.

    Examples
    --------
    >>> from skesm import ESM2Embedder
    >>> from skesm.benchmark import RandomWeightsBackend
    >>> embedder = ESM2Embedder("skesm-mini", backend=RandomWeightsBackend(seed=1))
    >>> embedder.transform(["MKTAYIAK"]).shape
    (1, 192)
    """

    numerics = "fp32"
    _parameter_constraints: ClassVar[Constraints] = {"seed": [int], "shape_of": [str, Backend]}

    def __init__(self, seed: int = 0, shape_of: str | Backend = "local") -> None:
        self.seed = seed
        self.shape_of = shape_of

    def spec(self, model: ModelName) -> ModelSpec:
        """Shape of `model`."""
        return resolve_backend(self.shape_of).spec(os.fspath(model))

    def namespace(self, model: str | os.PathLike[str]) -> Namespace:
        """Identity of the values: the seed and the shape. No weights of `model` are read."""
        spec = self.spec(model)
        shape = f"{spec.n_layers} {spec.width} {spec.n_heads} {spec.ffn_width} {spec.token_dropout}"
        content = f"random weights, version 1, seed {self.seed}, shape {shape}, {spec.layer_norm_eps} {spec.rope_theta}"
        digest = hashlib.sha256(content.encode()).hexdigest()[:32]
        return Namespace(f"{os.fspath(model)} (random weights)", digest, self.numerics)

    def run(
        self,
        model: str | os.PathLike[str],
        sequences: Sequence[str],
        outputs: Sequence[OutputSpec],
        *,
        n_jobs: int | None = None,
    ) -> Generator[Batch, None, None]:
        """Compute `outputs` for `sequences` on the NumPy engine."""
        if not sequences:
            return
        engine = _engine(self.spec(model), self.seed)
        refuse(engine, outputs)
        yield from compute(engine, sequences, outputs, n_jobs=n_jobs, tokens_per_batch=_TOKENS_PER_BATCH)


@lru_cache(maxsize=1)
def _engine(spec: ModelSpec, seed: int) -> NumpyEngine:
    return NumpyEngine(spec, _draw(spec, np.random.default_rng(seed)))


def _draw(spec: ModelSpec, generator: np.random.Generator) -> Parameters:
    d, f, half = spec.width, spec.ffn_width, spec.width // spec.n_heads // 2

    def weights(out: int, into: int) -> NDArray[np.float32]:
        return _SPREAD * generator.standard_normal((out, into), dtype=np.float32)

    def linear(out: int, into: int) -> Affine:
        return Affine(weights(out, into), np.zeros(out, dtype=np.float32))

    def norm() -> Affine:
        return Affine(np.ones(d, dtype=np.float32), np.zeros(d, dtype=np.float32))

    def block() -> Block:
        query, key, value, out = (linear(d, d) for _ in range(4))
        return Block(norm(), query, key, value, out, norm(), linear(f, d), linear(d, f))

    frequencies = spec.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    embedding = weights(VOCABULARY_SIZE, d)
    return Parameters(
        embedding=embedding,
        blocks=[block() for _ in range(spec.n_layers)],
        final_norm=norm(),
        head=Head(linear(d, d), norm(), Affine(embedding, np.zeros(VOCABULARY_SIZE, dtype=np.float32))),
        contacts=None,
        inverse_frequencies=np.tile(frequencies.astype(np.float32), (spec.n_layers, 1)),
    )
