"""Knobs and settings as people write and read them."""

from __future__ import annotations

from typing import Any

from flyball.controller.errors import HardwareError
from flyball.policies.throttle.space import Space, Value


def parse_setting(words: list[str], space: Space) -> dict[str, Value]:
    """Knobs and values from words such as "power_limit_w=300".

    Raises:
        HardwareError: a word is none, or names no value of a knob; in one line.
    """
    return dict(_parse(word, space) for word in words)


def _parse(word: str, space: Space) -> tuple[str, Value]:
    name, _, text = word.partition("=")
    values = {knob.name: knob.values for knob in space.knobs}
    if name not in values:
        raise HardwareError(f"--set {word}: expected a knob of {', '.join(values)}")
    for value in values[name]:
        if text in (shown(value), str(value)):
            return name, value
    known = ", ".join(map(shown, values[name]))
    raise HardwareError(f"--set {word}: expected for {name} one of {known}")


def shown(value: Value) -> str:
    """A value as people write it."""
    return value if isinstance(value, str) else f"{value:g}"


def describe_knobs(space: Space) -> list[dict[str, Any]]:
    """What can be set."""
    return [
        {
            "name": knob.name,
            "kind": knob.kind,
            "values": list(knob.values),
            "in_force": knob.values[knob.default],
        }
        for knob in space.knobs
    ]
