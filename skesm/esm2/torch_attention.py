"""Attention of sequences laid end to end in torch: the fastest way that the device has, and the weights.

Queries and keys, float32, and values, of the products' type, are (tokens, heads, h). Sequences are sorted by length;
`Shapes` are (count, tokens of one) of each run of equal lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from skesm.esm2.plain_attention import attend as attend_by_sequences
from skesm.esm2.plain_attention import score_scale
from skesm.esm2.workspace import Workspace

Tensor = Any  # torch is imported at use, and untyped here
Shapes = Sequence[tuple[int, int]]
#: Query, key and value to what each token takes of the values, (tokens, heads × h), of their type.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Attention weights held at a time, where they are wanted.
WEIGHT_ELEMENTS = 1 << 22

# Largest difference of two ways to compute attention in bfloat16, of values of about 1: a few of its steps of 2⁻⁸.
_TRIAL_TOLERANCE = 0.03


def split_runs(x: Tensor, shapes: Shapes) -> list[Tensor]:
    """Views of x, (tokens, …), by run of equal lengths, (count, tokens of one, …)."""
    parts = x.split([count * length for count, length in shapes])
    return [part.view(*shape, *x.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]


def attend_by_numpy(shapes: Shapes, device: Any, work: Workspace) -> Attend:
    """Plain products in float32 by NumPy, on a CPU: faster than torch's fused attention, for short sequences most."""
    import torch

    bounds = [0, *accumulate(length for count, length in shapes for _ in range(count))]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        n_tokens, n_heads, width = query.shape
        parts = (query * score_scale(width), key, value.float())
        q, k, v = (part.numpy().transpose(1, 2, 0) for part in parts)
        mixed = work.get("mixed", n_heads, width, n_tokens)
        attend_by_sequences(q, k, v, bounds, mixed, work)
        return torch.from_numpy(mixed.reshape(-1, n_tokens)).to(value.dtype).t().contiguous()

    return attend


def attend_by_runs(shapes: Shapes, device: Any) -> Attend:
    """Fused attention, one call for each run of equal lengths."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = (query.to(value.dtype), key.to(value.dtype), value)
        runs = zip(*(split_runs(part, shapes) for part in parts), strict=True)
        mixed = [scaled_dot_product_attention(*(part.transpose(1, 2) for part in run)).transpose(1, 2) for run in runs]
        return torch.cat([part.reshape(-1, value.shape[1] * value.shape[2]) for part in mixed])

    return attend


def attend_packed(shapes: Shapes, device: Any) -> Attend:
    """Fused attention of all sequences in one call, which torch has for low precision on some GPUs."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    lengths = [length for count, length in shapes for _ in range(count)]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key = query.to(value.dtype), key.to(value.dtype)
        return varlen_attn(query, key, value, bounds, bounds, max(lengths), max(lengths)).flatten(1)

    return attend


def choose_attention(device: Any, dtype: Any, n_heads: int, head_width: int) -> Callable[[Shapes, Any], Attend]:
    """`attend_by_numpy` on a CPU; elsewhere `attend_packed` if it works, else `attend_by_runs`."""
    if device.type == "cpu":
        return partial(attend_by_numpy, work=Workspace())
    if device.type == "cuda" and is_usable(attend_packed, device, dtype, n_heads, head_width):
        return attend_packed
    return attend_by_runs


def is_usable(way: Callable[[Shapes, Any], Attend], device: Any, dtype: Any, n_heads: int, head_width: int) -> bool:
    """Whether a way to compute attention is there for a device and dtype, and agrees with `attend_by_runs`.

    Which torch has it for which GPU, type and width of the heads no table tells: one small trial does.
    """
    import torch

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
    for place, (q, k) in enumerate(zip(query.split(lengths), key.split(lengths), strict=True)):
        step = max(1, WEIGHT_ELEMENTS // len(q) ** 2)
        for first in range(0, n_heads, step):
            some = slice(first, min(first + step, n_heads))
            scores = k[:, some].transpose(0, 1) @ q[:, some].permute(1, 2, 0)
            read(place, some, scores.softmax(dim=1))
