"""Stop where the entropy's bound of the acceptance falls below a threshold that adapts."""

from __future__ import annotations

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


class AdaEDLSettings(LengthSettings):
    """Settings of the adaedl policy."""

    policy: Literal["adaedl"] = "adaedl"
    max_draft_len: int = Field(default=16, ge=1, le=64, description="Largest draft length.")
    scale: float = Field(default=0.2, ge=0.0, description="Of the entropy, in nats.")
    start_bound: float = Field(
        default=0.4, ge=0.0, le=1.0, description="Least acceptance of a new request."
    )
    target_acceptance: float = Field(
        default=0.9, ge=0.0, le=1.0, description="Share of a draft that is to be accepted."
    )


_KEEP_RATE = 0.5  # of the acceptance rate, from one round to the next
_KEEP_BOUND = 0.9
_STEP = 0.01


class AdaEDL(StopRule):
    """The draft goes on while a lower bound of its acceptance lies above a moving threshold.

    AdaEDL (arXiv 2410.18351): stop where 1 - sqrt(scale x H(q)) < bound. After each round the
    bound moves up where the moving acceptance rate lies below its target, else down, by the rule
    of Draft & Verify (arXiv 2309.08168) with its rates 0.5 and 0.9 and its step of 0.01. Kept for
    each request.
    """

    Settings = AdaEDLSettings
    settings: AdaEDLSettings
    entropies = True
    learns = True

    def __init__(self, settings: AdaEDLSettings) -> None:
        super().__init__(settings)
        self._bound = SlotArray(settings.start_bound)
        self._rate = SlotArray(settings.target_acceptance)

    def admit(self, slots: Ints) -> None:
        """Start new requests at the start bound."""
        self._bound.reset(slots)
        self._rate.reset(slots)

    def stop(self, progress: Progress) -> Bools:
        """True where the entropy promises too little."""
        bound = self._bound.values[progress.view.slots[progress.rows]]
        promised = 1.0 - np.sqrt(np.fmax(self.settings.scale * progress.entropy, 0.0))
        return np.asarray(promised < bound, np.bool_)

    def learn(self, result: RoundResult) -> None:
        """Move the bounds of the requests that had something verified."""
        drafted = result.proposed > 0
        slots = result.slots[drafted]
        latest = result.accepted[drafted] / result.proposed[drafted]
        rate = _KEEP_RATE * self._rate.values[slots] + (1.0 - _KEEP_RATE) * latest
        self._rate.values[slots] = rate
        step = np.where(rate < self.settings.target_acceptance, _STEP, -_STEP)
        bound = self._bound.values[slots] + (1.0 - _KEEP_BOUND) * step
        self._bound.values[slots] = np.clip(bound, 0.0, 1.0)
