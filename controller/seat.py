"""The seat of the length policy: who sits in it, and what follows for the host."""

from __future__ import annotations

import copy
import logging

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import HostInfo
from flyball.controller.policy_file import PolicyFile
from flyball.controller.reload import PolicyWatch
from flyball.controller.shadows import Shadows
from flyball.estimators.slots import SlotPool
from flyball.policies.length.base import Ints, LengthPolicy, Progress, View
from flyball.policies.registry import LENGTH_POLICIES

logger = logging.getLogger(__name__)


class Seat:
    """Holds the policy, which is made when it is first needed and anew after a fault.

    Args:
        file: says which policy.
        host: what the host can do.
        pool: of the slots that are taken.

    Attributes:
        file: in force.
        policy: the one that is seated; None before it is needed and after a fault.
        wants_confidence: whether it wants to be asked where drafts end, by how sure they are.
        wants_entropy: whether it wants to know entropies then.
        wants_reading: whether it wants skipped text read.
        max_draft_len: largest length that file and host allow.
        follows: whether shadows are followed: the file wants it, and the host shows the text.
        shadows: policies that walk over the live text; None before they are needed.
        propensity: probability with which the latest lengths were drawn; see `LengthPolicy`.
    """

    def __init__(self, file: PolicyFile, host: HostInfo, pool: SlotPool) -> None:
        self._host = host
        self._pool = pool
        self._watch: PolicyWatch | None = None
        self.propensity = 1.0
        if file.reload and file.path is not None:
            self._watch = PolicyWatch(file.path, file)
        self._seat(file)

    def _seat(self, file: PolicyFile) -> None:
        self.file = file
        self.vacate()
        shadows, drafts = file.make_shadows(), self._host.drafts
        # Of several drafts, or of one that makes offers, the text shows only a part.
        self.follows = bool(shadows) and self._host.reads and len(drafts) == 1 and drafts[0].steps
        policies = [LENGTH_POLICIES[file.length.policy]]
        if self.follows:
            policies += [type(policy) for policy in shadows.values()]
        asks = self._host.mid_draft_stop
        # Of a finished draft nobody knows the entropies.
        self.wants_confidence = any(
            policy.stops and (asks or (self._host.trims and not policy.entropies))
            for policy in policies
        )
        self.wants_entropy = asks and any(policy.entropies for policy in policies)
        self.wants_reading = any(policy.reads for policy in policies)
        self.max_draft_len = min(file.length.max_draft_len, self._host.max_draft_len)
        if file.ensemble is not None and self._host.num_members == 0:
            logger.warning(
                "ensemble: left aside, for %s has none: it takes two drafts in transformers, and "
                "the section in the file from the start",
                self._host.engine_id,
            )

    def vacate(self) -> None:
        """Nobody sits, and nothing is left of the shadows: after a fault, or for a new file."""
        self.policy: LengthPolicy | None = None
        self.shadows: Shadows | None = None

    @property
    def name(self) -> str:
        """The policy and its version, as traces and metrics name it."""
        acting = self.file.length.policy if self.shadows is None else self.shadows.acting
        return f"{acting}/1"

    def hire(self) -> None:
        """Seat a new policy, told of all requests that are there; or the shadow to follow."""
        if not self.follows:
            self.policy = self.file.make_length_policy()
            self.policy.admit(self._pool.taken)
            return
        if self.shadows is None:
            shadows = Shadows(self.file.make_shadows())
            shadows.admit(self._pool.taken)
            self.shadows = shadows
        # A shadow that learns goes on learning from its own virtual rounds.
        shadow = self.shadows.policies[self.shadows.acting]
        self.policy = copy.deepcopy(shadow) if shadow.learns else shadow

    def decide(self, view: View) -> Ints:
        """Lengths (n,) for a round; whoever is followed, what costs most to know is tried."""
        assert self.policy is not None
        if self.shadows is not None and view.probe_len is not None:
            self.propensity = 1.0
            return np.full(len(view.slots), view.probe_len, np.int32)
        lengths = self.policy.decide(view)
        self.propensity = self.policy.propensity
        return lengths

    def ask(self, progress: Progress) -> NDArray[np.bool_]:
        """Which drafts (m,) end here: none where the policy never asks, all where none sits."""
        if self.policy is None:
            return np.ones(len(progress.rows), np.bool_)
        if not self.policy.stops or not self.wants_confidence:
            return np.zeros(len(progress.rows), np.bool_)
        if self.shadows is not None and progress.view.probe_len is not None:
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
