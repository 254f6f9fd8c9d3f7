"""Draws from mixtures give the tokens of the float64 reference for the same seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flyball.kernels.gpu.mix import mix_draw
from flyball.kernels.mix import Drawn
from flyball.kernels.reference.mix import mix_draw as reference

SHAPES = [(5, 3, 7), (6, 2, 9001), (4, 1, 9001), (3, 5, 13000), (0, 2, 4097)]


def case(
    shape: tuple[int, int, int], device: str, seed: int = 0, spread: float = 3.0
) -> tuple[torch.Tensor, ...]:
    """Logits, shares, seeds, places; the first member of the second row is absent."""
    torch.manual_seed(seed)
    count, members, _ = shape
    logits = spread * torch.randn(shape)
    shares = torch.rand(count, members)
    if members > 1:
        shares[1:2, 0], logits[1:2, 0] = 0.0, torch.nan
    shares /= shares.sum(1, keepdim=True)
    seeds, places = torch.randint(-(2**62), 2**62, (count,)), torch.randint(0, 2**31, (count,))
    return tuple(x.to(device) for x in (logits, shares, seeds, places))


def assert_same(found: Drawn, given: tuple[torch.Tensor, ...], **settings: Any) -> None:
    logits, shares, *others = (x.cpu() for x in given)
    wanted = reference(logits.double(), shares.double(), *others, **settings)
    assert torch.equal(found.token.cpu(), wanted.token)
    for name in ("prob", "log_sum_exp"):
        value = getattr(found, name).cpu().double()
        torch.testing.assert_close(
            value, getattr(wanted, name), rtol=1e-5, atol=1e-30, equal_nan=True
        )


@pytest.mark.parametrize("spread", [0.1, 3.0, 12.0])
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_are_the_references(
    shape: tuple[int, int, int], greedy: bool, spread: float, device: str
) -> None:
    given = case(shape, device, spread=spread)
    settings = {"temperature": 0.8, "greedy": greedy}
    assert_same(mix_draw(*given, **settings), given, **settings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype, device: str) -> None:
    logits, *others = case((4, 2, 5000), device, seed=1)
    given = (logits.to(dtype), *others)
    assert_same(mix_draw(*given), given)


def test_a_peak_that_no_member_leads_is_found(device: str) -> None:
    """Every member's own argmax is far below the mixture's; blocks are ruled out by bounds."""
    logits = torch.full((1, 2, 9000), -20.0, device=device)
    logits[0, 0, 10], logits[0, 1, 8500] = 1.0, 1.0
    logits[0, :, 4500] = 0.9
    given = (logits, torch.tensor([[0.5, 0.5]], device=device), *case((1, 2, 9), device)[2:])
    found = mix_draw(*given, greedy=True)
    assert found.token.tolist() == [4500]
    assert_same(found, given, greedy=True)


def test_masked_tokens_are_never_drawn(device: str) -> None:
    given = case((40, 2, 300), device, seed=2)
    given[0][:, :, 10:] = -torch.inf
    given[0][2:20, 0, 1:] = -torch.inf
    found = mix_draw(*given)
    assert_same(found, given)
    assert (found.token < 10).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
def test_rows_without_a_distribution_are_reported(device: str) -> None:
    given = case((5, 2, 9001), device, seed=3)
    given[0][0, 1, 8000], given[0][2, 0], given[0][3, 0, 1] = torch.nan, -torch.inf, torch.inf
    found = mix_draw(*given)
    assert found.token[[0, 2, 3]].tolist() == [-1] * 3
    assert found.prob.isnan().tolist() == [True, False, True, True, False]
    kept = torch.tensor([1, 4], device=device)
    apart = mix_draw(*(x[kept] for x in given))
    assert torch.equal(found.token[kept], apart.token) and (apart.token >= 0).all()
