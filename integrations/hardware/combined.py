"""Several devices as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from flyball.controller.errors import HardwareError
from flyball.controller.hardware import Actuator
from flyball.policies.throttle.space import Space, Value


class Combined:
    """Sets the knobs of several actuators: in their sequence, and put back in the reverse.

    Args:
        parts: whose knobs have different names.

    Attributes:
        dry_run: whether its parts only say what they would set.

    Raises:
        HardwareError: two have a knob of the same name, or some are in a dry run and some are
            not; in one line.
    """

    def __init__(self, parts: Sequence[Actuator]) -> None:
        self._parts = tuple(parts)
        self._spaces = [part.capabilities() for part in parts]
        names = [knob.name for space in self._spaces for knob in space.knobs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise HardwareError(f"expected knobs of different names, but got {twice} twice")
        self._names = names
        # What a window showed would be taken for a setting that was in force in part.
        runs = {part.dry_run for part in parts}
        if len(runs) > 1:
            raise HardwareError("expected all devices in a dry run or none, but got both")
        self.dry_run = runs == {True}

    @property
    def device(self) -> str:
        """Those of its parts."""
        return " + ".join(part.device for part in self._parts)

    @property
    def slow_knobs(self) -> frozenset[str]:
        """Of all parts."""
        return frozenset(name for part in self._parts for name in part.slow_knobs)

    def capabilities(self) -> Space:
        """The knobs of all parts."""
        return Space(tuple(knob for space in self._spaces for knob in space.knobs))

    def apply(self, named: Mapping[str, Value]) -> None:
        """Set knobs by name, all or some.

        Raises:
            HardwareError: in one line; parts before the one that fails have been set.
        """
        unknown = next((name for name in named if name not in self._names), None)
        if unknown is not None:
            raise HardwareError(f"{self.device}: expected its knobs, but got {unknown}")
        for part, space in zip(self._parts, self._spaces, strict=True):
            mine = {knob.name: named[knob.name] for knob in space.knobs if knob.name in named}
            if mine:
                part.apply(mine)

    def read(self) -> dict[str, Value]:
        """What all parts show."""
        return {name: value for part in self._parts for name, value in part.read().items()}

    def restore(self) -> None:
        """Put all parts back, the last first.

        Raises:
            HardwareError: some could not be put back, though all was tried; in one line.
        """
        failed = []
        for part in reversed(self._parts):
            try:
                part.restore()
            except Exception as error:
                failed.append(str(error))
        if failed:
            raise HardwareError("; ".join(failed))

    def __enter__(self) -> Self:
        """Nothing is changed yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore."""
        self.restore()
