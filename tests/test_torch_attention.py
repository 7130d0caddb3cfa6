"""Ways to compute attention of sequences laid end to end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from skesm.esm2.torch_attention import (
    Attend,
    Shapes,
    attend_by_numpy,
    attend_by_runs,
    attend_packed,
    choose_attention,
    is_usable,
    read_weights,
)
from skesm.esm2.workspace import Workspace

SHAPES = [(2, 3), (1, 5), (3, 8)]
HEADS, WIDTH = 4, 8
CPU = torch.device("cpu")
by_numpy = partial(attend_by_numpy, work=Workspace())
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


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


@pytest.mark.parametrize("way", [by_numpy, attend_by_runs])
def test_tokens_attend_to_their_own_sequence(
    parts: torch.Tensor, way: Callable[[Shapes, torch.device], Attend]
) -> None:
    before = parts.clone()
    torch.testing.assert_close(way(SHAPES, CPU)(*parts), plain(*parts)[0])
    torch.testing.assert_close(parts, before, rtol=0, atol=0)


def test_weights_are_those_of_the_attention(parts: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skesm.esm2.torch_attention.WEIGHT_ELEMENTS", 3 * 8**2)  # in pieces of 3 heads and 1
    expected = plain(*parts)[1]
    seen = [torch.full_like(weights, torch.nan) for weights in expected]

    def read(place: int, heads: slice, weights: torch.Tensor) -> None:
        seen[place][heads] = weights

    read_weights(parts[0], parts[1], SHAPES, read)
    for got, weights in zip(seen, expected, strict=True):
        torch.testing.assert_close(got, weights.transpose(1, 2))


def test_values_of_low_precision_come_back_as_such(parts: torch.Tensor) -> None:
    query, key, value = parts
    got = by_numpy(SHAPES, CPU)(query, key, value.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, plain(query, key, value.bfloat16().float())[0].bfloat16())


def test_a_way_that_is_not_there_or_wrong_is_not_used() -> None:
    def across(shapes: Shapes, device: torch.device) -> Attend:
        total = sum(count * length for count, length in shapes)
        return attend_by_runs([(1, total)], device)  # as if all were one sequence

    for dtype in (torch.float32, torch.bfloat16):
        assert is_usable(attend_by_runs, CPU, dtype, HEADS, WIDTH)
        assert not is_usable(across, CPU, dtype, HEADS, WIDTH)
        assert not is_usable(attend_packed, CPU, dtype, HEADS, WIDTH), "torch has none for the CPU"
        assert is_usable(by_numpy, CPU, dtype, HEADS, WIDTH)
        chosen = choose_attention(CPU, dtype, HEADS, WIDTH)
        assert isinstance(chosen, partial)
        assert chosen.func is attend_by_numpy


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("width", [16, 24, 32, 64])
def test_gpus_use_one_call_for_all(width: int) -> None:
    device = torch.device("cuda")
    assert choose_attention(device, torch.bfloat16, HEADS, width) is attend_packed
    assert choose_attention(device, torch.float32, HEADS, width) is attend_by_runs
