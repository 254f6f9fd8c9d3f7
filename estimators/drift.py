"""Whether outcomes still come from where they came from: when memory should be shortened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]

_LEVELS = 8
_PER_LEVEL = 4  # a bucket is at most a quarter of the window, so a cut is found that closely
_COUNT, _SUM, _SQUARES = range(3)


@dataclass(frozen=True, slots=True)
class Cut:
    """Streams (a,) whose latest observations differ from those before.

    Attributes:
        streams: (a,) which.
        num_kept: (a,) latest observations that belong together.
        num_dropped: (a,) observations before them.
    """

    streams: NDArray[np.intp]
    num_kept: Floats
    num_dropped: Floats


_NO_CUT = Cut(np.zeros(0, np.intp), np.zeros(0), np.zeros(0))


class DriftDetector:
    """A window of each stream's latest values in [0, 1], cut where their mean has changed.

    ADWIN (Bifet and Gavalda 2007, section 3): the window is cut where, for some split into an
    older and a newer part of n0 and n1 observations with 1 / m = 1 / n0 + 1 / n1,

        |mean0 - mean1| > sqrt(2 v L / m) + 2 L / (3 m),    L = log(2 log(n0 + n1) / delta),

    v the variance of the whole window. ADWIN drops its oldest bucket until no split differs; here
    everything before the split whose means differ most is dropped at once, where a single change
    most likely was.

    Splits are tried between buckets, each of which sums up 1, 2, 4, ... calls, 4 of a size, so
    memory is constant and a window reaches back 760 to 1020 calls. Time is counted in calls, so
    buckets are alike for all streams and a call is some vectorised operations on all of them.

    Args:
        delta: most cuts of a stream that does not change, per call.
        num_streams: of the start; `reset` adds more.
    """

    def __init__(self, delta: float = 0.002, num_streams: int = 1) -> None:
        self._delta = delta
        # Newest first: count, sum and sum of squares of each bucket and stream.
        self._buckets = np.zeros((_LEVELS, _PER_LEVEL, 3, num_streams))
        self._filled = [0] * _LEVELS  # buckets of each level

    @property
    def num_observed(self) -> Floats:
        """Observations in each stream's window (streams,)."""
        result: Floats = self._buckets[:, :, _COUNT].sum(axis=(0, 1))
        return result

    @property
    def mean(self) -> Floats:
        """Mean of each stream's window (streams,); 0 where nothing was observed."""
        total: Floats = self._buckets[:, :, _SUM].sum(axis=(0, 1))
        result: Floats = total / np.maximum(self.num_observed, 1.0)
        return result

    def reset(self, streams: Ints) -> None:
        """Forget what streams (a,) were, adding those that are new."""
        missing = int(streams.max(initial=-1)) + 1 - self._buckets.shape[-1]
        if missing > 0:
            more = np.zeros((_LEVELS, _PER_LEVEL, 3, missing))
            self._buckets = np.concatenate([self._buckets, more], axis=-1)
        self._buckets[..., streams] = 0.0

    def update(self, values: Floats, streams: Ints | None = None) -> Cut:
        """Take in observations, which count as simultaneous, and cut what has changed.

        Args:
            values: (t,) in [0, 1].
            streams: (t,) of each observation, in any order; None where there is one stream.

        Returns:
            What was cut by this call.
        """
        if streams is None:
            batch = np.array([[len(values)], [values.sum()], [values.dot(values)]])
        else:
            weights, size = (None, values, values * values), self._buckets.shape[-1]
            batch = np.stack([np.bincount(streams, weight, size) for weight in weights])
        self._push(batch)
        return self._cut()

    def _push(self, bucket: Floats) -> None:
        """Put in the newest bucket (3, streams); two old ones of a full level become one."""
        for level, (buckets, filled) in enumerate(zip(self._buckets, self._filled, strict=True)):
            carry = buckets[-1] + buckets[-2] if filled == _PER_LEVEL else None
            buckets[1:] = buckets[:-1]
            buckets[0] = bucket
            if carry is None:
                self._filled[level] = filled + 1
                return
            buckets[-1] = 0.0
            self._filled[level] = filled - 1
            bucket = carry

    def _cut(self) -> Cut:
        """Drop what is older than a change."""
        buckets = self._buckets.reshape(_LEVELS * _PER_LEVEL, 3, -1)
        newer = buckets.cumsum(axis=0)  # (b, 3, streams)
        num_newer, total = newer[:, _COUNT], np.maximum(newer[-1, _COUNT], 3.0)
        mean = newer[-1, _SUM] / total
        variance = np.maximum(newer[-1, _SQUARES] / total - mean * mean, 0.0)
        certainty = np.log(2.0 / self._delta * np.log(total))
        # Both sides of the test times m: no division by the size of a part.
        gap = np.abs(newer[:, _SUM] - num_newer * mean)
        balance = num_newer - num_newer * num_newer / total
        bound = np.sqrt(2.0 * variance * certainty * np.maximum(balance, 0.0))
        differs = gap > bound + 2.0 / 3.0 * certainty
        if not np.count_nonzero(differs):
            return _NO_CUT
        streams = np.flatnonzero(differs.any(axis=0))
        differs, gap, balance = differs[:, streams], gap[:, streams], balance[:, streams]
        surprise = np.where(differs, gap * gap, 0.0) / np.where(differs, balance, 1.0)
        last = surprise.argmax(axis=0)  # bucket that is kept
        kept, before = num_newer[last, streams], num_newer[-1, streams]
        older = np.arange(len(buckets))[:, None] > last
        bucket, place = older.nonzero()
        buckets[bucket, :, streams[place]] = 0.0
        return Cut(streams, kept, before - kept)
