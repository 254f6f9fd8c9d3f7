"""No device: what a host without an actuator or a meter holds instead of None."""

from __future__ import annotations

from collections.abc import Mapping

from flyball.controller.errors import HardwareError
from flyball.policies.throttle.space import Space, Value


class NullActuator:
    """Has no knobs."""

    device = "nothing"
    slow_knobs: frozenset[str] = frozenset()
    dry_run = False

    def capabilities(self) -> Space:
        """Nothing can be set."""
        return Space(())

    def apply(self, named: Mapping[str, Value]) -> None:
        """Nothing to do.

        Raises:
            HardwareError: a knob is named.
        """
        if named:
            raise HardwareError(f"nothing: expected no knobs, but got {', '.join(named)}")

    def read(self) -> dict[str, Value]:
        """Nothing to see."""
        return {}

    def restore(self) -> None:
        """Nothing to do."""


class NullMeter:
    """Knows no energy."""

    kind = "no meter"

    def energy_j(self) -> float:
        """NaN."""
        return float("nan")
