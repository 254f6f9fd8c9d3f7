"""The surfaces of the throttle benchmark, and the figures that devices are fitted to."""

import numpy as np
import pytest
from benchmarks.throttle_figures import figures
from benchmarks.throttle_surfaces import (
    SETTINGS,
    draw_capped,
    draw_day,
    draw_surface,
    draw_surfaces,
    keeps,
)

SURFACES = draw_surfaces(num=40)


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.what)
def test_devices_give_what_is_published(figure):
    assert figure.low <= figure.modelled <= figure.high


def test_surfaces_are_large_varied_and_have_a_default_that_keeps_the_promise():
    kinds = set()
    for surface in SURFACES:
        space = surface.space
        assert SETTINGS[0] <= space.num_settings <= SETTINGS[1]
        assert surface.feasible()[space.index(space.default)]
        assert not surface.feasible().all()
        kinds |= {knob.kind for knob in space.knobs}
    assert kinds == {"clock", "limit", "count", "category"}
    assert len({surface.name for surface in SURFACES}) == len(SURFACES)


def test_the_best_is_feasible_and_no_feasible_setting_is_cheaper():
    for surface in SURFACES[:8]:
        best = surface.best()
        energy_j, latency_s = surface.true(surface.space.grid)
        feasible = surface.feasible()
        assert latency_s[surface.space.index(best.setting)] == best.latency_s
        assert best.latency_s <= surface.goal.latency_slo_s
        assert best.energy_per_token_j == energy_j[feasible].min()


def test_a_seed_draws_the_same_surface_and_the_same_windows():
    first, second = draw_surface(5), draw_surface(5)
    assert first.name == second.name and first.context == second.context
    setting = first.best().setting
    for one, two in zip(first.true(first.space.grid), second.true(second.space.grid), strict=True):
        assert (one == two).all()
    shown = [s.window(setting, np.random.default_rng(1)) for s in (first, second)]
    assert shown[0].energy_j == shown[1].energy_j and shown[0].latency_s == shown[1].latency_s


def test_windows_show_the_truth_on_average():
    for surface in SURFACES[:4]:
        rng = np.random.default_rng(0)
        setting = surface.best().setting
        energy_j, latency_s = surface.true(setting)
        shown = [surface.window(setting, rng) for _ in range(40)]
        energy = np.mean([w.energy_per_token_j for w in shown])
        assert energy == pytest.approx(energy_j, rel=0.05)
        assert np.mean([w.latency_s for w in shown]) == pytest.approx(latency_s, rel=0.1)


def test_some_setting_keeps_the_promise_all_day():
    for surface in SURFACES[:4]:
        for load in draw_day(surface, seed=0)[::24]:
            assert surface.feasible(load.context).any()


def test_a_capped_surface_asks_for_most_tokens_under_its_cap():
    surface = draw_capped(4)
    best = surface.best()
    truth, kept = surface.truth(), keeps(surface.truth(), surface.goal)
    assert 0 < kept.mean() < 1
    row = surface.space.index(best.setting)
    assert kept[row] and truth.tokens_per_s[row] == truth.tokens_per_s[kept].max()
