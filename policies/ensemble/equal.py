"""The same weight for every member."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flyball.policies.ensemble.base import EnsemblePolicy, EnsembleSettings, Floats, Ints


class EqualSettings(EnsembleSettings):
    """Settings of the equal policy."""

    policy: Literal["equal"] = "equal"


class Equal(EnsemblePolicy):
    """Every member weighs 1 / m, whatever it shows.

    Batched ensemble drafting without weights, IbED (TABED, arXiv 2601.20357).
    """

    Settings = EqualSettings

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """1 / m."""
        return np.full((len(slots), self.num_members), 1.0 / self.num_members)
