"""Stop where the draft's distribution is wide."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.policies.length.base import Bools, LengthSettings, Progress, StopRule


class SVIPSettings(LengthSettings):
    """Settings of the svip policy."""

    policy: Literal["svip"] = "svip"
    max_draft_len: int = Field(default=40, ge=1, le=64, description="Largest draft length.")
    scale: float = Field(default=0.15, ge=0.0, description="Of the entropy, in nats.")
    max_difference: float = Field(
        default=0.3,
        ge=0.0,
        le=1.0,
        description="A draft ends where sqrt(scale x entropy) exceeds this.",
    )


class SVIP(StopRule):
    """The draft goes on while its entropy promises that target and draft differ little.

    SVIP (arXiv 2411.18462): sqrt(scale x H(q)) stands for a bound of the probability of a
    rejection; 0.15, 0.3 and the largest length of 40 are those of its released code. The unsure
    token itself is still verified: it was paid for (Law 1 would allow either).
    """

    Settings = SVIPSettings
    settings: SVIPSettings
    still = True
    entropies = True

    def stop(self, progress: Progress) -> Bools:
        """True where the entropy is too high."""
        difference = np.sqrt(np.fmax(self.settings.scale * progress.entropy, 0.0))
        return np.asarray(difference > self.settings.max_difference, np.bool_)
