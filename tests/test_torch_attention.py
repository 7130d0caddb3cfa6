"""Ways to compute attention of sequences laid end to end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from skesm.esm2.torch_attention import (
    Attend,
    Shapes,
    attend_by_products,
    attend_by_runs,
    attend_packed,
    choose_attention,
    is_usable,
)

SHAPES = [(2, 3), (1, 5), (3, 8)]
HEADS, WIDTH = 4, 8
CPU = torch.device("cpu")
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


@pytest.mark.parametrize("way", [attend_by_products, attend_by_runs])
@pytest.mark.parametrize("scores", [1, 3 * 16 * 8, 1 << 19])
def test_tokens_attend_to_their_own_sequence(
    parts: torch.Tensor, way: Callable[[Shapes, torch.device], Attend], scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skesm.esm2.torch_attention.CPU_SCORES", scores)  # in pieces of 1, 3 and all heads
    torch.testing.assert_close(way(SHAPES, CPU)(*parts), plain(*parts)[0])


def test_weights_are_those_of_the_attention(parts: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skesm.esm2.torch_attention.CPU_SCORES", 3 * 16 * 8)  # in pieces of 3 heads and 1
    expected, weights = plain(*parts)
    seen = [torch.full_like(part, torch.nan) for part in weights]

    def read(place: int, heads: slice, part: torch.Tensor) -> None:
        seen[place][heads] = part.transpose(1, 2)

    torch.testing.assert_close(attend_by_products(SHAPES, CPU, read)(*parts), expected)
    for got, part in zip(seen, weights, strict=True):
        torch.testing.assert_close(got, part)


@pytest.mark.parametrize(("scale", "shift"), [(40, 0), (1, 60), (1, -60), (1, 600), (1, -600)])
def test_scores_may_be_of_any_size(parts: torch.Tensor, scale: float, shift: float) -> None:
    """The largest is subtracted where exp2 alone would overflow or leave nothing; another sequence's do not count."""
    query, key, value = (part[:6].clone() for part in parts)  # two sequences of 3
    query[3:] *= scale
    query[3:, :, 0], key[3:, :, 0] = shift, WIDTH**0.5  # adds `shift` to all scores of the second sequence
    shapes = [(2, 3)]
    expected = attend_by_runs(shapes, CPU)(*(part.double() for part in (query, key, value))).float()
    got = attend_by_products(shapes, CPU)(query, key, value)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * max(1, abs(shift) / 60))  # scores are float32


def test_values_of_low_precision_come_back_as_such(parts: torch.Tensor) -> None:
    query, key, value = parts
    got = attend_by_products(SHAPES, CPU)(query, key, value.bfloat16())
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
        assert is_usable(attend_by_products, CPU, dtype, HEADS, WIDTH)
        assert choose_attention(CPU, dtype, HEADS, WIDTH) is attend_by_products


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("width", [16, 24, 32, 64])
def test_gpus_use_one_call_for_all(width: int) -> None:
    device = torch.device("cuda")
    assert choose_attention(device, torch.bfloat16, HEADS, width) is attend_packed
    assert choose_attention(device, torch.float32, HEADS, width) is attend_by_runs
