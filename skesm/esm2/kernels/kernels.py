"""The compiled functions of a model, for arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from llvmlite import ir

from skesm.esm2.kernels.attention import Shape, scratch_size, write_attention
from skesm.esm2.kernels.compilation import compile_text
from skesm.esm2.kernels.rows import write_add, write_gelu, write_norm
from skesm.esm2.machine.threads import has_small_products
from skesm.esm2.plain_attention import Read, mix, rotary_tables
from skesm.esm2.spec import ModelSpec
from skesm.esm2.weights.parameters import Affine
from skesm.esm2.workspace import Workspace
from skesm.outputs.types import FloatArray

_POINTER, _INDEX = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "attend": [_POINTER] * 4 + [_INDEX] * 3 + [_POINTER] * 2,
    "gelu": [_POINTER] * 2 + [_INDEX],
    "head_gelu": [_POINTER] * 2 + [_INDEX],
    "norm": [_POINTER] * 4 + [_INDEX],
    "add": [_POINTER] * 3 + [_INDEX],
}


class Kernels:
    """The element-wise work of a forward pass, compiled for this processor. They let go of Python's lock.

    All arrays are float32 and contiguous. Values of a row, or of a sequence, depend on it alone.

    Parameters
    ----------
    spec : ModelSpec
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        lanes = 16 if has_small_products() else 8
        self._shape = Shape(spec.width, spec.width // spec.n_heads, lanes)
        module = ir.Module("skesm")
        write_attention(module, self._shape)
        write_gelu(module, "gelu", spec.ffn_width, lanes)
        write_gelu(module, "head_gelu", spec.width, lanes)
        write_norm(module, spec)
        write_add(module, spec.width, lanes)
        self._code = compile_text(str(module), wide=lanes == 16)
        self._functions = {
            name: ctypes.CFUNCTYPE(None, *signature)(self._code.get_function_address(name))
            for name, signature in _SIGNATURES.items()
        }

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
        products : ndarray of shape (rows, 3 d)
            Of the layer's input with the weights of queries, keys and values.
        bias : ndarray of shape (3 d,)
            Of the three.
        rotary : ndarray of shape (positions, 4, h/2)
            See `Kernels.rotary_table`.
        spans : sequence of slice
            Rows of each sequence.
        heads : slice or None
            None is all of them.
        out : ndarray of shape (rows, d)
            Rows of no sequence are left as they are.
        work : Workspace
        """
        bounds = np.array([(own.start, own.stop) for own in spans], dtype=np.int64)
        scratch = work.get("attention", scratch_size(self._shape, int(np.ptp(bounds, axis=1).max())))
        arrays = [_address(array) for array in (products, bias, rotary)]
        first, last = (0, self._spec.n_heads) if heads is None else (heads.start, heads.stop)
        self._functions["attend"](
            *arrays, bounds.ctypes.data, len(bounds), first, last, _address(scratch), _address(out)
        )

    def read_weights(
        self, products: FloatArray, bias: FloatArray, frequencies: FloatArray, spans: Sequence[slice], read: Read
    ) -> None:
        """Hand over the weights of `attend`, which does not keep them. NumPy computes them, because few are wanted.

        `frequencies` are the rotary embedding's, (h/2,). The other arguments are those of `attend` and `mix`.
        """
        by_channel = np.ascontiguousarray(products.T).reshape(3, -1, len(products))
        tables = rotary_tables(frequencies, spans, len(products))
        mix(by_channel, list(bias.reshape(3, -1)), tables, spans, Workspace(), read=read)

    @staticmethod
    def rotary_table(inverse_frequencies: FloatArray, positions: int) -> FloatArray:
        """Cosines and sines for queries, times the scale of scores, and for keys, (positions, 4, h/2)."""
        cos, sin = rotary_tables(inverse_frequencies, [slice(0, positions)], positions)
        parts = [table[i, 0].T for i in (0, 1) for table in (cos, sin)]
        return np.ascontiguousarray(np.stack(parts, axis=1))

    def gelu(self, x: FloatArray, bias: FloatArray) -> None:
        """GELU(x + bias) in place, x of shape (rows, f) or (rows, d)."""
        name = "gelu" if x.shape[1] == self._spec.ffn_width else "head_gelu"
        self._functions[name](_address(x), _address(bias), len(x))

    def norm(self, x: FloatArray, affine: Affine, out: FloatArray) -> None:
        """LayerNorm of the rows of x, (rows, d), into out."""
        self._functions["norm"](*(_address(array) for array in (x, *affine, out)), len(x))

    def add(self, x: FloatArray, h: FloatArray, bias: FloatArray) -> None:
        """Add h + bias to x, in place, (rows, d)."""
        self._functions["add"](*(_address(array) for array in (x, h, bias)), len(x))


def _address(array: FloatArray) -> int:
    assert array.dtype == np.float32 and array.flags.c_contiguous, "the code reads memory as it lies"  # noqa: PT018
    address: int = array.ctypes.data
    return address
