"""Which scheduler an engine gets: governed, observed or its own, and what refuses to start."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler
from vllm_engines import Engine, tiny_llama

from flyball.controller.errors import PolicyFileError
from flyball.integrations.vllm import scheduler as schedulers
from flyball.integrations.vllm.compat import untested
from flyball.integrations.vllm.settings import read_settings

STATIC = "version: 1\nlength: {policy: static, draft_len: 2}\n"
BROKEN = "version: 1\nlength: {policy: goodptu}\n"
REASON = "unknown policy 'goodptu' for length, did you mean 'goodput'?"
NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 4,
    "prompt_lookup_max": 2,
    "prompt_lookup_min": 1,
}
TINY = {"skip_tokenizer_init": True, "max_model_len": 64}
PROMPTS = [[1, 3, 2, 1, 3], [4, 4, 2], [0, 1, 0, 1]]


def config(flyball: Any = None) -> Any:
    return SimpleNamespace(additional_config={} if flyball is None else {"flyball": flyball})


@pytest.fixture
def policy(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / f"policy-{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(5).save_pretrained(folder)
    return folder


@pytest.fixture
def start(share: Callable[..., Any], model: Path) -> Callable[..., Engine]:
    """Starts an engine, and checks that its greedy texts are the plain engine's."""

    def started(**options: Any) -> Engine:
        make = functools.partial(Engine, model, **TINY)
        plain = share("plain tiny", make)
        engine = share(object(), functools.partial(make, NGRAM, **options))
        settings = SamplingParams(
            temperature=0.0, max_tokens=40, ignore_eos=True, detokenize=False
        )
        assert engine.texts(PROMPTS, settings) == plain.texts(PROMPTS, settings)
        return engine

    return started


def test_a_policy_comes_from_the_configuration_before_the_environment(
    policy: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_settings(config()).policy.length.policy == "goodput"
    monkeypatch.setenv("FLYBALL_POLICY", policy(STATIC))
    assert read_settings(config()).policy.length.policy == "static"
    heuristic = policy("version: 1\nlength: {policy: heuristic}\n")
    assert read_settings(config({"policy": heuristic})).policy.length.policy == "heuristic"


def test_an_untested_version_is_allowed_by_true_alone() -> None:
    assert read_settings(config({"allow_untested": True})).allow_untested
    assert not read_settings(config({"allow_untested": "yes"})).allow_untested
    assert not read_settings(config({})).allow_untested


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"polcy": "p.yaml"}, "unknown key 'flyball.polcy'; did you mean 'policy'?"),
        ({"zzz": 1}, "unknown key 'flyball.zzz'; known are policy, allow_untested"),
        ("p.yaml", "but got 'p.yaml'"),
        ({"policy": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(own: Any, reason: str) -> None:
    with pytest.raises(PolicyFileError, match=reason.replace("?", r"\?")):
        read_settings(config(own))


@pytest.mark.parametrize(
    ("version", "tested"),
    [("0.32.0", True), ("0.32", True), ("0.32.1+cpu", True), ("0.320", False), ("0.33.0", False)],
)
def test_versions_that_were_tested(version: str, tested: bool) -> None:
    assert (untested(version) == "") == tested


@pytest.mark.parametrize("place", ["configuration", "environment"])
def test_an_engine_refuses_a_broken_policy(
    place: str,
    policy: Callable[[str], str],
    start: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, options = policy(BROKEN), {}
    if place == "environment":
        monkeypatch.setenv("FLYBALL_POLICY", path)
    else:
        options = {"additional_config": {"flyball": {"policy": path}}}
    with pytest.raises(PolicyFileError) as caught:
        start(**options)
    assert str(caught.value) == f"{path}: {REASON}"


def test_an_engine_takes_its_policy(
    policy: Callable[[str], str], start: Callable[..., Engine]
) -> None:
    engine = start(additional_config={"flyball": {"policy": policy(STATIC)}})
    assert engine.pilot.mode == "governing"
    assert engine.pilot.governor.policy_name == "static/1"
    assert max(engine.verified) == 2


@pytest.mark.parametrize("allowed", [False, True])
def test_an_untested_version_is_observed_unless_allowed(
    allowed: bool,
    start: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(schedulers, "vllm_version", lambda: "0.99.1")
    with caplog.at_level(logging.WARNING, "vllm.flyball"):
        engine = start(additional_config={"flyball": {"allow_untested": allowed}})
    assert engine.pilot.mode == ("governing" if allowed else "observing")
    assert ("vLLM 0.99.1 was not tested" in caplog.text) != allowed
    assert engine.pilot.num_proposed > 0


def test_a_hook_of_another_signature_leaves_the_lengths_alone(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Scheduler.update_draft_token_ids

    def renamed(self: Scheduler, finished: Any) -> None:
        take(self, finished)

    monkeypatch.setattr(Scheduler, "update_draft_token_ids", renamed)
    engine = start()
    assert engine.pilot.mode == "observing"
    assert engine.pilot.num_proposed > engine.pilot.num_accepted > 0


def test_a_count_of_another_signature_leaves_the_scheduler_alone(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Scheduler.make_spec_decoding_stats

    def renamed(self: Scheduler, *counts: Any, **more: Any) -> Any:
        return count(self, *counts, **more)

    monkeypatch.setattr(Scheduler, "make_spec_decoding_stats", renamed)
    engine = start()
    assert type(engine.scheduler) is Scheduler
    assert engine.metric("spec_decode_num_draft_tokens") > 0


def test_a_fault_while_it_is_made_leaves_the_scheduler_alone(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedulers, "read_traits", lambda config: 1 / 0)
    assert type(start().scheduler) is Scheduler


def test_an_engine_without_speculation_keeps_its_scheduler(
    model: Path, share: Callable[..., Any]
) -> None:
    governed = "flyball.integrations.vllm.GovernedScheduler"
    engine = share("no speculation", lambda: Engine(model, scheduler_cls=governed, **TINY))
    assert type(engine.scheduler) is Scheduler
    assert not engine.governed
