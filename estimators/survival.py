"""How likely a drafted token is to be accepted, from how sure the draft was when it made it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.levels import Levels

Floats = NDArray[np.float64]
Slots = NDArray[np.int32]

_HINGES = (1.5, 3.5)  # of the logit of the confidence: about 0.82 and 0.97
NUM_FEATURES = 4 + len(_HINGES)
_MOST_EXCESS = 50.0  # nats; no vocabulary has more
EFFECTS = np.linspace(-4.0, 4.0, 13)  # of a request, as logits
_OTHER_ODDS = np.exp(np.stack([EFFECTS, -EFFECTS])).astype(np.float32)  # than rejected, accepted
_MOST_LOGIT = 25.0  # of a surprise that a request's effect is learned from
_LEAST, _MOST = 1e-4, 1.0 - 1e-6  # confidences


def features(confidence: Floats, entropy: Floats, position: Floats | float) -> Floats:
    """What a drafted token's acceptance is predicted from.

    A constant; the logit of the draft's largest probability and its hinges; the entropy beyond
    the least that goes with this probability; the logarithm of the position. All of them are
    properties of the draft's distribution; the token that was drawn from it plays no part.

    Args:
        confidence: (t,) largest probability; NaN counts as none.
        entropy: (t,) in nats; NaN where it is not known.
        position: (t,) in the draft, 1 for the first token.

    Returns:
        (NUM_FEATURES, t).
    """
    sure = np.minimum(np.fmax(confidence, _LEAST), _MOST)
    logit = np.log(sure) - np.log1p(-sure)
    result = np.empty((NUM_FEATURES, len(sure)))
    result[0] = 1.0
    result[1] = logit
    for row, hinge in enumerate(_HINGES, 2):
        np.maximum(logit - hinge, 0.0, out=result[row])
    result[-2] = _excess(confidence, entropy)
    result[-1] = np.log(position)
    return result


def _excess(confidence: Floats, entropy: Floats) -> Floats:
    """Entropy (t,) beyond that of the largest probability against all others as one; 0 for NaN."""
    sure = np.minimum(np.fmax(confidence, _LEAST), _MOST)
    rest = 1.0 - sure
    excess = entropy + sure * np.log(sure) + rest * np.log(rest)
    result: Floats = np.clip(np.where(excess == excess, excess, 0.0), 0.0, _MOST_EXCESS)
    return result


# Cells of the confidence, even in its logit, for what is asked in mid-draft.
_CENTRES = np.linspace(-6.0, 14.0, 81)
_EDGES = 1.0 / (1.0 + np.exp(-(_CENTRES[:-1] + _CENTRES[1:]) / 2.0))
_CELLS = features(1.0 / (1.0 + np.exp(-_CENTRES)), np.full(len(_CENTRES), np.nan), 1.0)


class Chances:
    """P(token accepted) as several regressions see it, quick to ask in mid-draft.

    The part of the confidence is read from a table, a tenth of the time of `features`.

    Args:
        theta: (regressions, NUM_FEATURES) of each.
    """

    def __init__(self, theta: Floats) -> None:
        self._by_confidence = theta @ _CELLS
        self._by_entropy = theta[:, -2, None]
        self._by_position = theta[:, -1, None]
        self._accepted: dict[int, Floats] = {}  # by position: (regressions, cells, effects)

    def logits(self, confidence: Floats, entropy: Floats | None, position: int) -> Floats:
        """What is the same for all requests (regressions, t) at a position, as a logit."""
        logit: Floats = self._at(position)[:, _cells(confidence)]
        if entropy is not None:
            logit += self._by_entropy * _excess(confidence, entropy)
        return logit

    def accepted(self, confidence: Floats, entropy: Floats | None, position: int) -> Floats:
        """Probability (regressions, t, effects) for a request of each of `EFFECTS`."""
        if entropy is not None:
            return sigmoid(self.logits(confidence, entropy, position)[:, :, None] + EFFECTS)
        table = self._accepted.get(position)
        if table is None:
            table = sigmoid(self._at(position)[:, :, None] + EFFECTS)
            self._accepted[position] = table
        result: Floats = table[:, _cells(confidence)]
        return result

    def _at(self, position: int) -> Floats:
        return self._by_confidence + self._by_position * math.log(position)


def _cells(confidence: Floats) -> NDArray[np.intp]:
    # NaN counts as no confidence; searchsorted would put it last.
    return _EDGES.searchsorted(np.fmax(confidence, 0.0))


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed before any outcome.

    Attributes:
        trust: weight of the logit of the confidence; 1 for a draft as often right as it is sure.
        constant: added to it.
    """

    trust: float
    constant: float


THIS_TOKEN = Prior(1.0, 0.0)
NEXT_TOKEN = Prior(0.5, 0.4)  # half way to 0.7, whatever the confidence


class SurvivalEstimator:
    """Online logistic regression of second order on the draft's confidence.

        P(token accepted) = sigmoid(theta . x + u[i])

    with `features` x and an effect u of request i. Each token is linearised once, at the theta of
    its time, and its share of the curvature and of the gradient is added to a running quadratic,
    whose weight fades with the rounds; theta is the least of that quadratic plus a Gaussian
    prior: iteratively reweighted least squares, one step a batch, with exponential forgetting
    (an extended Kalman filter without process noise). The effect u[i] is the mean of
    `EFFECTS`, by the probability that the request's own record gives each (see `Levels`).

    Args:
        prior: what is believed before any outcome.
        memory: observed rounds after which a token has lost 1 - 1/e of its weight.
        spread: standard deviation of u between requests.
    """

    def __init__(
        self,
        prior: Prior,
        memory: float = 400.0,
        spread: float = 1.2,
    ) -> None:
        self._keep = math.exp(-1.0 / memory)
        self.theta: Floats = np.zeros(NUM_FEATURES)
        self.theta[:2] = prior.constant, prior.trust
        self._prior_curvature: Floats = 4.0 * np.eye(NUM_FEATURES)
        self._prior_gradient: Floats = 4.0 * self.theta
        self._curvature: Floats = np.zeros((NUM_FEATURES, NUM_FEATURES))
        self._gradient: Floats = np.zeros(NUM_FEATURES)
        self._levels = Levels(np.exp(-0.5 * (EFFECTS / spread) ** 2))

    def admit(self, slots: Slots) -> None:
        """Forget what earlier requests in these slots did."""
        self._levels.admit(slots)

    @property
    def healthy(self) -> bool:
        """Whether all estimates are finite."""
        return math.isfinite(self.theta.sum() + self._levels.weight.values.sum())

    def effects(self, slots: Slots) -> Floats:
        """Probability (n, effects) of each of `EFFECTS`."""
        result: Floats = self._levels.weight.values[slots]
        return result

    def effect(self, slots: Slots) -> Floats:
        """How much more often, as a logit, tokens of these requests are accepted."""  # (n,)
        result: Floats = self._levels.weight.values[slots] @ EFFECTS
        return result

    def update(
        self, slots: Slots, x: Floats, accepted: Floats, seen: Slots, num_rounds: int = 1
    ) -> None:
        """Learn from the observed tokens of one or several rounds.

        Args:
            slots: (t,) request of each token.
            x: (NUM_FEATURES, t) its features.
            accepted: (t,) 1 where the target accepted it, else 0.
            seen: (r,) the request of each record, once for each round that it was observed in.
            num_rounds: rounds that the tokens come from.
        """
        if len(slots) == 0:
            return
        shared = self.theta @ x
        effect = (self._levels.weight.values @ EFFECTS)[slots]
        probability = sigmoid(shared + effect)
        weight = probability * (1.0 - probability)
        residual = accepted - probability
        keep = self._keep**num_rounds
        self._curvature[:] = keep * self._curvature + (x * weight) @ x.T
        self._gradient = keep * self._gradient + x @ (weight * shared + residual)
        curvature = self._prior_curvature + self._curvature
        self.theta[:] = np.linalg.solve(curvature, self._prior_gradient + self._gradient)
        self._learn_requests(slots, shared, accepted, seen)

    def forget(self, lasting: float) -> None:
        """Keep a share of the shared record: what it was learned from has changed."""
        self._curvature *= lasting
        self._gradient *= lasting

    def _learn_requests(self, slots: Slots, shared: Floats, accepted: Floats, seen: Slots) -> None:
        """Learn the effects of requests from their tokens (t,)."""
        num_slots = 1 + int(max(slots.max(), seen.max(initial=0)))
        num_effects = len(EFFECTS)
        sign = 2.0 * accepted - 1.0
        # -log(1 + odds of the other outcome), in single precision: half the cost of learning.
        odds = np.exp(np.clip(-sign * shared, -_MOST_LOGIT, _MOST_LOGIT)).astype(np.float32)
        other = odds[:, None] * _OTHER_ODDS[accepted.astype(np.intp)]
        log_chance = -np.log(np.float32(1.0) + other)
        place = slots[:, None] * num_effects + np.arange(num_effects)
        total = np.bincount(place.ravel(), log_chance.ravel(), num_slots * num_effects)
        log_likelihood: Any = total.reshape(num_slots, num_effects)
        self._levels.update(log_likelihood, seen)


def sigmoid(logit: Floats) -> Floats:
    """Probability of a logit."""
    # 1 / (1 + exp(-logit)), which would overflow.
    result: Floats = 0.5 + 0.5 * np.tanh(0.5 * logit)
    return result
