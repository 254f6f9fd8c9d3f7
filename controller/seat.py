"""The seat of the length policy: who sits in it, and what follows for the host."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import HostInfo
from flyball.controller.policy_file import PolicyFile
from flyball.controller.reload import PolicyWatch
from flyball.estimators.slots import SlotPool
from flyball.policies.length.base import LengthPolicy, Progress
from flyball.policies.registry import LENGTH_POLICIES


class Seat:
    """Holds the policy, which is made when it is first needed and anew after a fault.

    Args:
        file: says which policy.
        host: what the host can do.
        pool: of the slots that are taken.

    Attributes:
        policy: the one that is seated; None before it is needed and after a fault.
        wants_confidence: whether it wants to be asked while drafts are made.
        wants_reading: whether it wants skipped text read.
        max_draft_len: largest length that file and host allow.
    """

    def __init__(self, file: PolicyFile, host: HostInfo, pool: SlotPool) -> None:
        self._host = host
        self._pool = pool
        self._watch: PolicyWatch | None = None
        if file.reload and file.path is not None:
            self._watch = PolicyWatch(file.path, file)
        self._seat(file)

    def _seat(self, file: PolicyFile) -> None:
        policy, host = LENGTH_POLICIES[file.length.policy], self._host
        self._file = file
        self.policy: LengthPolicy | None = None
        self.wants_confidence = policy.stops and host.mid_draft_stop
        self.wants_reading = policy.reads
        self.max_draft_len = min(file.length.max_draft_len, host.max_draft_len)

    @property
    def name(self) -> str:
        """The policy and its version, as traces and metrics name it."""
        return f"{self._file.length.policy}/1"

    def hire(self) -> LengthPolicy:
        """A new policy, told of all requests that are there."""
        self.policy = self._file.make_length_policy()
        self.policy.admit(self._pool.taken)
        return self.policy

    def ask(self, progress: Progress) -> NDArray[np.bool_]:
        """Which drafts (m,) end here: none where the policy never asks, all where none sits."""
        if self.policy is None:
            return np.ones(len(progress.rows), np.bool_)
        if not self.wants_confidence:
            return np.zeros(len(progress.rows), np.bool_)
        return self.policy.stop(progress)

    def reseat(self) -> bool:
        """Seat the policy of a file that changed, if one did.

        Returns:
            Whether estimators have to start anew: they are made for a largest length, and for
            confidences or none.
        """
        file = None if self._watch is None else self._watch.take()
        if file is None:
            return False
        before = (self.wants_confidence, self.max_draft_len)
        self._seat(file)
        return before != (self.wants_confidence, self.max_draft_len)

    def close(self) -> None:
        """Watch no longer."""
        if self._watch is not None:
            self._watch.close()
