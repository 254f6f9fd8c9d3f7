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


class AuditedGroups:
    """The latest audited groups and the scores of their winners.

    Surprise at checkpoint c comes in units u_c: the 0.9 quantile of what winners show there plus a
    tenth of the mean over checkpoints, so that no checkpoint takes up the risk of all. A
    candidate's score is its largest over checkpoints. Winning place r of a group is lost once all
    members have been stopped that end no more than a tie below the r-th best, or all but r - 1 of
    them; its score is the r-th least among theirs.

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
        self._keep: Ints = np.zeros(0, np.int32)
        self.unit: Floats = np.ones(len(checks))
        self.mean_tokens = 0.0

    @property
    def num_groups(self) -> int:
        """Groups that are kept."""
        return len(self._keep)

    def add(self, score: Floats, final: Floats, num_tokens: Ints, keep: Ints) -> None:
        """Take in groups: score (G, N, C), final and num_tokens (G, N), keep (G,)."""
        self._score = _stack(self._score, score)[-_CAPACITY:]
        self._final = _stack(self._final, final)[-_CAPACITY:]
        tokens = np.where(np.isnan(final), np.nan, num_tokens)
        self._tokens = _stack(self._tokens, tokens)[-_CAPACITY:]
        self._keep = np.concatenate([self._keep, keep])[-_CAPACITY:]

    def keep_latest(self, num_groups: int) -> None:
        """Forget all but the latest."""
        for name in ("_score", "_final", "_tokens", "_keep"):
            setattr(self, name, getattr(self, name)[-num_groups:])

    def fit(self) -> None:
        """Set the units by what the winners of all groups showed."""
        best = np.nanmax(self._final, axis=1, initial=-np.inf)
        group, member = np.nonzero(self._final >= best[:, None] - self._tie)
        surprise = self._surprise(self._score, group, member, self._keep)
        least = np.full((self.num_groups, len(self._checks)), np.inf)
        np.minimum.at(least, group, np.where(np.isnan(surprise), np.inf, surprise))
        least[np.isinf(least)] = 0.0  # no winner was seen there
        usual = np.quantile(least, _UNIT_QUANTILE, axis=0) if len(least) else self.unit
        self.unit = np.maximum(usual + _SHARED * usual.mean(), 1e-6)
        known = self._tokens[~np.isnan(self._tokens)]
        self.mean_tokens = float(known.mean()) if len(known) else 0.0

    def winners(self) -> tuple[Floats, Floats]:
        """Scores of all winning places and the share of its group's that each is; see above."""
        places = self.places(self._score, self._final, self._keep)
        group, place = np.nonzero(~np.isnan(places))
        return places[group, place], 1.0 / self._keep[group]

    def places(self, score: Floats, final: Floats, keep: Ints) -> Floats:
        """Scores (G, K) of groups' winning places, NaN behind the last: score (G, N, C)."""
        if final.size == 0:
            return np.zeros((len(keep), 0))
        ranked = -np.sort(-np.where(np.isnan(final), -np.inf, final), axis=1)
        most = min(int(keep.max()), final.shape[1])
        lowest = ranked[np.arange(len(keep)), np.minimum(keep, final.shape[1]) - 1]
        group, member = np.nonzero(final >= np.maximum(lowest, -1e300)[:, None] - self._tie)
        stopped_at = np.full(final.shape, np.inf)
        surprise = self._surprise(score, group, member, keep)
        stopped_at[group, member] = np.nanmax(surprise / self.unit, axis=1, initial=0.0)
        places = np.full((len(keep), most), np.nan)
        for place in range(most):
            level = ranked[:, place]
            there = (place < keep) & np.isfinite(level)
            among = final >= level[:, None] - self._tie
            least = np.sort(np.where(among, stopped_at, np.inf), axis=1)[:, place]
            places[there, place] = least[there]
        return places

    def saved(self, threshold: float) -> float:
        """Share of tokens that the threshold would have saved in the latest groups."""
        score, tokens = self._score[-_JUDGED:], self._tokens[-_JUDGED:]
        group, member = np.nonzero(~np.isnan(tokens))
        surprise = self._surprise(score, group, member, self._keep[-_JUDGED:]) / self.unit
        beyond = surprise > threshold
        at = np.where(beyond.any(axis=1), self._checks[beyond.argmax(axis=1)], np.inf)
        total = tokens[group, member]
        return float(1.0 - np.minimum(at, total).sum() / total.sum()) if len(total) else 0.0

    def _surprise(
        self, score: Floats, group: NDArray[np.intp], member: NDArray[np.intp], keep: Ints
    ) -> Floats:
        """Surprise (E, C) of members (E,) at all checkpoints; NaN where they had no score."""
        own = score[group, member]  # (E, C)
        row, check = np.nonzero(~np.isnan(own))
        rivals = score[group[row], :, check]
        found = np.full(own.shape, np.nan)
        found[row, check] = self._reward.improbability(
            own[row, check], rivals, check, keep[group[row]], self._tie
        )
        return found


def _stack(old: Floats, new: Floats) -> Floats:
    """Groups of both, padded with NaN to the same number of members."""
    width = max(old.shape[1], new.shape[1])

    def padded(values: Floats) -> Floats:
        missing = ((0, 0), (0, width - values.shape[1]), *[(0, 0)] * (values.ndim - 2))
        return np.pad(values.astype(np.float64), missing, constant_values=np.nan)

    return np.concatenate([padded(old), padded(new)])
