"""What a length policy is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


class LengthSettings(BaseModel):
    """Settings that every length policy has; each policy adds its own and its name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    policy: str
    max_draft_len: int = Field(
        default=32, ge=1, le=64, description="Largest number of tokens drafted in a round."
    )

    @property
    def longest(self) -> int:
        """The most tokens that it may ever draft."""
        return self.max_draft_len


@dataclass(slots=True)
class View:
    """What a policy may look at before a round: the past, and nothing of the round itself.

    It may be the same object for several rounds; a policy does not write to it.

    Attributes:
        slots: (n,) requests of this round.
        max_draft_len: largest length that policy file and host allow.
        can_stop: whether the host asks the policy again in mid-draft.
        padded: whether the host verifies a rectangle, so that the longest draft sets the cost.
        survival: (n, max_draft_len) probability that the draft is accepted up to each position.
        round_s: (max_draft_len + 1,) seconds of a round by draft length, NaN where unknown.
        marginal_s: (max_draft_len,) seconds that each drafted token adds to the round, on the
            lower convex hull of `round_s`: never falling, never negative.
        verify_marginal_s: (max_draft_len,) of them in the verification alone, likewise.
        price: tokens that a second is worth; NaN while the costs are unknown.
        weight: (n,) worth of a token of each request, mean 1.
        best_len: length of best rate when all requests draft alike.
        probe_len: length that would teach the cost model most, None once it knows enough.
    """

    slots: Ints
    max_draft_len: int
    can_stop: bool
    padded: bool
    survival: Floats
    round_s: Floats
    marginal_s: Floats
    verify_marginal_s: Floats
    price: float
    weight: Floats
    best_len: int
    probe_len: int | None


@dataclass(slots=True)
class Progress:
    """Where a draft stands, after the draft's distribution at `position` is known.

    Attributes:
        view: the view that the round was planned with.
        rows: (m,) rows of the view whose drafts still go on.
        position: 1 for the first drafted token.
        survival: (m,) probability that the draft is accepted up to and including `position`,
            from the draft's confidence at positions up to it.
        next_acceptance: (m,) probability that the token after it is accepted, if this one is.
        confidence: (m,) the draft's largest probability at `position`.
        entropy: (m,) of the draft's distribution there, in nats; NaN where the host does not say.
        overdue: whether no draft got further for so long that what follows has to be looked at.
    """

    view: View
    rows: NDArray[np.intp]
    position: int
    survival: Floats
    next_acceptance: Floats
    confidence: Floats
    entropy: Floats
    overdue: bool = False


@dataclass(slots=True)
class RoundResult:
    """What a round showed, for the requests that are still in their slots.

    Attributes:
        slots: (n,) requests.
        proposed: (n,) drafted tokens that were verified.
        accepted: (n,) of them accepted.
    """

    slots: Ints
    proposed: Ints
    accepted: Ints


class LengthPolicy:
    """Decides how many tokens to draft for each request of a round.

    Lifetime: made once from its settings; `admit` when requests enter; then `decide`, perhaps
    `stop`, and `learn` once a round. Outcomes may come late, partly or never. All arrays have one
    row a request; a policy never loops over requests.

    Attributes:
        propensity: probability with which the latest lengths were drawn: 1 where they had to be,
            NaN where nobody knows. Traces record it, so that other policies can be judged by them.
    """

    Settings: ClassVar[type[LengthSettings]]
    stops: ClassVar[bool] = False  # whether it wants to be asked in mid-draft
    entropies: ClassVar[bool] = False  # whether it wants to know entropies then
    reads: ClassVar[bool] = False  # whether it wants skipped text read while it drafts nothing
    learns: ClassVar[bool] = False  # whether it wants to know what rounds showed
    still: ClassVar[bool] = False  # whether nothing counts for it but the draft's own signs
    propensity: float = 1.0

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def admit(self, slots: Ints) -> None:
        """New requests take these slots (n,)."""

    def decide(self, view: View) -> Ints:
        """Draft lengths (n,) for the coming round, each between 0 and view.max_draft_len."""
        raise NotImplementedError

    def stop(self, progress: Progress) -> Bools:
        """Which drafts (m,) end with the token at `progress.position`."""
        raise NotImplementedError

    def learn(self, result: RoundResult) -> None:
        """Take in what a round showed; called where the policy `learns`."""


class StopRule(LengthPolicy):
    """A policy that only says in mid-draft where a draft ends."""

    stops = True

    def decide(self, view: View) -> Ints:
        """The largest length, which `stop` will cut."""
        return np.full(len(view.slots), view.max_draft_len, np.int32)
