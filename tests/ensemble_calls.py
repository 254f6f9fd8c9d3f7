"""Calls of `generate` in which a whole ensemble drafts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from policy_sections import ensemble_section

from flyball.controller.governor import Plan
from flyball.integrations.hf import GovernedGenerate


def ensemble_policy(
    name: str = "accept_ascent", draft_len: int = 4, num_members: int = 2
) -> dict[str, Any]:
    """A policy file with an ensemble of so many members and a constant draft length."""
    length = {"policy": "static", "draft_len": draft_len, "max_draft_len": draft_len}
    return {"version": 1, "length": length, "ensemble": ensemble_section(name, num_members)}


def only_together(gov: GovernedGenerate) -> None:
    """Every row drafts with the whole ensemble in every round."""
    plan, together = gov.governor.plan, len(gov.governor._host.drafts) - 1

    def planned(*args: Any, **rest: Any) -> Plan:
        found = plan(*args, **rest)
        lengths = np.full_like(found.draft_len, gov.governor.max_draft_len)
        return replace(found, draft=np.full_like(found.draft, together), draft_len=lengths)

    take_over(gov, "plan", planned)


def take_over(gov: GovernedGenerate, method: str, call: Callable[..., Any]) -> None:
    """From now on this function stands for a method of the governor."""
    setattr(gov.governor, method, call)
