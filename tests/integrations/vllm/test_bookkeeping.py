"""Steps and requests that end out of the ordinary."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from vllm.v1.core.sched.interface import PauseState
from vllm_fake_engine import EOS, FakeEngine, make_config
from vllm_load import put_under_load

from flyball.integrations.vllm.flights import Course, Flight
from flyball.integrations.vllm.hold import hold_steps
from flyball.integrations.vllm.pilot import Pilot
from flyball.integrations.vllm.traits import read_traits

LONGEST_HOLD = hold_steps(1000)

Maker = Callable[..., FakeEngine]
STATIC = {"policy": "static", "draft_len": 4}
OFF = {"policy": "static", "draft_len": 0}


def chain(pilot: Pilot) -> int:
    """Steps that are kept alive by the latest."""
    length, flight = 0, pilot._log.latest
    while flight is not None:
        length, flight = length + 1, flight.previous
    return length


def test_a_step_without_requests_between_others_is_no_fault(make_engine: Maker) -> None:
    engine = make_engine(STATIC, delay=1)
    engine.add("first", [5, 6], 1)
    engine.step()
    engine.step()  # all it may say is on its way: the scheduler has nothing to do
    engine.add("second", [7, 8], 20)
    engine.run()
    engine.check()


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_pause_with_steps_in_flight_is_no_fault(make_engine: Maker, delay: int) -> None:
    engine = make_engine(STATIC, delay=delay)
    for name in "abc":
        engine.add(name, [5, 6, ord(name)], 30)
    for state in (PauseState.PAUSED_ALL, PauseState.UNPAUSED) * 3:
        for _ in range(4):
            engine.step()
        engine.scheduler.set_pause_state(state)
    engine.run()
    engine.check()


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_slots_come_back_though_steps_outlive_their_requests(
    make_engine: Maker, delay: int
) -> None:
    engine = make_engine(OFF, delay=delay)
    put_under_load(engine, 1, num_requests=150, aborts=0.3, most_tokens=12)
    engine.check()
    assert engine.pilot.governor._pool.num_slots <= 3 * LONGEST_HOLD


def test_requests_that_went_away_before_their_output_are_not_told(make_engine: Maker) -> None:
    engine = make_engine(OFF, delay=2)
    for name in "abc":
        engine.add(name, [5, 6, ord(name)], 30)
    for _ in range(8):
        engine.step()
    num_told = {name: len(rounds) for name, rounds in engine.books.rounds.items()}
    engine.abort(["b"])
    engine.run()
    engine.check()
    assert len(engine.books.rows["b"]) == num_told["b"]


@pytest.mark.parametrize("delay", [0, 1])
def test_the_last_token_of_a_prompt_is_no_round(make_engine: Maker, delay: int) -> None:
    engine = make_engine(STATIC, delay=delay, method="draft_model", max_step_tokens=16)
    engine.add("long", list(range(1, 17)), 8)  # a drafter takes one token of 16 for itself
    engine.run()
    engine.check()
    assert [step["long"] for step in engine.books.scheduled[:3]] == [15, 1, 5]


@pytest.mark.parametrize("delay", [0, 1])
def test_drafts_beyond_the_end_of_a_grammar_are_no_fault(make_engine: Maker, delay: int) -> None:
    engine = make_engine(STATIC, delay=delay, skill=1.0, method="draft_model")
    for length in range(4, 10):
        engine.add(f"{length} letters", [5, 6, 7], 40, regex=f"[a-f]{{{length}}}")
    engine.run()
    engine.check()
    assert all(text[-1] == EOS for text in engine.texts.values())
    rows = [row for rows in engine.books.rows.values() for row in rows]
    assert all(row.accepted == row.proposed for row in rows)
    # The first kind of scheduler cuts drafts before it counts them, the other one afterwards.
    assert (engine.books.num_accepted > engine.books.num_proposed - engine.books.num_invalid) == (
        delay == 1
    )


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_request_may_have_the_name_of_one_that_is_gone(make_engine: Maker, delay: int) -> None:
    engine = make_engine(STATIC, delay=delay)
    for _ in range(12):
        engine.add("same", [5, 6, 7], 5)
        engine.run()
        engine.check_texts()
    engine.check()
    assert engine.pilot.governor._pool.num_slots == 1


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_requests_that_join_under_an_old_plan_are_told_of(make_engine: Maker, delay: int) -> None:
    engine = make_engine(STATIC, delay=delay, max_len=400, skill=0.9)
    for number in range(5):
        engine.add(f"old{number}", [5, number + 1], 300, eos=None)
    hold = engine.pilot._navigator.hold
    while hold.steps_left < hold_steps(5) - 1:  # plans for probes are short
        engine.step()
    planned = engine.pilot._course
    engine.add("young", [9, 9], 3, eos=None)  # gone before the next plan
    while not engine.reasons["young"]:
        engine.step()
    assert engine.pilot._course is planned
    engine.abort(f"old{number}" for number in range(5))
    engine.run()
    engine.check()
    assert [row.plan_id for row in engine.books.rows["young"]] == [planned.plan_id]


@pytest.mark.parametrize("delay, seed", [(1, 12), (1, 39), (2, 21), (2, 45)])
def test_what_is_on_its_way_is_told_though_a_step_near_the_length_limit_had_no_plan(
    make_engine: Maker, delay: int, seed: int
) -> None:
    engine = make_engine(STATIC, delay=delay, seed=seed, max_len=64, max_seqs=4, skill=0.9)
    put_under_load(engine, seed)
    engine.check()


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_all_that_ended_is_told_at_shutdown(make_engine: Maker, delay: int) -> None:
    engine = make_engine(STATIC, delay=delay)
    for name in "abc":
        engine.add(name, [5, 6, ord(name)], 60)
    for _ in range(13):
        engine.step()
    assert engine.books.rows != engine.books.rounds
    engine.scheduler.shutdown()
    assert engine.books.rows == engine.books.rounds


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_few_steps_are_remembered(make_engine: Maker, delay: int) -> None:
    engine, most = make_engine(delay=delay), 0

    def look() -> None:
        nonlocal most
        pilot = engine.pilot
        most = max(most, len(pilot._log.flying) + len(pilot._log.landed), chain(pilot))

    put_under_load(engine, 2, num_requests=60, after_step=look)
    assert most <= LONGEST_HOLD + delay + 2


def test_stages_in_a_row_are_only_observed() -> None:
    config = make_config(STATIC, delay=1)
    assert read_traits(config).observe_only == ""
    config.parallel_config.pipeline_parallel_size = 2
    assert "stages" in read_traits(config).observe_only


def test_who_comes_back_for_a_single_token_has_shown_nothing() -> None:
    course = Course(1, {"kept": 3, "preempted": 3}, 3, 3.0)

    def fly(previous: Flight | None, num: int, began: frozenset[str] = frozenset()) -> Flight:
        num_tokens = dict.fromkeys(course.lengths, num)
        flight = Flight(None, previous, course, 2 * num, num_tokens, {}, None, None, began, 0.0)
        outputs = [SimpleNamespace(request_id=name, new_token_ids=[7]) for name in num_tokens]
        flight.answers = {0: SimpleNamespace(outputs=outputs)}
        return flight

    # With all but one of its tokens cached it looks like one that decodes without a draft.
    after = fly(fly(None, 4), 1, frozenset({"preempted"}))
    assert after.told() == {"kept": (0, 0)}
