"""Stops sampling answers once the leading one is safe."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import betainc, betaln, expit, logit

from flyball.policies.rejection.base import (
    Bools,
    Floats,
    Groups,
    Load,
    RejectionPolicy,
    RejectionSettings,
)

Counts = NDArray[np.int64]

_CORRECTION = 0.25  # logits that the error allowed moves with a group of twice the mean samples


class ConsensusSettings(RejectionSettings):
    """Settings of the consensus policy."""

    policy: Literal["consensus"] = "consensus"
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1.0,
        description="Probability of the leading answer to stay ahead with which sampling stops.",
    )
    num_least: int = Field(
        default=2, ge=1, description="Answers that are waited for before the leader is trusted."
    )
    mean_samples: float | None = Field(
        default=None,
        ge=1.0,
        description="Samples that a group may finish on average; less confidence is demanded "
        "where the questions would need more. Left out, the confidence alone decides.",
    )

    @model_validator(mode="after")
    def _budget_can_be_met(self) -> ConsensusSettings:
        if self.mean_samples is not None and self.mean_samples < self.num_least:
            raise ValueError(
                f"expected mean_samples of at least num_least ({self.num_least}), "
                f"but got {self.mean_samples}; raise it"
            )
        return self


class Consensus(RejectionPolicy):
    """Stops a group once its leading answer is unlikely to be overtaken, or cannot be.

    Adaptive-Consistency (arXiv 2305.11860): with v1 votes for the leading answer and v2 for the
    runner-up among those that finished, and nothing known before, the probability that the leader
    is also the more likely of both is 1 - I_1/2(v1 + 1, v2 + 1), I the regularised incomplete beta
    function. All others stop once it reaches the confidence, after at least `num_least` answers;
    or once v1 - v2 exceeds the members that are left, when waiting could change nothing.

    `mean_samples` is a budget for the mean number of samples that finish a group. The error
    allowed, e = 1 - confidence at first, then follows every group that ends with n samples:

        logit(e) <- logit(e) + 0.25 (n - mean_samples) / mean_samples,

    never below its first value, so that the least safe groups get the samples. From an error of
    1/2 on every group stops at `num_least` answers, which is within the budget, so the sum of all
    steps stays below -logit(1 - confidence) and one step more: the mean of T groups of N members
    exceeds the budget by at most a share of (N / budget - 4 logit(1 - confidence)) / T, 0.14 for
    100 groups of 16, a budget of 8 and a confidence of 0.95. That holds for groups one after the
    other in which somebody answers; others are left aside. What groups that are open together, and
    samples that end at the same review, spend beyond it the groups that follow make up for.
    """

    Settings = ConsensusSettings
    settings: ConsensusSettings
    scores = False

    def __init__(self, settings: ConsensusSettings, rng: np.random.Generator) -> None:
        super().__init__(settings, rng)
        self._least_logit = float(logit(1.0 - settings.confidence))
        self._logit = self._least_logit
        self._num_groups = self._num_samples = 0

    def decide(self, groups: Groups, load: Load) -> Bools:
        """Everybody who goes on where the leader is safe."""
        leader, second = votes(groups)
        enough = _voting(groups).sum(axis=1) >= self.settings.num_least
        safe = enough & (_overtaken(leader, second) <= self._error)
        decided = leader - second > groups.alive.sum(axis=1)
        stop: Bools = groups.alive & (safe | decided)[:, None]
        return stop

    @property
    def _error(self) -> float:
        return min(float(expit(self._logit)), 0.5)

    def priority(self, groups: Groups) -> Floats:
        """Whose leading answer is least safe: Blend-ASC's allocation, as read here.

        Optimal Self-Consistency (arXiv 2511.12309) ranks questions by a blend of the posterior
        above, best with few samples, with PPR-1v1 (arXiv 2109.05047), best in the limit, whose
        error is (k - 1) times the density of Beta(v1 + 1, v2 + 1) at 1/2 for k answers. How it
        blends them is our reading: logarithms of both, the second weighing the share of the
        group's members that have finished. Members that are under way count as votes for the
        leader, so that samples which begin together spread over groups.
        """
        leader, second = votes(groups)
        leader = leader + (groups.alive & groups.begun).sum(axis=1)
        posterior = np.log(_overtaken(leader, second))
        total = leader + second
        density = -total * np.log(2.0) - betaln(leader + 1, second + 1)
        limit = np.minimum(np.log(_rivals(groups)) + density, 0.0)
        done = groups.finished.sum(axis=1) / np.maximum(groups.present.sum(axis=1), 1)
        blend: Floats = (1.0 - done) * posterior + done * limit
        return blend

    def learn(self, groups: Groups) -> None:
        """Keep to the budget."""
        samples = groups.finished.sum(axis=1)
        self._num_groups += len(samples)
        self._num_samples += int(samples.sum())
        budget = self.settings.mean_samples
        if budget is None:
            return
        # What gave no answer could not have ended sooner, whatever is demanded.
        samples = samples[_voting(groups).any(axis=1)]
        for moved in (_CORRECTION * (samples - budget) / budget).tolist():
            self._logit = max(self._logit + moved, self._least_logit)

    @property
    def figures(self) -> dict[str, float]:
        """The confidence in force and the samples of a group so far."""
        return {
            "confidence_in_force": 1.0 - self._error,
            "samples_per_group": self._num_samples / max(self._num_groups, 1),
        }


def votes(groups: Groups) -> tuple[Counts, Counts]:
    """Votes (G,) for the leading answer of each group and for its runner-up."""
    voting = _voting(groups)
    same = groups.answer[:, :, None] == groups.answer[:, None, :]  # (G, N, N)
    count = (same & voting[:, None, :]).sum(axis=2) * voting
    leader = count.argmax(axis=1)[:, None]
    other = groups.answer != np.take_along_axis(groups.answer, leader, axis=1)
    return count.max(axis=1), (count * other).max(axis=1)


def _overtaken(leader: Counts, second: Counts) -> Floats:
    """Probability (G,) that the runner-up is the likelier of both; never 0, and 1/2 of a tie."""
    chance: Floats = np.clip(betainc(leader + 1, second + 1, 0.5), 1e-300, 0.5)
    return chance


def _voting(groups: Groups) -> Bools:
    """Members (G, N) that have finished with an answer."""
    return groups.present & groups.finished & (groups.answer >= 0)


def _rivals(groups: Groups) -> Counts:
    """Different answers (G,) besides the leading one; 1 where there are none."""
    ranked = np.sort(np.where(_voting(groups), groups.answer, -1), axis=1)
    fresh = np.diff(ranked, axis=1, prepend=-1) != 0  # each answer's first
    number: Counts = np.maximum(fresh.sum(axis=1) - 1, 1)
    return number
