"""Ways to compute attention of sequences laid end to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from skesm.esm2.kernels.kernels import Kernels
from skesm.esm2.spec import ModelSpec
from skesm.esm2.torch_engine.attention import (
    Attend,
    Attention,
    AttentionCompiled,
    AttentionOnCpu,
    AttentionOnDevice,
    Shapes,
    attend_by_runs,
    attend_packed,
    is_usable,
    read_weights,
)
from skesm.esm2.torch_engine.linear import PlainLinear
from skesm.esm2.weights.parameters import Affine, Block

SHAPES = [(2, 3), (1, 5), (3, 8)]
HEADS, WIDTH = 4, 8
CPU = torch.device("cpu")
FREQUENCIES = 10000 ** -(torch.arange(0, WIDTH, 2) / WIDTH)
OF_LAYERS = torch.stack([FREQUENCIES * 3, FREQUENCIES])  # of the second layer, which is tried here


@pytest.fixture
def parts() -> torch.Tensor:
    size = (3, sum(count * length for count, length in SHAPES), HEADS, WIDTH)
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """One sequence and head after the other: (mixed values, weights of each sequence)."""
    mixed, weights, begin = torch.empty_like(value), [], 0
    for count, length in SHAPES:
        for _ in range(count):
            end = begin + length
            weights.append(torch.empty(HEADS, length, length))
            for head in range(HEADS):
                scores = query[begin:end, head] @ key[begin:end, head].T / WIDTH**0.5
                weights[-1][head] = scores.softmax(dim=1)
                mixed[begin:end, head] = weights[-1][head] @ value[begin:end, head]
            begin = end
    return mixed.reshape(begin, HEADS * WIDTH), weights


def test_tokens_attend_to_their_own_sequence(parts: torch.Tensor) -> None:
    before = parts.clone()
    torch.testing.assert_close(attend_by_runs(SHAPES, CPU)(*parts), plain(*parts)[0])
    torch.testing.assert_close(parts, before, rtol=0, atol=0)


def on_cpu() -> Attention:
    return AttentionOnCpu(OF_LAYERS, PlainLinear.channels)


def compiled() -> Attention:
    return AttentionCompiled(OF_LAYERS, PlainLinear, Kernels(ModelSpec("", 1, HEADS * WIDTH, HEADS, 4 * HEADS * WIDTH)))


def on_device() -> Attention:
    """What GPUs do, on the CPU."""
    return AttentionOnDevice(OF_LAYERS, attend_by_runs, torch.from_numpy)


def rotated(part: torch.Tensor) -> torch.Tensor:
    """Queries or keys, (tokens, heads, h), turned by the rotary embedding's definition, token by token."""
    out = torch.empty_like(part)
    positions = [position for count, length in SHAPES for _ in range(count) for position in range(length)]
    for token, position in enumerate(positions):
        angle = position * FREQUENCIES
        low, high = part[token].split(WIDTH // 2, dim=1)
        out[token] = torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], dim=1)
    return out


@pytest.fixture
def layer(parts: torch.Tensor) -> tuple[torch.Tensor, Block]:
    """A layer's input, and a block with random weights for queries, keys and values."""
    d = HEADS * WIDTH
    generator = torch.Generator().manual_seed(2)
    weights, biases = torch.randn((3, d, d), generator=generator) / d**0.5, torch.randn((3, d), generator=generator)
    query, key, value = (Affine(w.numpy(), b.numpy()) for w, b in zip(weights, biases, strict=True))
    unused = Affine(np.empty(0), np.empty(0))
    return parts[0].flatten(1), Block(unused, query, key, value, unused, unused, unused, unused)


def projected(layer: tuple[torch.Tensor, Block]) -> list[torch.Tensor]:
    """Queries, keys and values of each token, by their definition."""
    x, block = layer
    products = (x @ torch.from_numpy(w).T + torch.from_numpy(b) for w, b in (block.query, block.key, block.value))
    query, key, value = (product.unflatten(1, (HEADS, WIDTH)) for product in products)
    return [rotated(query), rotated(key), value]


def place(attention: Attention, block: Block, dtype: torch.dtype) -> Any:
    weights, biases = zip(*attention.order(block)[1:4], strict=True)
    weight, bias = (torch.from_numpy(np.concatenate(arrays)) for arrays in (weights, biases))
    return attention.projection(weight.to(dtype), bias)


@pytest.mark.parametrize("make", [on_cpu, compiled, on_device])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_a_layer_is_mixed_as_defined(
    layer: tuple[torch.Tensor, Block], make: Callable[[], Attention], dtype: torch.dtype, tolerance: float
) -> None:
    attention, x = make(), layer[0].to(dtype)
    before = x.clone()
    mixed, weights = plain(*projected(layer))
    seen = [torch.full_like(part, torch.nan) for part in weights]

    def read(place: int, heads: slice, some: Any) -> None:
        seen[place][heads] = torch.from_numpy(attention.fetch(some))

    projection, of_layer = place(attention, layer[1], dtype), attention.of(SHAPES)
    for wanted in (None, read, None):
        got = of_layer(projection, x, wanted, 1)
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), mixed, rtol=0, atol=tolerance)
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    for part, expected in zip(seen, weights, strict=True):
        torch.testing.assert_close(part, expected.transpose(1, 2), rtol=0, atol=tolerance)


def test_weights_are_those_of_the_attention(parts: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skesm.esm2.torch_engine.attention.WEIGHT_ELEMENTS", 3 * 8**2)  # in pieces of 3 heads and 1
    expected = plain(*parts)[1]
    seen = [torch.full_like(weights, torch.nan) for weights in expected]

    def read(place: int, heads: slice, weights: torch.Tensor) -> None:
        seen[place][heads] = weights

    read_weights(parts[0], parts[1], SHAPES, read)
    for got, weights in zip(seen, expected, strict=True):
        torch.testing.assert_close(got, weights.transpose(1, 2))


def test_a_way_that_is_not_there_or_wrong_is_not_used() -> None:
    def across(shapes: Shapes, device: torch.device) -> Attend:
        total = sum(count * length for count, length in shapes)
        return attend_by_runs([(1, total)], device)  # as if all were one sequence

    for dtype in (torch.float32, torch.bfloat16):
        assert is_usable(attend_by_runs, CPU, dtype, HEADS, WIDTH)
        assert not is_usable(across, CPU, dtype, HEADS, WIDTH)
        assert not is_usable(attend_packed, CPU, dtype, HEADS, WIDTH), "torch has none for the CPU"
