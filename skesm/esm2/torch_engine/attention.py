"""Attention of sequences laid end to end in torch: by NumPy on CPUs, elsewhere in the fastest way that the device has.

Sequences are sorted by length. `Shapes` are (count, tokens of one) of each run of equal lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skesm.esm2.packing import lay_out
from skesm.esm2.plain_attention import distinct_rows, mix, rotary_tables
from skesm.esm2.torch_engine.linear import Linear, PackedLinear, PlainLinear
from skesm.esm2.torch_engine.trial import choose_exponential
from skesm.esm2.weights.parameters import Affine, Block
from skesm.esm2.workspace import Workspace
from skesm.outputs.types import FloatArray

if TYPE_CHECKING:
    from skesm.esm2.kernels.kernels import Kernels

Shapes = Sequence[tuple[int, int]]
#: Takes a sequence's place, some heads, and their weights, (heads, keys, queries), float32.
Read = Callable[[int, slice, Tensor | FloatArray], None]
#: A layer's projection to queries, keys and values, (3 d, d), and its input, (tokens, d), to each token's mean of
#: the values, of the input's shape and type. `Read` gets the weights, if they are wanted. The number is the layer's.
Mix = Callable[[Linear, Tensor, Read | None, int], Tensor]
#: Query and key, float32, and value, of the products' type, (tokens, heads, h), to each token's mean of the values,
#: (tokens, heads × h), of their type.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Attention weights held at a time, where they are wanted.
WEIGHT_ELEMENTS = 1 << 22

# Largest difference of two ways to compute attention in bfloat16, of values of about 1: a few of its steps of 2⁻⁸.
_TRIAL_TOLERANCE = 0.03


def split_runs(x: Tensor, shapes: Shapes) -> list[Tensor]:
    """Views of x, (tokens, …), by run of equal lengths, (count, tokens of one, …)."""
    parts = torch.split(x, [count * length for count, length in shapes])
    return [part.view(*shape, *x.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]


def attend_by_runs(shapes: Shapes, device: torch.device) -> Attend:
    """Fused attention, one call for each run of equal lengths."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = (query.to(value.dtype), key.to(value.dtype), value)
        runs = zip(*(split_runs(part, shapes) for part in parts), strict=True)
        mixed = [scaled_dot_product_attention(*(part.transpose(1, 2) for part in run)).transpose(1, 2) for run in runs]
        return torch.cat([part.reshape(-1, value.shape[1] * value.shape[2]) for part in mixed])

    return attend


def attend_packed(shapes: Shapes, device: torch.device) -> Attend:
    """Fused attention of all sequences in one call, which torch has for low precision on some GPUs."""
    from torch.nn.attention.varlen import varlen_attn

    lengths = [length for count, length in shapes for _ in range(count)]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key = query.to(value.dtype), key.to(value.dtype)
        mixed = varlen_attn(query, key, value, bounds, bounds, max(lengths), max(lengths))
        assert isinstance(mixed, Tensor), "it gives more only where more is asked for"
        return mixed.flatten(1)

    return attend


class _InNumpy:
    """Attention on arrays of NumPy.

    Parameters
    ----------
    inverse_frequencies : Tensor of shape (n_layers, h/2)
        Of the rotary embedding.
    """

    #: The functions that `AttentionReader` uses for the weights.
    library, put, fetch = np, staticmethod(np.asarray), staticmethod(np.asarray)

    def __init__(self, inverse_frequencies: Tensor) -> None:
        self._frequencies, self._rotary_of_layer = distinct_rows(inverse_frequencies.numpy())
        self._workspace = Workspace()

    def order(self, block: Block) -> Block:
        """The block with queries' and keys' channels in the order that is needed here: as they are."""
        return block


class AttentionOnCpu(_InNumpy):
    """Plain products in float32 by NumPy: faster than torch's fused attention, for short sequences most.

    Parameters
    ----------
    inverse_frequencies : Tensor of shape (n_layers, h/2)
        Of the rotary embedding.
    channels : callable
        The projection's weight, and a layer's input, to their product, channel-major: `PlainLinear.channels`.
    """

    #: From the weight, in the products' type, and the bias, float32.
    projection = staticmethod(PlainLinear.of)

    def __init__(self, inverse_frequencies: Tensor, channels: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(inverse_frequencies)
        self._channels = channels

    def of(self, shapes: Shapes) -> Mix:
        """The function that mixes the tokens in the layers of a pack."""
        spans = lay_out(length for count, length in shapes for _ in range(count))
        tables = [rotary_tables(frequencies, spans, spans[-1].stop) for frequencies in self._frequencies]

        def of_layer(projection: Linear, x: Tensor, read: Read | None, layer: int) -> Tensor:
            rotary = tables[self._rotary_of_layer[layer]]
            products = self._channels(projection.weight, x).float().numpy().reshape(3, -1, len(x))
            biases = projection.bias.numpy().reshape(3, -1)
            mixed = mix(
                products, list(biases), rotary, spans, self._workspace, read=read, exponential=choose_exponential()
            )
            return torch.from_numpy(mixed).to(x.dtype).t().contiguous()

        return of_layer


class AttentionCompiled(_InNumpy):
    """Attention on CPUs by the functions of the extra ``fast``, which need no channel-major products.

    Parameters
    ----------
    inverse_frequencies : Tensor of shape (n_layers, h/2)
        Of the rotary embedding.
    linear : type
        Computes the projections.
    kernels : Kernels
    """

    def __init__(
        self, inverse_frequencies: Tensor, linear: type[PlainLinear] | type[PackedLinear], kernels: Kernels
    ) -> None:
        super().__init__(inverse_frequencies)
        self.projection = linear.of
        self._kernels = kernels

    def of(self, shapes: Shapes) -> Mix:
        """The function that mixes the layers of a pack."""
        spans = lay_out(length for count, length in shapes for _ in range(count))
        longest = max(length for _, length in shapes)
        tables = [self._kernels.rotary_table(frequencies, longest) for frequencies in self._frequencies]

        def of_layer(projection: Linear, x: Tensor, read: Read | None, layer: int) -> Tensor:
            place = self._rotary_of_layer[layer]
            products, bias = projection.product(x).float().contiguous().numpy(), projection.bias.float().numpy()
            mixed = self._workspace.get("mixed", len(x), products.shape[1] // 3)
            self._kernels.attend(products, bias, tables[place], spans, None, mixed, self._workspace)
            if read is not None:
                self._kernels.read_weights(products, bias, self._frequencies[place], spans, read)
            return torch.from_numpy(mixed).to(x.dtype)

        return of_layer


class AttentionOnDevice:
    """Fused attention of torch.

    Parameters
    ----------
    inverse_frequencies : Tensor of shape (n_layers, h/2)
        Of the rotary embedding. It is on the device.
    attend : callable
        Returns the attention function for a pack of some shapes on a device.
    put : callable
        An ndarray to a tensor on the device.
    """

    def __init__(
        self,
        inverse_frequencies: Tensor,
        attend: Callable[[Shapes, torch.device], Attend],
        put: Callable[[NDArray[np.generic]], Tensor],
    ) -> None:
        self.library, self.put = torch, put
        distinct, self._rotary_of_layer = distinct_rows(inverse_frequencies.cpu().numpy())
        self._frequencies = inverse_frequencies.new_tensor(distinct)
        self._attend = attend

    def fetch(self, tensor: Tensor) -> FloatArray:
        """Bring a tensor from the device."""
        array: FloatArray = tensor.cpu().numpy()
        return array

    def projection(self, weight: Tensor, bias: Tensor) -> PlainLinear:
        """From the weight, in the products' type, and the bias, float32."""
        return PlainLinear.of(weight, bias.to(weight.dtype))

    def order(self, block: Block) -> Block:
        """The block with queries' and keys' channels that rotate together side by side: a complex number.

        Scores are sums over the channels of a head, and stay the same.
        """
        halves = np.arange(len(block.query.bias)).reshape(-1, 2, self._frequencies.shape[1])
        order = halves.swapaxes(1, 2).ravel()
        query, key = (Affine(*(part[order] for part in pair)) for pair in (block.query, block.key))
        return block._replace(query=query, key=key)

    def of(self, shapes: Shapes) -> Mix:
        """The function that mixes the tokens in the layers of a pack."""
        positions = np.concatenate([np.tile(np.arange(length, dtype=np.float32), count) for count, length in shapes])
        angles = [self.put(positions)[:, None, None, None] * frequencies for frequencies in self._frequencies]
        tables = [torch.complex(angle.cos(), angle.sin()) for angle in angles]  # (tokens, 1, 1, h/2)
        attend = self._attend(shapes, self._frequencies.device)

        def of_layer(projection: Linear, x: Tensor, read: Read | None, layer: int) -> Tensor:
            rotary = tables[self._rotary_of_layer[layer]]
            products = projection(x).view(len(x), 3, -1, 2 * rotary.shape[-1])
            rotated = products[:, :2].float()
            pairs = torch.view_as_complex(rotated.view(*rotated.shape[:-1], -1, 2))
            pairs *= rotary
            query, key = rotated.unbind(1)
            if read is not None:
                read_weights(query, key, shapes, read)
            return attend(query, key, products[:, 2])

        return of_layer


Attention = AttentionOnCpu | AttentionCompiled | AttentionOnDevice


def choose_attention(
    device: torch.device,
    dtype: torch.dtype,
    n_heads: int,
    inverse_frequencies: Tensor,
    *,
    linear: type[PlainLinear] | type[PackedLinear],
    kernels: Kernels | None,
    put: Callable[[NDArray[np.generic]], Tensor],
) -> Attention:
    """Compiled or NumPy's on CPUs. On a device by `attend_packed` if it works, else by `attend_by_runs`."""
    if device.type == "cpu":
        if kernels is not None:
            return AttentionCompiled(inverse_frequencies, linear, kernels)
        return AttentionOnCpu(inverse_frequencies, linear.channels)
    packed = device.type == "cuda" and is_usable(
        attend_packed, device, dtype, n_heads, 2 * inverse_frequencies.shape[1]
    )
    return AttentionOnDevice(inverse_frequencies, attend_packed if packed else attend_by_runs, put)


def is_usable(
    way: Callable[[Shapes, torch.device], Attend],
    device: torch.device,
    dtype: torch.dtype,
    n_heads: int,
    head_width: int,
) -> bool:
    """Whether a way to compute attention is there for a device and dtype, and agrees with `attend_by_runs`.

    Which torch has it for which GPU, type and width of the heads no table tells: one small trial does.
    """
    shapes = [(2, 3), (1, 17), (1, 64)]
    generator = torch.Generator().manual_seed(0)
    size = (3, sum(count * length for count, length in shapes), n_heads, head_width)
    query, key, value = torch.randn(size, generator=generator).to(device)
    value = value.to(dtype)
    expected = attend_by_runs(shapes, device)(query, key, value)
    try:
        got = way(shapes, device)(query, key, value)
    except (ImportError, RuntimeError, TypeError):  # an older torch, a GPU or type without it, or another signature
        return False
    return bool(torch.allclose(got.float(), expected.float(), rtol=0, atol=_TRIAL_TOLERANCE))


def read_weights(query: Tensor, key: Tensor, shapes: Shapes, read: Callable[[int, slice, Tensor], None]) -> None:
    """Hand over attention weights, which fused attention does not give, some heads of a sequence at a time.

    `read` gets the sequence's place, the heads, and their weights, (heads, keys, queries), float32.
    """
    lengths = [length for count, length in shapes for _ in range(count)]
    n_heads, width = query.shape[1:]
    query = query * width**-0.5
    for place, (q, k) in enumerate(zip(torch.split(query, lengths), torch.split(key, lengths), strict=True)):
        step = max(1, WEIGHT_ELEMENTS // len(q) ** 2)
        for first in range(0, n_heads, step):
            some = slice(first, min(first + step, n_heads))
            scores = k[:, some].transpose(0, 1) @ q[:, some].permute(1, 2, 0)
            read(place, some, scores.softmax(dim=1))
