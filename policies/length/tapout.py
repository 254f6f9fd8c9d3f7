"""A bandit over stop rules."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from flyball.estimators.slots import SlotArray
from flyball.policies.length.base import (
    Bools,
    Ints,
    LengthSettings,
    Progress,
    RoundResult,
    StopRule,
)

# Stop where the confidence falls below, and where the risk of a rejection rises above.
_MIN_CONFIDENCE = np.array([0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0])
_MAX_RISK = np.array([1.0, 1.0, 1.0, 1.0, 0.3, 0.5, 0.7])


class TapOutSettings(LengthSettings):
    """Settings of the tapout policy."""

    policy: Literal["tapout"] = "tapout"
    max_draft_len: int = Field(default=16, ge=1, le=64, description="Largest draft length.")
    blend: float = Field(
        default=0.5, ge=0.0, le=1.0, description="Weight of the accepted length in the reward."
    )


class TapOut(StopRule):
    """Every request follows a stop rule, chosen by UCB1 from what rounds under each brought.

    TapOut (arXiv 2511.02017), sequence level: the reward of a round blends the accepted length,
    as a share of the longest, with the share of the draft that was accepted. The rules are bounds
    of the draft's confidence and of the risk of a rejection; entropies are not asked for.
    """

    Settings = TapOutSettings
    settings: TapOutSettings
    learns = True

    def __init__(self, settings: TapOutSettings) -> None:
        super().__init__(settings)
        self._rule = SlotArray(0, np.int64)
        self._count = np.zeros(len(_MAX_RISK))
        self._sum = np.zeros(len(_MAX_RISK))

    def admit(self, slots: Ints) -> None:
        """Choose a rule for each new request."""
        self._rule.reset(slots)
        untried = np.flatnonzero(self._count == 0.0)
        if len(untried):
            self._rule.values[slots] = np.resize(untried, len(slots))
        else:
            bonus = np.sqrt(2.0 * math.log(self._count.sum()) / self._count)
            self._rule.values[slots] = (self._sum / self._count + bonus).argmax()

    def stop(self, progress: Progress) -> Bools:
        """What each request's rule says."""
        rule = self._rule.values[progress.view.slots[progress.rows]]
        unsure = progress.confidence < _MIN_CONFIDENCE[rule]
        return np.asarray(unsure | (1.0 - progress.survival > _MAX_RISK[rule]), np.bool_)

    def learn(self, result: RoundResult) -> None:
        """Credit each round to the rule of its request."""
        drafted = result.proposed > 0
        accepted = result.accepted[drafted]
        rule = self._rule.values[result.slots[drafted]]
        blend = self.settings.blend
        reward = blend * accepted / self.settings.max_draft_len
        reward += (1.0 - blend) * accepted / result.proposed[drafted]
        self._count += np.bincount(rule, minlength=len(self._count))
        self._sum += np.bincount(rule, reward, len(self._sum))
