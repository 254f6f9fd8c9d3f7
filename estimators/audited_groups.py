"""Groups that ran to completion, and what thresholds would have made of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.partial_reward import PartialReward
from flyball.estimators.places import place_surprise, twins

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
Checkpoints = list[tuple[Floats, Bools, Floats]]

_CAPACITY = 256  # groups
_CELLS = 2**20  # pairs of members, of all groups; fewer groups are kept of wide ones
_CELLS_AT_ONCE = 2**18
_UNIT_QUANTILE = 0.9
_LEAST_UNIT = 1e-6
_LEAST_UNIT_OF_SEVERAL = 1.0  # nats; most of several winners are ahead from the beginning
_TWINS = 8  # and more of them count alike
_LEVELS = np.geomspace(200.0, 0.05, 61)  # thresholds, each 0.87 of the one before


class AuditedGroups:
    """The latest audited groups, played anew under every threshold.

    A candidate's score at a checkpoint is its surprise if it won (`place_surprise`) against those
    that still go on and those that have ended, in units of what winners show there: the 0.9
    quantile of theirs plus its mean over checkpoints, so that no checkpoint takes up the risk of
    all, and those where winners never surprise are not the strictest. Under a threshold whoever
    exceeds it is stopped; whom that leaves depends on who was stopped before, so groups are played
    checkpoint by checkpoint. What a group loses is the share of its winners that nobody within a
    tie is left of. Groups of several winners whose members all end within a tie have nothing to
    lose, and are not kept.

    Args:
        reward: foresees finals.
        checks: (C,) tokens at the checkpoints.
        tie: finals that differ by no more count as equal.
        least: groups that are kept however wide they are.

    Attributes:
        unit: (C,) of surprise.
        tokens_left: (C,) mean tokens that members which passed a checkpoint had before them.
    """

    def __init__(
        self, reward: PartialReward, checks: NDArray[np.int64], tie: float, least: int = 1
    ) -> None:
        self._reward = reward
        self._least = least
        self._checks = checks
        self._tie = tie
        self._score: Floats = np.zeros((0, 0, len(checks)))
        self._final: Floats = np.zeros((0, 0))
        self._tokens: Floats = np.zeros((0, 0))
        self._keep: Ints = np.zeros(0, np.int32)
        self._lost: Floats = np.zeros((0, len(_LEVELS)))
        self._saved: Floats = np.zeros(len(_LEVELS))
        self.unit: Floats = np.ones(len(checks))
        self._num_above: Floats = np.zeros((2, len(checks), _TWINS))  # (ended above all, all)
        self.tokens_left: Floats = np.zeros(len(checks))

    @property
    def num_groups(self) -> int:
        """Groups that are kept."""
        return len(self._final)

    def add(self, score: Floats, final: Floats, num_tokens: Ints, keep: Ints) -> None:
        """Take in groups that ran to completion.

        Args:
            score: (G, N, C) at checkpoints; NaN where unknown.
            final: (G, N) scores; NaN where unknown.
            num_tokens: (G, N) at their ends.
            keep: (G,) members that win.
        """
        self._count_twins(score, final, num_tokens)
        contested = self._contested(final, keep)
        if not contested.any():
            return
        score, final, keep = score[contested], final[contested], keep[contested]
        num_tokens = num_tokens[contested]
        tokens = np.where(np.isnan(final), np.nan, num_tokens)
        lost = np.zeros((len(keep), len(_LEVELS)))
        for some in _parts(*final.shape):
            own = self._checkpoints(score[some])
            lost[some], _ = self._play_all(own, final[some], tokens[some], keep[some])
        self._score = _stack(self._score, score)
        self._final = _stack(self._final, final)
        self._tokens = _stack(self._tokens, tokens)
        self._keep = np.concatenate([self._keep, keep])
        self._lost = np.concatenate([self._lost, lost])
        capacity = min(_CELLS // self._final.shape[1] ** 2, _CAPACITY)
        self._forget(max(capacity, min(self._least, _CAPACITY)))

    def keep_latest(self, num_groups: int) -> None:
        """Forget all but the latest, and what twins did."""
        self._num_above[:] = 0.0
        self._forget(num_groups)

    def _forget(self, num_kept: int) -> None:
        first = max(self.num_groups - num_kept, 0)
        for name in ("_score", "_final", "_tokens", "_keep", "_lost"):
            setattr(self, name, getattr(self, name)[first:])

    def fit(self) -> None:
        """Set the units by what the winners of all groups showed, and play all anew."""
        if np.isnan(self._final).all():
            return
        parts = _parts(*self._final.shape)
        checkpoints = [self._checkpoints(self._score[some]) for some in parts[:1]]
        least = [
            self._least_surprise(found, self._final[some])
            for some, found in self._each(parts, checkpoints)
        ]
        usual = np.quantile(np.concatenate(least, axis=1), _UNIT_QUANTILE, axis=1)
        several = bool((self._keep > 1).any())
        least_unit = _LEAST_UNIT_OF_SEVERAL if several else _LEAST_UNIT
        self.unit = np.maximum(usual + usual.mean(), least_unit)
        saved = np.zeros(len(_LEVELS))
        for some, found in self._each(parts, checkpoints):
            tokens = self._tokens[some]
            self._lost[some], share = self._play_all(
                found, self._final[some], tokens, self._keep[some]
            )
            saved += share * np.nansum(tokens)
        self._saved = saved / max(np.nansum(self._tokens), 1.0)
        left = self._tokens[:, :, None] - self._checks
        longer = left > 0.0
        total = np.where(longer, left, 0.0).sum(axis=(0, 1))
        self.tokens_left = total / np.maximum(longer.sum(axis=(0, 1)), 1)

    def _each(
        self, parts: list[slice], first: list[Checkpoints]
    ) -> Iterator[tuple[slice, Checkpoints]]:
        """Parts of the groups, and what their members are to each other; the first is known."""
        for number, some in enumerate(parts):
            known = number < len(first)
            yield some, first[number] if known else self._checkpoints(self._score[some])

    def _least_surprise(self, checkpoints: Checkpoints, final: Floats) -> Floats:
        """Least surprise (C, G) of the winners of groups that have one."""
        known = ~np.isnan(final).all(axis=1)
        winning = self._winning(final)[known]
        return np.array(
            [
                np.where(winning, pairs[known].sum(axis=2), np.inf).min(axis=1)
                for pairs, _, _ in checkpoints
            ]
        )

    def ends(self) -> Floats:
        """The best final score of each group, ascending."""
        return np.sort(np.nanmax(self._final, axis=1))

    def threshold(self, risk: float) -> tuple[float, float]:
        """The least threshold within the risk, and the share of tokens that it would have saved.

        Conformal risk control (arXiv 2208.02814, theorem 1): with l_g(q) the largest share that
        group g loses under q or any larger threshold, the least q with
        (sum_g l_g(q) + 1) / (G + 1) <= risk loses of a new group, exchangeable with these, at most
        `risk` in expectation. Infinite where there is none.
        """
        ever = np.maximum.accumulate(self._lost, axis=1).sum(axis=0)
        within = np.flatnonzero(ever + 1 <= risk * (self.num_groups + 1) + 1e-9)
        if len(within) == 0:
            return float("inf"), 0.0
        return float(_LEVELS[within[-1]]), float(self._saved[within[-1]])

    def loses(
        self, score: Floats, final: Floats, num_tokens: Ints, keep: Ints, threshold: float
    ) -> Floats:
        """Shares of winners (G,) that the threshold would have lost; arguments as for `add`."""
        stopped_at = self._play(self._checkpoints(score), num_tokens, keep, np.array([threshold]))
        lost: Floats = self._lost_with(final, stopped_at, keep)[:, 0]
        return lost

    def _checkpoints(self, score: Floats) -> list[tuple[Floats, Bools, Floats]]:
        """For every checkpoint what members (G, N, N) are to each other, and their scores."""
        num_groups, size, num_checks = score.shape
        before = np.arange(size) < np.arange(size)[:, None]
        sooner = np.tile(before, (num_groups, 1))
        found = []
        for check in range(num_checks):
            at = score[:, :, check]
            own, rivals = at.reshape(-1), at.repeat(size, axis=0)
            where = np.full(len(own), check)
            pairs = self._reward.surprise(own, rivals, sooner, where, self._tie)
            found.append((pairs.reshape(num_groups, size, size), twins(at, at, before), at))
        return found

    def _play_all(
        self, checkpoints: Checkpoints, final: Floats, tokens: Floats, keep: Ints
    ) -> tuple[Floats, Floats]:
        """Shares of winners (G, levels) that each level loses, and of tokens that it saves."""
        stopped_at = self._play(checkpoints, tokens, keep, _LEVELS)
        left = np.minimum(stopped_at, tokens[:, :, None])
        saved = 1.0 - np.nansum(left, axis=(0, 1)) / max(np.nansum(tokens), 1.0)
        return self._lost_with(final, stopped_at, keep), saved

    def _play(
        self, checkpoints: Checkpoints, tokens: Floats | Ints, keep: Ints, thresholds: Floats
    ) -> Floats:
        """Tokens (G, N, T) at which thresholds (T,) stop members; infinite where they do not."""
        stopped_at = np.full((*tokens.shape, len(thresholds)), np.inf)
        alone = self.alone
        for place, (pairs, same, scores) in enumerate(checkpoints):
            longer = np.asarray(tokens > self._checks[place])
            if not longer.any():
                continue
            alive = np.isinf(stopped_at)
            chances = np.broadcast_to(alone[place], (len(keep), _TWINS + 1))
            surprise = place_surprise(pairs, same, scores, alive.astype(np.float64), keep, chances)
            over = alive & longer[:, :, None] & (surprise > thresholds * self.unit[place])
            stopped_at[over] = self._checks[place]
        return stopped_at

    def _contested(self, final: Floats, keep: Ints) -> Bools:
        """Groups (G,) that something can be lost in; of several winners all may be as good."""
        known = ~np.isnan(final)
        high = np.where(known, final, -np.inf).max(axis=1, initial=-np.inf)
        low = np.where(known, final, np.inf).min(axis=1, initial=np.inf)
        contested: Bools = (keep == 1) | (high > low + self._tie)
        return contested

    def _lost_with(self, final: Floats, stopped_at: Floats, keep: Ints) -> Floats:
        """Shares (G, T) of winners that are lost where members stop at tokens (G, N, T)."""
        known = np.where(np.isnan(final), -np.inf, final)
        place = np.argsort(np.argsort(-known, axis=1, kind="stable"), axis=1)
        wins = (place < keep[:, None]) & ~np.isnan(final)
        with np.errstate(invalid="ignore"):
            as_good = np.abs(final[:, :, None] - final[:, None, :]) <= self._tie
        left = np.isinf(stopped_at).astype(np.float64)
        gone = wins[:, :, None] & (as_good.astype(np.float64) @ left == 0.0)
        share: Floats = gone.sum(axis=1) / np.maximum(wins.sum(axis=1), 1)[:, None]
        return share

    @property
    def alone(self) -> Floats:
        """Surprise (C, K + 1) to end above so many that say the same at a checkpoint.

        Counted is one more group, in doubt: half of its members end above the other half. Few
        groups are, one in a hundred, and where all that go on of one fail its search is lost.
        """
        above, number = self._num_above
        one, doubt = max(self._final.shape[1], 1), 0.5 ** np.arange(2.0, _TWINS + 2.0)
        chance = np.where(number > 0.0, (above + one * doubt) / (number + one), 1.0)
        return np.pad(-np.log(np.minimum.accumulate(chance, axis=1)), ((0, 0), (1, 0)))

    def _count_twins(self, score: Floats, final: Floats, num_tokens: Ints) -> None:
        """Count how often one ends above as many as say the same, drawn from all of these.

        Who is in doubt is so with all its twins: that two end below it is far more probable than
        the square of one's chance.
        """
        others = ~np.eye(final.shape[1], dtype=np.bool_)
        drawn = np.arange(_TWINS)
        with np.errstate(invalid="ignore"):
            above = final[:, :, None] > final[:, None, :] + self._tie
        for check, tokens in enumerate(self._checks.tolist()):
            going = ~np.isnan(final) & (num_tokens > tokens)
            at = np.where(going, score[:, :, check], np.nan)
            same = twins(at, at, others)
            number = same.sum(axis=2)[:, :, None]  # (G, N, 1)
            below = (same & above).sum(axis=2)[:, :, None]
            chance = np.maximum(below - drawn, 0) / np.maximum(number - drawn, 1)
            enough = number > drawn
            self._num_above[0, check] += np.where(enough, chance.cumprod(axis=2), 0.0).sum((0, 1))
            self._num_above[1, check] += enough.sum(axis=(0, 1))

    def _winning(self, final: Floats) -> Bools:
        """Members (G, N) that end no more than a tie below their group's best."""
        best = np.where(np.isnan(final), -np.inf, final).max(axis=1, initial=-np.inf)
        winning: Bools = final >= best[:, None] - self._tie
        return winning


def _parts(num_groups: int, size: int) -> list[slice]:
    """So many groups of so many members, a few at a time."""
    count = max(_CELLS_AT_ONCE // max(size, 1) ** 2, 1)
    return [slice(first, first + count) for first in range(0, num_groups, count)]


def _stack(old: Floats, new: Floats) -> Floats:
    """Groups of both, padded with NaN to the same number of members."""
    width = max(old.shape[1], new.shape[1])

    def padded(values: Floats) -> Floats:
        missing = ((0, 0), (0, width - values.shape[1]), *[(0, 0)] * (values.ndim - 2))
        return np.pad(values.astype(np.float64), missing, constant_values=np.nan)

    return np.concatenate([padded(old), padded(new)])
