"""The draft-length schedule of transformers' assisted generation."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.estimators.slots import SlotArray
from flyball.policies.length.base import Ints, LengthPolicy, LengthSettings, RoundResult, View


class HeuristicSettings(LengthSettings):
    """Settings of the heuristic policy."""

    policy: Literal["heuristic"] = "heuristic"
    start_draft_len: int = Field(
        default=20, ge=1, le=64, description="Length of a request's first draft."
    )


class Heuristic(LengthPolicy):
    """Two tokens more after full acceptance, one less otherwise, never below one.

    The rule of `num_assistant_tokens_schedule="heuristic"` in transformers, kept per request
    rather than per call, with its default start of 20, bounded by `max_draft_len`.
    """

    Settings = HeuristicSettings
    settings: HeuristicSettings
    learns = True

    def __init__(self, settings: HeuristicSettings) -> None:
        super().__init__(settings)
        start = min(settings.start_draft_len, settings.max_draft_len)
        self._draft_len = SlotArray(start, np.int32)

    def admit(self, slots: Ints) -> None:
        """Start new requests at the start length."""
        self._draft_len.reset(slots)

    def decide(self, view: View) -> Ints:
        """The present length of each request."""
        lengths: Ints = self._draft_len.values[view.slots]
        return np.minimum(lengths, view.max_draft_len, dtype=np.int32)

    def learn(self, result: RoundResult) -> None:
        """Apply the rule to every request that had something verified."""
        drafted = result.proposed > 0
        slots = result.slots[drafted]
        full = (result.accepted == result.proposed)[drafted]
        lengths = self._draft_len.values[slots]
        changed = np.where(full, lengths + 2, np.maximum(1, lengths - 1))
        self._draft_len.values[slots] = np.minimum(changed, self.settings.max_draft_len)
