"""Believes the model's own judgement of whether starting anew would do better."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from flyball.policies.rejection.base import (
    Bools,
    Groups,
    Load,
    RejectionPolicy,
    RejectionSettings,
)
from flyball.policies.rejection.ranks import lowest, spare


class SelfEvalSettings(RejectionSettings):
    """Settings of the self_eval policy."""

    policy: Literal["self_eval"] = "self_eval"
    good_enough: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="Final score with which a candidate makes the others of its group needless.",
    )
    poor: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="Partial score below which a candidate is stopped.",
    )

    @model_validator(mode="after")
    def _poor_is_not_good(self) -> SelfEvalSettings:
        if self.poor > self.good_enough:
            raise ValueError(
                f"expected poor to be at most good_enough ({self.good_enough}), "
                f"but got {self.poor}; lower it"
            )
        return self


class SelfEval(RejectionPolicy):
    """Stops the rest once one is good enough, and whoever is poor on the way.

    Adaptive Inference-Time Compute (arXiv 2410.02725): a score is the model's own probability, in
    [0, 1], that starting anew would do no better, asked for at a prefix or at the end. Where as
    many as win have ended with `good_enough`, all others are stopped. Whoever goes on with a
    latest score below `poor` is stopped, the lowest first, always with as many left as win. Both
    bounds are ours; the probabilities are taken as they come.
    """

    Settings = SelfEvalSettings
    settings: SelfEvalSettings

    def decide(self, groups: Groups, load: Load) -> Bools:
        """Everybody where enough are good enough, and the poor."""
        final = np.where(groups.finished, groups.final, np.nan)
        enough = (final >= self.settings.good_enough).sum(axis=1) >= groups.keep
        judged = groups.alive & (groups.num_passed > 0)
        score = np.where(judged, groups.latest(), np.nan)
        poor = np.where(score < self.settings.poor, score, np.nan)
        stop: Bools = lowest(poor, spare(groups)) | enough[:, None]
        return stop
