"""What the governor remembers of the steps whose outcomes are still to come."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.controller.beliefs import Look
from flyball.policies.length.base import Progress

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(slots=True)
class Step:
    """A step that was planned."""

    step_id: int
    slots: Ints
    policy: str = ""  # name of the one that planned
    context_len: Ints | None = None
    num_waiting: int = 0
    planned: Ints | None = None  # (n,)
    look: Look | None = None  # None in a round without the policy
    survival: Floats | None = None  # of the drafts so far (n,)
    decision_s: float = 0.0

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
    ) -> Progress:
        """Where drafts stand after `position`.

        Args:
            rows: (m,) rows of the step, ascending.
            position: 1 for the first drafted token.
            confidence: (m,) the draft's largest probability at `position`.
            entropy: (m,) of its distribution there, in nats, if known.
        """
        look, survival = self.look, self.survival
        assert look is not None and survival is not None
        assert look.effects is not None and look.chances is not None
        # Rows in order and all there: a slice costs a fifth of an index array.
        index = slice(None) if len(rows) == len(survival) else rows
        acceptance = look.chances(confidence, entropy, position, look.effects[:, index])
        if entropy is None:
            entropy = np.full(len(rows), np.nan)
        survival[index] = reached = survival[index] * acceptance[0]
        return Progress(look.view, rows, position, reached, acceptance[1], confidence, entropy)


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
