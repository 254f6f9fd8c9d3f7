"""Several devices as one, an engine as a device, and no device."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from flyball.controller.errors import DeviceBusyError, HardwareError
from flyball.integrations.hardware.combined import Combined
from flyball.integrations.hardware.engine import CallbackLever, EngineActuator, count_knob
from flyball.integrations.hardware.null import NullActuator
from flyball.policies.throttle.space import Value


class Engine:
    """Something with attributes, which remembers how they were set."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {"batch_size": 8.0, "draft_len": 4.0}
        self.log: list[tuple[str, Value]] = []

    def put(self, name: str, value: Value) -> None:
        if value == 1.0 and name == "draft_len":
            raise ValueError("expected another draft length")
        self.log.append((name, value))
        self.values[name] = value

    def actuator(self, name: str) -> EngineActuator:
        knob = count_knob(name, most=int(float(self.values[name])))
        lever = CallbackLever(knob, lambda: self.values[name], lambda value: self.put(name, value))
        return EngineActuator(name, [lever])


def test_parts_are_set_in_their_sequence_and_put_back_in_the_reverse() -> None:
    engine = Engine()
    parts = [engine.actuator(name) for name in ("batch_size", "draft_len")]
    with Combined(parts) as both:
        both.apply({"draft_len": 2.0, "batch_size": 1.0})
        assert both.read() == {"batch_size": 1.0, "draft_len": 2.0}
    assert engine.log == [
        ("batch_size", 1.0),
        ("draft_len", 2.0),
        ("draft_len", 4.0),
        ("batch_size", 8.0),
    ]


def test_the_space_of_several_devices_has_all_their_knobs() -> None:
    engine = Engine()
    both = Combined([engine.actuator("batch_size"), NullActuator()])
    assert [knob.name for knob in both.capabilities().knobs] == ["batch_size"]
    assert both.capabilities().knobs[0].values == (1.0, 2.0, 4.0, 8.0)
    assert "batch_size" in both.device
    assert both.slow_knobs == frozenset()


def test_an_error_in_one_part_puts_all_back() -> None:
    engine = Engine()
    parts = [engine.actuator(name) for name in ("batch_size", "draft_len")]
    with pytest.raises(ValueError, match="another draft length"), Combined(parts) as both:
        both.apply({"batch_size": 1.0, "draft_len": 1.0})
    assert engine.values == {"batch_size": 8.0, "draft_len": 4.0}


def test_all_parts_are_put_back_though_one_fails() -> None:
    engine = Engine()
    engine.values["draft_len"] = 1.0
    knob = count_knob("draft_len", most=4, default=1)
    lever = CallbackLever(
        knob, lambda: engine.values["draft_len"], lambda v: engine.put("draft_len", v)
    )
    parts = [
        engine.actuator("batch_size"),
        EngineActuator("e", [lever]),
    ]
    both = Combined(parts)
    both.apply({"batch_size": 1.0, "draft_len": 4.0})
    with pytest.raises(HardwareError, match="could not be put back.*another draft length"):
        both.restore()
    assert engine.values["batch_size"] == 8.0


@pytest.mark.parametrize("named", [{"fan": 1.0}, {"batch_size": 3.0}])
def test_what_no_part_can_set_is_refused(named: Mapping[str, Value]) -> None:
    engine = Engine()
    both = Combined([engine.actuator("batch_size")])
    with pytest.raises(HardwareError, match="expected"):
        both.apply(named)
    assert engine.log == []


def test_two_parts_with_the_same_knob_are_refused() -> None:
    engine = Engine()
    part = engine.actuator("batch_size")
    with pytest.raises(HardwareError, match="batch_size twice"):
        Combined([part, part])


def test_an_engine_has_one_governor_at_a_time_in_its_process() -> None:
    engine = Engine()
    first, second = engine.actuator("batch_size"), engine.actuator("batch_size")
    with first, second:
        first.apply({"batch_size": 1.0})
        with pytest.raises(DeviceBusyError, match=f"by process {os.getpid()};"):
            second.apply({"batch_size": 2.0})
        first.restore()
        second.apply({"batch_size": 2.0})
    assert engine.values["batch_size"] == 8.0


def test_no_device_takes_no_knobs() -> None:
    device = NullActuator()
    device.apply({})
    device.restore()
    assert (device.read(), device.capabilities().num_settings) == ({}, 1)
    with pytest.raises(HardwareError, match="expected no knobs"):
        device.apply({"fan": 1.0})


def test_counts_of_an_engine_are_powers_of_two_and_both_ends() -> None:
    knob = count_knob("batch_size", most=12, least=3, default=10)
    assert knob.values == (3.0, 4.0, 8.0, 10.0, 12.0)
    assert knob.values[knob.default] == 10.0
