"""The physics of simulated devices."""

from dataclasses import replace

import numpy as np
import pytest
from device_texts import settings, work_on
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from flyball.integrations.hardware.device_load import draw_factors, tail_factor
from flyball.integrations.hardware.device_model import DeviceModel
from flyball.integrations.hardware.device_specs import A100, DEVICES, ORIN, TX2
from flyball.integrations.hardware.device_time import round_of
from flyball.integrations.hardware.device_work import round_variation, tokens_per_round
from flyball.policies.throttle.base import Context

CLOCKS = ("graphics_clock_mhz", "memory_clock_mhz", "cpu_clock_mhz")
shares = st.tuples(*[st.floats(0.05, 1.0)] * 3)
rounds = st.fixed_dictionaries(
    {"draft_len": st.integers(0, 8).map(float), "batch_size": st.integers(1, 64).map(float)}
)


def clocks(spec, share):
    highest = (spec.max_graphics_mhz, spec.max_memory_mhz, spec.max_cpu_mhz)
    return dict(zip(CLOCKS, np.multiply(highest, share), strict=True))


def seconds(spec, share, options):
    chosen = settings(spec, **clocks(spec, share), **options)
    return float(
        round_of(
            spec, work_on(spec), chosen, chosen.graphics_clock_mhz, chosen.batch_size, 0.7
        ).round_s[0]
    )


@trials(max_examples=60, deadline=None)
@given(st.sampled_from(list(DEVICES.values())), shares, shares, rounds)
def test_a_round_is_never_faster_at_lower_clocks_and_no_slower_than_they_explain(
    spec, first, second, options
):
    high, low = np.maximum(first, second), np.minimum(first, second)
    before, after = seconds(spec, high, options), seconds(spec, low, options)
    assert before * (1 - 1e-9) <= after <= before * (high / low).max() * (1 + 1e-9)


@trials(max_examples=30, deadline=None)
@given(st.sampled_from(list(DEVICES.values())), shares, rounds, st.floats(0.05, 0.6))
def test_at_low_load_latency_keeps_the_bound_of_clocks(spec, share, options, load):
    model = DeviceModel(spec, work_on(spec))
    steps = np.array(spec.graphics_clocks_mhz)
    share = (steps[int(share[0] * (len(steps) - 1))] / steps[-1], *share[1:])
    fast = settings(spec, **options)
    slow = settings(spec, **clocks(spec, share), **options)
    context = Context(1e-3, 4.0, 0.7)
    rate = float(model.steady(slow, context).rate[0])
    context = replace(context, tokens_per_s=0.3 * load * rate)
    before, after = model.steady(fast, context), model.steady(slow, context)
    assert after.latency_s[0] >= before.latency_s[0] * (1 - 1e-9)
    served = 1.0 + 0.02  # waiting to be let in rises faster than service does, but is little here
    assert after.latency_s[0] <= before.latency_s[0] / min(share) * served


@pytest.mark.parametrize("spec", DEVICES.values(), ids=DEVICES)
def test_energy_against_the_graphics_clock_is_u_shaped_and_cheapest_inside(spec):
    model = DeviceModel(spec, work_on(spec, drafted=False))
    steps = np.array(spec.graphics_clocks_mhz)
    found = model.steady(
        settings(spec, len(steps), graphics_clock_mhz=steps, batch_size=4.0), Context(1e9, 4.0)
    )
    energy_j = found.energy_per_token_j
    best = energy_j.argmin()
    assert 0 < best < len(steps) - 1
    assert energy_j[0] > 1.2 * energy_j[best] and energy_j[-1] > 1.1 * energy_j[best]
    coarse = np.interp(np.linspace(steps[0], steps[-1], 9), steps, energy_j)
    turns = np.flatnonzero(np.diff(np.sign(np.diff(coarse))))
    assert len(turns) == 1


@pytest.mark.parametrize("spec", DEVICES.values(), ids=DEVICES)
def test_busy_power_stays_under_the_limit_by_a_lower_clock(spec):
    model = DeviceModel(spec, work_on(spec))
    free = model.steady(settings(spec), Context(1e9, 8.0, 0.7))
    limits = np.linspace(0.55, 1.0, 20) * free.busy_w[0]
    found = model.steady(settings(spec, 20, power_limit_w=limits), Context(1e9, 8.0, 0.7))
    lowest = found.graphics_clock_mhz == spec.graphics_clocks_mhz[0]
    assert (found.busy_w <= limits)[~lowest].all() and not lowest[-10:].any()
    assert set(found.graphics_clock_mhz) <= set(spec.graphics_clocks_mhz)
    assert (np.diff(found.graphics_clock_mhz) >= 0).all()
    assert (np.diff(found.rate) >= -1e-9).all()


def test_energy_is_power_times_time():
    found = DeviceModel(A100, work_on(A100)).steady(settings(A100), Context(100.0, 8.0, 0.7))
    assert np.allclose(found.energy_per_token_j * found.tokens_per_s, found.power_w)
    mean_w = found.busy * found.busy_w + (1 - found.busy) * found.idle_w
    assert np.allclose(found.power_w, mean_w)


def test_a_hot_device_lowers_its_clock_and_a_cool_one_does_not():
    hot = DeviceModel(replace(TX2, ambient_c=45.0, resistance_c_per_w=5.0), work_on(TX2))
    slowed = hot.steady(settings(TX2), Context(1e9, 8.0, 0.7))
    assert slowed.graphics_clock_mhz[0] < TX2.max_graphics_mhz
    assert slowed.temperature_c[0] <= TX2.limit_c
    still_cool = hot.steady(settings(TX2), Context(1e9, 8.0, 0.7), temperature_c=50.0)
    assert still_cool.graphics_clock_mhz[0] == TX2.max_graphics_mhz


def test_latency_rises_with_load_and_blows_up_where_demand_passes_capacity():
    model = DeviceModel(A100, work_on(A100))
    most = float(model.steady(settings(A100), Context(1e-3, 4.0, 0.7)).capacity[0])
    latency_s = [
        model.steady(settings(A100), Context(load * most, 4.0, 0.7)).latency_s[0]
        for load in (0.1, 0.5, 0.8, 0.95, 1.0, 1.1, 1.5)
    ]
    assert (np.diff(latency_s) >= 0).all()
    assert latency_s[-1] > 3 * latency_s[0]
    assert np.isfinite(latency_s).all()


def test_more_requests_decode_together_where_few_cannot_keep_up():
    model = DeviceModel(A100, work_on(A100))
    rate = float(model.steady(settings(A100), Context(1e-3, 2.0)).rate[0])
    light = model.steady(settings(A100), Context(0.5 * rate, 2.0))
    heavy = model.steady(settings(A100), Context(1.5 * rate, 2.0))
    assert light.running[0] == 2.0
    assert 2.0 < heavy.running[0] < 8.0
    assert heavy.busy[0] == pytest.approx(0.9, abs=0.05)


def test_a_batch_that_does_not_fill_costs_waiting_up_to_the_hosts_patience():
    model = DeviceModel(ORIN, work_on(ORIN, drafted=False))
    found = model.steady(settings(ORIN, 2, batch_size=np.array([2.0, 16.0])), Context(5.0, 2.0))
    assert found.wait_s[1] - found.wait_s[0] == pytest.approx(ORIN.gather_s / 150.0, rel=0.05)


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.83])
def test_tokens_of_a_round_are_those_of_the_stopping_rule(acceptance):
    rng = np.random.default_rng(0)
    for draft_len in (0, 1, 4):
        hits = rng.random((200_000, draft_len)) < acceptance
        tokens = 1 + hits.cumprod(axis=1).sum(axis=1)
        length = np.array([float(draft_len)])
        assert tokens_per_round(acceptance, length)[0] == pytest.approx(tokens.mean(), rel=0.01)
        variation = round_variation(acceptance, length)[0]
        assert variation == pytest.approx(tokens.std() / tokens.mean(), rel=0.02, abs=1e-6)


def test_the_tails_quantile_is_that_of_what_is_drawn():
    rng = np.random.default_rng(0)
    for spec in DEVICES.values():
        for deviation in (0.03, 0.15):
            drawn = np.quantile(draw_factors(spec, deviation, 400_000, rng), 0.99)
            assert tail_factor(spec, np.array([deviation]))[0] == pytest.approx(drawn, rel=0.02)


def test_many_settings_at_once_are_as_one_at_a_time():
    model = DeviceModel(ORIN, work_on(ORIN))
    steps = np.array(ORIN.graphics_clocks_mhz)
    context = Context(200.0, 8.0, 0.6)
    limits = np.where(np.arange(len(steps)) % 2, 15.0, 60.0)
    many = model.steady(
        settings(ORIN, len(steps), graphics_clock_mhz=steps, power_limit_w=limits), context
    )
    for k in (0, 5, 11, 12):
        one = model.steady(
            settings(ORIN, graphics_clock_mhz=steps[k], power_limit_w=limits[k]), context
        )
        assert one.energy_per_token_j[0] == many.energy_per_token_j[k]
        assert one.latency_s[0] == many.latency_s[k]
