"""Groups that ran to completion, and what thresholds would have made of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.partial_reward import PartialReward

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

_CAPACITY = 256  # groups
_UNIT_QUANTILE = 0.9
_LEAST_UNIT = 1e-6
_LEVELS = np.geomspace(200.0, 0.05, 61)  # thresholds, each 0.87 of the one before


class AuditedGroups:
    """The latest audited groups, played anew under every threshold.

    A candidate's score at a checkpoint is its surprise (`PartialReward.surprise`), summed over the
    members that still go on and those that have ended, in units of what winners show there: the
    0.9 quantile of theirs plus its mean over checkpoints, so that no checkpoint takes up the risk
    of all, and those where winners never surprise are not the strictest. Under a threshold whoever
    exceeds it is stopped; whom that leaves depends on who was stopped before, so groups are played
    checkpoint by checkpoint. A group is lost where nobody is left that ends within a tie of its
    best.

    Args:
        reward: foresees finals.
        checks: (C,) tokens at the checkpoints.
        tie: finals that differ by no more count as equal.

    Attributes:
        unit: (C,) of surprise.
        tokens_left: (C,) mean tokens that members which passed a checkpoint had before them.
    """

    def __init__(self, reward: PartialReward, checks: NDArray[np.int64], tie: float) -> None:
        self._reward = reward
        self._checks = checks
        self._tie = tie
        self._score: Floats = np.zeros((0, 0, len(checks)))
        self._final: Floats = np.zeros((0, 0))
        self._tokens: Floats = np.zeros((0, 0))
        self._lost: Bools = np.zeros((0, len(_LEVELS)), np.bool_)
        self._saved: Floats = np.zeros(len(_LEVELS))
        self.unit: Floats = np.ones(len(checks))
        self.tokens_left: Floats = np.zeros(len(checks))

    @property
    def num_groups(self) -> int:
        """Groups that are kept."""
        return len(self._final)

    def add(self, score: Floats, final: Floats, num_tokens: Ints) -> None:
        """Take in groups: score (G, N, C), final and num_tokens (G, N); NaN where unknown."""
        tokens = np.where(np.isnan(final), np.nan, num_tokens)
        lost, _ = self._play_all(self._pairs(score), final, tokens)
        self._score = _stack(self._score, score)[-_CAPACITY:]
        self._final = _stack(self._final, final)[-_CAPACITY:]
        self._tokens = _stack(self._tokens, tokens)[-_CAPACITY:]
        self._lost = np.concatenate([self._lost, lost])[-_CAPACITY:]

    def keep_latest(self, num_groups: int) -> None:
        """Forget all but the latest."""
        first = max(self.num_groups - num_groups, 0)
        for name in ("_score", "_final", "_tokens", "_lost"):
            setattr(self, name, getattr(self, name)[first:])

    def fit(self) -> None:
        """Set the units by what the winners of all groups showed, and play all anew."""
        if np.isnan(self._final).all():
            return
        pairs = self._pairs(self._score)
        known = ~np.isnan(self._final).all(axis=1)
        winning = self._winning(self._final)[known]
        least = [np.where(winning, p[known].sum(axis=2), np.inf).min(axis=1) for p in pairs]
        usual = np.quantile(least, _UNIT_QUANTILE, axis=1)
        self.unit = np.maximum(usual + usual.mean(), _LEAST_UNIT)
        self._lost, self._saved = self._play_all(pairs, self._final, self._tokens)
        left = self._tokens[:, :, None] - self._checks
        longer = left > 0.0
        total = np.where(longer, left, 0.0).sum(axis=(0, 1))
        self.tokens_left = total / np.maximum(longer.sum(axis=(0, 1)), 1)

    def first_median(self) -> float:
        """Median score at the first checkpoint; NaN where none is known."""
        first = self._score[:, :, 0]
        return float(np.nanmedian(first)) if not np.isnan(first).all() else float("nan")

    def threshold(self, risk: float) -> tuple[float, float]:
        """The least threshold within the risk, and the share of tokens that it would have saved.

        Conformal risk control (arXiv 2208.02814, theorem 1): with l_g(q) = 1 if group g is lost
        under q or any larger threshold, the least q with (sum_g l_g(q) + 1) / (G + 1) <= risk
        loses a new group, exchangeable with these, with probability at most `risk`. Infinite where
        there is none.
        """
        ever = np.logical_or.accumulate(self._lost, axis=1).sum(axis=0)
        within = np.flatnonzero(ever + 1 <= risk * (self.num_groups + 1) + 1e-9)
        if len(within) == 0:
            return float("inf"), 0.0
        return float(_LEVELS[within[-1]]), float(self._saved[within[-1]])

    def loses(self, score: Floats, final: Floats, num_tokens: Ints, threshold: float) -> Bools:
        """Which groups (G,) the threshold would have lost; arguments as for `add`."""
        stopped_at = self._play(self._pairs(score), num_tokens, threshold)
        return self._lost_with(final, stopped_at)

    def _pairs(self, score: Floats) -> list[Floats]:
        """Surprise (G, N, N) of each member to end above each other, for every checkpoint."""
        num_groups, size, num_checks = score.shape
        sooner = np.tile(np.arange(size) < np.arange(size)[:, None], (num_groups, 1))
        found = []
        for check in range(num_checks):
            at = score[:, :, check]
            own, rivals = at.reshape(-1), at.repeat(size, axis=0)
            where = np.full(len(own), check)
            surprise = self._reward.surprise(own, rivals, sooner, where, self._tie)
            found.append(surprise.reshape(num_groups, size, size))
        return found

    def _play_all(
        self, pairs: list[Floats], final: Floats, tokens: Floats
    ) -> tuple[Bools, Floats]:
        """Which groups (G, levels) each level loses, and what share of tokens it saves."""
        lost = np.zeros((len(final), len(_LEVELS)), np.bool_)
        saved = np.zeros(len(_LEVELS))
        total = np.nansum(tokens)
        for place, level in enumerate(_LEVELS.tolist()):
            stopped_at = self._play(pairs, tokens, level)
            lost[:, place] = self._lost_with(final, stopped_at)
            saved[place] = 1.0 - np.nansum(np.minimum(stopped_at, tokens)) / max(total, 1.0)
        return lost, saved

    def _play(self, pairs: list[Floats], tokens: Floats | Ints, threshold: float) -> Floats:
        """Tokens (G, N) at which the threshold stops each member; infinite where it does not."""
        stopped_at = np.full(tokens.shape, np.inf)
        for check, surprise, unit in zip(self._checks, pairs, self.unit, strict=True):
            alive = np.isinf(stopped_at)
            total = (surprise @ alive[:, :, None].astype(np.float64))[:, :, 0]
            stopped_at[alive & (tokens > check) & (total > threshold * unit)] = check
        return stopped_at

    def _lost_with(self, final: Floats, stopped_at: Floats) -> Bools:
        left = self._winning(final) & np.isinf(stopped_at)
        lost: Bools = ~left.any(axis=1) & ~np.isnan(final).all(axis=1)
        return lost

    def _winning(self, final: Floats) -> Bools:
        """Members (G, N) that end no more than a tie below their group's best."""
        best = np.where(np.isnan(final), -np.inf, final).max(axis=1, initial=-np.inf)
        winning: Bools = final >= best[:, None] - self._tie
        return winning


def _stack(old: Floats, new: Floats) -> Floats:
    """Groups of both, padded with NaN to the same number of members."""
    width = max(old.shape[1], new.shape[1])

    def padded(values: Floats) -> Floats:
        missing = ((0, 0), (0, width - values.shape[1]), *[(0, 0)] * (values.ndim - 2))
        return np.pad(values.astype(np.float64), missing, constant_values=np.nan)

    return np.concatenate([padded(old), padded(new)])
