"""Several rounds at once, for hosts that hand in what they saw every few steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Bools, Cost, Outcomes
from flyball.estimators.cost import size_bucket


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
        """The step id of each row (n,)."""
        return np.repeat(np.asarray(self.step_ids, np.int64), self.num_rows)

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


def typical_costs(costs: Iterable[Cost | None]) -> list[Cost]:
    """One cost for all rounds that verified and drafted alike, at about the same batch size.

    It is their median, which no interrupted step moves.
    """
    kinds: dict[tuple[int, int, int, int], list[Cost]] = {}
    for cost in costs:
        if cost is not None:
            size = size_bucket(cost.batch_size)
            kind = (size, cost.verify_len, cost.num_draft_steps, cost.draft)
            kinds.setdefault(kind, []).append(cost)
    return [
        replace(sorted(alike, key=_step_s)[len(alike) // 2], num_rounds=len(alike))
        for alike in kinds.values()
    ]


def _step_s(cost: Cost) -> float:
    return cost.step_s
