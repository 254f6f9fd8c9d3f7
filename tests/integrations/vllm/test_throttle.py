"""A policy file with a throttle section: limits follow it under load, and no answer does."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_nvml import State
from vllm import SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler
from vllm_engines import Engine, tiny_llama
from vllm_fake_engine import FakeEngine
from vllm_load import put_under_load

from flyball.controller.errors import HardwareError
from flyball.controller.policy_file import load_policy
from flyball.integrations.hardware.cpu_seconds import CpuSeconds
from flyball.integrations.vllm import throttled
from flyball.integrations.vllm.settings import Settings
from flyball.integrations.vllm.throttled import board, wants_throttle
from flyball.policies.registry import THROTTLE_POLICIES
from flyball.policies.throttle.base import Context, ThrottlePolicy, Window
from flyball.policies.throttle.space import Places
from flyball.policies.throttle.sweep import Sweep

Maker = Callable[..., FakeEngine]
APPLIED = {"policy": "sweep", "dry_run": False, "window_s": 0.05}
LIMITS = ("max_num_active_reqs", "max_num_scheduled_tokens")
NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 4,
    "prompt_lookup_max": 2,
    "prompt_lookup_min": 1,
}


class RandomSettings(ThrottlePolicy):
    """Settings that are drawn anew for every window."""

    Settings = Sweep.Settings
    windows: list[Window] = []

    def learn(self, window: Window) -> None:
        self.windows.append(window)

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        return self.rng.integers(0, self.space.shape)


@pytest.fixture(autouse=True)
def policy(monkeypatch: pytest.MonkeyPatch) -> type[RandomSettings]:
    """Takes the place of `sweep`; remembers the windows."""
    monkeypatch.setattr(RandomSettings, "windows", [])
    monkeypatch.setitem(THROTTLE_POLICIES, "sweep", RandomSettings)
    return RandomSettings


def limits(engine: FakeEngine | Engine) -> tuple[Any, ...]:
    scheduler = engine.scheduler
    return (*(getattr(scheduler, name) for name in LIMITS), engine.pilot.governor.limits.draft_len)


def file(**throttle: Any) -> Any:
    return load_policy({"version": 1, "throttle": {**APPLIED, **throttle}})


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_answers_are_exact_while_limits_change_and_all_is_put_back(
    make_engine: Maker, delay: int
) -> None:
    engine = make_engine(delay=delay, throttle=APPLIED, max_step_tokens=256)
    before, seen = limits(engine), set()
    put_under_load(
        engine, 1, num_requests=120, aborts=0.05, after_step=lambda: seen.add(limits(engine))
    )
    engine.check()
    throttling = engine.scheduler.throttling
    assert throttling.status.num_windows > 20
    assert throttling.status.faults == {}
    assert [len(set(column)) > 2 for column in zip(*seen, strict=True)] == [True] * 3
    engine.scheduler.shutdown()
    assert limits(engine)[:2] == before[:2]
    assert limits(engine)[2] in (None, engine.pilot.governor.max_draft_len)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_limit_of_drafts_holds_from_the_next_plan_at_once(
    make_engine: Maker, delay: int
) -> None:
    engine = make_engine({"policy": "static", "draft_len": 5}, delay=delay, method="draft_model")
    for name in "abc":
        engine.add(name, [5, 6, ord(name)], 60, eos=None)
    for _ in range(8):
        engine.step()
    assert engine.pilot.draft_len == 5
    assert engine.pilot._navigator.hold.steps_left > 1
    engine.pilot.governor.limits.draft_len = 2
    engine.step()
    assert engine.pilot.draft_len == 2
    engine.run()
    engine.check()


@pytest.mark.parametrize("delay", [0, 1])
def test_windows_hold_all_tokens_seconds_and_drafts_of_their_steps(
    make_engine: Maker, policy: type[RandomSettings], delay: int
) -> None:
    engine = make_engine(delay=delay, throttle={**APPLIED, "dry_run": True, "window_s": 1e-9})
    began_s = engine.clock.now_s
    put_under_load(engine, 2)
    engine.check()
    windows = policy.windows
    num_tokens = sum(map(len, engine.texts.values()))
    assert sum(window.num_tokens for window in windows) == num_tokens
    assert sum(w.window_s for w in windows) == pytest.approx(engine.clock.now_s - began_s)
    acceptance = [w.context.acceptance for w in windows]
    assert 0.2 < np.mean(acceptance) < 1.0  # the drafter is right in 0.7 of the cases
    assert max(w.context.batch_size for w in windows) > 3


def test_latencies_are_those_of_each_requests_stretches(
    make_engine: Maker, policy: type[RandomSettings]
) -> None:
    engine = make_engine(throttle={**APPLIED, "dry_run": True, "window_s": 0.2})
    put_under_load(engine, 2)
    engine.check()
    latencies = [w.latency_s for w in policy.windows]
    assert len(latencies) > 5
    assert 1e-3 < min(latencies) < max(latencies) < 0.1  # the fabricated steps take so long


def test_windows_hold_no_steps_of_more_requests_than_their_limit(
    make_engine: Maker, policy: type[RandomSettings]
) -> None:
    engine = make_engine(throttle={**APPLIED, "window_s": 1e-9})
    put_under_load(engine, 2)
    engine.check()
    space = engine.scheduler.throttling.throttle.space
    limits = [space.named(window.setting)["max_num_active_reqs"] for window in policy.windows]
    sizes = [window.context.batch_size for window in policy.windows]
    assert all(size <= limit for size, limit in zip(sizes, limits, strict=True))
    assert 1 < len(set(limits)) < len(limits)


def test_a_dry_run_measures_and_sets_nothing(
    make_engine: Maker, policy: type[RandomSettings]
) -> None:
    engine = make_engine(throttle={"policy": "sweep", "window_s": 0.05}, max_step_tokens=256)
    seen = set()
    put_under_load(engine, 1, after_step=lambda: seen.add(limits(engine)))
    engine.check()
    assert len(seen) == 1
    assert len(policy.windows) > 5
    default = engine.scheduler.throttling.throttle.space.default.tolist()
    assert all(window.setting.tolist() == default for window in policy.windows)


def test_requests_that_wait_are_told(make_engine: Maker, policy: type[RandomSettings]) -> None:
    engine = make_engine(throttle={**APPLIED, "dry_run": True}, max_seqs=2)
    for k in range(8):
        engine.add(f"r{k}", [1, 2, 3 + k], 30)
    engine.run()
    engine.check()
    waiting = [window.num_waiting for window in policy.windows]
    assert max(waiting) > 3
    assert waiting[-1] == 0


@pytest.mark.parametrize(
    ("owner", "name", "kind"),
    [
        (RandomSettings, "decide", "policy"),
        (RandomSettings, "learn", "policy"),
        (CpuSeconds, "energy_j", "meter"),
        (throttled.Throttle, "observe", "host"),
    ],
)
def test_what_fails_every_time_costs_no_token(
    make_engine: Maker, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, kind: str
) -> None:
    engine = make_engine(throttle=APPLIED, max_step_tokens=256)
    before = limits(engine)[:2]

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("sabotage")

    monkeypatch.setattr(owner, name, fails)
    put_under_load(engine, 3, aborts=0.05)
    engine.check()
    assert set(engine.scheduler.throttling.status.faults) == {kind}
    assert limits(engine)[:2] == before


def test_a_step_whose_answers_are_none_is_counted_and_forgotten(make_engine: Maker) -> None:
    engine = make_engine(throttle=APPLIED)
    throttling = engine.scheduler.throttling
    throttling.begin()
    throttling.end(engine.scheduler, {0: SimpleNamespace()})
    assert throttling.status.faults == {"host": 1}
    assert throttling.throttle.num_steps == 0


def test_a_throttle_that_cannot_end_its_work_hinders_no_shutdown(
    make_engine: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(throttle=APPLIED)
    with monkeypatch.context() as patch:
        patch.setattr(throttled.Throttle, "close", None)
        engine.scheduler.shutdown()
    assert engine.scheduler.throttling.status.faults == {"host": 1}
    engine.scheduler.throttling.throttle.close()


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"actuator": "nvml"}, "expected an engine on a GPU for actuator nvml"),
        ({"policy": "lowest_feasible", "knob": "fan"}, "fan"),
    ],
)
def test_what_cannot_be_set_is_one_warning_and_the_engine_serves(
    make_engine: Maker, caplog: pytest.LogCaptureFixture, section: dict[str, Any], reason: str
) -> None:
    engine = make_engine(throttle=APPLIED)
    engine.scheduler.throttling.close()
    engine.scheduler.throttling = None
    own = {"policy": section.get("policy", "sweep"), **section}
    policy = load_policy({"version": 1, "throttle": own})
    with caplog.at_level(logging.WARNING, "vllm.flyball"):
        board(engine.scheduler, engine.scheduler.vllm_config, policy, engine.pilot)
    (text,) = [one.getMessage() for one in caplog.records if one.name == "vllm.flyball"]
    assert text.startswith("flyball sets no limits and no hardware: ")
    assert reason in text
    assert "\n" not in text
    engine.add("a", [5, 6, 7], 20)
    engine.run()
    engine.check()


@pytest.mark.parametrize(("backend", "own"), [("uni", {"num_cpus"}), ("mp", set())])
def test_cpus_are_set_where_the_worker_is_in_this_process_and_threads_never(
    make_engine: Maker, monkeypatch: pytest.MonkeyPatch, backend: str, own: set[str]
) -> None:
    engine = make_engine(throttle=APPLIED)
    engine.scheduler.throttling.close()
    config = engine.scheduler.vllm_config
    monkeypatch.setattr(config.parallel_config, "distributed_executor_backend", backend)
    board(engine.scheduler, config, file(actuator="cpu"), engine.pilot)
    names = {knob.name for knob in engine.scheduler.throttling.throttle.space.knobs}
    assert names & {"num_cpus", "num_threads"} == own


def test_the_clocks_of_an_engines_gpu_are_set_off_its_thread_and_put_back(
    make_engine: Maker, gpu_state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLYBALL_LOCK_DIR", str(tmp_path))
    monkeypatch.setattr(throttled, "gpu_of", lambda config: 0)
    engine = make_engine(throttle={**APPLIED, "actuator": "nvml"}, max_step_tokens=256)
    seen = set()

    def look() -> None:
        seen.add((gpu_state.graphics_lock, gpu_state.memory_lock, gpu_state.power_limit))

    put_under_load(engine, 4, after_step=look)
    engine.check()
    assert engine.scheduler.throttling.status.faults == {}
    assert [len(set(column)) > 1 for column in zip(*seen, strict=True)] == [True] * 3
    engine.scheduler.shutdown()
    assert (gpu_state.graphics_lock, gpu_state.memory_lock) == (0, 0)
    assert gpu_state.power_limit == 600_000


def test_engines_on_several_gpus_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = SimpleNamespace(is_cuda=lambda: True, device_id_to_physical_device_id=lambda k: 3)
    monkeypatch.setattr("vllm.platforms.current_platform", platform)
    assert throttled.gpu_of(SimpleNamespace(world_size=1)) == 3
    with pytest.raises(HardwareError, match="expected an engine on one GPU, but got 2"):
        throttled.gpu_of(SimpleNamespace(world_size=2))


@pytest.mark.parametrize(
    ("ranks", "launcher", "reason"),
    [
        (2, "uni", "data-parallel ranks"),
        (1, "external_launcher", "an external launcher"),
        (1, "uni", ""),
    ],
)
def test_ranks_that_share_what_is_set_leave_it_alone(
    caplog: pytest.LogCaptureFixture, ranks: int, launcher: str, reason: str
) -> None:
    parallel = SimpleNamespace(data_parallel_size=ranks, distributed_executor_backend=launcher)
    config = SimpleNamespace(parallel_config=parallel)
    with caplog.at_level(logging.WARNING, "vllm.flyball"):
        assert wants_throttle(Scheduler, config, Settings(file())) is (not reason)
    assert reason in caplog.text
    assert not wants_throttle(Scheduler, config, Settings(load_policy(None)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(5).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("speculative", [NGRAM, None], ids=["drafts", "no drafts"])
def test_a_real_engine_writes_the_same_under_settings_that_change(
    share: Callable[..., Any], model: Path, speculative: dict[str, Any] | None
) -> None:
    sections = {"version": 1, "throttle": {**APPLIED, "actuator": "cpu", "window_s": 0.01}}
    make = functools.partial(Engine, model, skip_tokenizer_init=True, max_model_len=64)
    plain = share("plain tiny", make)
    cpus = os.sched_getaffinity(0)
    options = {"scheduler_cls": "flyball.integrations.vllm.GovernedScheduler"}
    options |= {"additional_config": {"flyball": {"policy": sections}}}
    engine = share(object(), functools.partial(make, speculative, **options))
    throttling, scheduler = engine.scheduler.throttling, engine.scheduler
    before = [getattr(scheduler, name) for name in LIMITS]
    prompts = [[k % 5, 3, 2, 1, k % 3] for k in range(24)]
    settings = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, detokenize=False)
    expected, seen = plain.texts(prompts, settings), set()
    end = throttling.end

    def watched(*args: Any) -> None:
        end(*args)
        seen.add(tuple(throttling.throttle.setting.tolist()))

    throttling.end = watched
    for _ in range(30):
        assert engine.texts(prompts, settings) == expected
        if len(seen) > 4:
            break
    assert len(seen) > 4
    assert throttling.status.faults == {}
    names = {knob.name for knob in throttling.throttle.space.knobs}
    assert names >= {*LIMITS, "num_cpus"}
    assert ("draft_len" in names) is (speculative is not None)
    throttling.close()
    assert [getattr(scheduler, name) for name in LIMITS] == before
    assert os.sched_getaffinity(0) == cpus
    if speculative is not None:
        assert engine.pilot.governor.limits.draft_len in (None, 4)
