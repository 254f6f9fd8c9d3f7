"""Confidence in one read equals the float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flyball.kernels.confidence import Confidence
from flyball.kernels.gpu.confidence import confidence
from flyball.kernels.reference.confidence import confidence as reference

NUMBERS = ("largest", "max_logit", "log_sum_exp", "entropy", "margin")


def scores(vocab: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    torch.manual_seed(vocab)
    logits = (4.0 * torch.randn(3, 2, vocab)).to(dtype)
    logits[0, 0, : vocab // 2] = -torch.inf
    logits[1, 1, :] = -torch.inf
    logits[1, 1, vocab - 1] = 3.0  # all but one
    return logits.to(device)


def assert_same(found: Confidence, wanted: Confidence) -> None:
    assert torch.equal(found.token.cpu(), wanted.token)
    for name in NUMBERS:
        value = getattr(found, name).cpu().double()
        torch.testing.assert_close(
            value, getattr(wanted, name), rtol=1e-5, atol=1e-6, equal_nan=True
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 2, 7, 4096, 9001])
def test_every_property_is_the_references(vocab: int, dtype: Any, device: str) -> None:
    logits = scores(vocab, dtype, device)
    found = confidence(logits, 0.7)
    assert found.largest.shape == (3, 2) and found.largest.dtype == torch.float32
    assert_same(found, reference(logits.cpu().double(), 0.7))


def test_equal_logits_leave_no_margin_and_the_first_token(device: str) -> None:
    logits = torch.zeros(2, 9000, device=device)
    logits[0, [5, 8000]] = 3.0
    logits[1, [4097, 4099]] = 3.0
    found = confidence(logits)
    assert found.token.tolist() == [5, 4097]
    assert found.margin is not None and found.margin.tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_rows_without_a_distribution_are_nan(device: str) -> None:
    logits = scores(9001, torch.float32, device)
    logits[0, 0, 8000], logits[0, 1, 8000], logits[2, 1] = torch.nan, torch.inf, -torch.inf
    found = confidence(logits)
    for name in NUMBERS:
        nan = [[True, True], [False, False], [False, True]]
        assert getattr(found, name).isnan().tolist() == nan, name
    assert ((found.token >= 0) & (found.token < 9001)).all()


def test_what_nobody_asks_for_is_none(device: str) -> None:
    logits = scores(500, torch.float32, device)
    found = confidence(logits, entropy=False, margin=False)
    assert found.entropy is None and found.margin is None
    torch.testing.assert_close(found.largest, confidence(logits).largest)


def test_no_rows_and_strided_rows(device: str) -> None:
    assert confidence(torch.zeros(0, 50, device=device)).largest.shape == (0,)
    wide = torch.full((4, 3, 600), torch.nan, device=device)
    wide[:, 1, :500] = scores(500, torch.float32, device).reshape(-1, 500)[:4]
    assert_same(confidence(wide[:, 1, :500]), reference(wide[:, 1, :500].cpu().double()))
