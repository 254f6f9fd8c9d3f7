"""Finished drafts, cut to what was planned and to what their drafter was sure of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.controller.governor import Governor
from flyball.integrations.vllm.flights import Course, Sureness
from flyball.integrations.vllm.traits import EngineTraits

Floats = NDArray[np.float64]
Found = tuple[list[str], list[int]]  # requests, and how many tokens the drafter gave each


class Cutter:
    """Cuts the drafts of a step, and remembers what they were before for the step's flight.

    Args:
        traits: of the engine.
        governor: asked where the drafter was unsure.
    """

    def __init__(self, traits: EngineTraits, governor: Governor) -> None:
        self._governor = governor
        self._finds_less = traits.may_find_less and not traits.asynchronous
        self._found: Found | None = None
        self._sure: Sureness | None = None

    def cut(
        self, course: Course, names: list[str], drafts: list[list[int]], confidence: Floats | None
    ) -> list[list[int]]:
        """The drafts of these requests under a course; see `Pilot.cut`."""
        names = list(names)  # the engine may go on using its own
        given = list(map(len, drafts))
        if self._finds_less:
            self._found = (names, given)
        lengths = course.rows(names)
        if confidence is not None and self._governor.wants_confidence:
            lengths = self._trimmed(course, names, lengths, confidence)
        cut = zip(drafts, given, lengths, strict=True)
        return [draft if found <= most else draft[:most] for draft, found, most in cut]

    def _trimmed(
        self, course: Course, names: list[str], lengths: list[int], confidence: Floats
    ) -> list[int]:
        """Lengths without what the drafter was too unsure of; as planned for who joined since."""
        if course.plan_id is None or not course.draft_len:
            return lengths
        which, rows = course.planned(names)
        trimmed, foreseen = np.array(lengths, np.int32), np.full(len(names), np.nan)
        np.minimum(trimmed, confidence.shape[1], out=trimmed)
        trimmed[which], foreseen[which] = self._governor.trim(
            course.plan_id, rows, trimmed[which], confidence[which]
        )
        self._sure = Sureness(names, confidence, trimmed, foreseen)
        return list(trimmed.tolist())

    def take(self) -> tuple[Found | None, Sureness | None]:
        """What the drafter had since the last time, and how sure it was; None where unknown."""
        taken = self._found, self._sure
        self._found = self._sure = None
        return taken
