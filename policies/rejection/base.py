"""What a rejection policy is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

DEFAULT_CHECKS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class RejectionSettings(BaseModel):
    """Settings that every rejection policy has; each policy adds its own and its name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    policy: str
    check_at_tokens: list[Annotated[int, Field(ge=1)]] = Field(
        default=list(DEFAULT_CHECKS),
        min_length=1,
        max_length=64,
        description="Generated tokens after which a candidate is scored and may be stopped; of a "
        "step, for beams.",
    )

    @field_validator("check_at_tokens")
    @classmethod
    def _ascends(cls, tokens: list[int]) -> list[int]:
        if any(later <= sooner for sooner, later in zip(tokens, tokens[1:], strict=False)):
            raise ValueError("expected numbers of tokens in ascending order")
        return tokens


@dataclass(frozen=True)
class Load:
    """What the host's seconds and memory allow.

    Attributes:
        token_price: what a candidate's next token costs, in tokens that the host could have made
            instead: the price of a second times the seconds that one more row takes. At most 1
            where rows are cheaper together.
        memory_short: whether candidates wait because memory is full.
    """

    token_price: float = 1.0
    memory_short: bool = False


@dataclass(frozen=True)
class Groups:
    """Groups of candidates for the same prize; G groups of up to N members, C checkpoints.

    Attributes:
        keep: (G,) members that win: 1 for the best of n, the beams that go on for a step of them.
        present: (G, N) whether there is such a member.
        score: (G, N, C) partial scores, NaN where unknown; higher is better.
        final: (G, N) score at the end; NaN where unknown.
        num_tokens: (G, N) generated when it was last reviewed, at least 1 once it has begun; 0
            before.
        num_passed: (G, N) checkpoints that its length has passed.
        finished: (G, N) whether its text has ended by itself.
        stopped: (G, N) whether it was stopped.
        answer: (G, N) number of the answer that it gave among the group's different ones, -1
            where it gave none yet.
        drawn: (G,) whether it was drawn for an audit.
        audited: (G,) whether nobody of the group is stopped, to learn from: as drawn, unless the
            host gave up some of its members.
    """

    keep: Ints
    present: Bools
    score: Floats
    final: Floats
    num_tokens: Ints
    num_passed: Ints
    finished: Bools
    stopped: Bools
    answer: Ints
    drawn: Bools
    audited: Bools

    @property
    def alive(self) -> Bools:
        """Members (G, N) that go on, or wait for their turn."""
        return self.present & ~self.finished & ~self.stopped

    @property
    def begun(self) -> Bools:
        """Members (G, N) that have generated something, whatever became of them."""
        return self.present & (self.num_tokens > 0)

    def latest(self) -> Floats:
        """The latest score (G, N) of each, its end's where it has ended; NaN where none is known.

        A checkpoint without a score leaves the one before in force.
        """
        known = ~np.isnan(self.score)
        last = known.shape[2] - 1 - known[:, :, ::-1].argmax(axis=2)
        partial = np.take_along_axis(self.score, last[:, :, None], axis=2)[:, :, 0]
        return np.where(np.isnan(self.final), partial, self.final)

    def only(self, rows: NDArray[np.intp] | Bools) -> Groups:
        """Some of the groups."""
        return Groups(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class RejectionPolicy:
    """Decides which candidates of a group to stop before they finish.

    Candidates of a group compete: the best of n answers, the beams that a step keeps. Stopping
    one saves what it would still have cost; it changes who finishes, never the tokens of those
    that do. What a stopped candidate would have become is never seen, so policies that learn do so
    from audited groups alone, which run to completion.

    Lifetime: made once from its settings; `audits` when groups enter, `decide` whenever members
    reached checkpoints or ended, `learn` once a group has ended. A policy never loops over groups
    or members.

    Args:
        settings: of its own class `Settings`.
        rng: for policies that draw.
    """

    Settings: ClassVar[type[RejectionSettings]]
    # Whether a group is judged only once all its members that go on have passed the checkpoint of
    # the one that is furthest behind; hosts then let the others wait.
    waits: ClassVar[bool] = False
    scores: ClassVar[bool] = True  # whether it needs scores

    def __init__(self, settings: Any, rng: np.random.Generator) -> None:
        self.settings = settings
        self.rng = rng

    @property
    def checks(self) -> NDArray[np.int64]:
        """Generated tokens (C,) after which members are judged, ascending."""
        return np.array(self.settings.check_at_tokens, np.int64)

    def audits(self, keep: Ints) -> Bools:
        """Which of these new groups (G,), by their winners, run to completion to learn from."""
        return np.zeros(len(keep), np.bool_)

    def decide(self, groups: Groups, load: Load) -> Bools:
        """Members (G, N) to stop now; whoever is not alive, or audited, is left alone anyway."""
        raise NotImplementedError

    def priority(self, groups: Groups) -> Floats:
        """Which group's (G,) next member is to begin first, the largest first; the oldest of ties.

        Asked where members of several groups wait for their turn.
        """
        return np.zeros(len(groups.keep))

    def learn(self, groups: Groups) -> None:
        """These groups (G,) have ended: all members finished or were stopped."""

    @property
    def figures(self) -> dict[str, float]:
        """What it has learned, for metrics and reports: names and numbers."""
        return {}
