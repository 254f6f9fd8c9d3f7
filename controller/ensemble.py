"""The ensemble's weights: who sets them, and from what."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Wanted
from flyball.controller.errors import PolicyFileError
from flyball.controller.guard import BadAnswerError
from flyball.controller.policy_file import PolicyFile
from flyball.estimators.slots import SlotPool
from flyball.policies.ensemble.base import EnsemblePolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Rows = NDArray[np.intp]

_ROUNDING = 1e-6

logger = logging.getLogger(__name__)


class Ensemble:
    """Holds the ensemble policy, which is made when it is first needed and anew after a fault.

    Args:
        file: says which policy.
        num_members: that have weights.
        pool: of the slots that are taken.

    Raises:
        PolicyFileError: the policy is not for so many members.
    """

    def __init__(self, file: PolicyFile, num_members: int, pool: SlotPool) -> None:
        try:
            assert file.ensemble is not None
            file.ensemble.check(num_members)
        except ValueError as error:
            raise PolicyFileError(f"{file.path or 'policy'}: ensemble: {error}") from None
        self._file = self._seen = file
        self._num_members = num_members
        self._pool = pool
        self._made: EnsemblePolicy | None = None

    @property
    def _policy(self) -> EnsemblePolicy:
        if self._made is None:
            rng = np.random.default_rng(0)
            self._made = self._file.make_ensemble_policy(self._num_members, rng)
            assert self._made is not None  # there is an ensemble where the file has a section
            self._made.admit(self._pool.taken)
        return self._made

    def reload(self, file: PolicyFile) -> None:
        """Another file is in force; without a section for these members the policy stays."""
        if file is self._seen:
            return
        self._seen = file
        try:
            if file.ensemble is None:
                raise ValueError("expected the section of an ensemble that runs, but got none")
            file.ensemble.check(self._num_members)
        except ValueError as error:
            logger.warning("ensemble: %s; the policy in force stays", error)
            return
        if file.ensemble != self._file.ensemble:
            self._file = file
            self.forget()

    def forget(self) -> None:
        """Start anew."""
        self._made = None

    def wanted(self, sampled: bool) -> Wanted:
        """What the policy learns from, and whether all members have to run."""
        policy = self._policy
        return Wanted(policy.evidence(sampled), policy.grid, policy.reads_kl, policy.runs_one)

    def admit(self, slots: Ints) -> None:
        """New requests take these slots (n,)."""
        self._policy.admit(slots)

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """Weights (n, members) for the coming round.

        Raises:
            BadAnswerError: they are not distributions.
        """
        weights = self._policy.decide(slots, sampled)
        shape = (len(slots), self._num_members)
        if not isinstance(weights, np.ndarray) or weights.shape != shape:
            raise BadAnswerError(f"expected weights of shape {shape}, but got {weights!r:.80}")
        # NaN fails both.
        sums = weights.sum(axis=1)
        if not ((weights >= 0.0).all() and (abs(sums - 1.0) <= _ROUNDING).all()):
            raise BadAnswerError(f"expected weights that sum to 1, but got {weights!r:.80}")
        return weights

    def learn(self, slots: Ints, row: Rows, kind: str, values: Floats, sampled: bool) -> None:
        """What observed positions showed; see `EnsemblePolicy.learn`.

        Evidence that comes late may be of a kind that another policy wanted.
        """
        if kind == self._policy.evidence(sampled):
            self._policy.learn(slots, row, values, sampled)
