"""Stops candidates as soon as they are too improbable to win, at a stated risk."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.stats import binom

from flyball.estimators.audited_groups import AuditedGroups
from flyball.estimators.drift import DriftDetector
from flyball.estimators.partial_reward import PartialReward
from flyball.estimators.places import place_surprise, twins
from flyball.policies.rejection.base import (
    Bools,
    Floats,
    Groups,
    Ints,
    Load,
    RejectionPolicy,
    RejectionSettings,
)

_AUDIT_SHARE, _ALARMED_SHARE = 0.1, 0.2
_STEPS_SHARE = 0.02  # where several win: every question brings many groups
_STEPS_MIXED = 500  # so many steps are looked at in an order of chance
_ALARMED_GROUPS = 200  # for which more groups are audited after an alarm
_KEPT_AFTER_ALARM = 12  # audited groups that are still believed after many losses
_WATCHED = 20  # latest audits that the alarm looks at
_FALSE_ALARMS = 0.02
_FALSE_DRIFTS = 1e-3  # most, per group
_CORRECTION = 0.1  # how far the risk in force moves with an audited group, in risks
_LEAST_RISK = 0.2  # below this share of the risk the one in force does not fall
_REFIT_SHARE = 0.125  # of the audited groups, before all is fitted anew
_ENOUGH = 2.5  # audited groups, over the risk, that tell whether scores are worth it
_LEAST_SAVED = 0.1  # of the audited groups' tokens; below this scores are not worth a risk

logger = logging.getLogger(__name__)


class ConformalSettings(RejectionSettings):
    """Settings of the conformal policy."""

    policy: Literal["conformal"] = "conformal"
    risk: float = Field(
        default=0.05,
        ge=0.01,
        le=0.5,
        description="Largest probability that the candidate is stopped which would have won.",
    )
    tie: float = Field(
        default=0.0, ge=0.0, description="Final scores that differ by no more count as equal."
    )
    value_of_winning: float | None = Field(
        default=None,
        gt=0.0,
        description="What a win is worth, in tokens; candidates are spared where it times the "
        "exponential of minus their surprise is more than what they still cost. Left out, the "
        "risk alone decides.",
    )


class Conformal(RejectionPolicy):
    """Stops a candidate once winning would surprise more than winners ever did.

    At every checkpoint a candidate's score is its surprise if it still ended above all that are
    ahead of it and go on, in units of what winners show there (`PartialReward.surprise`,
    `AuditedGroups`); whoever exceeds a threshold is stopped. Audited groups run to completion, so
    it is known of each whether a threshold would have lost its winner, and the threshold in force
    is the least that loses one with probability at most the risk (conformal risk control), for
    groups exchangeable with the audited ones and whatever the scorer. Survivors of the rule itself
    never calibrate it.

    For beams a group is one step of one question, and several win: the promise is of the expected
    share of winners that are stopped with nobody as good left, over steps whose members differ.
    There a candidate's surprise is that of still ending above the last of those that would win
    now, or above all that say what it says (`place_surprise`). A search is lost with any one of
    its steps, so a risk that is worth a step may cost too much of a question: `value_of_winning`
    spares those that are not improbable enough.

    Audited are all groups until 2 / risk of them are known, then 10%, drawn at random, or 2% of
    steps; and 20% for 200 groups after an alarm. Under drift the risk in force follows adaptive
    conformal inference (arXiv 2106.00170, equation 2) over audited groups, never above the stated
    one:

        risk' <- risk' + 0.1 risk (risk - [winner lost]).

    There are two alarms. More losses among the latest 20 audits than one in 50 such runs would
    show forgets all but the latest 12. And every group shows, audited or not, how well it ended,
    which the rule changes in few: once the share of audited groups that ended below it drifts
    (`DriftDetector`), all audits before are forgotten; of steps, whose scores fall from one to the
    next, the share of members that score like the best at the first checkpoint, where nobody has
    been stopped yet.
    Where the threshold would save less than a tenth of the tokens nobody is
    stopped, which is logged.
    """

    Settings = ConformalSettings
    settings: ConformalSettings

    def __init__(self, settings: ConformalSettings, rng: np.random.Generator) -> None:
        super().__init__(settings, rng)
        self._reward = PartialReward(len(self.checks))
        least = int(np.ceil(_ENOUGH / settings.risk))
        self._audited = AuditedGroups(self._reward, self.checks, settings.tie, least)
        self._risk = settings.risk
        self._threshold = np.inf
        self._saved = 0.0
        self._under_way = self._num_audited = self._fit_at = 0  # audits
        self._drift = DriftDetector(_FALSE_DRIFTS)
        self._ends: Floats = np.zeros(0)  # how well audited groups ended, ascending
        self._steps: list[float] = []  # what is to be said of so many for drift
        self._lost: list[float] = []  # by the threshold then in force, of the latest audits
        self._alarming = float(binom.isf(_FALSE_ALARMS, _WATCHED, settings.risk))
        self._alarmed_left = 0
        self._said = False

    def audits(self, keep: Ints) -> Bools:
        """As many as are needed, those on their way included, then a share drawn at random."""
        missing = 2.0 / self.settings.risk - self._audited.num_groups - self._under_way
        share = np.where(keep > 1, _STEPS_SHARE, _AUDIT_SHARE)
        share = np.full(len(keep), _ALARMED_SHARE) if self._alarmed_left > 0 else share
        drawn: Bools = self.rng.random(len(keep)) < share
        drawn |= np.arange(len(keep)) < missing
        if missing <= 0:
            self._alarmed_left = max(self._alarmed_left - len(keep), 0)
        self._under_way += int(drawn.sum())
        return drawn

    def decide(self, groups: Groups, load: Load) -> Bools:
        """Whoever is too improbable at the checkpoint that it passed last."""
        stop = np.zeros(groups.present.shape, np.bool_)
        if not np.isfinite(self._threshold):
            return stop
        score = np.where(groups.stopped[:, :, None], np.nan, _with_ends(groups))
        group, member = np.nonzero(groups.alive & (groups.num_passed > 0))
        check = groups.num_passed[group, member] - 1
        own, rivals = score[group, member, check], score[group, :, check]
        sooner = np.arange(groups.present.shape[1]) < member[:, None]
        pairs = self._reward.surprise(own, rivals, sooner, check, self.settings.tie)
        surprise = place_surprise(
            pairs[:, None],
            twins(own[:, None], rivals, sooner[:, None]),
            rivals,
            (groups.present & ~groups.stopped)[group][:, :, None].astype(np.float64),
            groups.keep[group],
            self._audited.alone[check],
        )[:, 0, 0]
        worse = surprise / self._audited.unit[check] > self._threshold
        value = self.settings.value_of_winning
        if value is not None:
            left = self._audited.tokens_left[check]
            worse &= np.exp(-surprise) * value < load.token_price * left
        stop[group, member] = worse
        return stop

    def learn(self, groups: Groups) -> None:
        """Calibrate on those that were audited; all tell whether problems are what they were."""
        self._under_way -= int(groups.drawn.sum())
        self._look_for_drift(groups)
        # Of groups without a final score nobody can tell whether they would have been lost.
        groups = groups.only(groups.audited & ~np.isnan(groups.final).all(axis=1))
        if len(groups.keep) == 0:
            return
        score = _with_ends(groups)
        if np.isfinite(self._threshold):
            found = (score, groups.final, groups.num_tokens, groups.keep)
            self._watch(self._audited.loses(*found, self._threshold))
        self._reward.learn(score, groups.final)
        self._audited.add(score, groups.final, groups.num_tokens, groups.keep)
        self._num_audited += len(groups.keep)
        if self._num_audited >= self._fit_at:
            self._audited.fit()
            self._fit_at = self._num_audited + int(_REFIT_SHARE * self._audited.num_groups)
        self._set_threshold()

    def _watch(self, lost: Floats) -> None:
        """Take in which groups (G,) the threshold in force would have lost."""
        risk = self.settings.risk
        for one in lost.tolist():
            moved = self._risk + _CORRECTION * risk * (risk - one)
            self._risk = float(np.clip(moved, _LEAST_RISK * risk, risk))
        self._lost = [*self._lost, *lost.tolist()][-_WATCHED:]
        if sum(self._lost) > self._alarming:
            self._alarm(_KEPT_AFTER_ALARM)

    def _look_for_drift(self, groups: Groups) -> None:
        """Compare how groups ended, and how steps began, with those before."""
        if len(self._ends) == 0:
            return
        one = (groups.keep == 1) & ~np.isnan(groups.final).all(axis=1)
        best = np.nanmax(groups.final[one], axis=1)
        ended = np.searchsorted(self._ends, best) / len(self._ends)
        values = np.concatenate([ended, self._mixed(_alike(groups))])
        if len(self._drift.update(values).streams):
            self._alarm(0)

    def _mixed(self, share: Floats) -> Floats:
        """What is said of steps, in the order of a lottery.

        Searches that began together go from step to step together, and first steps are harder
        than last ones: in their own order shares would drift up and down all the time.
        """
        self._steps += share.tolist()
        drawn = [
            self._steps.pop(int(self.rng.integers(len(self._steps))))
            for _ in range(len(self._steps) - _STEPS_MIXED)
        ]
        return np.array(drawn)

    def _alarm(self, num_kept: int) -> None:
        logger.info("conformal: groups have changed; learning anew")
        self._lost, self._steps, self._ends = [], [], np.zeros(0)
        self._drift = DriftDetector(_FALSE_DRIFTS)
        self._alarmed_left = _ALARMED_GROUPS
        self._audited.keep_latest(num_kept)
        self._threshold = np.inf
        self._fit_at = 0

    def _set_threshold(self) -> None:
        self._threshold = np.inf
        if self._audited.num_groups < 2.0 / self.settings.risk:
            return
        if len(self._ends) == 0:
            self._ends = self._audited.ends()
        threshold, self._saved = self._audited.threshold(self._risk)
        if self._saved >= _LEAST_SAVED:
            self._threshold = threshold
        elif not self._said and self._audited.num_groups >= _ENOUGH / self.settings.risk:
            self._said = True
            logger.warning(
                "conformal: scores at the checkpoints tell too little of the final ones (a "
                "threshold would save %.0f%% of the tokens), so nobody is stopped; expected a "
                "scorer whose partial scores tell who wins",
                100.0 * self._saved,
            )

    @property
    def figures(self) -> dict[str, float]:
        """What it has learned."""
        return {
            "audited_groups": float(self._num_audited),
            "risk_in_force": self._risk,
            "threshold": self._threshold,
            "saved_share": self._saved,
        }


def _with_ends(groups: Groups) -> Floats:
    """Scores (G, N, C) in which those that have ended keep their final one from there on."""
    passed = np.arange(groups.score.shape[2]) < groups.num_passed[:, :, None]
    ended = groups.finished[:, :, None] & ~passed
    return np.where(ended, groups.final[:, :, None], groups.score)


def _alike(groups: Groups) -> Floats:
    """Shares (s,) of the members of steps that score like the best at the first checkpoint."""
    first = groups.score[groups.keep > 1, :, 0]
    first = first[~np.isnan(first).all(axis=1)]
    best = np.nanmax(first, axis=1, keepdims=True, initial=-np.inf)
    alike = twins(best, first, np.ones((len(first), 1, first.shape[1]), np.bool_))[:, 0]
    share: Floats = alike.sum(axis=1) / (~np.isnan(first)).sum(axis=1)
    return share
