"""What a decoding round costs in seconds, as a function of batch size and draft length."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WARM_UP = 3  # samples of a place in which a lower time replaces a higher one


def lower_hull(seconds: Floats) -> Floats:
    """Largest convex function that nowhere exceeds `seconds` (w,), on the same grid.

    Step times rise in jumps. One more token may look dear although two more cost hardly more than
    one; along the hull marginal costs never fall, so a test of the next token alone is right.
    """
    corners: list[int] = []
    values = seconds.tolist()  # plain floats: ten times faster here than numpy's
    for i, value in enumerate(values):
        while len(corners) >= 2:
            first, second = corners[-2], corners[-1]
            rise = (value - values[first]) * (second - first)
            if (values[second] - values[first]) * (i - first) < rise:
                break
            corners.pop()
        corners.append(i)
    hull: Floats = np.interp(np.arange(len(seconds)), corners, seconds[corners])
    return hull


def marginal_seconds(round_s: Floats) -> Floats:
    """Seconds that each drafted token adds to a round of round_s (K + 1,); (K,), never falling."""
    # A longer round never costs less; where the measured steps say so, it is noise.
    result: Floats = np.maximum(np.diff(lower_hull(round_s)), 0.0)
    return result


@functools.lru_cache(maxsize=1024)
def size_bucket(batch_size: int) -> int:
    """Batch sizes that share what was measured: the power of two that is nearest."""
    return round(math.log2(batch_size)) if batch_size > 1 else 0


class Curve:
    """A function of a small positive integer, learned from noisy times.

    A sample moves the value at its place by 1/count of its error and never by less than `floor`,
    so that the curve follows drift. It moves all other places by `floor` of the same relative
    error: when the machine slows down or the context grows, lengths that are not being run must
    not stay cheap, or dear, in memory. Counts fade; a place whose count has faded below 1/2 goes
    over from what it was to what its neighbours say, where that is less: slowly, so that what is
    tried again is the cheapest. Unknown places are interpolated, or extrapolated to the right by
    the mean slope of the known ones from 2 on (an engine may take another path for 1). NaN before
    any sample.

    First samples carry one-off costs (allocation, caches), hence a lower one replaces them; later
    a sample counts at most as twice what was expected, so that a step that the operating system
    interrupted does not move the curve far.

    Args:
        max_x: right end of the domain; the left end is 1.
        floor: least step size.
        memory: samples after which a count has lost 1 - 1/e of itself.
    """

    def __init__(self, max_x: int, floor: float = 0.04, memory: float = 400.0) -> None:
        self._places = np.arange(1.0, max_x + 1.0)
        self._floor = floor
        self._keep = float(np.exp(-1.0 / memory))
        # Plain floats, and common factors for what happens to all places: ten times faster here
        # than numpy's scalars. A count is its weight times `_fade`, a value times `_drift`.
        self._weights = [0.0] * max_x
        self._values = [0.0] * max_x
        self._fade = self._drift = 1.0

    def values(self) -> Floats:
        """The curve at 1 to max_x (max_x,)."""
        values = np.array(self._values) * self._drift
        counts = np.array(self._weights) * self._fade
        visited, known = counts > 0.0, counts >= 0.5
        if not known.any():
            return np.full(len(values), np.nan)
        if known.all():
            return values
        kept = np.minimum(2.0 * counts, 1.0)
        less = np.minimum(self._through(known, values), values)
        return self._through(visited, less + kept * (values - less))

    def _through(self, known: NDArray[np.bool_], values: Floats) -> Floats:
        """The values at known places, and what they say of the others."""
        anchors = np.flatnonzero(known)
        result: Floats = np.interp(self._places, self._places[anchors], values[anchors])
        first, last = anchors[min(1, len(anchors) - 1)], anchors[-1]
        if last > first:
            rise = max(0.0, (values[last] - values[first]) / (last - first))
            result[last + 1 :] += rise * np.arange(1, len(result) - last)
        return result

    def update(self, x: int, y: float) -> bool:
        """Learn that the function was y > 0 at x; whether that was not known before."""
        place = x - 1
        self._fade *= self._keep
        if self._fade < 1e-9:
            self._weights = [weight * self._fade for weight in self._weights]
            self._values = [value * self._drift for value in self._values]
            self._fade = self._drift = 1.0
        count = self._weights[place] * self._fade + 1.0
        is_news = count < 1.5
        if is_news:
            count, value = 1.0, y
        else:
            value = self._values[place] * self._drift
            if count <= WARM_UP:
                value = min(y, value)
            else:
                error = min(y / value - 1.0, 1.0)
                self._drift *= 1.0 + self._floor * error
                value *= 1.0 + max(self._floor, 1.0 / count) * error
        self._weights[place], self._values[place] = count / self._fade, value / self._drift
        return is_news


class _Bucket:
    """Curves of one batch size."""

    def __init__(self, max_width: int, num_kinds: int) -> None:
        self.verify = Curve(max_width)
        self.host = Curve(1)
        self.step = [Curve(max_width - 1) for _ in range(num_kinds)]  # means by number of steps
        self.num_rounds = 0
        self.num_probes = [0] * num_kinds


class CostEstimator:
    """Seconds of a round: draft steps, one verification, and the host's own work.

        round_s(k) = verify_s(k + 1) + k * draft_step_s(k) + host_s

    where draft_step_s(k) is the mean of k steps. A draft's first step also reads what was settled,
    so that short drafts are dearer by the step; one mean over all lengths would charge a further
    token with its share of that, and cut drafts short. There is one set of curves for each batch
    size, rounded to a power of two; drafts differ in their steps only, and drafts of one kind in
    nothing. Where a host gives only the seconds of the whole step, they all count as verification,
    which leaves round_s right as long as there is one draft.

    Args:
        max_draft_len: largest draft length in tokens.
        kinds: of the drafts that run token by token, numbered from 0 as they first appear.
    """

    def __init__(self, max_draft_len: int, kinds: Sequence[int] = (0,)) -> None:
        self._lengths = np.arange(max_draft_len + 1.0)
        self._kinds = tuple(kinds)
        self._num_kinds = max(kinds, default=-1) + 1
        self._buckets: dict[int, _Bucket] = {}
        # Two passes tell the curve's level, slope and bend; longer drafts are extrapolated.
        self._probes: tuple[int, ...] = (min(4, max_draft_len), 0, min(8, max_draft_len)) * 2
        # A further draft has only its step to tell.
        self._step_probes: tuple[int, ...] = (min(4, max_draft_len), min(8, max_draft_len)) * 2

    def next_probe(self, batch_size: int, draft: int = 0) -> int | None:
        """The length to try next with a draft, at a batch size where its cost is not known yet.

        None once it is known, and where there is no draft to try.
        """
        if draft >= len(self._kinds):
            return None
        bucket, kind = self._buckets.get(size_bucket(batch_size)), self._kinds[draft]
        if kind == 0:
            seen, probes = bucket.num_rounds if bucket else 0, self._probes
        else:
            seen, probes = bucket.num_probes[kind] if bucket else 0, self._step_probes
        return probes[seen] if seen < len(probes) else None

    def measured(self, batch_size: int) -> bool:
        """Whether any round of this batch size was measured."""
        return size_bucket(batch_size) in self._buckets

    def round_s(self, batch_size: int) -> Floats:
        """Seconds of a round for draft lengths 0 to max_draft_len (drafts + 1, max_draft_len + 1).

        One row a draft, and a last one for rounds in which no draft steps. NaN where the batch
        size was never measured.
        """
        bucket = self._buckets.get(size_bucket(batch_size))
        if bucket is None:
            return np.full((len(self._kinds) + 1, len(self._lengths)), np.nan)
        # Where nothing was drafted yet, drafting looks free, and is tried.
        steps = [np.nan_to_num(step.values()) for step in bucket.step]
        seconds = np.tile(bucket.verify.values() + bucket.host.values(), (len(self._kinds) + 1, 1))
        for way, kind in enumerate(self._kinds):
            seconds[way, 1:] += self._lengths[1:] * steps[kind]
        return seconds

    def probed(self, batch_size: int, draft: int) -> None:
        """A probe of a draft was run, whatever the host made of it."""
        self._bucket(batch_size).num_probes[self._kinds[draft]] += 1

    def _bucket(self, batch_size: int) -> _Bucket:
        key = size_bucket(batch_size)
        if key not in self._buckets:
            self._buckets[key] = _Bucket(len(self._lengths), self._num_kinds)
        return self._buckets[key]

    def update(
        self,
        batch_size: int,
        verify_len: int,
        num_draft_steps: int,
        step_s: float,
        draft_s: float | None,
        verify_s: float | None,
        draft: int = 0,
    ) -> bool:
        """Learn from one round; whether this number of verified tokens was not known before.

        Args:
            batch_size: requests that the forwards ran over.
            verify_len: tokens verified for each request, the padded width included.
            num_draft_steps: forwards of the draft.
            step_s: seconds of the whole round.
            draft_s: of them in the draft, if known.
            verify_s: of them in the verification, if known.
            draft: which one stepped, among those that do.
        """
        bucket = self._bucket(batch_size)
        bucket.num_rounds += 1
        drafting = 0.0 if draft_s is None else draft_s
        verifying = step_s - drafting if verify_s is None else verify_s
        is_news = bucket.verify.update(min(verify_len, len(self._lengths)), max(verifying, 1e-9))
        bucket.host.update(1, max(1e-9, step_s - drafting - verifying))
        if num_draft_steps > 0:
            longest = len(self._lengths) - 1
            bucket.step[self._kinds[draft]].update(
                min(num_draft_steps, longest), max(1e-9, drafting / num_draft_steps)
            )
        return is_news
