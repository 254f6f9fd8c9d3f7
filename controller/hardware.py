"""What hardware is to whoever governs it: something to set, and something to measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from flyball.policies.throttle.space import Space, Value


class Actuator(Protocol):
    """Sets knobs of one device, and puts back what was in force before.

    Lifetime: nothing changes until the first `apply`; from then on the device is held, until
    `restore`, after which the next `apply` holds it anew.
    """

    @property
    def device(self) -> str:
        """What it sets, for people and for locks."""

    @property
    def slow_knobs(self) -> frozenset[str]:
        """Names of knobs that take longer to set than decoding can wait.

        They may be set from any thread; the others are set by the thread that decodes.
        """

    @property
    def dry_run(self) -> bool:
        """Whether it only says what it would set."""

    def capabilities(self) -> Space:
        """What can be set; always the same."""

    def apply(self, named: Mapping[str, Value], /) -> object:
        """Set knobs by name, all or some of them.

        Raises:
            HardwareError: in one line; some knobs may have been set by then.
        """

    def read(self) -> dict[str, Value]:
        """What the device shows now: its knobs by name, and other readings with their unit."""

    def restore(self) -> None:
        """Put back what was in force before the first `apply`; nothing to do, nothing done.

        Raises:
            HardwareError: something could not be put back, though all was tried; in one line.
        """


class Meter(Protocol):
    """Counts the energy that a device draws."""

    @property
    def kind(self) -> str:
        """What its numbers are: "joules by NVML"; or what stands in for joules."""

    def energy_j(self) -> float:
        """Joules, or what stands in for them, since some fixed moment.

        NaN once where the count broke off, so that a window across the break has no energy.
        """
