"""Confidence is that of the distribution in float64."""

from __future__ import annotations

import pytest
import torch

from flyball.kernels.confidence import Confidence, confidence, confidence_of


def scores(*shape: int, masked: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    found = 3.0 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    cut = torch.rand(shape, generator=generator) < masked
    cut[..., -1] = False
    return found.masked_fill(cut, -torch.inf)


def check(found: Confidence, logits: torch.Tensor, temperature: float, rtol: float) -> None:
    """Against the definitions, in float64."""
    scaled = logits.double() / temperature
    p = scaled.softmax(-1)
    ordered = p.sort(dim=-1, descending=True).values
    second = ordered[..., 1] if p.shape[-1] > 1 else torch.zeros_like(ordered[..., 0])
    expected = {
        "largest": ordered[..., 0],
        "max_logit": scaled.amax(-1),
        "log_sum_exp": scaled.logsumexp(-1),
        "entropy": torch.distributions.Categorical(probs=p).entropy(),
        "margin": ordered[..., 0] - second,
    }
    expected["entropy"] = -torch.xlogy(p, p).sum(-1)
    for name, value in expected.items():
        torch.testing.assert_close(
            getattr(found, name).double(), value, rtol=rtol, atol=rtol, msg=name
        )
    assert found.token.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("shape", [(4, 7), (3, 2, 301), (5, 1), (0, 9), (9,), (2, 0, 5)])
@pytest.mark.parametrize("masked", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_are_the_distributions(
    shape: tuple[int, ...], masked: float, temperature: float
) -> None:
    logits = scores(*shape, masked=masked)
    found = confidence(logits, temperature)
    assert found.largest.dtype == torch.float64 and found.largest.shape == shape[:-1]
    check(found, logits, temperature, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = scores(20, 3000, masked=0.3).to(dtype)
    found = confidence(logits, 0.7)
    assert found.entropy is not None and found.entropy.dtype == torch.float32
    check(found, logits, 0.7, 1e-5)


def test_what_nobody_asked_for_is_left_out() -> None:
    found = confidence(scores(2, 5), entropy=False, margin=False)
    assert found.entropy is None and found.margin is None


def test_rows_with_nan_give_nan() -> None:
    logits = scores(3, 5)
    logits[1, 2], logits[2] = torch.nan, -torch.inf
    found = confidence(logits)
    for name in ("largest", "log_sum_exp", "entropy", "margin"):
        assert getattr(found, name).isnan().tolist() == [False, True, True]


def test_distributions_have_the_confidence_of_their_logits() -> None:
    logits = scores(4, 30)
    of_probs, of_logits = confidence_of(logits.softmax(-1)), confidence(logits)
    assert of_probs.max_logit is None and of_probs.log_sum_exp is None
    for name in ("largest", "token", "entropy", "margin"):
        torch.testing.assert_close(getattr(of_probs, name), getattr(of_logits, name))
