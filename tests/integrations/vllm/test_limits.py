"""The real scheduler under limits that change while requests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flyball.integrations.hardware.engine import EngineActuator
from flyball.integrations.vllm.limits import scheduler_levers

POLICY = {"policy": "static", "draft_len": 4}


def add_requests(engine: Any, num_requests: int) -> None:
    rng = np.random.default_rng(0)
    for k in range(num_requests):
        engine.add(f"r{k}", rng.integers(0, 97, 6).tolist(), max_tokens=24)


@pytest.mark.parametrize("delay", [0, 1])
def test_a_lower_limit_lets_nobody_in_until_fewer_run_and_answers_stay_exact(
    make_engine: Callable[..., Any], delay: int
) -> None:
    engine = make_engine(POLICY, delay=delay, max_step_tokens=256)
    scheduler = engine.core.scheduler
    add_requests(engine, 4 * scheduler.max_num_running_reqs)
    levers = scheduler_levers(scheduler, max_draft_len=8)
    with EngineActuator("vllm", levers) as actuator:
        for _ in range(3):
            engine.step()
        running = len(scheduler.running)
        assert running > 2
        actuator.apply({"max_num_active_reqs": 2.0})
        while engine.busy:
            before = {request.request_id for request in scheduler.running}
            engine.step()
            now = {request.request_id for request in scheduler.running}
            assert len(now) <= 2 or now <= before
            running = min(running, len(now))
        assert running <= 2
    assert scheduler.max_num_active_reqs == scheduler.max_num_running_reqs
    engine.check()


def test_any_settings_drawn_step_by_step_leave_answers_exact(
    make_engine: Callable[..., Any],
) -> None:
    engine = make_engine(POLICY, max_step_tokens=256)
    scheduler = engine.core.scheduler
    add_requests(engine, 30)
    levers = scheduler_levers(scheduler, max_draft_len=8)
    assert [lever.knob.name for lever in levers] == [
        "max_num_active_reqs",
        "max_num_scheduled_tokens",
    ]
    rng = np.random.default_rng(1)
    with EngineActuator("vllm", levers) as actuator:
        space = actuator.capabilities()
        while engine.busy:
            actuator.apply(space.named(rng.integers(0, space.shape)))
            engine.step()
    engine.check()


def test_a_step_that_has_no_room_for_less_offers_no_budget(
    make_engine: Callable[..., Any],
) -> None:
    scheduler = make_engine(POLICY, max_step_tokens=24).core.scheduler
    levers = scheduler_levers(scheduler, max_draft_len=8)
    assert [lever.knob.name for lever in levers] == ["max_num_active_reqs"]


def test_an_image_that_must_fit_into_a_step_leaves_the_budget_alone(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make_engine(POLICY, max_step_tokens=256).core.scheduler
    monkeypatch.setattr(scheduler.scheduler_config, "disable_chunked_mm_input", True)
    levers = scheduler_levers(scheduler, max_draft_len=8)
    assert [lever.knob.name for lever in levers] == ["max_num_active_reqs"]
