"""What a host may say to the governor, sound or not; for `benchmarks.soak`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Cost, DraftInfo, HostInfo, Offer, Outcomes
from flyball.estimators.drafts import NUM_STRENGTHS

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
Spoil = Callable[[NDArray[Any]], Any]

BAD_SHAPES: tuple[Spoil, ...] = (
    lambda a: a[:-1],
    lambda a: a[:0],
    lambda a: a[:1],
    lambda a: np.concatenate([a, a]),
    lambda a: a[:, None],
    lambda a: a[None],
    lambda a: np.array(1, np.int32),
    lambda a: a.tolist(),
)
BAD_COUNTS: tuple[Spoil, ...] = (
    lambda a: a - np.int32(100),
    lambda a: a + np.int32(1000),
    lambda a: np.full_like(a, 2**31 - 1),
    lambda a: np.full_like(a, -(2**31)),
    lambda a: np.full(a.shape, 2**32 - 1, np.uint32),
    lambda a: np.full(a.shape, np.nan),
    lambda a: np.full(a.shape, None),
    lambda a: np.full(a.shape, "x"),
    lambda a: None,
    *BAD_SHAPES,
)
BAD_SLOTS: tuple[Spoil, ...] = (
    lambda a: np.full_like(a, 10**6),
    lambda a: np.full_like(a, -1),
    lambda a: np.full_like(a, -(2**31)),
    lambda a: a.astype(np.float64),
    lambda a: a > 1,
    *BAD_SHAPES,
)
ODD_SLOTS: tuple[Spoil, ...] = (  # sound: one request several times, another integer type
    lambda a: a[np.zeros(len(a), np.intp)] if len(a) else a,
    lambda a: a.astype(np.int64),
)
BAD_TABLES: tuple[Spoil, ...] = (  # (n, width) probabilities
    lambda a: np.full_like(a, np.nan),
    lambda a: np.full_like(a, np.inf),
    lambda a: a - 3.0,
    lambda a: a + 1e9,
    lambda a: np.where(a > np.median(a) if a.size else a, np.nan, a),
    lambda a: a[:, :0],
    lambda a: a[:, :1],
    lambda a: a[:-1],
    lambda a: np.concatenate([a, a]),
    lambda a: a.ravel(),
    lambda a: a[..., None],
    lambda a: np.array(0.5),
    lambda a: a.tolist(),
)
BAD_NUMBERS: tuple[Any, ...] = (np.nan, np.inf, -np.inf, -1, 0, 1e-300, 1e300, 2**40, -(2**40))


def random_host(choose: random.Random) -> HostInfo:
    """Any host."""
    overlap = choose.random() < 0.3
    steps = [True] if overlap else [choose.random() < 0.6 for _ in range(choose.randrange(4))]
    return HostInfo(
        "soak",
        max_draft_len=choose.choice((1, 2, 5, 8, 16, 64)),
        ragged_ok=choose.random() < 0.7,
        padded=choose.random() < 0.5,
        mid_draft_stop=not overlap and choose.random() < 0.7,
        trims=overlap and choose.random() < 0.5,
        reads=choose.random() < 0.7,
        feedback_delay=choose.choice((0, 0, 1, 4)),
        rounds_overlap=overlap,
        drafts=tuple(DraftInfo(f"draft {i}", steps=step) for i, step in enumerate(steps)),
    )


class Feedback:
    """Makes outcomes, costs, offers and readings.

    Args:
        host: whose.
        rng: of arrays.
        choose: of everything else.
    """

    def __init__(self, host: HostInfo, rng: np.random.Generator, choose: random.Random) -> None:
        self._host = host
        self._rng = rng
        self._choose = choose
        self._tables = rng.random((512, 64)) ** 0.2

    def table(self, num_rows: int, width: int) -> Floats:
        """Probabilities (num_rows, width)."""
        start = self._choose.randrange(256)
        return self._tables[start : start + num_rows, :width]

    def outcomes(self, step_id: int, slots: Ints, draft_len: Ints, draft: Ints) -> Outcomes:
        """What may have become of a plan (n,): often all of it, sometimes less was proposed."""
        choose, proposed = self._choose, draft_len
        if choose.random() < 0.5:
            proposed = np.minimum(proposed, np.int32(choose.randrange(9)))
        accepted = self._rng.integers(0, proposed + 1, dtype=np.int32)
        observed = np.minimum(accepted + 1, proposed)
        if choose.random() < 0.1:  # truncated
            observed = np.minimum(observed, np.int32(choose.randrange(3)))
        width = choose.choice((64, int(observed.max(initial=0))))
        exhausted = proposed < draft_len if choose.random() < 0.2 else None
        return Outcomes(
            step_id,
            slots,
            proposed,
            accepted,
            observed,
            None if choose.random() < 0.2 else self.table(len(slots), width),
            None if len(self._host.drafts) < 2 else draft,
            exhausted,
            None if choose.random() < 0.5 else 3.0 * self.table(len(slots), width),
        )

    def spoilt(self, outcomes: Outcomes) -> Outcomes:
        """The same with one thing wrong."""
        choose = self._choose
        field = choose.choice(
            ("step_id", "slots", "proposed", "accepted", "observed", "confidence", "draft",
             "exhausted", "entropy")
        )  # fmt: skip
        value: Any
        if field == "step_id":
            value = choose.choice((0, -1, 10**9))
        elif field in ("confidence", "entropy"):
            value = choose.choice(BAD_TABLES)(self.table(len(outcomes.slots), 64))
        elif field == "slots":
            value = choose.choice((*BAD_SLOTS, *ODD_SLOTS))(outcomes.slots)
        else:
            value = choose.choice(BAD_COUNTS)(outcomes.proposed)
        return replace(outcomes, **{field: value})

    def cost(self, step_id: int, num_rows: int, draft_len: Ints) -> Cost:
        """What a round may have cost."""
        choose, length = self._choose, int(draft_len.max(initial=0))
        draft_s = 1e-4 * length * choose.random()
        verify_s = 1e-3 * (1.0 + 0.02 * length + 0.01 * num_rows) * (0.5 + choose.random())
        interrupted = 100.0 if choose.random() < 0.01 else 1.0
        apart = choose.random() < 0.7
        stepping = [i for i, draft in enumerate(self._host.drafts) if draft.steps]
        # Hosts count with numpy, too, whatever the annotation says.
        num_prefill: Any = np.int64(100) if choose.random() < 0.1 else 0
        return Cost(
            step_id,
            interrupted * (draft_s + verify_s),
            max(1, num_rows),
            1.0 + choose.random() * length if self._host.rounds_overlap else length + 1,
            length if stepping else 0,
            draft_s if apart else None,
            verify_s if apart else None,
            choose.choice(stepping) if stepping else 0,
            num_prefill,
        )

    def spoilt_cost(self, cost: Cost) -> Cost:
        """The same with one number wrong."""
        field = self._choose.choice(
            ("step_id", "step_s", "batch_size", "verify_len", "num_draft_steps", "draft_s",
             "verify_s", "draft", "num_prefill")
        )  # fmt: skip
        return replace(cost, **{field: self._choose.choice(BAD_NUMBERS)})

    def offers(self, drafts: Sequence[int], num_rows: int) -> list[Offer]:
        """One offer of each of these drafts."""
        found = []
        for draft in drafts:
            length = self._rng.integers(0, 20, num_rows, np.int32)
            strength = self._rng.integers(0, NUM_STRENGTHS, num_rows, np.int32)
            found.append(Offer(draft, length, strength))
        return found

    def spoilt_offer(self, offer: Offer) -> Offer:
        """The same with one array wrong, or of another type."""
        field = self._choose.choice(("draft_len", "strength"))
        odd: tuple[Spoil, ...] = (*BAD_COUNTS, lambda a: a.astype(np.int64))
        return replace(offer, **{field: self._choose.choice(odd)(offer.draft_len)})

    def match(self, num_rows: int) -> Floats:
        """What a draft may have got right in text that it read, 0 or 1, NaN where none is."""
        match = (self.table(num_rows, self._choose.randrange(40)) > 0.7).astype(np.float64)
        if self._choose.random() < 0.5:
            match[self.table(*match.shape) > 0.95] = np.nan
        return match
