"""Takes whoever finishes first."""

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


class FirstFinishSettings(RejectionSettings):
    """Settings of the first_finish policy."""

    policy: Literal["first_finish"] = "first_finish"
    num_finished: int = Field(
        default=1, ge=1, description="Candidates that finish before the others are stopped."
    )


class FirstFinish(RejectionPolicy):
    """Stops a group's other candidates once enough have finished.

    First Finish Search (arXiv 2505.18149): sound only where short answers are more often right.
    Its variant votes over the k that finished first: `num_finished`. Of several that win, as many
    are waited for.
    """

    Settings = FirstFinishSettings
    settings: FirstFinishSettings
    scores = False

    def decide(self, groups: Groups, load: Load) -> Bools:
        """Everybody who goes on where enough have finished."""
        wanted = np.maximum(self.settings.num_finished, groups.keep)
        enough = groups.finished.sum(axis=1) >= wanted
        return np.broadcast_to(enough[:, None], groups.present.shape).copy()
