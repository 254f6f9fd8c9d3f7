"""The fused evidence is what its parts are, each by its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flyball.kernels.accept_gradient import accept_gradient
from flyball.kernels.mix import share

NUM, MEMBERS, VOCAB = 40, 3, 23


def call(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(NUM, VOCAB, generator=generator).double()
    other = 2 * torch.randn(NUM, MEMBERS, VOCAB, generator=generator).double()
    present = torch.rand(NUM, MEMBERS, generator=generator) < 0.7
    present[:, 0] |= ~present.any(1)
    return {
        "target_logits": logits.to(dtype),
        "members": other.softmax(-1).to(dtype),
        "shares": share(torch.rand(NUM, MEMBERS, generator=generator).double(), present),
        "tokens": torch.randint(0, VOCAB, (NUM,), generator=generator),
        "present": present,
    }


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_are_those_of_a_member_at_a_time(temperature: float) -> None:
    given = call()
    found = accept_gradient(**given, temperature=temperature)
    p = (given["target_logits"] / temperature).softmax(-1).numpy()
    q, w = given["members"].numpy(), given["shares"].numpy()
    for i, j in np.ndindex(NUM, MEMBERS):
        values = [getattr(found, name)[i, j] for name in ("ascent", "overlap", "log_prob")]
        if not given["present"][i, j]:
            assert all(value.isnan() for value in values)
            continue
        below = w[i] @ q[i] < p[i]
        expected = [
            q[i, j][below].sum(),
            np.minimum(p[i], q[i, j]).sum(),
            np.log(q[i, j, given["tokens"][i]]),
        ]
        np.testing.assert_allclose([float(value) for value in values], expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    given = call(dtype)
    exact = {**given, "target_logits": given["target_logits"].double()}
    exact["members"] = given["members"].double()
    found, expected = accept_gradient(**given), accept_gradient(**exact)
    for name in ("overlap", "log_prob", "ascent"):
        value = getattr(found, name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(
            value.double(), getattr(expected, name), rtol=1e-5, atol=1e-6, equal_nan=True
        )


def test_absent_members_are_never_looked_at() -> None:
    given = call()
    expected = accept_gradient(**given)
    given["members"] = given["members"].masked_fill(~given["present"][..., None], torch.nan)
    found = accept_gradient(**given)
    for name in ("ascent", "overlap", "log_prob"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), equal_nan=True, rtol=0, atol=0
        )


def test_no_positions() -> None:
    given = {name: value[:0] for name, value in call().items()}
    assert accept_gradient(**given).ascent.shape == (0, MEMBERS)
