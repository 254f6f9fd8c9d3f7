"""A policy file with a throttle section: batch and draft length follow it, and no token does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hf_texts import random_models, random_rows

from flyball.integrations.hf import GovernedGenerate, govern
from flyball.integrations.hf.stats import RoundStats

SETTINGS: dict[str, Any] = {"batch_size": 4, "max_new_tokens": 40, "do_sample": False}


def throttled(rounds: list[RoundStats], **section: Any) -> GovernedGenerate:
    target, draft = random_models("qwen2")
    policy = {
        "version": 1,
        "throttle": {"policy": "sweep", "window_s": 0.02, **section},
        "slo": {"token_latency_p99_ms": 10_000.0},
    }
    return govern(target, [draft], policy=policy, on_round=rounds.append)


def test_settings_change_while_texts_are_written_and_texts_are_the_same() -> None:
    rows = random_rows(24)
    target, _ = random_models("qwen2")
    expected = [text.tolist() for text in govern(target, []).generate_many(rows, **SETTINGS)]
    rounds: list[RoundStats] = []
    threads = torch.get_num_threads()
    with throttled(rounds, dry_run=False, actuator="cpu") as gov:
        for _ in range(4):
            texts = gov.generate_many(rows, **SETTINGS)
            assert [text.tolist() for text in texts] == expected
        throttle = gov.session.throttle
        assert throttle is not None
        assert throttle.num_windows > 1
        assert throttle.faults == {}
        names = [knob.name for knob in throttle.space.knobs]
        assert {"batch_size", "draft_len", "num_threads"} <= set(names)
    assert gov.governor.faults == {}
    assert len({len(one.draft_len) for one in rounds[:-40]}) > 1
    assert torch.get_num_threads() == threads
    assert gov.governor.limits.batch_size in (None, 4)


def test_constrained_bo_tunes_a_queue_that_is_always_full() -> None:
    with throttled([], dry_run=False, actuator="cpu", policy="constrained_bo") as gov:
        for _ in range(40):
            gov.generate_many(random_rows(24), **SETTINGS)
            throttle = gov.session.throttle
            assert throttle is not None
            throttle.catch_up()
            if throttle.num_windows >= 12:
                break
        assert throttle.num_windows >= 12
        assert throttle.faults == {}
        state = throttle.policy.state_dict()
        assert len(state["settings"]) > 1
        assert np.isfinite(state["loads"]).all()
        assert np.isfinite(state["fits"]).all()


def test_a_dry_run_sets_nothing() -> None:
    rounds: list[RoundStats] = []
    with throttled(rounds) as gov:
        gov.generate_many(random_rows(12), **SETTINGS)
        assert gov.governor.limits.batch_size is None
        assert gov.governor.limits.draft_len is None


def test_another_batch_has_settings_of_its_own() -> None:
    with throttled([], dry_run=False) as gov:
        for size in (4, 8):
            gov.generate_many(random_rows(9), **{**SETTINGS, "batch_size": size})
            throttle = gov.session.throttle
            assert throttle is not None
            assert throttle.space.knobs[0].values[-1] == size


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"slo": {"token_latency_p99_ms": 0.0}}, "slo.token_latency_p99_ms"),
        ({"slo": {}}, "missing key 'slo.token_latency_p99_ms'"),
        ({"objective": {"maximize": "joy"}}, "objective.maximize"),
        ({"throttle": {"policy": "sweep", "actuator": "nvlm"}}, "throttle.actuator"),
    ],
)
def test_mistakes_are_one_line(content: dict[str, Any], match: str) -> None:
    target, _ = random_models("qwen2")
    with pytest.raises(ValueError, match=match) as caught:
        govern(target, [], policy={"version": 1, **content})
    assert "\n" not in str(caught.value)
