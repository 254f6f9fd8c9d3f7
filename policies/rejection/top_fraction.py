"""Keeps the best share of every group after so many tokens."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flyball.estimators.partial_reward import PartialReward
from flyball.policies.rejection.base import (
    Bools,
    Floats,
    Groups,
    Ints,
    Load,
    RejectionPolicy,
    RejectionSettings,
)
from flyball.policies.rejection.ranks import ranks

_FIRST_AUDITS = 20
_AUDIT_SHARE = 0.05


class TopFractionSettings(RejectionSettings):
    """Settings of the top_fraction policy."""

    policy: Literal["top_fraction"] = "top_fraction"
    width: int = Field(default=4, ge=2, description="One of so many candidates is kept.")
    tau: int | None = Field(
        default=64,
        ge=1,
        description="Generated tokens after which a group is judged, the only checkpoint then; "
        "null: the first of check_at_tokens where partial scores tell enough of final ones.",
    )
    correlation: float = Field(
        default=0.9,
        gt=0.0,
        lt=1.0,
        description="Correlation of partial with final scores that is enough, where tau is null.",
    )


class TopFraction(RejectionPolicy):
    """Keeps the best 1 / width of a group by their scores after tau tokens, once.

    Early Rejection with Partial Reward Models (arXiv 2508.01969): of N candidates the best
    ceil(N / width) go on, but never fewer than win, once all that go on have passed tau; whoever
    ended sooner counts with its final score. The default tau is that of its released code. If
    scores were sums of equal independent parts over L tokens, partial and final ones would
    correlate by sqrt(tau / L), so the least tau for a correlation rho is rho^2 L. With `tau: null`
    the correlation is measured instead, within audited groups, which nobody is stopped in: all
    groups until 20 are known, then 5% of them, drawn at random. Where no checkpoint reaches it
    nobody is stopped.
    """

    Settings = TopFractionSettings
    settings: TopFractionSettings
    waits = True

    def __init__(self, settings: TopFractionSettings, rng: np.random.Generator) -> None:
        super().__init__(settings, rng)
        self._reward = PartialReward(len(self.checks))
        self._num_audited = 0
        self._judged_at = None if settings.tau is None else 0  # checkpoint

    @property
    def checks(self) -> NDArray[np.int64]:
        """Tau alone where it is given."""
        tau = self.settings.tau
        return super().checks if tau is None else np.array([tau], np.int64)

    def audits(self, keep: Ints) -> Bools:
        """None where tau is given."""
        if self.settings.tau is not None:
            return np.zeros(len(keep), np.bool_)
        if self._num_audited < _FIRST_AUDITS:
            return np.ones(len(keep), np.bool_)
        drawn: Bools = self.rng.random(len(keep)) < _AUDIT_SHARE
        return drawn

    def decide(self, groups: Groups, load: Load) -> Bools:
        """Whoever is not among the best, where all that go on have passed tau."""
        if self._judged_at is None:
            return np.zeros(groups.present.shape, np.bool_)
        behind: Bools = groups.alive & (groups.num_passed <= self._judged_at)
        # What was stopped before leaves its place to nobody: a group is cut once.
        score = np.where(groups.present & ~groups.stopped, self._scores(groups), np.nan)
        share = -(-groups.present.sum(axis=1) // self.settings.width)
        beyond = ranks(score) >= np.maximum(share, groups.keep)[:, None]
        worse: Bools = beyond & ~np.isnan(score) & ~np.any(behind, axis=1, keepdims=True)
        return worse

    def _scores(self, groups: Groups) -> Floats:
        """Scores (G, N) at tau; of those that jumped it, at the first checkpoint beyond."""
        score = groups.score[:, :, self._judged_at :]
        first = (~np.isnan(score)).argmax(axis=2)
        found: Floats = np.take_along_axis(score, first[:, :, None], axis=2)[:, :, 0]
        return np.where(np.isnan(found), groups.final, found)

    def learn(self, groups: Groups) -> None:
        """Measure the correlation in audited groups."""
        if self.settings.tau is not None or not groups.audited.any():
            return
        groups = groups.only(groups.audited)
        self._reward.learn(groups.score, groups.final)
        self._num_audited += len(groups.keep)
        if self._num_audited < _FIRST_AUDITS:
            return
        enough = np.flatnonzero(self._reward.correlation >= self.settings.correlation)
        self._judged_at = int(enough[0]) if len(enough) else None

    @property
    def figures(self) -> dict[str, float]:
        """Tau, infinite where no checkpoint tells enough, and what it was learned from."""
        at = self._judged_at
        return {
            "audited_groups": float(self._num_audited),
            "tau": np.inf if at is None else float(self.checks[at]),
        }
