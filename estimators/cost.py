"""What a decoding round costs in seconds, as a function of batch size and draft length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WARM_UP = 3  # samples in which a lower time replaces a higher one


class Curve:
    """A piecewise linear function of one variable, learned from noisy times.

    Knots stand at 1, 2, 3, 5, 9, 17, ...: dense where an engine's step time bends. A sample moves
    the knots on both sides of it (normalised least mean squares) by 1/count of its error, never
    by less than `floor`, so that the curve follows drift. It is NaN before any sample and flat
    after the first. First samples carry one-off costs (allocation, caches), hence a lower one
    replaces them; later a sample counts at most as twice what was expected, so that a step that
    the operating system interrupted does not move the curve far.

    Args:
        max_x: right end of the domain; the left end is 1.
        floor: least step size.
    """

    def __init__(self, max_x: int, floor: float = 0.04) -> None:
        knots = [1.0, 2.0]
        while knots[-1] < max_x:
            knots.append(2.0 * knots[-1] - 1.0)
        self._knots = np.array(knots)
        self._floor = floor
        self._count = np.zeros(len(knots))
        self._values = np.full(len(knots), np.nan)

    def at(self, x: Floats) -> Floats:
        """Values at x (w,)."""
        result: Floats = np.interp(x, self._knots, self._values)
        return result

    def update(self, x: float, y: float) -> None:
        """Learn that the function was y at x."""
        if self._count.sum() == 0:
            self._values[:] = y
        left = int(np.searchsorted(self._knots, x, side="right")) - 1
        left = min(left, len(self._knots) - 2)
        share = (x - self._knots[left]) / (self._knots[left + 1] - self._knots[left])
        error = y - ((1 - share) * self._values[left] + share * self._values[left + 1])
        norm = (1 - share) ** 2 + share**2
        for knot, part in ((left, 1 - share), (left + 1, share)):
            if part > 0:
                self._move(knot, part, error, part / norm)

    def _move(self, knot: int, part: float, error: float, direction: float) -> None:
        self._count[knot] += part
        if self._count[knot] > WARM_UP:
            error = min(error, self._values[knot])
            step = max(self._floor, 1.0 / self._count[knot])
        else:
            step = 1.0 if error < 0 else 1.0 / max(1.0, self._count[knot])
        self._values[knot] += step * direction * error


class CostEstimator:
    """Seconds of a round: draft steps, one verification, and the host's own work.

        round_s(k) = verify_s(k + 1) + k * draft_step_s + host_s

    with one set of curves for each batch size, rounded to a power of two. Where a host gives only
    the seconds of the whole step, they all count as verification, which leaves round_s right.

    Args:
        max_draft_len: largest draft length in tokens.
    """

    def __init__(self, max_draft_len: int) -> None:
        self._lengths = np.arange(max_draft_len + 1.0)
        self._buckets: dict[int, tuple[Curve, Curve, Curve]] = {}
        self._num_rounds: dict[int, int] = {}
        # Two passes over the ends and the middle tell a curve's level, slope and bend.
        self._probes = (min(4, max_draft_len), 0, max_draft_len) * 2

    @staticmethod
    def _key(batch_size: int) -> int:
        return round(np.log2(batch_size)) if batch_size > 1 else 0

    def next_probe(self, batch_size: int) -> int | None:
        """The draft length to try next at a batch size not known yet; None once it is known."""
        seen = self._num_rounds.get(self._key(batch_size), 0)
        return self._probes[seen] if seen < len(self._probes) else None

    def round_s(self, batch_size: int) -> Floats:
        """Seconds of a round for draft lengths 0 to max_draft_len (max_draft_len + 1,).

        NaN where the batch size was never measured.
        """
        curves = self._buckets.get(self._key(batch_size))
        if curves is None:
            return np.full(len(self._lengths), np.nan)
        verify, draft, host = (curve.at(self._lengths + 1.0) for curve in curves)
        # Where nothing was drafted yet, drafting looks free, and is tried.
        seconds: Floats = verify + self._lengths * np.nan_to_num(draft[0]) + host[0]
        return seconds

    def update(
        self,
        batch_size: int,
        verify_len: int,
        num_draft_steps: int,
        step_s: float,
        draft_s: float | None,
        verify_s: float | None,
    ) -> None:
        """Learn from one round.

        Args:
            batch_size: requests in the round.
            verify_len: tokens verified for each request, the padded width included.
            num_draft_steps: forwards of the draft.
            step_s: seconds of the whole round.
            draft_s: of them in the draft, if known.
            verify_s: of them in the verification, if known.
        """
        key = self._key(batch_size)
        if key not in self._buckets:
            widest = len(self._lengths)
            self._buckets[key] = (Curve(widest), Curve(2), Curve(2))
        verify, draft, host = self._buckets[key]
        self._num_rounds[key] = self._num_rounds.get(key, 0) + 1
        drafting = 0.0 if draft_s is None else draft_s
        verifying = step_s - drafting if verify_s is None else verify_s
        verify.update(min(verify_len, len(self._lengths)), verifying)
        host.update(1.0, max(0.0, step_s - drafting - verifying))
        if num_draft_steps > 0:
            draft.update(1.0, drafting / num_draft_steps)
