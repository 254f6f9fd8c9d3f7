"""The simulated device as an actuator and a meter."""

import numpy as np
import pytest
from device_texts import orin

from flyball.controller.errors import HardwareError
from flyball.controller.hardware import Actuator, Meter
from flyball.integrations.hardware.combined import Combined
from flyball.integrations.hardware.engine import CallbackLever, EngineActuator, count_knob
from flyball.policies.throttle.base import Context

CONTEXT = Context(60.0, 4.0, 0.6)


def windows(seed, num=12):
    device, rng = orin(), np.random.default_rng(seed)
    grid = device.capabilities().grid
    shown = []
    for _ in range(num):
        device.apply(device.space.named(grid[rng.integers(len(grid))]))
        shown.append(device.window(20.0, CONTEXT, rng))
    return shown


def test_settings_are_applied_read_and_restored():
    space = orin().capabilities()
    wanted = space.named(space.grid[7])
    with orin() as device:
        device.apply(wanted)
        assert device.read() == wanted
        assert device.now_s == pytest.approx(0.2)
        device.apply(wanted)
        assert device.num_switches == 1
    assert device.read() == space.named(space.default)


def test_some_knobs_are_set_and_the_others_stay():
    device = orin()
    before = device.read()
    device.apply({"draft_len": 4.0})
    assert device.read() == {**before, "draft_len": 4.0}
    device.apply({})
    assert device.num_switches == 1


def test_it_is_an_actuator_and_a_meter_like_others():
    device = orin()
    actuator: Actuator = device
    meter: Meter = device
    assert actuator.device == "Orin, simulated"
    assert not actuator.dry_run
    assert actuator.slow_knobs < {knob.name for knob in device.space.knobs}
    assert "graphics_clock_mhz" in actuator.slow_knobs
    assert meter.kind == "joules, simulated"
    values: dict[str, float] = {"rows": 4.0}
    knob = count_knob("rows", 4)
    lever = CallbackLever(knob, lambda: values["rows"], lambda v: values.update(rows=v))
    with Combined([device, EngineActuator("beside it", [lever])]) as both:
        both.apply({"rows": 2.0, "draft_len": 2.0})
        assert (device.read()["draft_len"], values["rows"]) == (2.0, 2.0)
    assert (device.read()["draft_len"], values["rows"]) == (0.0, 4.0)


@pytest.mark.parametrize("named", [{"graphics_clock_mhz": 1.0}, {"fan": 1.0}])
def test_a_setting_outside_the_space_is_refused(named):
    with pytest.raises(HardwareError, match=next(iter(named))):
        orin().apply(named)


def test_a_seed_gives_the_same_windows_bit_for_bit():
    first, second, other = windows(3), windows(3), windows(4)
    for one, two in zip(first, second, strict=True):
        assert (one.energy_j, one.latency_s, one.num_tokens) == (
            two.energy_j,
            two.latency_s,
            two.num_tokens,
        )
    assert [w.energy_j for w in first] != [w.energy_j for w in other]


def test_the_counter_adds_up_to_what_windows_show_and_nearly_to_what_was_drawn():
    device, rng = orin(), np.random.default_rng(0)
    shown, drawn_j = [], 0.0
    for _ in range(60):
        shown.append(device.window(30.0, CONTEXT, rng))
        drawn_j += device.true_energy_j
    assert sum(w.energy_j for w in shown) == pytest.approx(device.energy_j())
    assert device.energy_j() == pytest.approx(drawn_j, rel=0.005)
    assert drawn_j == pytest.approx(30.0 * 60 * shown[-1].power_w, rel=0.05)


def test_windows_scatter_around_the_true_energy_and_latency():
    device, rng = orin(), np.random.default_rng(1)
    for _ in range(15):
        device.window(30.0, CONTEXT, rng)
    shown = [device.window(60.0, CONTEXT, rng) for _ in range(60)]
    energy = np.array([w.energy_per_token_j for w in shown])
    latency = np.array([w.latency_s for w in shown])
    truth = device._steady(CONTEXT)
    work = np.array([w.work_per_token_s for w in shown])
    assert work.mean() * truth.rate[0] == pytest.approx(1.0, abs=0.005)
    assert 0.001 < work.std() / work.mean() < 0.05
    assert energy.mean() == pytest.approx(truth.energy_per_token_j[0], rel=0.01)
    assert latency.mean() == pytest.approx(truth.latency_s[0], rel=0.05)
    assert 0.003 < energy.std() / energy.mean() < 0.1
    assert 0.003 < latency.std() / latency.mean() < 0.2


def test_a_queue_grows_under_overload_and_drains_afterwards():
    device, rng = orin(), np.random.default_rng(2)
    heavy = Context(5000.0, 4.0, 0.6)
    first, second = (device.window(20.0, heavy, rng) for _ in range(2))
    assert 0 < first.num_waiting < second.num_waiting
    assert second.latency_s > first.latency_s
    late_s = device.true_latency_s
    for _ in range(200):
        last = device.window(60.0, Context(1.0, 4.0, 0.6), rng)
    assert last.num_waiting == 0
    assert device.true_latency_s < 0.1 * late_s


def test_tokens_are_conserved():
    device, rng = orin(), np.random.default_rng(5)
    shown = [device.window(20.0, Context(5000.0, 4.0, 0.6), rng) for _ in range(5)]
    arrived = sum(w.num_tokens for w in shown) + device.backlog_tokens
    assert arrived == pytest.approx(5000.0 * 100, rel=0.02)


def test_a_device_warms_up_towards_its_settled_temperature():
    device, rng = orin(), np.random.default_rng(0)
    seen = []
    for _ in range(40):
        device.window(30.0, CONTEXT, rng)
        seen.append(device.temperature_c)
    assert seen[0] < seen[-1]
    settled = float(device._steady(CONTEXT).temperature_c[0])
    assert seen[-1] == pytest.approx(settled, abs=1.5)


def test_without_load_there_is_power_but_no_token():
    shown = orin().window(20.0, Context(1e-9, 1.0), np.random.default_rng(0))
    assert shown.num_tokens == 0
    assert np.isnan(shown.latency_s) and np.isnan(shown.energy_per_token_j)
    assert shown.energy_j > 0
