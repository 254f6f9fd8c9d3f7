"""Posterior sampling over draft lengths."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from flyball.policies.length.arms import ArmPolicy, ArmSettings


class ThompsonSettings(ArmSettings):
    """Settings of the thompson policy."""

    policy: Literal["thompson"] = "thompson"
    memory: float = Field(
        default=1000.0, gt=1.0, description="Rounds after which a reward has lost 1 - 1/e."
    )
    seed: int = Field(default=0, ge=0, description="Of the random choices.")


class Thompson(ArmPolicy):
    """The length whose reward is highest in a draw from the posterior of each.

    Discounted Thompson sampling: a reward r in [0, 1] counts as r successes and 1 - r failures of
    a Beta(1, 1) prior, and all counts fade, so that an arm that was given up is tried again.
    """

    Settings = ThompsonSettings
    settings: ThompsonSettings

    def __init__(self, settings: ThompsonSettings) -> None:
        super().__init__(settings)
        self._keep = float(np.exp(-1.0 / settings.memory))
        self._won = np.zeros(len(self._arms))
        self._lost = np.zeros(len(self._arms))
        self._rng = np.random.default_rng(settings.seed)

    def pick(self, num_arms: int) -> int:
        """The best arm of a draw."""
        draws = self._rng.beta(1.0 + self._won[:num_arms], 1.0 + self._lost[:num_arms])
        self.propensity = math.nan
        return int(draws.argmax())

    def credit(self, arm: int, reward: float) -> None:
        """Count it, and fade what came before."""
        self._won *= self._keep
        self._lost *= self._keep
        self._won[arm] += reward
        self._lost[arm] += 1.0 - reward
