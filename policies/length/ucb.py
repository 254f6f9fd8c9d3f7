"""Upper confidence bounds over draft lengths."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from flyball.policies.length.arms import ArmPolicy, ArmSettings


class UCBSettings(ArmSettings):
    """Settings of the ucb policy."""

    policy: Literal["ucb"] = "ucb"
    width: float = Field(default=1.0, ge=0.0, description="Of the confidence bounds.")


class UCB(ArmPolicy):
    """The length with the highest upper confidence bound of its reward.

    UCBSpec of BanditSpec (arXiv 2505.15141): mean + width x sqrt(2 ln t / n_arm), every arm once
    first. The published code divides by the plays of all arms together, which adds the same bonus
    to each; here every arm has its own count, as the paper has it.
    """

    Settings = UCBSettings
    settings: UCBSettings

    def __init__(self, settings: UCBSettings) -> None:
        super().__init__(settings)
        self._count = np.zeros(len(self._arms))
        self._sum = np.zeros(len(self._arms))

    def pick(self, num_arms: int) -> int:
        """An arm that was never played, or the one with the highest bound."""
        count = self._count[:num_arms]
        if not count.all():
            return int(count.argmin())
        bonus = self.settings.width * np.sqrt(2.0 * math.log(self._count.sum()) / count)
        return int((self._sum[:num_arms] / count + bonus).argmax())

    def credit(self, arm: int, reward: float) -> None:
        """Count it."""
        self._count[arm] += 1.0
        self._sum[arm] += reward
