"""Devices by the names that `flyball throttle` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from flyball.controller.errors import HardwareError
from flyball.controller.hardware import Actuator, Meter
from flyball.integrations.hardware.base import LeverActuator
from flyball.policies.throttle.space import Space, Value

Name = Literal["cpu", "nvml"]


def open_device(name: Name, gpu: int, dry_run: bool) -> tuple[LeverActuator, Meter]:
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
        if shown(value) == text or str(value) == text:
            return name, value
    known = ", ".join(map(shown, values[name]))
    raise HardwareError(f"--set {word}: expected for {name} one of {known}")


def shown(value: Value) -> str:
    """A value as people write it."""
    return value if isinstance(value, str) else f"{value:g}"


def describe(actuator: Actuator, meter: Meter, denied: list[str]) -> Mapping[str, object]:
    """What a device is, can be set to and shows."""
    return {
        "device": actuator.device,
        "dry_run": actuator.dry_run,
        "meter": meter.kind,
        "denied": denied,
        "readings": actuator.read(),
        "knobs": [
            {
                "name": knob.name,
                "kind": knob.kind,
                "values": list(knob.values),
                "in_force": knob.values[knob.default],
            }
            for knob in actuator.capabilities().knobs
        ],
    }
