"""What a report shows of replays: intervals, regret, trails, calibration and waste."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.controller.corpus import Corpus
from flyball.controller.replayed import Replayed

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

_RESAMPLES = 400
_POINTS = 120  # of a curve
_LEVELS = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class Rate:
    """Tokens per second with a 95% interval, by resampling texts."""

    value: float
    low: float
    high: float


def rate(corpus: Corpus, found: Replayed) -> Rate:
    """Of a replay."""
    seconds, tokens = _by_text(corpus, found)
    draws = np.random.default_rng(0).integers(len(tokens), size=(_RESAMPLES, len(tokens)))
    ratios = tokens[draws].sum(axis=1) / seconds[draws].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Rate(float(tokens.sum() / seconds.sum()), float(low), float(high))


def _by_text(corpus: Corpus, found: Replayed) -> tuple[Floats, Floats]:
    """Seconds and tokens (m,) of each text."""
    count = len(corpus.texts)
    seconds, tokens = (
        np.bincount(found.text, values, count).astype(np.float64)
        for values in (found.seconds, found.kept)
    )
    return seconds, tokens + 1.0


def regret(found: Mapping[str, Replayed]) -> dict[str, tuple[Floats, Floats]]:
    """Seconds that each policy has lost to the best of them, by thousands of tokens.

    Against the one with the best rate over all, at as many tokens.
    """
    curves = {}
    for name, replayed in found.items():
        tokens = np.bincount(replayed.step, replayed.kept, len(replayed.step_s)).cumsum()
        curves[name] = tokens, replayed.step_s.cumsum()
    best = max(curves, key=lambda name: curves[name][0][-1] / curves[name][1][-1])
    last = min(float(tokens[-1]) for tokens, _ in curves.values())
    at = np.linspace(0.0, last, _POINTS + 1)[1:]
    usual_s = np.interp(at, *curves[best])
    return {
        name: (at / 1000.0, np.interp(at, tokens, seconds) - usual_s)
        for name, (tokens, seconds) in curves.items()
    }


def trail(found: Replayed) -> tuple[Floats, Floats, Floats]:
    """Over time: virtual seconds, mean draft length, share of drafted tokens accepted."""
    end_s = found.step_s.cumsum()
    edges = np.linspace(0.0, end_s[-1], _POINTS + 1)
    place = np.minimum(np.searchsorted(edges, end_s[found.step]) - 1, _POINTS - 1)
    rounds = np.bincount(place, minlength=_POINTS)
    drafted = np.bincount(place, found.proposed, _POINTS)
    accepted = np.bincount(place, found.accepted, _POINTS)
    with np.errstate(invalid="ignore"):
        return edges[1:], drafted / rounds, accepted / drafted


def calibration(corpus: Corpus, found: Replayed) -> tuple[Floats, Floats, Longs]:
    """Predicted and observed survival by tenths of the prediction, and how many there were.

    Of every position in the text, drafted or not: the trace knows what a draft would have met,
    and those that were drafted are a choice of the policy's.
    """
    assert found.survival is not None
    position = np.arange(1, found.survival.shape[1] + 1)
    at = corpus.first[found.text] + found.position
    fate = position <= corpus.run[at][:, None]
    inside = at[:, None] + position <= corpus.end[found.text][:, None]
    known = inside & ~np.isnan(found.survival)
    predicted, survived = found.survival[known], fate[known]
    level = np.clip(np.digitize(predicted, _LEVELS) - 1, 0, len(_LEVELS) - 2)
    count = np.bincount(level, minlength=len(_LEVELS) - 1)
    with np.errstate(invalid="ignore"):
        means = np.bincount(level, predicted, len(count)) / count
        shares = np.bincount(level, survived, len(count)) / count
    return means, shares, count


def waste(found: Replayed) -> tuple[Longs, Longs]:
    """Drafted tokens by position: accepted, and wasted (K,)."""
    width = int(found.proposed.max(initial=1))
    drafted = np.bincount(found.proposed, minlength=width + 1)[::-1].cumsum()[::-1][1:]
    accepted = np.bincount(found.accepted, minlength=width + 1)[::-1].cumsum()[::-1][1:]
    return accepted, drafted - accepted
