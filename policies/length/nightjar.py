"""A bandit over draft lengths for every batch size, which minds the cost of starting again."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from flyball.estimators.cost import size_bucket
from flyball.policies.length.arms import ArmPolicy, ArmSettings, Floats
from flyball.policies.length.base import Ints, View


class NightjarSettings(ArmSettings):
    """Settings of the nightjar policy."""

    policy: Literal["nightjar"] = "nightjar"
    switch_cost: float = Field(
        default=0.5, ge=0.0, description="Of coming back from length 0, in rounds of length 0."
    )
    bin_rounds: int = Field(default=8, ge=1, description="Rounds that an exploration lasts.")
    seed: int = Field(default=0, ge=0, description="Of the random choices.")


class _Record:
    """Plays and rewards of one batch size."""

    def __init__(self, num_arms: int) -> None:
        self.count = np.zeros(num_arms)
        self.sum = np.zeros(num_arms)
        self.explored: int | None = None  # the arm of the bin, if it explores
        self.left = 0  # rounds of the bin


class Nightjar(ArmPolicy):
    """The length with the least seconds a token at this batch size, switching cost included.

    Nightjar (arXiv 2512.22420): argmin over g of 1 / goodput(g), plus switch_cost / g where the
    last round drafted nothing and g does; whole bins of rounds explore a random arm, ever more
    seldom, with probability 1 / sqrt(bins), which is ours. Costs are in the reward's scale.
    """

    Settings = NightjarSettings
    settings: NightjarSettings

    def __init__(self, settings: NightjarSettings) -> None:
        super().__init__(settings)
        self._records: dict[int, _Record] = {}
        self._rng = np.random.default_rng(settings.seed)
        self._last = 0

    @property
    def _record(self) -> _Record:
        size = size_bucket(self._batch_size)
        return self._records.setdefault(size, _Record(len(self._arms)))

    def decide(self, view: View) -> Ints:
        """As every bandit, and note whether anything was drafted."""
        lengths = super().decide(view)
        self._last = int(lengths.max(initial=0))
        return lengths

    def pick(self, num_arms: int) -> int:
        """The arm of this bin, or the best."""
        record = self._record
        if record.left == 0:
            record.left = self.settings.bin_rounds
            num_bins = 1.0 + record.count.sum() / self.settings.bin_rounds
            explores = self._rng.random() < num_bins**-0.5
            record.explored = int(self._rng.integers(num_arms)) if explores else None
        record.left -= 1
        self.propensity = math.nan
        if record.explored is not None and record.explored < num_arms:
            return record.explored
        return int(self._token_cost(record)[:num_arms].argmin())

    def _token_cost(self, record: _Record) -> Floats:
        played = record.count > 0
        reward = np.where(played, record.sum / np.maximum(record.count, 1.0), 1.0)
        cost: Floats = 1.0 / np.maximum(reward, 1e-6)
        if self._last == 0:
            cost += np.where(
                self._arms > 0, self.settings.switch_cost / np.maximum(self._arms, 1), 0
            )
        return cost

    def credit(self, arm: int, reward: float) -> None:
        """Count it for the batch size of now."""
        self._record.count[arm] += 1.0
        self._record.sum[arm] += reward
