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
    faults: dict[str, int]
    survival: NDArray[np.float32] | None = None

    @property
    def seconds(self) -> Floats:
        """(r,) of each row: requests of a step share its seconds.

        What steps take in which nobody decodes is spread over all rows.
        """
        rows = np.bincount(self.step, minlength=len(self.step_s))
        shares = self.step_s[self.step] / rows[self.step]
        result: Floats = shares * (self.step_s.sum() / shares.sum())
        return result


def close_up(finished: Bools) -> Longs:
    """The old row of each row that stays: the last ones fill the holes of the finished (n,)."""
    gone, left = np.flatnonzero(finished), int((~finished).sum())
    order = np.arange(left)
    order[gone[gone < left]] = left + np.flatnonzero(~finished[left:])
    return order
