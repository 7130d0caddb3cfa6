"""The NumPy engine with its element-wise work compiled for this processor: the extra ``fast``.

Products remain NumPy's. Attention is one pass for each head of a sequence, from the products of queries, keys and
values to what each token takes, in which no score is written to memory. Features agree with those of `NumpyEngine`
within 1e-5 of the layer's scale, not to the last bit; among themselves they are as independent of company, threads and
place in a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

import numpy as np

from skesm.esm2.kernels.kernels import Kernels
from skesm.esm2.numpy_engine.alignment import ALIGNMENTS, Alignment
from skesm.esm2.numpy_engine.engine import NumpyEngine, do
from skesm.esm2.plain_attention import Read
from skesm.esm2.spec import ModelSpec
from skesm.esm2.weights.parameters import Affine, Block, Parameters
from skesm.outputs.types import FloatArray

#: Parts of a pack's work where helping threads share it.
_SHARES = 8


class CompiledEngine(NumpyEngine):
    """Forward passes in float32 on the CPU, see `NumpyEngine`.

    Parameters
    ----------
    spec : ModelSpec
    parameters : Parameters

    Raises
    ------
    ImportError
        If llvmlite is not installed.
    RuntimeError
        If LLVM does not know this processor.
    """

    # the attention reads tokens as rows
    alignments: Sequence[Alignment] = tuple(alignment for alignment in ALIGNMENTS if alignment.turned)

    def __init__(self, spec: ModelSpec, parameters: Parameters) -> None:
        super().__init__(spec, parameters)
        self._kernels = Kernels(spec)

    def _rotary(self, frequencies: FloatArray, spans: Sequence[slice], rows: int) -> tuple[FloatArray, FloatArray]:
        """The frequencies themselves, and tables for the positions of the longest sequence."""
        return frequencies, self._kernels.rotary_table(frequencies, max(own.stop - own.start for own in spans))

    def _norm(self, x: FloatArray, affine: Affine, out: FloatArray) -> FloatArray:
        self._kernels.norm(x, affine, out)
        return out

    def _head_gelu(self, h: FloatArray, bias: FloatArray) -> None:
        self._kernels.gelu(h, bias)

    def _attention(
        self,
        block: Block,
        x: FloatArray,
        spans: Sequence[slice],
        rotary: tuple[FloatArray, FloatArray],
        read: Read | None,
        helpers: Executor | None,
    ) -> None:
        rows, d = x.shape
        work = self._workspace
        h = self._norm(x, block.attention_norm, work.get("h", rows, d))
        products = work.get("qkv", rows, 3 * d)
        layers = (block.query, block.key, block.value)
        for i, affine in enumerate(layers):
            self._product(h, affine.weight, products[:, i * d : (i + 1) * d], helpers)
        frequencies, table = rotary
        bias = np.concatenate([affine.bias for affine in layers])

        def attend(heads: slice) -> None:  # each thread has scratch memory of its own
            self._kernels.attend(products, bias, table, spans, heads, mixed, self._workspace)

        mixed = work.get("wide", rows, d)
        for own, following in zip(spans, [*(after.start for after in spans[1:]), rows], strict=True):
            mixed[own.stop : following] = 0
        do((partial(attend, heads) for heads in _shares(self.spec.n_heads, helpers)), helpers)
        if read is not None:  # seldom: NumPy's way has the weights
            self._kernels.read_weights(products, bias, frequencies, spans, read)
        self._product(mixed, block.attention_output.weight, h, helpers)
        self._kernels.add(x, h, block.attention_output.bias)

    def _feed_forward(self, block: Block, x: FloatArray, helpers: Executor | None) -> None:
        rows, d = x.shape
        h = self._norm(x, block.ffn_norm, self._workspace.get("h", rows, d))
        f = self._workspace.get("wide", rows, self.spec.ffn_width)
        self._product(h, block.ffn_in.weight, f, helpers)
        do((partial(self._kernels.gelu, f[part], block.ffn_in.bias) for part in _shares(rows, helpers)), helpers)
        self._product(f, block.ffn_out.weight, h, helpers)
        self._kernels.add(x, h, block.ffn_out.bias)


def _shares(n: int, helpers: Executor | None) -> list[slice]:
    """0 … n - 1 in parts for threads that help, or as a whole."""
    step = n if helpers is None else -(-n // _SHARES)
    return [slice(begin, min(begin + step, n)) for begin in range(0, n, step)]
