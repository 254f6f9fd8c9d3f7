"""Groups that ran to completion, and how surprising their winners were on the way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.partial_reward import PartialReward

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_CAPACITY = 256  # groups
_JUDGED = 32  # latest groups that tell what a threshold saves
_UNIT_QUANTILE = 0.9
_SHARED = 0.1  # of the units' mean, in each
_LEAST_UNIT = 1e-6


class AuditedGroups:
    """The latest audited groups and the scores of their winners.

    Surprise at checkpoint c comes in units u_c: the 0.9 quantile of what winners show there plus a
    tenth of the mean over checkpoints, so that no checkpoint takes up the risk of all. A
    candidate's score is its largest over the checkpoints that it passed. A group is lost once all
    members have been stopped that end no more than a tie below the best; its score is the least
    among theirs.

    Args:
        reward: foresees finals.
        checks: (C,) tokens at the checkpoints.
        tie: finals that differ by no more count as equal.

    Attributes:
        unit: (C,) of surprise.
        mean_tokens: mean length of a finished member.
    """

    def __init__(self, reward: PartialReward, checks: NDArray[np.int64], tie: float) -> None:
        self._reward = reward
        self._checks = checks
        self._tie = tie
        self._score: Floats = np.zeros((0, 0, len(checks)))
        self._final: Floats = np.zeros((0, 0))
        self._tokens: Floats = np.zeros((0, 0))
        self.unit: Floats = np.ones(len(checks))
        self.mean_tokens = 0.0

    @property
    def num_groups(self) -> int:
        """Groups that are kept."""
        return len(self._final)

    def add(self, score: Floats, final: Floats, num_tokens: Ints) -> None:
        """Take in groups: score (G, N, C), final and num_tokens (G, N)."""
        tokens = np.where(np.isnan(final), np.nan, num_tokens)
        self._score = _stack(self._score, score)[-_CAPACITY:]
        self._final = _stack(self._final, final)[-_CAPACITY:]
        self._tokens = _stack(self._tokens, tokens)[-_CAPACITY:]

    def keep_latest(self, num_groups: int) -> None:
        """Forget all but the latest."""
        for name in ("_score", "_final", "_tokens"):
            setattr(self, name, getattr(self, name)[-num_groups:])

    def fit(self) -> None:
        """Set the units by what the winners of all groups showed."""
        usual = np.zeros(len(self._checks))
        if self.num_groups:
            usual = np.quantile(self._least_surprise(), _UNIT_QUANTILE, axis=0)
        self.unit = np.maximum(usual + _SHARED * usual.mean(), _LEAST_UNIT)
        known = self._tokens[~np.isnan(self._tokens)]
        self.mean_tokens = float(known.mean()) if len(known) else 0.0

    def winners(self) -> Floats:
        """Scores (G,) of all groups."""
        return self.lost_above(self._score, self._final)

    def lost_above(self, score: Floats, final: Floats) -> Floats:
        """Scores (G,) of groups: the threshold below which each would be lost.

        Args:
            score: (G, N, C) partial scores.
            final: (G, N) scores at the end, NaN where unknown; a group of these alone has 0.
        """
        group, member = self._winning(final)
        surprise = self._surprise(score, group, member) / self.unit
        worst = np.nan_to_num(surprise, nan=0.0).max(axis=1, initial=0.0)
        least = np.full(len(final), np.inf)
        np.minimum.at(least, group, worst)
        return np.where(np.isinf(least), 0.0, least)

    def saved(self, threshold: float) -> float:
        """Share of tokens that the threshold would have saved in the latest groups."""
        score, tokens = self._score[-_JUDGED:], self._tokens[-_JUDGED:]
        group, member = np.nonzero(~np.isnan(tokens))
        if len(group) == 0:
            return 0.0
        beyond = self._surprise(score, group, member) / self.unit > threshold
        at = np.where(beyond.any(axis=1), self._checks[beyond.argmax(axis=1)], np.inf)
        total = tokens[group, member]
        return float(1.0 - np.minimum(at, total).sum() / total.sum())

    def _winning(self, final: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Groups and members that end no more than a tie below their group's best."""
        best = np.where(np.isnan(final), -np.inf, final).max(axis=1, initial=-np.inf)
        group, member = np.nonzero(final >= best[:, None] - self._tie)
        return group, member

    def _least_surprise(self) -> Floats:
        """Least surprise (G, C) of each group's winners by checkpoint; 0 where none was seen."""
        group, member = self._winning(self._final)
        surprise = self._surprise(self._score, group, member)
        least = np.full((self.num_groups, len(self._checks)), np.inf)
        np.minimum.at(least, group, np.where(np.isnan(surprise), np.inf, surprise))
        return np.where(np.isinf(least), 0.0, least)

    def _surprise(
        self, score: Floats, group: NDArray[np.intp], member: NDArray[np.intp]
    ) -> Floats:
        """Surprise (E, C) of members (E,) at all checkpoints; NaN where they had no score."""
        own = score[group, member]
        row, check = np.nonzero(~np.isnan(own))
        found = np.full(own.shape, np.nan)
        found[row, check] = self._reward.improbability(
            own[row, check], score[group[row], :, check], check, self._tie
        )
        return found


def _stack(old: Floats, new: Floats) -> Floats:
    """Groups of both, padded with NaN to the same number of members."""
    width = max(old.shape[1], new.shape[1])

    def padded(values: Floats) -> Floats:
        missing = ((0, 0), (0, width - values.shape[1]), *[(0, 0)] * (values.ndim - 2))
        return np.pad(values.astype(np.float64), missing, constant_values=np.nan)

    return np.concatenate([padded(old), padded(new)])
