"""Inverse frequencies of the rotary position embedding, as a checkpoint states them.

Those of the published models were rounded to float16 before training, and saved models keep them: they are read, and
computed only for a checkpoint that has none. transformers before 5 saves them for each layer. Later versions save them
once, under a name with a star in the place of the layer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping

import numpy as np

from skesm.esm2.spec import DEFAULT_ROPE_THETA, ModelSpec
from skesm.exceptions import CheckpointError
from skesm.outputs.types import FloatArray

#: How the names of all tensors of frequencies end.
SUFFIX = "inv_freq"

_NAME = re.compile(
    r"(?P<esm>esm\.)?(encoder\.layer\.(?P<layer>\*|0|[1-9][0-9]*)\.attention\.self\.)?rotary_embeddings\.inv_freq"
)


def read_frequencies(
    spec: ModelSpec,
    weights: Mapping[str, FloatArray],
    prefix: str,
    tensor: Callable[..., FloatArray],
) -> FloatArray:
    """Frequencies of each layer.

    Parameters
    ----------
    spec : ModelSpec
    weights : mapping of str to ndarray
        Asked for its names only.
    prefix : {"esm.", ""}
        How the names of the checkpoint's tensors begin.
    tensor : callable
        Reads a tensor by its name and the shape that it must have.

    Returns
    -------
    inverse_frequencies : ndarray of shape (n_layers, d / heads / 2)

    Raises
    ------
    CheckpointError
        If a name that ends in ``inv_freq`` is not known, a layer has no frequencies but others have, or two tensors
        contradict each other.
    """
    n = spec.width // spec.n_heads // 2
    of_layer: dict[int, tuple[str, FloatArray]] = {}
    for name in sorted(name for name in weights if name.endswith(SUFFIX)):
        for layer in _layers(spec, name, prefix):
            values = tensor(name, n)
            if not np.isfinite(values).all():
                raise CheckpointError(f"{spec.name}: tensor {name!r} holds values that are not finite")
            other, others = of_layer.setdefault(layer, (name, values))
            if not np.array_equal(values, others):
                raise CheckpointError(
                    f"{spec.name}: tensors {other!r} and {name!r} hold different rotary frequencies for layer {layer}"
                )
    if not of_layer:
        return np.tile(compute_frequencies(n, spec.rope_theta), (spec.n_layers, 1))
    missing = [i for i in range(spec.n_layers) if i not in of_layer]
    if missing:
        raise CheckpointError(
            f"{spec.name}: the checkpoint holds rotary frequencies ({SUFFIX}) for some layers, but none for layer "
            f"{missing[0]}"
        )
    return np.stack([of_layer[i][1] for i in range(spec.n_layers)])


def _layers(spec: ModelSpec, name: str, prefix: str) -> range:
    """The layers that a tensor is for."""
    match = _NAME.fullmatch(name)
    if match is None or (match["esm"] or "") != prefix:
        raise CheckpointError(
            f"{spec.name}: the checkpoint holds tensor {name!r}. Names that end in {SUFFIX} hold rotary "
            "frequencies, but this name does not say for which layers"
        )
    if match["layer"] in (None, "*"):
        return range(spec.n_layers)
    layer = int(match["layer"])
    if layer >= spec.n_layers:
        raise CheckpointError(
            f"{spec.name}: the checkpoint holds tensor {name!r}, but the model has {spec.n_layers} layers"
        )
    return range(layer, layer + 1)


def compute_frequencies(n: int, theta: float) -> FloatArray:
    """Exact frequencies theta^(-i/n), i from 0, as float32.

    Examples
    --------
    >>> compute_frequencies(2, 10000.0)
    array([1.  , 0.01], dtype=float32)
    """
    exponents = np.arange(0, 2 * n, 2, dtype=np.float64) / (2 * n)
    frequencies: FloatArray = (1.0 / theta**exponents).astype(np.float32)
    return frequencies


def mark_of_frequencies(weights: Mapping[str, FloatArray], prefix: str, frequencies: FloatArray) -> str:
    """Name of the frequencies for a fingerprint. Empty where the first version of skesm used the same ones.

    That version read those of layer 0, or those for all layers under a name without a layer, and otherwise computed
    exact ones, whatever else the checkpoint held. Records that it stored keep their keys only where they are right.
    """
    n = frequencies.shape[1]
    used = compute_frequencies(n, DEFAULT_ROPE_THETA)
    for name in (
        f"{prefix}encoder.layer.0.attention.self.rotary_embeddings.inv_freq",
        f"{prefix}rotary_embeddings.inv_freq",
    ):
        if name in weights:
            used = weights[name]
            break
    if all(np.array_equal(row, used) for row in frequencies):
        return ""
    return f" rotary {hashlib.sha256(np.ascontiguousarray(frequencies, dtype='<f4').tobytes()).hexdigest()}"
