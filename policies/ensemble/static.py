"""Weights that somebody chose."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from flyball.policies.ensemble.base import EnsemblePolicy, EnsembleSettings, Floats, Ints

_ROUNDING = 1e-6


class StaticWeightsSettings(EnsembleSettings):
    """Settings of the static policy."""

    policy: Literal["static"] = "static"
    weights: list[float] = Field(
        min_length=1, description="Of the drafts, in the order in which the host names them."
    )

    @model_validator(mode="after")
    def _distribution(self) -> StaticWeightsSettings:
        if min(self.weights) < 0.0 or not abs(sum(self.weights) - 1.0) <= _ROUNDING:
            raise ValueError(
                f"expected weights of at least 0 that sum to 1, but got {self.weights}; "
                "divide them by their sum"
            )
        return self

    def check(self, num_members: int) -> None:
        """Refuse another number of weights."""
        if len(self.weights) != num_members:
            raise ValueError(
                f"expected {num_members} weights for as many drafts, but got "
                f"{len(self.weights)}; give one for each"
            )


class StaticWeights(EnsemblePolicy):
    """The same weights for every request and round, such as the best ones in hindsight."""

    Settings = StaticWeightsSettings

    def __init__(
        self, settings: StaticWeightsSettings, num_members: int, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, num_members, rng)
        self._weights = np.array(settings.weights)

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """These weights."""
        return np.tile(self._weights, (len(slots), 1))
