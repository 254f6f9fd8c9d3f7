"""What the governor remembers of the steps whose outcomes are still to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flyball.controller.guard import check_stops
from flyball.controller.look import Look
from flyball.policies.length.base import Progress

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


@dataclass(slots=True)
class Step:
    """A step that was planned."""

    step_id: int
    slots: Ints
    policy: str = ""  # name of the one that planned
    context_len: Ints | None = None
    num_waiting: int = 0
    planned: Ints | None = None  # (n,)
    propensity: float = 1.0  # of what was planned
    look: Look | None = None  # None in a round without the policy
    standing: Floats | None = None  # effects (2, n, effects) times likelihood of the draft so far
    decision_s: float = 0.0
    trim_s: float = 0.0  # of the dearest trim; a plan may be trimmed under many times

    @property
    def can_ask(self) -> bool:
        """Whether enough is known of the drafts to ask in mid-draft."""
        return self.look is not None and self.look.effects is not None

    def advance(
        self,
        rows: NDArray[np.intp],
        position: int,
        confidence: Floats,
        entropy: Floats | None = None,
        drafted: bool = False,
    ) -> Progress:
        """Where drafts stand after `position`.

        Args:
            rows: (m,) rows of the step, ascending.
            position: 1 for the first drafted token.
            confidence: (m,) the draft's largest probability at `position`.
            entropy: (m,) of its distribution there, in nats, if known.
            drafted: whether the drafts are finished.
        """
        look, standing = self.look, self.standing
        assert look is not None and look.effects is not None and look.chances is not None
        if standing is None:
            self.standing = standing = look.effects.copy()
        chances = look.chances.accepted(confidence, entropy, position)  # (2, m, effects)
        if len(rows) == standing.shape[1]:  # in order, and all there
            standing *= chances[0]
        else:
            standing[:, rows] = standing = standing[:, rows] * chances[0]
        survival, total = np.add.reduce(standing, axis=-1)
        # A draft that got so far is one of a request that goes well.
        following = np.add.reduce(standing[1] * chances[1], axis=-1)
        following /= np.maximum(total, 1e-300)
        if entropy is None:
            entropy = np.full(len(rows), np.nan)
        view = look.drafted if drafted else look.view
        return Progress(view, rows, position, survival, following, confidence, entropy)

    def trim(
        self,
        ask: Callable[[Progress], Bools],
        rows: NDArray[np.intp],
        draft_len: Ints,
        confidence: Floats,
        overdue: bool,
    ) -> tuple[Ints, Floats]:
        """How many tokens (m,) of finished drafts to verify, by the answers to `ask`.

        Unlike in mid-draft, the distribution that the next token was taken from is known; the
        token itself plays no part (Law 1).

        Args:
            ask: which drafts end with the token at a position.
            rows: (m,) rows of the step, ascending.
            draft_len: (m,) tokens that may be verified.
            confidence: (m, >= draft_len) the draft's largest probability by position.
            overdue: whether what follows a first token has to be looked at.

        Returns:
            Besides, the probability (m,) that the first token that is left out would be accepted
            after the others; NaN where none is.
        """
        foreseen = np.full(len(rows), np.nan)
        lengths, longest = draft_len.copy(), int(draft_len.max(initial=0))
        if longest < 2:
            return lengths, foreseen
        self.standing = None
        survival = self.advance(rows, 1, confidence[:, 0], drafted=True).survival
        for position in range(1, longest):
            going = np.flatnonzero(lengths > position)
            if len(going) == 0:
                break
            ahead = self.advance(
                rows[going], position + 1, confidence[going, position], drafted=True
            )
            progress = replace(
                ahead,
                position=position,
                survival=survival[going],
                next_acceptance=ahead.survival / np.maximum(survival[going], 1e-300),
                confidence=confidence[going, position - 1],
                overdue=overdue and position == 1,
            )
            survival[going] = ahead.survival
            ends = check_stops(ask(progress), len(going))
            lengths[going[ends]] = position
            foreseen[going[ends]] = progress.next_acceptance[ends]
        return lengths, foreseen


class Steps:
    """The latest steps.

    Args:
        feedback_delay: how many later steps may be planned before a step's outcome comes.
    """

    def __init__(self, feedback_delay: int) -> None:
        self.latest = Step(0, np.zeros(0, np.int32))
        self._earlier: deque[Step] = deque(maxlen=feedback_delay)

    def start(self, step: Step) -> Step:
        """A new step is planned."""
        self._earlier.appendleft(self.latest)
        self.latest = step
        return step

    def find(self, step_id: int) -> Step | None:
        """The step of this id, unless it is too long ago."""
        if self.latest.step_id == step_id:
            return self.latest
        return next((step for step in self._earlier if step.step_id == step_id), None)

    def forget_looks(self) -> None:
        """Forget what plans were made from: it may be spoilt."""
        for step in (self.latest, *self._earlier):
            step.look = None
