"""Drops the worst candidates of every group when memory runs short."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.policies.rejection.base import (
    Bools,
    Groups,
    Load,
    RejectionPolicy,
    RejectionSettings,
)
from flyball.policies.rejection.ranks import lowest, spare


class SpeculativeRejectionSettings(RejectionSettings):
    """Settings of the speculative_rejection policy."""

    policy: Literal["speculative_rejection"] = "speculative_rejection"
    fraction: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="Share of a group's scored candidates that is stopped when memory is short.",
    )


class SpeculativeRejection(RejectionPolicy):
    """Stops the lowest fraction of each group by partial score whenever memory is short.

    Speculative Rejection (NeurIPS 2024, arXiv 2410.20290) begins with far more candidates than
    can end, and drops the share alpha that scores lowest whenever memory is nearly full. Of n
    that go on and have a score, floor(alpha n) are stopped, always with as many left as win.
    While memory is free nobody is.
    """

    Settings = SpeculativeRejectionSettings
    settings: SpeculativeRejectionSettings

    def decide(self, groups: Groups, load: Load) -> Bools:
        """The lowest by their latest scores; nobody while memory is free."""
        if not load.memory_short:
            return np.zeros(groups.present.shape, np.bool_)
        score = np.where(groups.alive, groups.latest(), np.nan)
        num_scored = (~np.isnan(score)).sum(axis=1)
        number = np.floor(self.settings.fraction * num_scored).astype(np.int64)
        return lowest(score, np.minimum(number, spare(groups)))
