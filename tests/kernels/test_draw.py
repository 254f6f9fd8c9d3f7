"""Draws by the inverse CDF, on a CPU and by the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_statistics import p_value

from flyball.kernels.cpu.draw import draw as draw_on_cpu
from flyball.kernels.draw import draw_token
from flyball.kernels.reference.draw import draw

FALSE_ALARM_RATE = 1e-4
EDGES = [2.0**-53, 0.25, 0.5, 0.75, 1 - 2.0**-53]


@given(
    seed=st.integers(0, 2**20),
    vocab=st.sampled_from([1, 2, 255, 256, 257, 1024, 1025, 1279, 1281, 5000]),
    zeros=st.sampled_from([0.0, 0.9, 0.999]),
    uniform=st.one_of(st.floats(2.0**-53, 1 - 2.0**-53), st.sampled_from(EDGES)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=300, deadline=None)
def test_a_draw_is_the_first_token_whose_sum_exceeds_its_share(
    seed: int, vocab: int, zeros: float, uniform: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(vocab, generator=generator, dtype=torch.float64)
    weights[torch.rand(vocab, generator=generator) < zeros] = 0.0
    weights[int(torch.randint(vocab, (1,), generator=generator))] = 0.5
    # Multiples of 2^-12, whose sums are exact however they are made.
    weights = (weights * 2**12).ceil().to(dtype) / 2**12
    sums = weights.double().numpy().cumsum()
    expected = int(np.flatnonzero(sums > uniform * sums[-1])[0])
    token, total = draw_on_cpu(weights.numpy(), uniform)
    assert (token, total) == (expected, sums[-1])
    assert int(draw(weights[None], torch.tensor([uniform], dtype=torch.float64))) == expected


@pytest.mark.parametrize("vocab", [300, 2000])
def test_tokens_without_weight_are_never_drawn(vocab: int) -> None:
    """Also where sums in single precision round."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(2000):
        weights = torch.rand(vocab, generator=generator) ** 20
        weights[torch.rand(vocab, generator=generator) < 0.9] = 0.0
        weights[0] = 1e-30
        for uniform in (2.0**-53, 1 - 2.0**-53, float(torch.rand(1, generator=generator))):
            assert weights[draw_on_cpu(weights.numpy(), uniform)[0]] > 0


@pytest.mark.parametrize("vocab", [40, 1500])
def test_tokens_are_distributed_as_asked(vocab: int) -> None:
    torch.manual_seed(4)
    probs = (2 * torch.randn(vocab)).softmax(-1)
    counts = np.bincount(draw_token(probs.expand(100_000, -1)), minlength=vocab)
    assert p_value(counts, probs.double().numpy()) > FALSE_ALARM_RATE


@pytest.mark.parametrize("poison", [float("nan"), 0.0])
def test_what_is_no_distribution_is_refused(poison: float) -> None:
    probs = torch.full((2, 1500), 1 / 1500)
    probs[1] = poison
    with pytest.raises(RuntimeError):
        draw_token(probs)
