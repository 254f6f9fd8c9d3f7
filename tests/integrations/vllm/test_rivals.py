"""Candidates that compete under the real schedulers, with outputs 0 to 2 steps late."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from vllm_fake import NUM_TOKENS
from vllm_fake_engine import FakeEngine

from flyball.controller.contests import Contests
from flyball.controller.guard import Guard
from flyball.controller.policy_file import load_policy
from flyball.integrations.vllm.contested import Contested
from flyball.integrations.vllm.rivals import Rivals
from flyball.policies.rejection.base import Bools, Groups, Load
from flyball.policies.rejection.first_finish import FirstFinish

Maker = Callable[..., FakeEngine]

FIRST = {"policy": "first_finish", "check_at_tokens": [4]}


def lowest(_: FirstFinish, groups: Groups, load: Load) -> Bools:
    """Whoever is behind another one of the group by half a nat a token."""
    latest = groups.latest()
    best = np.where(np.isnan(latest), -np.inf, latest).max(axis=1, keepdims=True)
    return latest < best - 0.5


def put_under_load(engine: FakeEngine, seed: int, num_groups: int, aborts: float) -> None:
    """Groups come at random moments, among requests for one answer; some clients go away."""
    rng = np.random.default_rng(seed)
    num_sent = 0
    while num_sent < num_groups or engine.busy:
        for _ in range(min(int(rng.poisson(0.2)), num_groups - num_sent)):
            prompt = rng.integers(1, NUM_TOKENS, rng.integers(1, 20)).tolist()
            size = int(rng.integers(1, 6))
            for index in range(size):
                name = f"{index}_r{num_sent}" if size > 1 else f"r{num_sent}"
                most = int(rng.integers(1, 50))
                engine.add(name, prompt, most, eos=None, logprobs=int(rng.integers(0, 2)))
                engine.worker.surprise[name] = float(rng.uniform(0.0, 2.0))
            num_sent += 1
        if rng.random() < aborts and engine.waited_for:
            gone = str(rng.choice(engine.waited_for)).partition("_")[2]
            names = [name for name in engine.waited_for if name.endswith(f"_{gone}")]
            engine.abort(names, late=bool(rng.random() < 0.5))
        engine.step()


def check(engine: FakeEngine) -> None:
    """All answers are right so far as they go, and nothing is left behind."""
    engine.check()
    rivals = engine.scheduler.rivals
    assert rivals.faults == {}
    assert not rivals._rivals and not rivals._bouts and not rivals._open and not rivals._late
    assert len(rivals._contests._pool.taken) == 0
    assert not engine.scheduler.requests
    pool = engine.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("delay", [0, 1, 2])
@pytest.mark.parametrize("rule", ["first", "lowest"])
def test_answers_are_exact_under_load(
    make_engine: Maker, monkeypatch: pytest.MonkeyPatch, rule: str, delay: int, seed: int
) -> None:
    if rule == "lowest":
        monkeypatch.setattr(FirstFinish, "decide", lowest)
        monkeypatch.setattr(FirstFinish, "scores", True)
    engine = make_engine(
        delay=delay, seed=seed, num_blocks=32, max_step_tokens=24, rejection=FIRST
    )
    put_under_load(engine, seed, num_groups=40, aborts=0.03)
    check(engine)
    assert engine.scheduler.rivals.num_stopped > 10
    assert engine.books.num_preempted > 5


@pytest.mark.parametrize("delay", [0, 1])
def test_the_first_wins_and_the_others_hear_of_it_at_once(make_engine: Maker, delay: int) -> None:
    engine = make_engine(
        {"policy": "static", "draft_len": 0}, delay=delay, max_step_tokens=256, rejection=FIRST
    )
    for index, most in enumerate((30, 9, 20)):
        engine.add(f"{index}_job", [5, 6, 7], most, eos=None)
    engine.add("other", [5, 6], 40, eos=None)
    while not engine.reasons["1_job"]:
        engine.step()
    assert engine.reasons == {"0_job": "abort", "1_job": "length", "2_job": "abort", "other": ""}
    assert {len(engine.texts[name]) for name in ("0_job", "1_job", "2_job")} == {9}
    engine.run()
    check(engine)


@pytest.mark.parametrize("delay", [0, 1])
def test_requests_of_other_prompts_are_no_rivals(make_engine: Maker, delay: int) -> None:
    engine = make_engine(delay=delay, rejection=FIRST)
    engine.add("0_job", [5, 6, 7], 5, eos=None)
    engine.add("1_job", [5, 6, 8], 30, eos=None)
    engine.run()
    check(engine)
    assert engine.reasons == {"0_job": "length", "1_job": "length"}


def test_an_engine_without_such_a_policy_follows_nobody(make_engine: Maker) -> None:
    engine = make_engine()
    assert Contested not in type(engine.scheduler).__mro__


def make_rivals() -> Rivals:
    guard = Guard()
    return Rivals(Contests(load_policy({"version": 1, "rejection": FIRST}), guard), guard)


def come(rivals: Rivals, *names: str, stop: list[str] | None = None) -> None:
    for name in names:
        params = SimpleNamespace(stop=stop or [])
        rivals.add(
            SimpleNamespace(request_id=name, sampling_params=params, prompt_token_ids=[1, 2])
        )


def output(name: str, num_tokens: int, finish_reason: str | None = None) -> Any:
    return SimpleNamespace(
        request_id=name,
        new_token_ids=[7] * num_tokens,
        new_logprobs=None,
        finish_reason=finish_reason,
    )


def losers(rivals: Rivals, *outputs: Any) -> list[str]:
    return [loser.name for loser in rivals.review(outputs, num_running=4, memory_short=False)]


def test_a_text_that_the_frontend_ends_by_a_stop_string_has_finished() -> None:
    rivals = make_rivals()
    come(rivals, "0_a", "1_a", "2_a", stop=["\n"])
    assert losers(rivals, *(output(f"{index}_a", 5) for index in range(3))) == []
    rivals.leave(["1_a"])
    assert losers(rivals, output("0_a", 1), output("2_a", 1)) == ["0_a", "2_a"]


def test_without_stop_strings_it_was_given_up() -> None:
    rivals = make_rivals()
    come(rivals, "0_a", "1_a", "2_a")
    assert losers(rivals, *(output(f"{index}_a", 5) for index in range(3))) == []
    rivals.leave(["1_a"])
    assert losers(rivals, output("0_a", 1), output("2_a", 1)) == []
    assert losers(rivals, output("0_a", 1, "stop")) == ["2_a"]


def test_who_comes_after_the_first_checkpoint_runs_to_the_end() -> None:
    rivals = make_rivals()
    come(rivals, "0_a", "1_a")
    assert losers(rivals, output("0_a", 4), output("1_a", 4)) == []
    come(rivals, "2_a")
    assert losers(rivals, output("0_a", 1, "stop"), output("2_a", 1)) == ["1_a"]
    assert not rivals._rivals


def test_an_error_of_the_engine_ends_a_candidate_without_a_win() -> None:
    rivals = make_rivals()
    come(rivals, "0_a", "1_a", "2_a")
    assert losers(rivals, output("0_a", 4), output("1_a", 4), output("2_a", 4)) == []
    assert losers(rivals, output("0_a", 0, "error")) == []
    assert losers(rivals, output("1_a", 1, "length")) == ["2_a"]
