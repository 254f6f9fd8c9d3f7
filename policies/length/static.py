"""A constant draft length."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from flyball.policies.length.base import Ints, LengthPolicy, LengthSettings, View


class StaticSettings(LengthSettings):
    """Settings of the static policy."""

    policy: Literal["static"] = "static"
    draft_len: int = Field(ge=0, le=64, description="Tokens to draft in every round; 0 is off.")

    @property
    def longest(self) -> int:
        """The constant."""
        return self.draft_len

    @model_validator(mode="after")
    def _bounded(self) -> StaticSettings:
        if self.draft_len > self.max_draft_len:
            raise ValueError(
                f"expected draft_len <= max_draft_len = {self.max_draft_len}, "
                f"but got {self.draft_len}; raise max_draft_len"
            )
        return self


class Static(LengthPolicy):
    """The same draft length for every request and round."""

    Settings = StaticSettings
    settings: StaticSettings
    still = True

    def decide(self, view: View) -> Ints:
        """The constant, or the host's largest length where that is less."""
        length = min(self.settings.draft_len, view.max_draft_len)
        return np.full(len(view.slots), length, np.int32)
