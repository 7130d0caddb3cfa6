"""Linear layers of the torch engine: on x86 processors with weights laid out for their products, where torch can.

A plain product lays the weights out anew at every call. oneDNN, which torch brings, can keep them laid out, and
applies GELU while the result is in the cache: together 15 to 20 % faster in float32 and 5 to 10 % in bfloat16, for a
copy of the weights; but not without AVX-512, where plain products are faster. torch offers this to its compiler only,
without a promise to keep it: trials decide, and plain products remain.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from skesm.esm2.torch_engine.trial import has_wide_vectors, is_faster

#: Rows that the layout is chosen for. Others are as right, and about as fast.
LAYOUT_ROWS = 512
# Largest difference of the two ways in a trial with values of about 1, by bits of the type
_TRIAL_TOLERANCE = {32: 1e-5, 16: 0.03}
#: Rows, inputs and outputs of the product by which the faster way is chosen: 8M's widest, in a small pack.
_TRIAL_SHAPE = 256, 320, 1280


class PlainLinear(NamedTuple):
    """By torch's public functions, from the given tensors themselves."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> PlainLinear:
        """From the weight, (out, in), and the bias, (out,)."""
        return cls(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """The product of x with Wᵀ, plus b."""
        return functional.linear(x, self.weight, self.bias)

    def product(self, x: Tensor) -> Tensor:
        """The product without b."""
        return functional.linear(x, self.weight)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the product plus b."""
        return functional.gelu(self(x))

    @staticmethod
    def channels(weight: Tensor, x: Tensor) -> Tensor:
        """The product of W, as it was given, with xᵀ, (out, rows)."""
        return functional.linear(weight, x)


class PackedLinear(NamedTuple):
    """By oneDNN, from a copy of the weights in its own layout."""

    weight: Tensor  # opaque
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> PackedLinear:
        """From a copy of the weight, (out, in), and the bias, (out,)."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(weight, LAYOUT_ROWS), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """The product of x with Wᵀ, plus b."""
        return _packed(x, self.weight, self.bias, "none", "")

    def product(self, x: Tensor) -> Tensor:
        """The product without b."""
        return _packed(x, self.weight, None, "none", "")

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the product plus b."""
        return _packed(x, self.weight, self.bias, "gelu", "none")

    @staticmethod
    def channels(weight: Tensor, x: Tensor) -> Tensor:
        """The product of W, as it was given, with xᵀ, (out, rows): here x is laid out, at every call."""
        return _packed(weight, x, None, "none", "")


Linear = PlainLinear | PackedLinear


def _packed(x: Tensor, weight: Tensor, bias: Tensor | None, function: str, algorithm: str) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, function, [], algorithm)
    return result


def choose_linear(device: torch.device, dtype: torch.dtype) -> type[PlainLinear] | type[PackedLinear]:
    """`PackedLinear` on x86 processors if it works in this torch, and pays in float32, else `PlainLinear`."""
    fits = device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64")
    usable = fits and is_usable(dtype) and (dtype != torch.float32 or packed_pays())
    return PackedLinear if usable else PlainLinear


@cache
def packed_pays() -> bool:
    """Whether `PackedLinear` is the faster one in float32: with AVX-512 it mostly is, without it is not."""
    generator = torch.Generator().manual_seed(0)
    rows, width, out = _TRIAL_SHAPE
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((rows, width), (out, width), (out,)))
    plain, packed = PlainLinear.of(weight, bias), PackedLinear.of(weight, bias)
    expected, other = (packed, plain) if has_wide_vectors() else (plain, packed)

    def product(linear: Linear) -> Callable[[], object]:
        def multiply() -> Tensor:
            with torch.inference_mode():
                return linear.gelu(x)

        return multiply

    return (expected is packed) != is_faster(product(other), product(expected))


def is_usable(dtype: torch.dtype) -> bool:
    """Whether `PackedLinear` runs here and agrees with `PlainLinear`."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((48, 64), (96, 64), (96,)))
    tolerance = _TRIAL_TOLERANCE[dtype.itemsize * 8]
    with torch.inference_mode():
        plain = PlainLinear.of(weight / 8, bias)
        try:
            packed = PackedLinear.of(weight / 8, bias)
            pairs = [(packed(x), plain(x)), (packed.product(x), plain.product(x)), (packed.gelu(x), plain.gelu(x))]
            pairs.append((PackedLinear.channels(plain.weight, x), PlainLinear.channels(plain.weight, x)))
        except (AttributeError, RuntimeError, TypeError):  # no such operator, not compiled in, or another signature
            return False
    return all(torch.allclose(one.float(), other.float(), rtol=0, atol=tolerance) for one, other in pairs)
