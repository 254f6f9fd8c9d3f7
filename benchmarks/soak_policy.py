"""Policies on their own, with random views and feedback; for `benchmarks.soak`."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

import numpy as np

from benchmarks.soak_feedback import Ints
from benchmarks.soak_run import MOST_REQUESTS, Tally, expect, random_section
from flyball.estimators.cost import marginal_seconds
from flyball.policies.length.base import Progress, RoundResult, View
from flyball.policies.registry import LENGTH_POLICIES


class LonePolicy:
    """Random calls of a length policy, whose answers are checked.

    Args:
        policy: its name.
        seed: of everything.
    """

    def __init__(self, policy: str, seed: Sequence[int]) -> None:
        self._rng = np.random.default_rng(seed)
        self._choose = choose = random.Random(int(self._rng.integers(2**62)))
        settings = LENGTH_POLICIES[policy].Settings(**random_section(policy, choose))
        self.subject = self.policy = LENGTH_POLICIES[policy](settings)
        self.tally = Tally()
        self._settings = settings
        self._limit = choose.randint(1, settings.max_draft_len)
        self._tables = self._make_tables()
        self._costs = self._make_costs()
        self._late: deque[tuple[Ints, Ints]] = deque(maxlen=8)
        everyone = np.arange(MOST_REQUESTS, dtype=np.int32)
        self.policy.admit(everyone)
        for array in (*self._tables, *(part for pair in self._costs for part in pair)):
            array.flags.writeable = False  # a view is not written to
        self._slots = self._rng.permutation(everyone)
        self._slots.flags.writeable = False

    def __repr__(self) -> str:
        """What it would take to see it again."""
        return repr(self._settings)

    def _make_tables(self) -> list[np.ndarray]:
        """Survival of drafts from hopeless to sure, each (2 * MOST_REQUESTS, 64)."""
        shape = (2 * MOST_REQUESTS, 64)
        random_ones = [self._rng.random(shape) ** power for power in (4.0, 1.0, 0.1)]
        return [one.cumprod(axis=1) for one in (np.zeros(shape), np.ones(shape), *random_ones)]

    def _make_costs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Seconds of rounds and of each further token; the first are not known."""
        lengths = np.arange(self._limit + 1.0)
        curves = [np.full(len(lengths), np.nan)]
        curves += [1e-3 * (1.0 + slope * lengths) for slope in (0.0, 0.05, 3.0)]
        curves += [10.0 ** self._rng.uniform(-9, 3, len(lengths)) for _ in range(8)]
        return [(curve, marginal_seconds(curve)) for curve in curves]

    def step(self) -> None:
        """Requests that enter, or a round.

        Raises:
            SoakError: the policy answered what it may not.
        """
        choose = self._choose
        size = choose.choice((0, 1, 1, 1, 2, 3, 8, 32, MOST_REQUESTS))
        start = choose.randint(0, MOST_REQUESTS - size)
        slots = self._slots[start : start + size]
        if choose.random() < 0.05:
            self.tally.time(self.policy.admit, slots)
        else:
            self._round(self._view(slots))

    def settle(self) -> None:
        """Nothing that it holds depends on the last calls."""

    def _view(self, slots: Ints) -> View:
        choose, limit = self._choose, self._limit
        start = choose.randrange(MOST_REQUESTS)
        # As the governor has it: nothing has a price where there are no requests.
        round_s, marginal_s = choose.choice(self._costs if len(slots) else self._costs[:1])
        known = bool(np.isfinite(round_s[0]))
        weight = self._tables[-1][start : start + len(slots), 0]
        return View(
            slots=slots,
            max_draft_len=limit,
            can_stop=choose.random() < 0.5,
            padded=choose.random() < 0.5,
            survival=choose.choice(self._tables)[start : start + len(slots), :limit],
            round_s=round_s,
            marginal_s=marginal_s,
            verify_marginal_s=0.7 * marginal_s,
            price=10.0 ** choose.uniform(-3, 9) if known else np.nan,
            weight=weight / weight.mean() if len(slots) else weight,
            best_len=choose.randint(0, limit) if known else 0,
            probe_len=choose.choice((None, None, None, 0, limit)),
        )

    def _round(self, view: View) -> None:
        for _ in range(self._choose.choice((1, 1, 2))):
            lengths = self.tally.time(self.policy.decide, view)
            fits = lengths.shape == view.slots.shape and lengths.dtype == np.int32
            fits = fits and ((lengths >= 0) & (lengths <= self._limit)).all()
            expect(fits, f"{len(view.slots)} integers from 0 to {self._limit}", lengths)
        if self.policy.stops:
            lengths = self._stopped(view, lengths)
        self._late.append((view.slots, lengths))
        for _ in range(self._choose.choice((0, 1, 1, 1, 2))):
            self._learn(*self._choose.choice(self._late))

    def _stopped(self, view: View, lengths: Ints) -> Ints:
        """Lengths after the policy was asked in mid-draft."""
        lengths = lengths.copy()
        rows = np.arange(len(lengths))
        for position in range(1, min(self._limit, self._choose.choice((2, 4, 70)))):
            rows = rows[lengths[rows] > position]
            if len(rows) == 0:
                break
            start = self._choose.randrange(MOST_REQUESTS)
            chances = [table[start : start + len(rows), 0] for table in self._tables[-4:]]
            if self._choose.random() < 0.1:
                chances[self._choose.choice((-1, -2))] = np.full(len(rows), np.nan)
            progress = Progress(view, rows, position, *chances)
            ends = self.tally.time(self.policy.stop, progress)
            fits = ends.shape == rows.shape and ends.dtype == np.bool_
            expect(fits, f"{len(rows)} booleans", ends)
            lengths[rows[ends]] = position
            rows = rows[~ends]
        return lengths

    def _learn(self, slots: Ints, lengths: Ints) -> None:
        """An outcome that may be late, short of rows, and cut short."""
        proposed = lengths
        if self._choose.random() < 0.5:
            proposed = np.minimum(proposed, np.int32(self._choose.randrange(9)))
        accepted = self._rng.integers(0, proposed + 1, dtype=np.int32)
        seen = self._rng.random(len(slots)) < self._choose.choice((0.0, 0.7, 1.0))
        result = RoundResult(slots[seen], proposed[seen], accepted[seen])
        self.tally.time(self.policy.learn, result)
