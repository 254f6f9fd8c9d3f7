"""Sections of policy files: what each may say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flyball.controller.validation import nearest
from flyball.policies.ensemble.base import EnsemblePolicy, EnsembleSettings
from flyball.policies.length.base import LengthPolicy, LengthSettings
from flyball.policies.registry import (
    ENSEMBLE_POLICIES,
    LENGTH_POLICIES,
    REJECTION_POLICIES,
    THROTTLE_POLICIES,
)
from flyball.policies.rejection.base import RejectionPolicy, RejectionSettings
from flyball.policies.throttle.base import ThrottlePolicy, ThrottleSettings

AnyPolicy = (
    type[LengthPolicy] | type[EnsemblePolicy] | type[RejectionPolicy] | type[ThrottlePolicy]
)
POLICIES: dict[str, Mapping[str, AnyPolicy]] = {
    "length": LENGTH_POLICIES,
    "ensemble": ENSEMBLE_POLICIES,
    "rejection": REJECTION_POLICIES,
    "throttle": THROTTLE_POLICIES,
}  # by section
# A table of batch sizes has no default.
SHADOWS = tuple(name for name in LENGTH_POLICIES if name != "batch_table")

if TYPE_CHECKING:
    AnyEnsemble = EnsembleSettings
    AnyLength = LengthSettings
    AnyRejection = RejectionSettings
    AnyThrottle = ThrottleSettings
else:
    AnyEnsemble = Annotated[
        reduce(or_, [policy.Settings for policy in ENSEMBLE_POLICIES.values()]),
        Field(discriminator="policy"),
    ]
    AnyLength = Annotated[
        reduce(or_, [policy.Settings for policy in LENGTH_POLICIES.values()]),
        Field(discriminator="policy"),
    ]
    AnyRejection = Annotated[
        reduce(or_, [policy.Settings for policy in REJECTION_POLICIES.values()]),
        Field(discriminator="policy"),
    ]
    AnyThrottle = Annotated[
        reduce(or_, [policy.Settings for policy in THROTTLE_POLICIES.values()]),
        Field(discriminator="policy"),
    ]


class TraceSettings(BaseModel):
    """Where the verification rounds are recorded."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    dir: str = Field(
        min_length=1,
        description="Folder of the trace, made if need be; several engines may share it.",
    )


class ObjectiveSettings(BaseModel):
    """What the hardware is set for."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    maximize: Literal["tokens_per_joule", "tokens_per_second"] = Field(
        default="tokens_per_joule", description="What the throttle section's policy looks for."
    )
    power_cap_w: float | None = Field(
        default=None, gt=0.0, description="Watts to stay below on average; left out, no cap."
    )


class SLOSettings(BaseModel):
    """What is promised to those who are served."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    token_latency_p99_ms: float = Field(
        gt=0.0, description="Milliseconds that 99 of 100 tokens take at most."
    )


class GovernorSettings(BaseModel):
    """Whom the governor follows."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    follow: Literal["shadows", "length"] = Field(
        default="shadows",
        description="'shadows': whichever policy does best on the live text, that of the length "
        "section preferred; 'length': that of the length section.",
    )
    shadows: list[str] = Field(
        default=["heuristic", "static", "survival", "threshold"],
        description="Length policies that run as shadows, with their default settings; 'static' "
        "stands for the lengths 0, 1, 2, 4, 8, 16, 32 and 64.",
    )

    @field_validator("shadows")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in SHADOWS:
                near = nearest(name, list(SHADOWS))
                raise ValueError(f"unknown policy '{name}' for governor.shadows{near}")
        return names
