"""Load over time, drawn and recorded."""

import numpy as np
import pytest
from device_texts import orin

from flyball.controller.trace import TraceRound, read_trace, write_segment
from flyball.controller.trace_format import to_table
from flyball.integrations.hardware.device_trace import BURST, draw_day, loads_of, replay
from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, ThrottleSettings

PEAK = Context(100.0, 16.0, 0.7)


def test_a_day_has_a_night_and_a_noon_and_comes_back_with_its_seed():
    day = draw_day(PEAK, np.random.default_rng(0))
    tokens = np.array([load.context.tokens_per_s for load in day])
    assert len(day) == 288
    assert tokens.max() <= BURST * PEAK.tokens_per_s
    assert np.sort(tokens)[:50].mean() < 0.6 * np.sort(tokens)[-50:].mean()
    assert all(1.0 <= load.context.batch_size <= BURST * PEAK.batch_size for load in day)
    assert all(0.2 <= load.context.acceptance <= 0.95 for load in day)
    assert day == draw_day(PEAK, np.random.default_rng(0))
    assert day != draw_day(PEAK, np.random.default_rng(1))


def test_without_a_draft_a_day_has_no_acceptance():
    day = draw_day(Context(100.0, 16.0), np.random.default_rng(0))
    assert {load.context.acceptance for load in day} == {0.0}


def round_at(time_s, step, accepted, waiting):
    num = len(accepted)
    rows = np.arange(num)
    ints = np.array(accepted, np.int32)
    return TraceRound(
        time_s=time_s,
        step_id=step,
        policy="static/1",
        batch_size=num,
        num_waiting=waiting,
        request=rows.astype(np.int64),
        position=ints,
        context_len=ints,
        draft=np.zeros(num, np.int32),
        planned=np.full(num, 4, np.int32),
        proposed=np.full(num, 4, np.int32),
        accepted=ints,
        observed=np.minimum(ints + 1, 4).astype(np.int32),
        confidence=None,
        propensity=np.ones(num),
        verify_len=5,
        num_draft_steps=4,
        step_s=0.1,
    )


def test_recorded_rounds_become_load(tmp_path):
    rounds = [round_at(1000.0 + 0.5 * k, k, [4, 0], waiting=k % 2) for k in range(20)]
    rounds += [round_at(1100.0, 20, [2], waiting=0)]
    write_segment(to_table(rounds, "engine", "run", ("draft",)), tmp_path / "a.parquet")
    loads = loads_of(read_trace(tmp_path), window_s=10.0)
    assert len(loads) == 2
    first = loads[0].context
    assert first.tokens_per_s == pytest.approx(20 * 6 / 10.0)
    assert first.batch_size == pytest.approx(2.5)
    assert first.acceptance == pytest.approx(4 / 5)
    assert loads[1].context.batch_size == 1.0


class Alternating(ThrottlePolicy):
    """Two settings by turns."""

    def decide(self, context, num_waiting=0):
        grid = self.space.grid
        self.turn = 1 - getattr(self, "turn", 0)
        return grid[-1] if self.turn else self.space.default

    def learn(self, window):
        self.learned = [*getattr(self, "learned", []), window]


def test_a_policy_is_replayed_over_loads():
    device, rng = orin(), np.random.default_rng(0)
    day = draw_day(Context(50.0, 4.0, 0.6), rng, num_windows=20)
    policy = Alternating(ThrottleSettings(policy="none"), device.space, Goal(), rng)
    windows = replay(device, day, policy, rng)
    assert [w.context for w in windows] == [load.context for load in day]
    assert len(policy.learned) == 20
    assert len({tuple(w.setting) for w in windows}) == 2
