"""The compiled functions of a model, for arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from skesm.esm2.kernels.attention import scratch_size, write_attention
from skesm.esm2.kernels.compilation import compile_text
from skesm.esm2.kernels.products import panel_size, write_product
from skesm.esm2.kernels.rows import write_add, write_gelu, write_norm
from skesm.esm2.kernels.shape import Shape, choose_shape
from skesm.esm2.plain_attention import Read, mix, rotary_tables
from skesm.esm2.spec import ModelSpec
from skesm.esm2.weights.parameters import Affine
from skesm.esm2.workspace import Workspace
from skesm.outputs.types import FloatArray

_POINTER, _INDEX = ctypes.c_void_p, ctypes.c_int64
_ARRAY = [_POINTER, _INDEX, _INDEX]  # and how far its rows and blocks are apart
_SIGNATURES: dict[str, list[Any]] = {
    "attend": [*_ARRAY, *[_POINTER] * 3, *[_INDEX] * 3, _POINTER, *_ARRAY],
    "gelu": [_POINTER] * 2 + [_INDEX],
    "head_gelu": [_POINTER] * 2 + [_INDEX],
    "norm": [*_ARRAY, _POINTER, _POINTER, *_ARRAY, _INDEX],
    "add": [_POINTER] * 3 + [_INDEX],
    "product": [_POINTER] * 4 + [_INDEX] * 5,
}


class Kernels:
    """The work of a forward pass, compiled for this processor. It lets go of Python's lock.

    All arrays are float32. Values of a row, or of a sequence, depend on it alone. Activations lie in
    blocks of channels, (blocks, rows, channels of a block), or as (rows, channels) where that is said.

    Parameters
    ----------
    spec : ModelSpec

    Attributes
    ----------
    shape : Shape
        The sizes of blocks.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self.shape = choose_shape(spec)
        self._code, self._functions = _compile(self.shape, spec.layer_norm_eps)

    def attend(
        self,
        products: FloatArray,
        bias: FloatArray,
        rotary: FloatArray,
        spans: Sequence[slice],
        heads: slice | None,
        out: FloatArray,
        work: Workspace,
    ) -> None:
        """Mix the values of each sequence, for each of its tokens.

        Parameters
        ----------
        products : ndarray of shape (blocks of 3 d, rows, block) or (rows, 3 d)
            Of the layer's input with the weights of queries, keys and values.
        bias : ndarray of shape (3 d,)
            Of the three.
        rotary : ndarray of shape (positions, 4, h/2)
            See `Kernels.rotary_table`.
        spans : sequence of slice
            Rows of each sequence.
        heads : slice or None
            None is all of them.
        out : ndarray of shape (blocks, rows, block) or (rows, d)
            Rows of no sequence are left as they are.
        work : Workspace
        """
        bounds = np.array([(own.start, own.stop) for own in spans], dtype=np.int64)
        scratch = work.get("attention", scratch_size(self.shape, int(np.ptp(bounds, axis=1).max())))
        first, last = (0, self._spec.n_heads) if heads is None else (heads.start, heads.stop)
        given = (*self._lie(products), _address(bias), _address(rotary), bounds.ctypes.data, len(bounds), first, last)
        self._functions["attend"](*given, _address(scratch), *self._lie(out))

    def read_weights(
        self, products: FloatArray, bias: FloatArray, frequencies: FloatArray, spans: Sequence[slice], read: Read
    ) -> None:
        """Hand over the weights of `attend`, which does not keep them. NumPy computes them, because few are wanted.

        `frequencies` are the rotary embedding's, (h/2,). The other arguments are those of `attend` and `mix`.
        """
        in_blocks = products.ndim == 3
        by_channel = products.swapaxes(1, 2).reshape(-1, products.shape[1]) if in_blocks else products.T
        rows = by_channel.shape[1]
        tables = rotary_tables(frequencies, spans, rows)
        whole = np.ascontiguousarray(by_channel).reshape(3, -1, rows)
        mix(whole, list(bias.reshape(3, -1)), tables, spans, Workspace(), read=read)

    @staticmethod
    def rotary_table(inverse_frequencies: FloatArray, positions: int) -> FloatArray:
        """Cosines and sines for queries, times the scale of scores, and for keys, (positions, 4, h/2)."""
        cos, sin = rotary_tables(inverse_frequencies, [slice(0, positions)], positions)
        parts = [table[i, 0].T for i in (0, 1) for table in (cos, sin)]
        return np.ascontiguousarray(np.stack(parts, axis=1))

    def product(self, x: FloatArray, weight: FloatArray, out: FloatArray, work: Workspace) -> None:
        """The product of x, (blocks, rows, block), with Wᵀ, W (outputs, channels of x), into out, (rows, outputs)."""
        n_blocks, rows, block = x.shape
        panel = work.get("panel", panel_size(self.shape))
        assert weight.strides[1] == out.strides[1] == out.itemsize, "the code reads memory as it lies"
        for i in range(n_blocks):
            self._functions["product"](
                _address(x[i]),
                weight[:, i * block :].ctypes.data,
                out.ctypes.data,
                _address(panel),
                rows,
                len(weight),
                weight.strides[0] // weight.itemsize,
                out.strides[0] // out.itemsize,
                i,
            )

    def gelu(self, x: FloatArray, bias: FloatArray) -> None:
        """GELU(x + bias) in place, x of shape (rows, channels of a block)."""
        name = "gelu" if x.shape[1] == self.shape.ffn_block else "head_gelu"
        self._functions[name](_address(x), _address(bias), len(x))

    def norm(self, x: FloatArray, affine: Affine, out: FloatArray) -> None:
        """LayerNorm of the rows of x into out, each (blocks, rows, block) or (rows, d)."""
        self._functions["norm"](
            *self._lie(x), _address(affine.weight), _address(affine.bias), *self._lie(out), x.shape[-2]
        )

    def add(self, x: FloatArray, h: FloatArray, bias: FloatArray) -> None:
        """Add h + bias, h (blocks, rows, block), to x in place, (rows, d)."""
        self._functions["add"](*(_address(array) for array in (x, h, bias)), len(x))

    def _lie(self, array: FloatArray) -> tuple[int, int, int]:
        """Where an array is, and how far its rows and blocks are apart."""
        if array.ndim == 3:
            return _address(array), array.shape[2], array.shape[1] * array.shape[2]
        return _address(array), array.shape[1], self.shape.block


@lru_cache(maxsize=16)  # models of one shape share the code, which takes longer to compile than a small model to load
def _compile(shape: Shape, epsilon: float) -> tuple[object, dict[str, Callable[..., None]]]:
    """The code, which lives as long as somebody holds it, and its functions by name."""
    module = ir.Module("skesm")
    write_attention(module, shape)
    write_gelu(module, "gelu", shape.ffn_block, shape.lanes)
    if shape.block != shape.ffn_block:
        write_gelu(module, "head_gelu", shape.block, shape.lanes)
    write_norm(module, epsilon, shape)
    write_add(module, shape)
    if shape.product_lanes:
        write_product(module, shape)
    code = compile_text(str(module), wide=shape.lanes == 16)
    functions: dict[str, Callable[..., None]] = {
        name: ctypes.CFUNCTYPE(None, *signature)(code.get_function_address(name))
        for name, signature in _SIGNATURES.items()
        if name in module.globals
    }
    return code, functions


def _address(array: FloatArray) -> int:
    assert array.dtype == np.float32 and array.flags.c_contiguous, "the code reads memory as it lies"  # noqa: PT018
    address: int = array.ctypes.data
    return address
