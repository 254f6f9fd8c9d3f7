"""Devices by the names that `flyball throttle` gives them."""

from __future__ import annotations

from typing import Any, Literal

from flyball.controller.errors import HardwareError
from flyball.controller.hardware import Meter
from flyball.integrations.hardware.base import LeverActuator
from flyball.policies.throttle.space import Space, Value


def open_device(
    name: Literal["cpu", "nvml"], gpu: int, dry_run: bool
) -> tuple[LeverActuator, Meter]:
    """A device and its best meter.

    Raises:
        HardwareError: it is not here, or another process governs it; in one line.
    """
    if name == "cpu":
        from flyball.integrations.hardware.cpu import CpuActuator
        from flyball.integrations.hardware.cpu_seconds import cpu_meter

        return CpuActuator(dry_run), cpu_meter()
    from flyball.integrations.hardware.nvml import NvmlActuator
    from flyball.integrations.hardware.nvml_meter import nvml_meter

    actuator = NvmlActuator(gpu, dry_run=dry_run)
    return actuator, nvml_meter(actuator.gpu)


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
