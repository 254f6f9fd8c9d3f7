"""A language model's own likelihood of a text as reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.integrations.hf.candidate_cache import CandidateCache
from flyball.integrations.hf.checks import check_model
from flyball.integrations.hf.scorers import Partial

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


class ImplicitRewardModel:
    """Log-likelihood of the generated tokens under a model.

        score = sum over generated tokens t of log p(t | prompt and all tokens before)

    It assumes that good texts are likely ones to this model, which may be another one than the
    target; the same sums of a tuned model and of its origin differ by an implicit process reward
    (Free Process Rewards without Process Labels, arXiv 2412.01981).

    Args:
        model: decoder-only model that shares the target's token ids.
        mean: divide by the number of tokens, so that lengths compare.
        max_rows: candidates whose keys and values are kept at a time.

    Attributes:
        cache: of the candidates; `SelfEvaluation` on the same model may share it.
    """

    def __init__(self, model: PreTrainedModel, mean: bool = False, max_rows: int = 64) -> None:
        check_model(model, "reward model")
        self._mean = mean
        self.cache = CandidateCache(model, next_log_prob, num_unread=1, max_rows=max_rows)

    @property
    def num_tokens(self) -> int:
        """Tokens read so far."""
        return self.cache.num_tokens

    @property
    def flops(self) -> float:
        """Floating-point operations so far, by `forward_flops`."""
        return self.cache.flops

    def __call__(self, partial: Partial) -> Floats:
        """Log-likelihoods (n,) in nats; means are NaN where nothing is generated yet."""
        return np.array([self._score(log_probs) for log_probs in self.cache.values(partial)])

    def beginnings(self, partial: Partial, lengths: Sequence[Longs]) -> Floats:
        """The same of the first tokens of each text, for all its `lengths`; see `Scorer`."""
        texts = zip(self.cache.values(partial), partial.prompt_len, lengths, strict=True)
        return np.array(
            [self._score(x[:count]) for x, start, own in texts for count in (own - start).tolist()]
        )

    def _score(self, log_probs: Floats) -> float:
        if not self._mean:
            return float(log_probs.sum())
        return float(log_probs.mean()) if len(log_probs) else float("nan")

    def forget(self, candidates: Longs) -> None:
        """Free what is kept of candidates (m,)."""
        self.cache.forget(candidates)


def next_log_prob(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (rows, width) of the following tokens (rows, width), in single or wider.

    Args:
        logits: (rows, width, vocab).
        following: (rows, width) token ids.
    """
    wide = logits.float() if logits.element_size() < 4 else logits
    chosen = wide.gather(2, following[..., None]).squeeze(2)
    return chosen - wide.logsumexp(dim=2)
