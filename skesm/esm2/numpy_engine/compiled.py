"""The NumPy engine compiled for this processor: the extra ``fast``.

On x86 processors all of a pass is compiled, products too. A number of a product is one chain of sums there, so
features depend neither on BLAS nor on the rows of a pack, and are the same with AVX2 and AVX-512. Elsewhere products
remain NumPy's. Attention is one pass for each head of a sequence, from the products of queries, keys and values to
what each token takes, in which no score is written to memory. Features agree with those of `NumpyEngine` within 1e-5 of
the layer's scale, not to the last bit. They are as independent of company, threads and place in a pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import cached_property, partial

import numpy as np

from skesm.esm2.kernels.kernels import Kernels
from skesm.esm2.kernels.products import ROWS
from skesm.esm2.kernels.shape import ACROSS
from skesm.esm2.numpy_engine.alignment import ALIGNMENTS, Alignment
from skesm.esm2.numpy_engine.engine import SPLIT_WIDTH, NumpyEngine, do
from skesm.esm2.packing import round_up
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

    @cached_property
    def alignment(self) -> Alignment | None:
        """The layout of packs. Compiled products treat all rows alike; for those of BLAS there is a trial."""
        return Alignment(1, ROWS, turned=True) if self._kernels.shape.product_lanes else super().alignment

    def _rotary(self, frequencies: FloatArray, spans: Sequence[slice], rows: int) -> tuple[FloatArray, FloatArray]:
        """The frequencies themselves, and tables for the positions of the longest sequence."""
        return frequencies, self._kernels.rotary_table(frequencies, max(own.stop - own.start for own in spans))

    def _norm(self, x: FloatArray, affine: Affine, out: FloatArray) -> FloatArray:
        self._kernels.norm(x, affine, out)
        return out

    def _blocks_of(self, name: str, rows: int, channels: int, block: int) -> FloatArray:
        """Scratch memory, (blocks, rows, block)."""
        return self._workspace.get(name, channels // block, rows, block)

    def _products(
        self,
        x: FloatArray,
        weight: FloatArray,
        out: FloatArray,
        helpers: Executor | None,
        finish: Callable[[int], object] = lambda block: None,
    ) -> Iterator[Callable[[], object]]:
        """Tasks that compute x Wᵀ, x and out (blocks, rows, block), and then `finish` each block of out."""
        block = out.shape[2]

        def compute(i: int) -> None:
            part = weight[i * block : (i + 1) * block]
            if self._kernels.shape.product_lanes:
                self._kernels.product(x, part, out[i], self._workspace)
            else:
                self._product(x[0], part, out[i], helpers)
            finish(i)

        return (partial(compute, i) for i in range(len(out)))

    def _do(self, tasks: Iterator[Callable[[], object]], helpers: Executor | None) -> None:
        """Products, on helping threads where a block is worth one."""
        compiled = self._kernels.shape.product_lanes > 0  # those of BLAS are shared out by themselves
        do(tasks, helpers if compiled and self.spec.width >= SPLIT_WIDTH else None)

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
        size = self._kernels.shape.block
        h = self._norm(x, block.attention_norm, self._blocks_of("h", rows, d, size))
        products = self._blocks_of("qkv", rows, 3 * d, size)
        layers = (block.query, block.key, block.value)
        parts = products.reshape(3, -1, rows, size)
        tasks = (self._products(h, affine.weight, part, helpers) for affine, part in zip(layers, parts, strict=True))
        self._do((task for of_layer in tasks for task in of_layer), helpers)
        frequencies, table = rotary
        bias = np.concatenate([affine.bias for affine in layers])

        def attend(heads: slice) -> None:  # each thread has scratch memory of its own
            self._kernels.attend(products, bias, table, spans, heads, mixed, self._workspace)

        mixed = self._blocks_of("wide", rows, d, size)
        for own, following in zip(spans, [*(after.start for after in spans[1:]), rows], strict=True):
            mixed[:, own.stop : following] = 0
        do((partial(attend, heads) for heads in _shares(self.spec.n_heads, helpers)), helpers)
        if read is not None:  # seldom: NumPy's way has the weights
            self._kernels.read_weights(products, bias, frequencies, spans, read)
        self._do(self._products(mixed, block.attention_output.weight, h, helpers), helpers)
        self._kernels.add(x, h, block.attention_output.bias)

    def _feed_forward(self, block: Block, x: FloatArray, helpers: Executor | None) -> None:
        rows, d = x.shape
        shape = self._kernels.shape
        h = self._norm(x, block.ffn_norm, self._blocks_of("h", rows, d, shape.block))
        f = self._blocks_of("wide", rows, self.spec.ffn_width, shape.ffn_block)

        def gelu(i: int) -> None:
            self._kernels.gelu(f[i], block.ffn_in.bias[i * shape.ffn_block : (i + 1) * shape.ffn_block])

        self._do(self._products(h, block.ffn_in.weight, f, helpers, gelu), helpers)
        self._do(self._products(f, block.ffn_out.weight, h, helpers), helpers)
        self._kernels.add(x, h, block.ffn_out.bias)

    def _logits(self, x: FloatArray) -> FloatArray:
        if not self._kernels.shape.product_lanes:
            return super()._logits(x)
        head = self._parameters.head
        assert head is not None, "the backend refuses logits of models without a head"
        rows, d = x.shape
        size = self._kernels.shape.block
        given = np.ascontiguousarray(x.reshape(rows, -1, size).swapaxes(0, 1))
        h, normed = (self._blocks_of(name, rows, d, size) for name in ("qkv", "wide"))

        def gelu(i: int) -> None:
            self._kernels.gelu(h[i], head.dense.bias[i * size : (i + 1) * size])

        self._do(self._products(given, head.dense.weight, h, None, gelu), None)
        self._kernels.norm(h, head.norm, normed)
        logits = np.empty((rows, len(self._decoder)), dtype=np.float32)
        self._kernels.product(normed, self._decoder, logits, self._workspace)
        return logits[:, : len(head.decoder.bias)] + head.decoder.bias

    @cached_property
    def _decoder(self) -> FloatArray:
        """The decoder's weight and rows of zeros: whole vectors."""
        head = self._parameters.head
        assert head is not None, "see _logits"
        weight = head.decoder.weight
        rows = round_up(len(weight), ACROSS * self._kernels.shape.product_lanes)
        return np.concatenate([weight, np.zeros((rows - len(weight), self.spec.width), dtype=np.float32)])


def _shares(n: int, helpers: Executor | None) -> list[slice]:
    """0 … n - 1 in parts for threads that help, or as a whole."""
    step = n if helpers is None else -(-n // _SHARES)
    return [slice(begin, min(begin + step, n)) for begin in range(0, n, step)]
