"""Stop where a rejection has become likely."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from flyball.policies.length.base import Bools, LengthSettings, Progress, StopRule


class SurvivalSettings(LengthSettings):
    """Settings of the survival policy."""

    policy: Literal["survival"] = "survival"
    max_draft_len: int = Field(default=20, ge=1, le=64, description="Largest draft length.")
    min_draft_len: int = Field(default=2, ge=0, le=64, description="Drafts are no shorter.")
    max_risk: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["price"] = Field(
        default=0.3,
        description="A draft ends once the probability of a rejection in it exceeds this; "
        "'price': once the next token, were it sure, would cost more than it brings.",
    )


class Survival(StopRule):
    """The draft goes on while the probability of at least one rejection stays below a bound.

    SpecDec++ (arXiv 2405.19715): stop when 1 - prod_i P(accepted_i) > h, h = 0.3, lengths 2 to 20,
    with the survival estimated online from the draft's confidence in place of a trained head, and
    without the released code's lag of a token. The paper's theorem makes h a constant of the
    costs; with `price` it is taken from the measured ones, h = 1 - price x seconds of the next
    token.
    """

    Settings = SurvivalSettings
    settings: SurvivalSettings

    def stop(self, progress: Progress) -> Bools:
        """True where the draft has become too risky."""
        view, risk = progress.view, self.settings.max_risk
        if progress.position < self.settings.min_draft_len:
            return np.zeros(len(progress.rows), np.bool_)
        if risk == "price":
            if not view.price > 0.0:
                return np.zeros(len(progress.rows), np.bool_)
            risk = 1.0 - view.price * view.marginal_s[progress.position] / len(view.slots)
        return np.asarray(1.0 - progress.survival > risk, np.bool_)
