"""A model that is asked whether its text is any good."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.integrations.hf.candidate_cache import CandidateCache
from flyball.integrations.hf.checks import check_model
from flyball.integrations.hf.scorers import Partial

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


class SelfEvaluation:
    """A model's own probability that a restart would do no better, for one token.

    The question is appended to the prefix and read with it; it does not stay in the cache. The
    answer is p(yes) / (p(yes) + p(no)) of the next token (Adaptive Inference-Time Compute, arXiv
    2410.02725). A model that was not tuned to answer knows little. Process reward
    models that are language models score alike: with a step marker as question, and the tokens of
    good and bad steps as yes and no (Math-Shepherd, arXiv 2312.08935).

    Args:
        model: decoder-only model that shares the target's token ids, or a cache of one, such as
            `ImplicitRewardModel.cache`, to read texts once for both.
        question: token ids, at least one.
        yes: token id of a good prefix.
        no: token id of a bad prefix.
    """

    def __init__(
        self, model: PreTrainedModel | CandidateCache, question: Sequence[int], yes: int, no: int
    ) -> None:
        if not isinstance(model, CandidateCache):
            check_model(model, "reward model")
            model = CandidateCache(model)
        self.cache = model
        self._question = list(question)
        self._answers = [yes, no]

    @property
    def num_tokens(self) -> int:
        """Tokens read so far, by all who share the cache."""
        return self.cache.num_tokens

    @property
    def flops(self) -> float:
        """Floating-point operations so far, likewise."""
        return self.cache.flops

    def __call__(self, partial: Partial) -> Floats:
        """Probabilities (n,) that the prefix is good."""
        if len(partial.candidate) == 0:
            return np.zeros(0)
        logits = self.cache.peek(partial, self._question)[:, self._answers].double()
        good: Floats = logits.softmax(dim=1)[:, 0].cpu().numpy()
        return good

    def forget(self, candidates: Longs) -> None:
        """Free what is kept of candidates (m,)."""
        self.cache.forget(candidates)
