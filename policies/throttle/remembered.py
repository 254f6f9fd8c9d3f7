"""State that only fits the space it was learned in."""

from __future__ import annotations

from hashlib import blake2s
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.policies.throttle.space import Space

State = dict[str, NDArray[Any]]


def of_space(space: Space, **arrays: Any) -> State:
    """A state of these arrays, which says of which space it is."""
    return {"space": _digest(space), **{name: np.array(it) for name, it in arrays.items()}}


def check_space(state: State, space: Space) -> None:
    """Refuse a state of another space.

    Raises:
        ValueError: in one line.
    """
    if not np.array_equal(state.get("space", ()), _digest(space)):
        knobs = ", ".join(f"{knob.name} ({len(knob.values)})" for knob in space.knobs)
        raise ValueError(
            f"expected throttle state of the knobs {knobs} and their values, but got that of "
            "others; remove the state or restore the knobs"
        )


def _digest(space: Space) -> NDArray[np.uint8]:
    said = repr([(knob.name, knob.kind, knob.values) for knob in space.knobs])
    return np.frombuffer(blake2s(said.encode(), digest_size=16).digest(), np.uint8)
