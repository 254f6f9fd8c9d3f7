"""What a replay gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Replayed:
    """The rounds that a policy made of a corpus.

    A row is one request's round; rows of a step stand together, in the order of the batch.

    Attributes:
        text: (r,) which text.
        position: (r,) tokens generated before.
        proposed: (r,) drafted tokens that were verified.
        accepted: (r,) of them accepted.
        kept: (r,) tokens generated.
        step: (r,) which step.
        step_s: (s,) virtual seconds of the steps, with what was read before them.
        step_j: (s,) joules, where the power is known.
        faults: of the governor, by kind.
        survival: (r, K) believed before each round: that its draft is accepted up to each
            position. None where nobody was asked.
    """

    text: Longs
    position: Longs
    proposed: Longs
    accepted: Longs
    kept: Longs
    step: Longs
    step_s: Floats
    step_j: Floats | None
    faults: dict[str, int]
    survival: NDArray[np.float32] | None = None

    @property
    def seconds(self) -> Floats:
        """(r,) of each row: requests of a step share its seconds evenly."""
        return self._shared(self.step_s)

    @property
    def joules(self) -> Floats | None:
        """(r,) of each row, likewise."""
        return None if self.step_j is None else self._shared(self.step_j)

    def _shared(self, of_steps: Floats) -> Floats:
        """What steps take in which nobody decodes is spread over all rows."""
        rows = np.bincount(self.step, minlength=len(of_steps))
        shares = of_steps[self.step] / rows[self.step]
        result: Floats = shares * (of_steps.sum() / shares.sum())
        return result


def close_up(finished: Bools) -> Longs:
    """The old row of each row that stays: the last ones fill the holes of the finished (n,)."""
    gone, left = np.flatnonzero(finished), int((~finished).sum())
    order = np.arange(left)
    order[gone[gone < left]] = left + np.flatnonzero(~finished[left:])
    return order
