"""Attention of sequences laid end to end in torch: the fastest way that the device has, and one that gives the weights.

Queries and keys, float32, and values, of the products' type, are (tokens, heads, h). Sequences are sorted by length;
`Shapes` are (count, tokens of one) of each run of equal lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

Tensor = Any  # torch is imported at use, and untyped here
Shapes = Sequence[tuple[int, int]]
#: Query, key and value to what each token takes of the values, (tokens, heads × h), of their type.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Takes a sequence's place, some heads, and their weights, (heads, keys, queries), float32, which are then overwritten.
Read = Callable[[int, slice, Tensor], None]

#: Scores held at a time: in the second-level cache of a CPU; elsewhere more work for each call.
CPU_SCORES, GPU_SCORES = 1 << 19, 1 << 22
#: Numbers in a vector register: rows of a multiple of it make faster products.
ROW = 16
# A query's sum of exp2(scores) in this range has neither overflowed nor lost a score that counts
_SUM_MIN, _SUM_MAX = 2.0**-60, 2.0**100
_SCORE_MIN = -120.0  # exp2 of less is slow, and nothing beside the largest, 1

# Largest difference of two ways to compute attention in bfloat16, of values of about 1: a few of its steps of 2⁻⁸.
_TRIAL_TOLERANCE = 0.03


def split_runs(x: Tensor, shapes: Shapes) -> list[Tensor]:
    """Views of x, (tokens, …), by run of equal lengths, (count, tokens of one, …)."""
    parts = x.split([count * length for count, length in shapes])
    return [part.view(*shape, *x.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]


def attend_by_products(shapes: Shapes, device: Any, read: Read | None = None) -> Attend:
    """Plain products in float32, some heads of a sequence at a time; hands the weights to `read`, if it is given.

    On a CPU these are faster than torch's fused attention, most of all for short sequences: exp2 costs less than exp,
    and the largest score is looked for only where the sums show that it was needed. Rows of scores are kept a multiple
    of `ROW` long by queries that follow, mostly of the next sequence; what these get is not used.
    """
    import torch
    from torch.nn import functional

    lengths = [length for count, length in shapes for _ in range(count)]
    rows = [-(-length // ROW) * ROW for length in lengths]
    held = CPU_SCORES if device.type == "cpu" else GPU_SCORES
    # once a pack: memory that is new costs as much as a product
    room = torch.empty(max(held, max(lengths) * max(rows)), device=device)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        n_tokens, n_heads, width = query.shape
        scale = math.log2(math.e) / math.sqrt(width)
        queries = functional.pad(query, (0, 0, 0, 0, 0, ROW)).permute(1, 2, 0)
        keys, values = key.transpose(0, 1), value.float().permute(1, 2, 0)
        mixed = torch.empty((n_heads, width, n_tokens), device=device)
        begin = 0
        for place, (length, row) in enumerate(zip(lengths, rows, strict=True)):
            end = begin + length
            step = max(1, min(n_heads, held // (length * row)))
            for first in range(0, n_heads, step):
                some = slice(first, min(first + step, n_heads))
                shape = (some.stop - first, length, row)
                scores = room[: math.prod(shape)].view(shape)  # key × query
                q, k = queries[some, :, begin : begin + row], keys[some, begin:end]
                scores.baddbmm_(k, q, beta=0, alpha=scale).exp2_()
                sums = scores.sum(1, keepdim=True)[..., :length]
                least, most = (limit.item() for limit in sums.aminmax())
                if not (least > _SUM_MIN and most < _SUM_MAX):
                    scores.baddbmm_(k, q, beta=0, alpha=scale)
                    scores -= scores.amax(1, keepdim=True)
                    sums = scores.clamp_(min=_SCORE_MIN).exp2_().sum(1, keepdim=True)[..., :length]
                taken = torch.bmm(values[some, :, begin:end], scores)[..., :length]
                torch.div(taken, sums, out=mixed[some, :, begin:end])
                if read is not None:
                    read(place, some, scores[..., :length] / sums)
            begin = end
        return mixed.view(-1, n_tokens).to(value.dtype).t().contiguous()

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
    """`attend_by_products` on a CPU; elsewhere `attend_packed` if it works, else `attend_by_runs`."""
    if device.type == "cpu":
        return attend_by_products
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
