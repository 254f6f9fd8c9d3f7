"""What a host says to the governor, and what it is answered; arrays have one row a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

# No step is shorter, longer or has more; their squares are still ordinary numbers.
_LEAST_S, _MOST_S = 1e-9, 1e9
_MOST_TOKENS = 2**31


PROMPT_LOOKUP = "prompt_lookup"  # name of the draft that makes offers, to users and in traces


@dataclass(frozen=True)
class DraftInfo:
    """A source of proposals.

    Attributes:
        name: for logs and traces.
        steps: whether its length is decided before its proposals are known; a model that drafts
            token by token can besides be stopped in mid-draft and reads skipped text. Otherwise
            its proposals are known before the round and cost nothing (prompt lookup).
        kind: drafts of the same kind cost the same; None for one of its own kind.
        together: whether all members of the ensemble draft together as this draft, by
            `Plan.weights`; how it would have done shows only where it drafts.
    """

    name: str
    steps: bool = True
    kind: int | None = None
    together: bool = False


def cost_kinds(drafts: Sequence[DraftInfo]) -> list[int]:
    """Kind of each draft, numbered from 0 as they first appear; see `DraftInfo.kind`."""
    own = [("own", i) if d.kind is None else ("shared", d.kind) for i, d in enumerate(drafts)]
    known = list(dict.fromkeys(own))
    return [known.index(kind) for kind in own]


@dataclass(frozen=True)
class HostInfo:
    """What a host can do.

    Attributes:
        engine_id: name of the engine, for logs.
        max_draft_len: largest draft length that it can run.
        ragged_ok: whether requests of one step may have different lengths.
        padded: whether verification runs on a rectangle, so that the longest draft sets its cost.
        mid_draft_stop: whether it asks `stop` while it drafts.
        trims: whether it asks `trim` of drafts that are finished and not verified yet.
        reads: whether its draft reads text that it did not draft, and the host says how the draft
            would have done there.
        feedback_delay: how many later steps may be planned before a step's outcome comes.
        rounds_overlap: whether one step verifies, drafts for the round after and reads prompts,
            so that a cost is one of a step, not of a round; for hosts with one draft.
        drafts: what it can draft with; with none the length is always 0.
        num_members: of the ensemble; 0 without one.
    """

    engine_id: str
    max_draft_len: int = 64
    ragged_ok: bool = True
    padded: bool = True
    mid_draft_stop: bool = True
    trims: bool = False
    reads: bool = True
    feedback_delay: int = 0
    rounds_overlap: bool = False
    drafts: tuple[DraftInfo, ...] = (DraftInfo("model"),)
    num_members: int = 0

    @property
    def stepping(self) -> tuple[int, ...]:
        """Which of the drafts step."""
        return tuple(index for index, draft in enumerate(self.drafts) if draft.steps)


@dataclass(frozen=True)
class Offer:
    """What a draft without steps proposes, known before the round.

    Attributes:
        draft: index into `HostInfo.drafts`.
        draft_len: (n,) tokens on offer, 0 where it found nothing.
        strength: (n,) cell of how well founded it is, 0 to NUM_STRENGTHS - 1, such as the length
            of the matched n-gram.
    """

    draft: int
    draft_len: Ints
    strength: Ints


@dataclass(frozen=True)
class Wanted:
    """What an ensemble's policy wants of a round.

    Attributes:
        evidence: the kind that it learns from (see `EnsemblePolicy.evidence`); None for nothing.
        grid: (vectors, members) weights that evidence of the kind "grid" judges.
        reads_kl: whether that evidence needs divergences too.
        runs_one: whether members without weight need not run.
    """

    evidence: str | None
    grid: Floats
    reads_kl: bool
    runs_one: bool


@dataclass(slots=True)
class Plan:
    """The decision for one step.

    Attributes:
        step_id: to be given back with the outcome.
        draft_len: (n,) tokens to draft for each request.
        draft: (n,) which draft each request uses; meaningless where draft_len is 0.
        weights: (n, members) of the ensemble, each row a distribution; None without one.
        wanted: what is to be said of the members afterwards; None without an ensemble.
    """

    step_id: int
    draft_len: Ints
    draft: Ints
    weights: Floats | None = None
    wanted: Wanted | None = None


@dataclass(frozen=True)
class Outcomes:
    """Ground truth of one step; rows may be missing.

    Attributes:
        step_id: of the plan.
        slots: (n,) requests.
        proposed: (n,) drafted tokens that the target verified.
        accepted: (n,) of them accepted.
        observed: (n,) positions whose outcome was seen; never beyond the first rejection.
        confidence: (n, >= observed) the draft's largest probability by position, if known.
        draft: (n,) which draft proposed; None for draft 0.
        exhausted: (n,) whether the draft had nothing to offer after `proposed` although more was
            planned; None where no draft had. What a host cut short for reasons of its own is not
            observed, and not exhausted.
        entropy: (n, >= observed) of the draft's distribution by position, in nats, if known.
        foreseen: (n,) probability that the first drafted token that `trim` left unverified would
            have been accepted after the others; NaN where it left none, None without `trim`.
        num_beside: (n,) tokens accepted beside the proposed ones (0 or 1: a sibling in a tree took
            the place of the first that was rejected); None where there are no siblings.
    """

    step_id: int
    slots: Ints
    proposed: Ints
    accepted: Ints
    observed: Ints
    confidence: Floats | None = None
    draft: Ints | None = None
    exhausted: Bools | None = None
    entropy: Floats | None = None
    num_beside: Ints | None = None
    foreseen: Floats | None = None

    @property
    def gained(self) -> Ints:
        """Tokens (n,) accepted, beside the proposed ones too."""
        return self.accepted if self.num_beside is None else self.accepted + self.num_beside

    def only(self, rows: slice | Bools) -> Outcomes:
        """Some of the rows."""
        return Outcomes(
            self.step_id,
            self.slots[rows],
            self.proposed[rows],
            self.accepted[rows],
            self.observed[rows],
            None if self.confidence is None else self.confidence[rows],
            None if self.draft is None else self.draft[rows],
            None if self.exhausted is None else self.exhausted[rows],
            None if self.entropy is None else self.entropy[rows],
            None if self.num_beside is None else self.num_beside[rows],
            None if self.foreseen is None else self.foreseen[rows],
        )


@dataclass(frozen=True)
class Cost:
    """Seconds of one step.

    Attributes:
        step_id: of the plan.
        step_s: the whole step.
        batch_size: rows that the forwards ran over; where rounds overlap, requests that decoded.
        verify_len: tokens verified for each request, padding included; a mean where requests
            differ.
        num_draft_steps: forwards of the draft that proposed a token.
        draft_s: seconds in the draft, if known.
        verify_s: seconds in the verification, if known.
        draft: which draft ran these steps; at most one a round steps.
        num_prefill: tokens of prompts that the step read.
    """

    step_id: int
    step_s: float
    batch_size: int
    verify_len: float
    num_draft_steps: int
    draft_s: float | None = None
    verify_s: float | None = None
    draft: int = 0
    num_prefill: int = 0

    @property
    def sound(self) -> bool:
        """Whether these can be seconds and counts of a step."""
        return (
            _LEAST_S <= self.step_s <= _MOST_S
            and (self.draft_s is None or 0.0 <= self.draft_s <= _MOST_S)
            and (self.verify_s is None or 0.0 <= self.verify_s <= _MOST_S)
            and 0 <= self.num_draft_steps <= _MOST_TOKENS
            and 1 <= self.batch_size <= _MOST_TOKENS
            and 1 <= self.verify_len <= _MOST_TOKENS
            and 0 <= self.num_prefill <= _MOST_TOKENS
        )
