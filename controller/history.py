"""Several rounds at once, for hosts that hand in what they saw every few steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Bools, Cost, Outcomes


@dataclass(frozen=True)
class History:
    """What some rounds showed, oldest first.

    Attributes:
        outcomes: rows of all rounds, one round after the other; its step id is the first one's.
        step_ids: of the plan of each round; rounds may share one.
        num_rows: rows of each round; a round may have none.
        costs: of each round; None where it is not known.
    """

    outcomes: Outcomes
    step_ids: Sequence[int]
    num_rows: Sequence[int]
    costs: Sequence[Cost | None]

    def plans(self) -> NDArray[np.int64]:
        """The step id of each row (n,).

        Raises:
            ValueError: steps, rows and costs do not fit each other.
        """
        plans = np.repeat(np.asarray(self.step_ids, np.int64), self.num_rows)
        if not len(self.step_ids) == len(self.num_rows) == len(self.costs):
            raise ValueError(f"expected {len(self.step_ids)} rounds, but got {self.num_rows}")
        if len(plans) != len(self.outcomes.slots):
            raise ValueError(f"expected {len(plans)} rows, but got {len(self.outcomes.slots)}")
        return plans

    def only(self, keep: Bools) -> History:
        """The rows (n,) that are to be kept."""
        rounds = np.arange(len(self.step_ids)).repeat(self.num_rows)
        num_rows = np.bincount(rounds[keep], minlength=len(self.step_ids)).tolist()
        return replace(self, outcomes=self.outcomes.only(keep), num_rows=num_rows)

    def __iter__(self) -> Iterator[tuple[Outcomes, Cost | None]]:
        """Round by round."""
        start = 0
        for step_id, num_rows, cost in zip(self.step_ids, self.num_rows, self.costs, strict=True):
            rows = self.outcomes.only(slice(start, start + num_rows))
            yield replace(rows, step_id=step_id), cost
            start += num_rows
