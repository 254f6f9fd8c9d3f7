"""Exponential weights over draft lengths."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.policies.length.arms import ArmPolicy, ArmSettings, Floats


class EXP3Settings(ArmSettings):
    """Settings of the exp3 policy."""

    policy: Literal["exp3"] = "exp3"
    exploration: float = Field(
        default=0.1, gt=0.0, le=1.0, description="Share of rounds that pick any arm alike."
    )
    seed: int = Field(default=0, ge=0, description="Of the random choices.")


class EXP3(ArmPolicy):
    """Lengths are drawn by exponential weights of their importance-weighted rewards.

    EXP3Spec of BanditSpec (arXiv 2505.15141; Auer et al. 2002): makes no assumption on where the
    rewards come from, and pays for it by drawing every arm for ever.
    """

    Settings = EXP3Settings
    settings: EXP3Settings

    def __init__(self, settings: EXP3Settings) -> None:
        super().__init__(settings)
        self._log_weight = np.zeros(len(self._arms))
        self._rng = np.random.default_rng(settings.seed)

    def _probability(self, num_arms: int) -> Floats:
        weight = np.exp(self._log_weight[:num_arms] - self._log_weight[:num_arms].max())
        share = self.settings.exploration
        probability: Floats = (1.0 - share) * weight / weight.sum() + share / num_arms
        return probability

    def pick(self, num_arms: int) -> int:
        """An arm drawn by weight."""
        probability = self._probability(num_arms)
        total = probability.cumsum()
        draw = self._rng.random() * total[-1]
        arm = min(int(total.searchsorted(draw, "right")), num_arms - 1)
        self.propensity = float(probability[arm])
        return arm

    def credit(self, arm: int, reward: float) -> None:
        """Weigh it up by how seldom the arm is drawn."""
        num_arms = len(self._arms)
        estimate = reward / self._probability(num_arms)[arm]
        self._log_weight[arm] += self.settings.exploration * estimate / num_arms
