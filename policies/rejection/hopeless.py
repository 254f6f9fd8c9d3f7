"""Stops completions that are not worth finishing, whatever the others of their group do."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.estimators.prospects import Prospects
from flyball.estimators.risk import risk_threshold
from flyball.policies.rejection.base import (
    Bools,
    Groups,
    Ints,
    Load,
    RejectionPolicy,
    RejectionSettings,
)

_AUDIT_SHARE = 0.1
_REFIT_SHARE = 0.125  # of the audited groups, before all is fitted anew
_REFIT_MOST = 16


class HopelessSettings(RejectionSettings):
    """Settings of the hopeless policy."""

    policy: Literal["hopeless"] = "hopeless"
    worth: float = Field(description="Final score from which on a completion was worth it.")
    risk: float = Field(
        default=0.05,
        gt=0.0,
        le=0.5,
        description="Largest share of the completions worth it that is stopped.",
    )
    value_of_winning: float | None = Field(
        default=None,
        gt=0.0,
        description="What a completion worth it brings, in tokens; those whose chance of it is "
        "worth more than they still cost are spared. Left out, the risk alone decides.",
    )


class Hopeless(RejectionPolicy):
    """Stops a completion whose chance to be worth it is too small for what it still costs.

    For single completions, groups of 1, or members that do not compete: each is judged by its own
    partial score. At the checkpoint passed last it is stopped where

        P(final >= worth) value_of_winning < token_price tokens_left  and  -log P > threshold,

    P from the calibrated regression of `Prospects`, tokens_left the mean of what is left there.
    The threshold is that of `risk_threshold` for the largest -log P that audited completions which
    were worth it showed on their way: for groups exchangeable with the audited ones, the expected
    share of a group's worthy completions that is stopped is at most the risk, whatever the scorer.

    Audited, and run to completion, are all groups until 2 / risk with a completion worth it are
    known, then 10%, drawn at random. Of fewer than 1 / risk no threshold promises anything and
    nobody is stopped, so that auditing them all costs nothing.
    """

    Settings = HopelessSettings
    settings: HopelessSettings

    def __init__(self, settings: HopelessSettings, rng: np.random.Generator) -> None:
        super().__init__(settings, rng)
        self._prospects = Prospects(self.checks, settings.worth)
        self._tokens_left = np.zeros(len(self.checks))
        self._threshold = np.inf
        self._num_audited = self._num_worthy = self._fit_at = 0  # groups

    def audits(self, keep: Ints) -> Bools:
        """All of the first, then a share drawn at random."""
        if self._num_worthy < 2.0 / self.settings.risk:
            return np.ones(len(keep), np.bool_)
        drawn: Bools = self.rng.random(len(keep)) < _AUDIT_SHARE
        return drawn

    def decide(self, groups: Groups, load: Load) -> Bools:
        """Whoever is too improbable to be worth it at the checkpoint that it passed last."""
        stop = np.zeros(groups.present.shape, np.bool_)
        group, member = np.nonzero(groups.alive & (groups.num_passed > 0))
        check = groups.num_passed[group, member] - 1
        surprise = self._prospects.surprise(groups.score[group, member, check], check)
        hopeless = surprise > self._threshold
        value = self.settings.value_of_winning
        if value is not None:
            price = load.token_price * self._tokens_left[check]
            hopeless &= np.exp(-surprise) * value < price
        stop[group, member] = hopeless
        return stop

    def learn(self, groups: Groups) -> None:
        """Calibrate on those that were audited."""
        groups = groups.only(groups.audited)
        if len(groups.keep) == 0:
            return
        self._prospects.add(groups.score, groups.final, groups.num_tokens)
        self._num_audited += len(groups.keep)
        self._num_worthy += int((groups.final >= self.settings.worth).any(axis=1).sum())
        if self._num_audited >= self._fit_at:
            self._prospects.fit()
            wait = min(int(_REFIT_SHARE * self._num_audited), _REFIT_MOST)
            self._fit_at = self._num_audited + wait
        self._tokens_left = self._prospects.tokens_left()
        self._threshold = risk_threshold(*self._prospects.worthy(), self.settings.risk)

    @property
    def figures(self) -> dict[str, float]:
        """What it has learned."""
        return {"audited_groups": float(self._num_audited), "threshold": self._threshold}
