"""What bandits over draft lengths have in common: their arms and their reward."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from flyball.policies.length.base import Ints, LengthPolicy, LengthSettings, RoundResult, View

Floats = NDArray[np.float64]


class ArmSettings(LengthSettings):
    """Settings of every bandit over lengths."""

    max_draft_len: int = Field(default=16, ge=1, le=64, description="Largest draft length.")
    arms: list[int] = Field(
        default=[0, 1, 2, 3, 4, 6, 8, 12, 16],
        min_length=1,
        description="Lengths to choose from; those above the largest are left out.",
    )

    @model_validator(mode="after")
    def _sound(self) -> ArmSettings:
        if self.arms != sorted(set(self.arms)) or not 0 <= self.arms[0] <= self.max_draft_len:
            raise ValueError(
                f"expected arms to be ascending lengths that start between 0 and max_draft_len = "
                f"{self.max_draft_len}, but got {self.arms}"
            )
        return self


class ArmPolicy(LengthPolicy):
    """One length for all requests of a round, by what rounds of each length brought.

    An arm is a length. Its reward is what a round brought per second, as a share of the most that
    any length could bring, so that it lies in [0, 1] at every batch size; seconds are those the
    governor learned for that length, which have less noise than the round's own. Outcomes that
    come late are credited to the arm that they show.
    """

    settings: ArmSettings
    learns = True

    def __init__(self, settings: ArmSettings) -> None:
        super().__init__(settings)
        self._arms = np.array([arm for arm in settings.arms if arm <= settings.max_draft_len])
        self._round_s: Floats | None = None
        self._batch_size = 1

    def decide(self, view: View) -> Ints:
        """The length that the bandit picks; a probe as long as seconds are unknown."""
        num_arms = max(1, int(self._arms.searchsorted(view.max_draft_len, "right")))
        self.propensity = 1.0
        if np.isfinite(view.round_s[-1]):
            self._round_s, self._batch_size = view.round_s, len(view.slots)
            length = int(self._arms[self.pick(num_arms)])
        else:
            length = int(self._arms[num_arms - 1]) if view.probe_len is None else view.probe_len
        return np.full(len(view.slots), min(length, view.max_draft_len), np.int32)

    def learn(self, result: RoundResult) -> None:
        """Credit a round to its arm."""
        if self._round_s is None or len(result.slots) == 0:
            return
        length = min(int(result.proposed.max()), len(self._round_s) - 1)
        arm = int(self._arms.searchsorted(length))
        if arm == len(self._arms) or self._arms[arm] != length:
            return  # a probe, or cut short by the host
        best = ((np.arange(len(self._round_s)) + 1.0) / self._round_s).max()
        rate = (float(result.accepted.mean()) + 1.0) / self._round_s[length]
        self.credit(arm, rate / best)

    def pick(self, num_arms: int) -> int:
        """The arm to play, among the first `num_arms`."""
        raise NotImplementedError

    def credit(self, arm: int, reward: float) -> None:
        """A round of this arm brought a reward in [0, 1]."""
        raise NotImplementedError
