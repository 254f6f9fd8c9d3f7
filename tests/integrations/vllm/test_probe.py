"""The probe listens to a drafter, and whatever happens to it the drafter goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flyball.integrations.vllm.probe import DraftProbe


class Drafter:
    """Drafts the most likely of five tokens, from logits that are drawn."""

    def __init__(self, num_requests: int = 3) -> None:
        self.rng = torch.Generator().manual_seed(0)
        self.num_requests, self.seen = num_requests, []
        self.model = SimpleNamespace(compute_logits=self.compute)

    def compute(self, hidden: Any) -> Any:
        self.seen.append(torch.randn(self.num_requests, 5, generator=self.rng))
        return self.seen[-1]

    def propose(self, num_tokens: int) -> torch.Tensor:
        self.seen = []
        drafts = [self.model.compute_logits(None).argmax(-1) for _ in range(num_tokens)]
        return torch.stack(drafts, dim=1)


def test_it_tells_the_largest_probabilities_of_the_latest_draft_once() -> None:
    drafter = Drafter()
    probe = DraftProbe(drafter)
    drafter.propose(2)
    drafter.propose(4)
    expected = torch.stack([logits.softmax(-1).amax(-1) for logits in drafter.seen], dim=1)
    sure = probe.take(3, 4)
    assert sure is not None
    np.testing.assert_allclose(sure, expected.numpy(), rtol=1e-6)
    assert probe.take(3, 4) is None
    drafter.propose(4)
    assert probe.take(2, 4) is None  # of other requests


@pytest.mark.parametrize("method", ["softmax", "amax"])
def test_a_fault_ends_the_listening_and_not_the_draft(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = Drafter()
    probe = DraftProbe(drafter)
    drafter.propose(2)
    assert probe.take(3, 2) is not None
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> Any:
            raise torch.OutOfMemoryError("no memory")

        patch.setattr(torch.Tensor, method, fail)
        assert drafter.propose(2).shape == (3, 2)
    drafter.propose(2)
    assert probe.take(3, 2) is None
    assert probe._deaf


@pytest.mark.parametrize(
    ("drafter", "reason"),
    [
        (SimpleNamespace(propose=print), "drafts without logits"),
        (SimpleNamespace(), "drafts without logits"),
    ],
)
def test_what_has_no_logits_is_refused(drafter: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        DraftProbe(drafter)
