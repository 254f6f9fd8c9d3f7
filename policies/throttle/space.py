"""The settings that a throttle policy chooses among."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Bools = NDArray[np.bool_]
Value = float | str
Kind = Literal["clock", "limit", "count", "category"]


@dataclass(frozen=True)
class Knob:
    """One thing that can be set.

    Attributes:
        name: with its unit, as the actuator knows it: `graphics_clock_mhz`, `power_limit_w`,
            `num_threads`, `batch_size`, `draft_len`.
        values: that it can take, ascending where they are numbers.
        kind: "clock": work takes at most inversely longer as it falls; "limit": a cap, which
            matters only where it binds; "count": ordered, and nothing more is known; "category":
            without order.
        default: place among the values of what is in force where nobody governs.
        safe: place of the value that keeps latencies lowest as far as anybody knows.
        separable: whether its best value does not depend on the other knobs (PolyThrottle,
            arXiv 2310.19991: the CPU's clock where preprocessing is pipelined), so that it is
            tuned alone, and first.
    """

    name: str
    values: tuple[Value, ...]
    kind: Kind
    default: int
    safe: int
    separable: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be a knob."""
        for place in (self.default, self.safe):
            if not 0 <= place < len(self.values):
                raise ValueError(
                    f"{self.name}: expected a place from 0 to {len(self.values) - 1} among its "
                    f"values, but got {place}"
                )
        if self.kind != "category":
            numbers = np.array(self.values, np.float64)
            if not (np.isfinite(numbers).all() and (np.diff(numbers) > 0).all()):
                raise ValueError(f"{self.name}: expected ascending numbers, but got {self.values}")


@dataclass(frozen=True)
class Space:
    """All combinations of some knobs' values.

    A setting is a row of places, one a knob: place k among `knobs[j].values`.
    """

    knobs: tuple[Knob, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each knob."""
        return tuple(len(knob.values) for knob in self.knobs)

    @property
    def num_settings(self) -> int:
        """Combinations in all."""
        return int(np.prod(self.shape))

    @property
    def default(self) -> Places:
        """The setting (knobs,) in force where nobody governs."""
        return np.array([knob.default for knob in self.knobs], np.intp)

    @property
    def safe(self) -> Places:
        """The setting (knobs,) that keeps latencies lowest as far as anybody knows."""
        return np.array([knob.safe for knob in self.knobs], np.intp)

    @cached_property
    def grid(self) -> Places:
        """All settings (num_settings, knobs), the last knob's places changing fastest."""
        if not self.knobs:
            return np.zeros((1, 0), np.intp)
        axes = [np.arange(size) for size in self.shape]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))

    def index(self, settings: Places) -> Places:
        """Rows (...,) of the grid that hold settings (..., knobs)."""
        rows: Places = np.ravel_multi_index(tuple(np.moveaxis(settings, -1, 0)), self.shape)
        return rows

    def column(self, knob: int, settings: Places) -> Floats:
        """A numeric knob's values (...,) in settings (..., knobs)."""
        values = np.array(self.knobs[knob].values, np.float64)
        found: Floats = values[settings[..., knob]]
        return found

    def named(self, setting: Places) -> dict[str, Value]:
        """A setting (knobs,) as the actuator takes it."""
        places = setting.tolist()
        return {knob.name: knob.values[k] for knob, k in zip(self.knobs, places, strict=True)}

    def placed(self, named: Mapping[str, Value]) -> Places:
        """The setting (knobs,) with these values.

        Raises:
            ValueError: a knob is missing or cannot take its value; in one line.
        """
        for knob in self.knobs:
            if named.get(knob.name) not in knob.values:
                raise ValueError(
                    f"expected for {knob.name} one of {knob.values}, but got "
                    f"{named.get(knob.name)!r}"
                )
        return np.array([k.values.index(named[k.name]) for k in self.knobs], np.intp)
