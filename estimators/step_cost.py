"""What a decoding round costs in an engine that batches continuously.

One step of such an engine verifies what the step before drafted, drafts for the next and reads
prompts, for whatever requests are there. Only its seconds as a whole are measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.cost import size_bucket
from flyball.estimators.fill import FillEstimator

Floats = NDArray[np.float64]

_KNEES = (16.0, 64.0, 256.0, 1024.0)  # tokens of a forward, where its slope may grow
_NUM_SLOPES = 6 + len(_KNEES)
_CORNERS = np.array([0.0, *_KNEES])[:, None]
_FORWARD = slice(2, 3 + len(_KNEES))  # coefficients of the forward
_BENDS = slice(3, 3 + len(_KNEES))  # those of its knees
_MEMORY = 100.0  # steps after which one has lost 1 - 1/e of its weight in its kind's mean
_MOST_KINDS = 256
_TRUSTED = 10.0  # steps of a kind, after which more of them do not make it weightier
_COLD = 32  # first steps of an engine, which may take several times as long
_UNSURE = 0.1  # of a step's weight has a kind that was seen in those alone
_FRESH = 800.0  # steps after which a kind has lost 1 - 1/e of its weight
_LATEST = 50.0  # steps over which the machine's present speed is a mean
_STALE = 0.05  # of its weight is kept for ever
_PROBE_EVERY = 256  # steps of a batch size; no draft and a short one in turn
_FIT_EVERY = 128  # steps; sooner while there were few
_RIDGE = 0.01  # weight of coefficients of 0, in steps
_BEND = 0.3  # weight of a straight line, likewise


@dataclass(slots=True)
class _Kind:
    """Steps with about the same load: means of loads and seconds."""

    num_steps: float  # since the engine is warm, discounted
    load: list[float]  # n, t, p, k
    seconds: float
    last: int  # step


class StepCostEstimator:
    """Seconds of a step from what it has to do, and of a round from those of a step.

        step_s = a + b n + sum_j c_j (t - knee_j)+ + d p + k (e + f n)

    for n requests that decode with t tokens in the forward, p tokens of prompts next to them, and
    k draft steps. No coefficient is negative, so that costs rise, and ever faster, with the tokens
    verified: a floor while the forward reads the weights, a slope once it computes. Where nothing
    tells, costs are straight.

    A governor that keeps its lengths sees the same load again and again, which says nothing of
    others. So steps are gathered by kind of load, and the squared relative errors over kinds are
    least; a kind that is not seen any more weighs less, but is not forgotten. That the machine
    became slower, or faster, is seen by what is tried every now and then. The engine's first steps
    carry one-off costs: of those of a kind the least counts, until a later one takes its place. A
    step counts at most as twice what was expected.

    In the long run a round is one such step without a prompt.

    Args:
        max_draft_len: largest draft length in tokens.
        fill: which share of drafts has a token to verify.
    """

    def __init__(self, max_draft_len: int, fill: FillEstimator) -> None:
        self._fill = fill
        self._lengths = np.arange(max_draft_len + 1, dtype=np.float64)
        self._kinds: dict[tuple[int, int, int, int], _Kind] = {}
        self._num_steps = 0
        self._news = 0  # steps since the fit, a new kind counting as many
        self._slopes: Floats | None = None  # None until they are asked for
        # Length, and after how many steps of a batch size. What is tried at once may find the
        # engine cold; no draft is tried again, being what nobody plans who drafts.
        self._probes = ((0, 0), (max_draft_len, 0), (0, 32), (0, 128))
        self._short_len = min(4, max_draft_len)
        self._num_steps_of: dict[int, int] = {}
        self._num_probes: dict[int, int] = {}

    def next_probe(self, batch_size: int, draft: int = 0) -> int | None:
        """The length to try now at a batch size: some when it is new, later one now and then."""
        size = size_bucket(batch_size)
        num_done = self._num_probes.get(size, 0)
        if next(iter(self._num_probes), size) == size:
            num_done -= 1
            if num_done < 0:
                return self._short_len
        again = num_done - len(self._probes)
        if again < 0:
            length, num_steps = self._probes[num_done]
        else:
            length, num_steps = (0, self._short_len)[again % 2], (again + 1) * _PROBE_EVERY
        return length if self._num_steps_of.get(size, 0) >= num_steps else None

    def probed(self, batch_size: int, draft: int) -> None:
        """A probe was run, whatever the host made of it."""
        size = size_bucket(batch_size)
        self._num_probes[size] = self._num_probes.get(size, 0) + 1

    def measured(self, batch_size: int) -> bool:
        """Whether anything is known."""
        return bool(self._kinds)

    def update(
        self,
        batch_size: int,
        verify_len: float,
        num_prefill: int,
        num_draft_steps: int,
        step_s: float,
    ) -> None:
        """Learn from one step.

        Args:
            batch_size: requests that decoded.
            verify_len: tokens of each in the forward, on average.
            num_prefill: tokens of prompts in the forward.
            num_draft_steps: forwards of the draft, for the round after.
            step_s: seconds of it all.
        """
        self._num_steps += 1
        self._news += 1
        size = size_bucket(batch_size)
        self._num_steps_of[size] = self._num_steps_of.get(size, 0) + 1
        key = (
            size,
            round(verify_len),
            num_draft_steps,
            int(num_prefill).bit_length(),
        )
        load = [batch_size, batch_size * verify_len, num_prefill, num_draft_steps]
        kind = self._kinds.pop(key, None)
        if kind is None:
            if len(self._kinds) >= _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            self._news += _FIT_EVERY // 8
            kind = _Kind(0.0, load, step_s, self._num_steps)
        if self._num_steps <= _COLD:
            kind.seconds = min(step_s, kind.seconds)
        else:
            kind.num_steps *= math.exp((kind.last - self._num_steps) / _MEMORY)
            kind.num_steps += 1.0
            rate = 1.0 / kind.num_steps
            # Plain floats: several times faster here than numpy's.
            kind.load = [a + rate * (b - a) for a, b in zip(kind.load, load, strict=True)]
            kind.seconds += rate * min(step_s - kind.seconds, kind.seconds)
        kind.last = self._num_steps
        self._kinds[key] = kind  # the latest comes last

    def _fit(self) -> Floats:
        kinds = self._kinds.values()
        rows = _features(*np.array([kind.load for kind in kinds]).T)
        rows /= np.array([kind.seconds for kind in kinds])[:, None]  # so that all should be 1
        num_steps = np.array([kind.num_steps for kind in kinds])
        weights = np.minimum(np.maximum(num_steps, _UNSURE), _TRUSTED)
        age = self._num_steps - np.array([kind.last for kind in kinds])
        latest = weights * np.exp(-age / _LATEST)
        weights *= np.maximum(np.exp(-age / _FRESH), _STALE)
        moments = (weights * rows.T) @ rows
        # A coefficient's ridge is relative to what it is worth in a step.
        ridge = _RIDGE * moments.diagonal()
        ridge[_BENDS] += _BEND * moments[2, 2]
        moments[np.diag_indices(_NUM_SLOPES)] += ridge / weights.sum()
        slopes = _positive_solution(moments, weights @ rows)
        # What is known from long ago gives the shape, the latest steps the level.
        slopes *= latest.sum() / (latest @ (rows @ slopes))
        return slopes

    def round_s(self, batch_size: int) -> Floats:
        """Seconds of a round for draft lengths 0 to max_draft_len (2, max_draft_len + 1).

        The first row drafts as well, the second only verifies. NaN before anything is known.
        """
        if not self.measured(batch_size):
            return np.full((2, len(self._lengths)), np.nan)
        if self._slopes is None or self._news >= min(_FIT_EVERY, self._num_steps // 4):
            self._news = 0
            self._slopes = self._fit()
        slopes = self._slopes
        tokens: Floats = batch_size * self._fill.share.cumsum()
        still = slopes[:2] @ (1.0, batch_size)
        verifying = still + slopes[_FORWARD] @ np.maximum(tokens - _CORNERS, 0.0)
        drafting: Floats = verifying + self._lengths * (slopes[-2:] @ (1.0, batch_size))
        seconds: Floats = np.maximum(np.stack([drafting, verifying]), 1e-9)
        return seconds


def _features(sizes: Floats, tokens: Floats, prefill: Floats, draft_steps: Floats) -> Floats:
    """Rows of the regression, one a step."""
    beyond = np.maximum(tokens - _CORNERS, 0.0)
    columns = (np.ones(len(sizes)), sizes, *beyond, prefill, draft_steps, draft_steps * sizes)
    return np.stack(columns, axis=1)


def _positive_solution(moments: Floats, products: Floats) -> Floats:
    """Coefficients of least squares that are not negative.

    As long as some turn out negative, the worst of them is set to 0 and the others are solved
    again.
    """
    scale = np.sqrt(np.diag(moments))
    free = scale > 0.0
    scale[~free] = 1.0
    system, wanted = moments / np.outer(scale, scale), products / scale
    slopes = np.zeros(len(products))
    while free.any():
        solved = np.linalg.solve(system[np.ix_(free, free)], wanted[free])
        if solved.min() >= 0.0:
            slopes[free] = solved / scale[free]
            break
        free[np.flatnonzero(free)[solved.argmin()]] = False
    return slopes
