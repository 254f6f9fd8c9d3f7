"""Candidates of one request compete in real vLLM engines; whoever loses is stopped."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.scheduler import Scheduler
from vllm_engines import Engine, tiny_llama

from flyball.controller.contests import Contests
from flyball.controller.guard import Guard
from flyball.controller.policy_file import load_policy
from flyball.integrations.vllm import contested
from flyball.integrations.vllm.contested import choose_contest
from flyball.integrations.vllm.rivals import Rivals
from flyball.integrations.vllm.settings import Settings
from flyball.policies.rejection.base import Bools, Groups, Load
from flyball.policies.rejection.first_finish import FirstFinish

GOVERNED = "flyball.integrations.vllm.GovernedScheduler"
CHECK = 6
END = 2  # token that ends a text
PROMPTS = [[1, 3, 2, 1, 3], [4, 4, 2], [0, 1, 0, 1], [3, 3], [2, 0, 4, 1], [1]]
FIRST = {"policy": "first_finish"}
# Nobody is ever stopped.
NOBODY = {"policy": "first_finish", "num_finished": 10_000, "check_at_tokens": [10_000]}
CONFORMAL = {"policy": "conformal", "risk": 0.5, "check_at_tokens": [2, 4, 6, 8, 12, 16]}
WAYS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "ngram": {"method": "ngram", "prompt_lookup_max": 2, "prompt_lookup_min": 1},
    "draft_model": {"method": "draft_model"},
}


def best(_: FirstFinish, groups: Groups, load: Load) -> Bools:
    """At the only checkpoint the best goes on, once all who go on have come there."""
    there = (groups.num_passed > 0) | ~groups.alive
    score = np.where(groups.alive, groups.score[:, :, 0], -np.inf)
    return there.all(axis=1)[:, None] & (score < score.max(axis=1, keepdims=True))


def policy(rejection: dict[str, Any] | None) -> dict[str, Any]:
    length = {"policy": "static", "draft_len": 3}
    return {"version": 1, "length": length} | (
        {} if rejection is None else {"rejection": rejection}
    )


def sampled(seed: int, **settings: Any) -> SamplingParams:
    usual = {"max_tokens": 24, "stop_token_ids": [END], "logprobs": 0, "n": 4}
    return SamplingParams(temperature=1.0, detokenize=False, seed=seed, **{**usual, **settings})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(5).save_pretrained(folder)
    return folder


@pytest.fixture(params=list(WAYS))
def engine(
    request: pytest.FixtureRequest, share: Callable[..., Any], model: Path
) -> Iterator[Engine]:
    yield from started(str(request.param), share, model)


@pytest.fixture
def plain(share: Callable[..., Any], model: Path) -> Iterator[Engine]:
    yield from started("plain", share, model)


def started(way: str, share: Callable[..., Any], model: Path) -> Iterator[Engine]:
    """An engine that never drafts, or does so in some way; nothing may be left there."""
    drafter = WAYS[way]
    if drafter is not None:
        drafter = {"num_speculative_tokens": 4, **drafter}
        if way == "draft_model":
            drafter["model"] = str(model)
    make = functools.partial(
        Engine,
        model,
        drafter,
        scheduler_cls=GOVERNED,
        additional_config={"flyball": {"policy": policy(NOBODY)}},
        skip_tokenizer_init=True,
        max_model_len=64,
        max_num_seqs=64,
    )
    engine = share(("contested", way), make)
    yield engine
    manager = engine.scheduler.kv_cache_manager
    assert manager.block_pool.get_num_free_blocks() == manager.block_pool.num_gpu_blocks - 1


@contextmanager
def compete(engine: Engine, rejection: dict[str, Any]) -> Iterator[Rivals]:
    """Another policy says meanwhile who is to stop."""
    usual, guard = engine.scheduler.rivals, Guard()
    file = load_policy(policy(rejection))
    rivals = engine.scheduler.rivals = Rivals(Contests(file, guard), guard)
    try:
        yield rivals
    finally:
        engine.scheduler.rivals = usual
    assert not rivals._rivals and not rivals._bouts and not rivals._open
    assert rivals._contests._pool.taken.tolist() == []


def both(
    engine: Engine,
    rejection: dict[str, Any],
    prompts: Sequence[list[int]],
    settings: list[SamplingParams],
    at_once: int = 1000,
) -> tuple[list[Any], list[Any], Rivals]:
    """Candidates of all prompts without a policy and under one, and what it did.

    Tokens of those that finish are the same, and those that are stopped have part of them.
    """

    def answers() -> list[Any]:
        found: list[Any] = []
        for first in range(0, len(prompts), at_once):
            part = slice(first, first + at_once)
            found += engine.generate(prompts[part], settings[part])
        return [output.outputs for output in found]

    with compete(engine, NOBODY):
        alone = answers()
    with compete(engine, rejection) as rivals:
        found = answers()
    for whole, part in zip(itertools.chain(*alone), itertools.chain(*found), strict=True):
        if part.finish_reason == "abort":
            assert list(part.token_ids) == list(whole.token_ids)[: len(part.token_ids)]
        else:
            assert part.token_ids == whole.token_ids
            assert part.finish_reason == whole.finish_reason in ("stop", "length")
    stopped = sum(part.finish_reason == "abort" for part in itertools.chain(*found))
    assert stopped == rivals.num_stopped
    return alone, found, rivals


def test_the_first_to_finish_win(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    settings = [sampled(number, n=1 if number % 3 == 2 else 4) for number in range(6)]
    with caplog.at_level(logging.INFO, "vllm.flyball"):
        alone, found, rivals = both(engine, FIRST, PROMPTS, settings)
    assert rivals.faults == {}
    for whole, part in zip(alone, found, strict=True):
        won = [one.finish_reason != "abort" for one in part]
        assert any(won)
        if len(part) > 1 and not engine.governed:  # a token a step: the shortest are first
            lengths = [len(one.token_ids) for one in whole]
            assert won == [length == min(lengths) for length in lengths]
            assert {len(one.token_ids) for one in part} == {min(lengths)}
    lines = [line for line in caplog.messages if "stopped candidate" in line]
    assert len(lines) == rivals.num_stopped > 6
    assert lines[0].endswith("tokens: first_finish, num_finished 1")


def test_scores_are_mean_log_probabilities_up_to_the_checkpoint(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens a step accepts."""
    # Long enough that nobody ends before all have come to the checkpoint.
    settings = [sampled(10 + n, min_tokens=40, max_tokens=48) for n in range(6)]
    monkeypatch.setattr(FirstFinish, "decide", best)
    monkeypatch.setattr(FirstFinish, "scores", True)
    rejection = {"policy": "first_finish", "check_at_tokens": [CHECK]}
    alone, found, rivals = both(engine, rejection, PROMPTS, settings)
    for whole, part in zip(alone, found, strict=True):
        scores = [
            sum(place[token].logprob for place, token in rows[:CHECK])
            for rows in (list(zip(one.logprobs, one.token_ids, strict=True)) for one in whole)
        ]
        won = [one.finish_reason != "abort" for one in part]
        level = max(scores) - 1e-4  # equal texts differ that much by the shape of a batch
        assert any(won) and min(itertools.compress(scores, won)) > level
        assert min(len(one.token_ids) for one in part) >= CHECK
    assert rivals.num_stopped > 6
    assert rivals.faults == {}


def test_the_improbable_are_stopped_once_enough_was_audited(engine: Engine) -> None:
    """Groups come one after the other: the first four are audited."""
    settings = [sampled(100 * n, stop_token_ids=[], n=8, max_tokens=32) for n in range(32)]
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(len(settings))]
    _, found, rivals = both(engine, CONFORMAL, prompts, settings, at_once=2)
    assert rivals.faults == {}
    figures = rivals._contests.policy.figures
    assert 4 <= figures["audited_groups"] < len(prompts)
    assert rivals.num_stopped > 20
    assert all(any(one.finish_reason == "length" for one in outputs) for outputs in found)


def test_without_log_probabilities_nobody_is_stopped_and_it_is_said_once(
    plain: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = [sampled(number, logprobs=None) for number in range(6)]
    _, _, rivals = both(plain, CONFORMAL, PROMPTS, settings)
    assert rivals.num_stopped == 0 == len(rivals.faults)
    warnings = [line for line in caplog.messages if "SamplingParams(logprobs=0)" in line]
    assert len(warnings) == 1


def test_candidates_that_wait_to_begin_are_stopped_too(plain: Engine) -> None:
    with compete(plain, FIRST) as rivals:
        (output,) = plain.generate(PROMPTS[:1], sampled(5, n=200))
    assert rivals.num_stopped > 100
    assert sum(not one.token_ids for one in output.outputs) >= 200 - 64
    assert {one.finish_reason for one in output.outputs} <= {"abort", "stop", "length"}
    (queued_s,) = (
        sample.value
        for metric in plain._metrics.collect()
        for sample in metric.samples
        if sample.name == "vllm:request_queue_time_seconds_sum"
    )
    assert queued_s >= 0.0


def abandon(engine: Engine, after_steps: int) -> None:
    """Two requests for several answers, of which a client gives up the first."""
    core, whole = engine.llm.llm_engine, RequestOutputKind.FINAL_ONLY
    for number in range(2):
        settings = sampled(number, min_tokens=12, output_kind=whole)
        core.add_request(f"half {number}", {"prompt_token_ids": PROMPTS[number]}, settings)
    ended = {}
    for step in itertools.count():
        if step == after_steps:
            core.abort_request(["half 0"])
        ended.update({output.request_id: output.outputs for output in core.step()})
        if not core.has_unfinished_requests():
            break
    assert list(ended) == ["half 1"]
    assert len(ended["half 1"]) == 4
    assert all(one.finished() for one in ended["half 1"])


@pytest.mark.parametrize("after_steps", [1, 8])
@pytest.mark.parametrize("rejection", [FIRST, CONFORMAL], ids=["first_finish", "conformal"])
def test_a_client_that_goes_away_takes_its_candidates_along(
    plain: Engine, rejection: dict[str, Any], after_steps: int
) -> None:
    with compete(plain, rejection) as rivals:
        abandon(plain, after_steps)
    assert rivals.faults == {}


@pytest.mark.parametrize(
    ("owner", "name", "kind"),
    [
        (FirstFinish, "decide", "rejection"),
        (Contests, "open", "candidates"),
        (Contests, "review", "candidates"),
        (Rivals, "_review", "candidates"),
        (Rivals, "_add", "candidates"),
        (contested, "_end", "candidates"),
        (contested, "_memory_short", "candidates"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_fault_stops_nobody(
    plain: Engine, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, kind: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("sabotage")

    with compete(plain, NOBODY):
        alone = plain.generate(PROMPTS, [sampled(number) for number in range(6)])
    with monkeypatch.context() as patch, compete(plain, FIRST) as rivals:
        patch.setattr(owner, name, fails)
        found = plain.generate(PROMPTS, [sampled(number) for number in range(6)])
        patch.undo()
        assert list(rivals.faults) == [kind]
        plain.generate(PROMPTS, [sampled(number) for number in range(6)])
        assert rivals.num_stopped > 6
    tokens = [[one.token_ids for one in output.outputs] for output in found]
    assert tokens == [[one.token_ids for one in output.outputs] for output in alone]


def test_metrics_count_who_was_stopped(plain: Engine) -> None:
    with compete(plain, FIRST) as rivals:
        plain.generate(PROMPTS, [sampled(number) for number in range(6)])
        status = contested._status(plain.scheduler.rivals)
    assert status.num_rejected == rivals.num_stopped > 6
    assert (status.policy, status.fallbacks) == ("first_finish", {})
    assert plain.scheduler.publisher._latest is not None


def test_without_such_a_section_there_is_no_contest(plain: Engine) -> None:
    config = plain.llm.llm_engine.vllm_config
    assert choose_contest(Scheduler, config, Settings(load_policy(policy(None))), None) is None


@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (contested, "vllm_version", lambda: "0.99.1", "vLLM 0.99.1 was not tested"),
        (Scheduler, "add_request", lambda self, one: None, "add_request takes (one), expected"),
        (Scheduler, "finish_requests", None, "Scheduler has no method finish_requests"),
    ],
    ids=["version", "signature", "method"],
)
def test_an_engine_that_may_not_fit_stops_nobody(
    plain: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: Any,
    name: str,
    value: Any,
    reason: str,
) -> None:
    config = plain.llm.llm_engine.vllm_config
    monkeypatch.setattr(owner, name, value)
    assert choose_contest(Scheduler, config, Settings(load_policy(policy(FIRST))), None) is None
    (line,) = caplog.messages
    assert line.startswith(f"flyball stops no candidates: {reason}")


@pytest.mark.parametrize("name", ["consensus", "self_eval"])
def test_what_an_engine_cannot_tell_is_not_decided_by(
    plain: Engine, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    config = plain.llm.llm_engine.vllm_config
    settings = Settings(load_policy({"version": 1, "rejection": {"policy": name}}))
    assert choose_contest(Scheduler, config, settings, None) is None
    (line,) = caplog.messages
    assert line.startswith(f"flyball stops no candidates: {name} needs ")
