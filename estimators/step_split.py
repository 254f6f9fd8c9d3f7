"""Which part of an engine step's seconds was verification, drafting or prefill.

An engine that batches continuously runs all three in one step: it verifies what the step before
drafted, drafts for the next and reads prompts. Only the sum is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.cost import size_bucket

Floats = NDArray[np.float64]

_MEMORY = 400.0  # steps after which a sample's weight has fallen to 1/e
_SOLVE_EVERY = 64  # steps
_TRUSTED = 12  # steps, after which the parts are told apart
_PULL = 1e-3  # weight of the last solution, relative to one step's


@dataclass(slots=True)
class StepLoad:
    """What an engine step had to do.

    Attributes:
        batch_size: requests that decoded in it.
        verify_len: tokens verified for each of them on average, the sampled token included.
        draft_len: tokens drafted for the next step.
        num_prefill_tokens: prompt tokens read.
    """

    batch_size: int
    verify_len: float
    draft_len: int
    num_prefill_tokens: int


class _Bucket:
    """Least squares of one batch size; samples are gathered and taken in together."""

    def __init__(self) -> None:
        self.moments = np.zeros((4, 4))
        self.products = np.zeros(4)
        self.slopes = np.zeros(4)  # constant, verified token, drafted token, prefill token
        self.rows: list[tuple[float, float, float, float]] = []
        self.seconds: list[float] = []
        self.num_steps = 0
        self.draft_lens: set[float] = set()

    @property
    def trusted(self) -> bool:
        return self.num_steps >= _TRUSTED and len(self.draft_lens) > 1

    def take_in(self, keep: float) -> None:
        """Learn from what was gathered."""
        rows, seconds = np.array(self.rows), np.array(self.seconds)
        if self.slopes.any():  # an interrupted step says nothing about its load
            seconds = np.minimum(seconds, 2.0 * rows @ self.slopes)
        self.moments = keep ** len(rows) * self.moments + rows.T @ rows
        self.products = keep ** len(rows) * self.products + rows.T @ seconds
        self.num_steps += len(rows)
        self.draft_lens.update(row[2] for row in self.rows)
        self.slopes = _solve(self.moments, self.products, self.slopes)
        self.rows, self.seconds = [], []


class StepSplit:
    """Regression of step seconds on what the step had to do, for each batch size.

        step_s = a + b verify_len + c draft_len + d num_prefill_tokens

    with batch sizes rounded to a power of two, exponential forgetting and coefficients that are
    not negative. Where the loads do not vary, a coefficient stays near what it was. Before both
    drafting and its absence were seen often enough, nothing is told apart.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._keep = math.exp(-1.0 / _MEMORY)

    def _bucket(self, batch_size: int) -> _Bucket:
        return self._buckets.setdefault(size_bucket(batch_size), _Bucket())

    def update(self, load: StepLoad, step_s: float) -> None:
        """Learn from one step."""
        bucket = self._bucket(load.batch_size)
        bucket.rows.append((1.0, load.verify_len, load.draft_len, load.num_prefill_tokens))
        bucket.seconds.append(step_s)
        if len(bucket.rows) >= (_SOLVE_EVERY if bucket.trusted else _TRUSTED):
            bucket.take_in(self._keep)

    def token_s(self, batch_size: int) -> tuple[float, float] | None:
        """Seconds that a drafted token, and one of a prompt, add; None while not known.

        What is left of a step is its verification, and the host's own work.
        """
        bucket = self._bucket(batch_size)
        if not bucket.trusted:
            return None
        return float(bucket.slopes[2]), float(bucket.slopes[3])


def _solve(moments: Floats, products: Floats, before: Floats) -> Floats:
    """Coefficients of least squares that are not negative, close to `before` where free.

    A coefficient that turns out negative is set to 0 and the others are solved again.
    """
    diagonal = np.diag(moments)
    pull = _PULL * diagonal / moments[0, 0]
    free = diagonal > 0.0
    slopes = before.copy()
    while free.any():
        system = (moments + np.diag(pull))[np.ix_(free, free)]
        solved = np.linalg.solve(system, (products + pull * before)[free])
        slopes[free] = np.maximum(solved, 0.0)
        if solved.min() >= 0.0:
            break
        free[np.flatnonzero(free)[solved < 0.0]] = False
    return slopes
