"""Stop where the draft is not sure."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.policies.length.base import Bools, LengthSettings, Progress, StopRule


class ThresholdSettings(LengthSettings):
    """Settings of the threshold policy."""

    policy: Literal["threshold"] = "threshold"
    max_draft_len: int = Field(default=16, ge=1, le=64, description="Largest draft length.")
    min_confidence: float = Field(
        default=0.8, ge=0.0, le=1.0, description="A draft goes on while it is at least so sure."
    )


class Threshold(StopRule):
    """The draft goes on while its largest probability is not below a bound.

    llama.cpp's `--draft-p-min`, and transformers' `assistant_confidence_threshold`. There the
    unsure token itself is dropped, which under sampling would favour drafts whose tokens were
    drawn likely; here nothing is drafted after it, and it is verified (Law 1).
    """

    Settings = ThresholdSettings
    settings: ThresholdSettings
    still = True

    def stop(self, progress: Progress) -> Bools:
        """True where the draft is less sure than it has to be."""
        return np.asarray(progress.confidence < self.settings.min_confidence, np.bool_)
