"""The members' evidence equals the float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flyball.kernels.gpu.accept_gradient import accept_gradient
from flyball.kernels.reference.accept_gradient import accept_gradient as reference


@pytest.mark.parametrize("some_absent", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 3, 7), (6, 2, 9001), (4, 1, 4096), (3, 5, 9001), (0, 2, 9)])
def test_evidence_is_the_references(
    shape: tuple[int, int, int], dtype: Any, some_absent: bool, device: str
) -> None:
    torch.manual_seed(sum(shape))
    count, members, vocab = shape
    logits = (3.0 * torch.randn(count, vocab)).to(dtype)
    drafts = (logits[:, None].float() + torch.randn(shape)).softmax(-1)
    logits[:1, vocab // 2 :] = -torch.inf
    shares, tokens = torch.rand(count, members), torch.randint(0, vocab, (count,))
    present = None
    if some_absent:
        present = torch.rand(count, members) < 0.6
        present[:, 0] = True
        shares *= present
        drafts[~present] = torch.nan  # never looked at
    shares /= shares.sum(1, keepdim=True)
    given = [None if x is None else x.to(device) for x in (logits, drafts, shares, tokens)]
    there = None if present is None else present.to(device)
    found = accept_gradient(*given, temperature=0.8, present=there)
    doubles = (logits.double(), drafts.double(), shares.double(), tokens)
    wanted = reference(*doubles, temperature=0.8, present=present)
    for name in ("ascent", "overlap", "log_prob"):
        value = getattr(found, name).cpu().double()
        torch.testing.assert_close(
            value, getattr(wanted, name), rtol=1e-5, atol=1e-30, equal_nan=True
        )
