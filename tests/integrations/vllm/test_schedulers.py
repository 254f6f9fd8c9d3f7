"""The real schedulers and the real engine core, with fabricated workers, 0 to 2 steps late."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from vllm_fake_engine import FakeEngine
from vllm_load import put_under_load

from flyball.policies.length.base import Ints, View
from flyball.policies.length.static import Static
from flyball.policies.registry import LENGTH_POLICIES

Maker = Callable[..., FakeEngine]


class RandomLengths(Static):
    """Lengths that are drawn anew for every request and plan."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._rng = np.random.default_rng(settings.draft_len)

    def decide(self, view: View) -> Ints:
        return self._rng.integers(0, view.max_draft_len + 1, len(view.slots), np.int32)


POLICIES: dict[str, dict[str, Any]] = {
    "goodput": {"policy": "goodput"},
    "heuristic": {"policy": "heuristic", "start_draft_len": 3},
    "static": {"policy": "static", "draft_len": 4},
    "random": {"policy": "static", "draft_len": 2},
}


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    if request.param == "random":
        monkeypatch.setitem(LENGTH_POLICIES, "static", RandomLengths)
    return POLICIES[request.param]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("delay", [0, 1, 2])
def test_answers_and_counts_are_exact_under_load(
    make_engine: Maker, policy: dict[str, Any], delay: int, seed: int
) -> None:
    engine = make_engine(policy, delay=delay, seed=seed, num_blocks=32, max_step_tokens=24)
    # Two steps late, vLLM itself would mask a grammar without the tokens of the step between.
    grammar = 0.3 if delay < 2 else 0.0
    put_under_load(engine, seed, aborts=0.05, grammar=grammar)
    engine.check()
    assert engine.books.num_preempted > 5
    assert (engine.books.num_stale > 5) == (delay > 0)
    assert (engine.books.num_dropped > 5) == (delay > 0)
    assert (engine.books.num_invalid > 5) == (delay == 1)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_all_that_is_verified_is_told_while_nothing_gets_in_the_way(
    make_engine: Maker, policy: dict[str, Any], delay: int
) -> None:
    engine = make_engine(policy, delay=delay, max_step_tokens=256)
    put_under_load(engine, 3)
    engine.check()
    told = [row for rows in engine.books.rows.values() for row in rows]
    assert engine.books.num_preempted == engine.books.num_invalid == 0
    assert sum(row.proposed for row in told) == engine.books.num_proposed > 0
    assert sum(row.accepted for row in told) == engine.books.num_accepted > 0


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("delay", [0, 1])
def test_all_requests_are_preempted_again_and_again(
    make_engine: Maker, policy: dict[str, Any], delay: int, v2: bool
) -> None:
    engine = make_engine(policy, delay=delay, v2=v2, num_blocks=32, max_step_tokens=14)
    put_under_load(engine, 5, num_requests=24, aborts=0.05, grammar=0.3, resets=0.1)
    engine.check()
    assert engine.books.num_preempted > 20


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_texts_grow_up_to_the_length_limit(
    make_engine: Maker, policy: dict[str, Any], delay: int
) -> None:
    engine = make_engine(policy, delay=delay, max_len=64)
    put_under_load(engine, 7, longest_prompt=60, most_tokens=64)
    engine.check()
    assert sum(engine.ends_at_length_limit(name) for name in engine.texts) > 5
    assert len(engine.books.rows) > 5  # where there is room the drafter is used


@pytest.mark.parametrize("delay", [0, 1])
def test_an_engine_that_is_only_observed_counts_the_same(make_engine: Maker, delay: int) -> None:
    engine = make_engine(delay=delay, table=None, num_blocks=32, max_step_tokens=24)
    put_under_load(engine, 11, aborts=0.05, grammar=0.3)
    engine.check()
    assert engine.pilot.mode == "observing"
    assert engine.books.num_proposed > 100
    assert engine.pilot.num_rounds == 0 == len(engine.books.rows)


@pytest.mark.parametrize("delay", [0, 1])
def test_requests_of_a_step_verify_as_much_as_was_planned_for_each(
    make_engine: Maker, monkeypatch: pytest.MonkeyPatch, delay: int
) -> None:
    """That none verifies more is checked in every test here."""
    wanted = np.array([0, 1, 3, 5], np.int32)
    monkeypatch.setattr(Static, "decide", lambda self, view: wanted[view.slots])
    engine = make_engine(POLICIES["static"], delay=delay, method="draft_model")
    for name in "abcd":
        engine.add(name, [7, 8, 9], 30)
    engine.run()
    engine.check()
    slots = {name: max(row.proposed for row in rows) for name, rows in engine.books.rows.items()}
    assert sorted(slots.values()) == [0, 1, 3, 5]


@pytest.mark.parametrize("delay", [0, 1])
def test_placeholders_of_other_requests_are_left_alone(
    make_engine: Maker, monkeypatch: pytest.MonkeyPatch, delay: int
) -> None:
    monkeypatch.setitem(LENGTH_POLICIES, "static", RandomLengths)
    engine = make_engine(POLICIES["random"], delay=1)
    for name in "abcd":
        engine.add(name, [7, 8, 9], 30)
    schedule, seen = engine.scheduler.schedule, set()

    def watched(*args: Any) -> Any:
        output = schedule(*args)
        if output.num_scheduled_tokens:
            placeholders = engine.scheduler._spec_token_placeholders
            assert placeholders == [-1] * output.num_spec_tokens_to_schedule
            seen.add(len(placeholders))
        return output

    monkeypatch.setattr(engine.scheduler, "schedule", watched)
    engine.run()
    assert len(seen) > 1
