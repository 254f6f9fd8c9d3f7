"""Synthetic texts for `benchmarks.length`: where a draft is right, and how sure it is, is known.

A text is a sequence of positions. At each, the draft's proposal, given the settled text before
it, is right or not; a round that starts at a position proposes a run of them. The same text is
therefore the same luck for every policy. Parameters are drawn by seed from ranges that were
committed before anything was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Draw = np.random.Generator

MAX_DRAFT_LEN = 16
TARGET_S = 0.01  # one token through the target
_NOISE = 0.7  # of a confidence that tells something, as a logit
TOKEN_SHARE = 0.01  # what a further verified token adds, memory-bound
RIVALS = 50  # tokens that share what a synthetic draft's largest probability leaves


@dataclass(frozen=True)
class Costs:
    """What a round of one request costs.

    Attributes:
        draft_s: seconds of a draft step.
        host_s: seconds of a round outside the models.
    """

    draft_s: float
    host_s: float

    def round_s(self, draft_len: Floats | float) -> Floats:
        """Seconds of a round that drafts so many tokens."""
        verify = TARGET_S * (1.0 + TOKEN_SHARE * np.asarray(draft_len, np.float64))
        seconds: Floats = verify + self.draft_s * np.asarray(draft_len) + self.host_s
        return seconds


@dataclass(frozen=True)
class Stream:
    """A text, request after request; K is `MAX_DRAFT_LEN`.

    Attributes:
        name: of the scenario.
        known: (t,) probability that the draft is right at each position, to one who knows how the
            text is made and how sure the draft is there; None where nobody does.
        ahead: (t,) the same of the position after it, if the draft is right at this one.
        match: (t,) whether it was.
        confidence: (t, K) the largest probability that a draft which starts at each position has
            at its first, second and so on, also where it has left the text.
        entropy: (t, K) of its distribution there, nats.
        ends: positions at which a request ends and the next begins; the last is t.
        limits: position at which the host would have ended each request; beyond `ends` where the
            request ended by itself.
    """

    name: str
    known: Floats | None
    ahead: Floats | None
    match: Bools
    confidence: Floats
    entropy: Floats
    ends: tuple[int, ...]
    limits: tuple[int, ...]


def entropy_of(confidence: Floats) -> Floats:
    """Entropy of a distribution with this largest probability, the rest even over `RIVALS`."""
    rest = 1.0 - confidence
    with np.errstate(divide="ignore", invalid="ignore"):
        surely = -confidence * np.log(confidence) - rest * np.log(rest / RIVALS)
    spread: Floats = np.nan_to_num(surely, nan=0.0)  # 0 log 0
    return spread


def _stream(
    name: str,
    rng: Draw,
    truth: Floats,
    told: tuple[Floats, Floats, Floats] | None = None,
    request_len: int = 400,
) -> Stream:
    """A text; a draft that runs on behind a miss is as sure as one that starts there.

    Args:
        name: of the scenario.
        rng: draws.
        truth: (t,) probability that the draft is right.
        told: (t,) confidences that tell something, `known` and `ahead` by them; without, they
            tell nothing, and `truth` is known.
        request_len: tokens of a request.
    """
    size = len(truth)
    confidence, known, ahead = told or (rng.beta(8.0, 2.0, size), truth, truth)
    ends = (*range(request_len, size, request_len), size)
    match = rng.random(size) < truth
    sure, spread = _ahead(confidence), _ahead(entropy_of(confidence))
    return Stream(name, known, ahead, match, sure, spread, ends, ends)


def _ahead(values: Floats) -> Floats:
    """What follows each position (t,), itself included (t, MAX_DRAFT_LEN)."""
    return sliding_window_view(np.pad(values, (0, MAX_DRAFT_LEN - 1), "edge"), MAX_DRAFT_LEN)


def stationary(rng: Draw, size: int) -> Stream:
    """The same probability for ever."""
    return _stream("stationary", rng, np.full(size, rng.uniform(0.3, 0.95)))


def abrupt_switch(rng: Draw, size: int) -> Stream:
    """Two halves, 0.3 apart or more."""
    low = rng.uniform(0.1, 0.6)
    high = rng.uniform(low + 0.3, 0.97)
    halves = [low, high] if rng.random() < 0.5 else [high, low]
    return _stream("abrupt_switch", rng, np.repeat(halves, [size // 2, size - size // 2]))


def useless_then_good(rng: Draw, size: int) -> Stream:
    """A third in which no draft pays, then a good one."""
    start = size // 3
    truth = np.repeat([rng.uniform(0.0, 0.05), rng.uniform(0.8, 0.97)], [start, size - start])
    return _stream("useless_then_good", rng, truth)


def slow_drift(rng: Draw, size: int) -> Stream:
    """Up and down over some thousand positions."""
    period, phase = rng.uniform(2000.0, 8000.0), rng.uniform(0.0, 2.0 * np.pi)
    wave = np.sin(2.0 * np.pi * np.arange(size) / period + phase)
    return _stream("slow_drift", rng, 0.62 + 0.33 * wave)


def request_mixture(rng: Draw, size: int) -> Stream:
    """Every request has its own probability."""
    length = int(rng.integers(100, 300))
    number = -(-size // length)
    own = np.clip(rng.beta(rng.uniform(1.0, 2.0), rng.uniform(0.5, 1.0), number), 0.02, 0.98)
    return _stream("request_mixture", rng, own.repeat(length)[:size], request_len=length)


def token_mixture(rng: Draw, size: int) -> Stream:
    """Easy and hard stretches of some tokens, which the draft's confidence tells, with noise."""
    levels = np.array([rng.uniform(0.93, 0.99), rng.uniform(0.2, 0.5)])
    stay = rng.uniform(0.7, 0.9)
    changes = rng.random(size) > stay
    state = (changes.cumsum() + int(rng.integers(2))) % 2
    truth = levels[state]
    level_odds = np.log(levels / (1.0 - levels))
    odds = level_odds[state] + rng.normal(0.0, _NOISE, size)
    # Bayes' rule, for one who sees the confidence alone: both states are as usual.
    given = np.exp(-0.5 * ((odds[:, None] - level_odds) / _NOISE) ** 2)
    given /= given.sum(axis=1, keepdims=True)
    known = given @ levels
    if_right = given * levels / known[:, None]
    ahead = (stay * if_right + (1.0 - stay) * if_right[:, ::-1]) @ levels
    told = (1.0 / (1.0 + np.exp(-odds)), known, ahead)
    return _stream("token_mixture", rng, truth, told)


def periodic(rng: Draw, size: int) -> Stream:
    """Good and bad blocks, as long as most memories."""
    block = int(rng.integers(100, 600))
    high, low = rng.uniform(0.85, 0.97), rng.uniform(0.05, 0.25)
    truth = np.where(np.arange(size) // block % 2 == 0, high, low)
    return _stream("periodic", rng, truth)


SCENARIOS: dict[str, Callable[[Draw, int], Stream]] = {
    make.__name__: make
    for make in (
        stationary,
        abrupt_switch,
        useless_then_good,
        slow_drift,
        request_mixture,
        token_mixture,
        periodic,
    )
}
