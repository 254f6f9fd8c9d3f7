"""Policy files that change while they are in force."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from flyball.controller.governor import Governor, HostInfo
from flyball.controller.policy_file import load_policy
from flyball.controller.reload import PolicyWatch

STATIC = "version: 1\nreload: true\nlength: {{policy: static, draft_len: {}, max_draft_len: 8}}\n"


class Told(logging.Handler):
    """Waits for a record whose message has a text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.event = Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.event.set()


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    handler = Told(request.param)
    logger = logging.getLogger("flyball.controller.reload")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def rewrite(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    rewrite(path, STATIC.format(2))
    return path


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolicyWatch.__init__, "__defaults__", (0.01,))


def planned(governor: Governor, slots: np.ndarray) -> int:
    plan = governor.plan(slots)
    return int(plan.draft_len[0])


@pytest.mark.parametrize("told", ["new policy static"], indirect=True)
def test_a_changed_policy_is_taken_up_between_steps(path: Path, told: Told) -> None:
    governor = Governor(load_policy(path), HostInfo("test"))
    slots = governor.admit(1)
    assert planned(governor, slots) == 2
    rewrite(path, STATIC.format(5))
    assert told.event.wait(10.0)
    assert planned(governor, slots) == 5
    assert governor.faults == {}
    governor.close()


@pytest.mark.parametrize("told", ["new policy goodput"], indirect=True)
def test_another_kind_of_policy_with_another_limit_is_taken_up(path: Path, told: Told) -> None:
    governor = Governor(load_policy(path), HostInfo("test"))
    slots = governor.admit(3)
    assert planned(governor, slots) == 2
    rewrite(path, "version: 1\nlength: {policy: goodput, max_draft_len: 3}\n")
    assert told.event.wait(10.0)
    assert planned(governor, slots) <= 3
    assert governor.max_draft_len == 3
    assert governor.wants_confidence
    assert governor.faults == {}
    governor.close()


@pytest.mark.parametrize("told", ["the running policy stays"], indirect=True)
@pytest.mark.parametrize("text", ["version: 1\nlenght: {}\n", "{", "version: 2\n"])
def test_a_file_that_breaks_leaves_the_running_policy(path: Path, told: Told, text: str) -> None:
    governor = Governor(load_policy(path), HostInfo("test"))
    slots = governor.admit(1)
    rewrite(path, text)
    assert told.event.wait(10.0)
    assert planned(governor, slots) == 2
    assert governor.faults == {}
    governor.close()


def test_without_reload_nothing_is_watched(path: Path) -> None:
    rewrite(path, STATIC.format(2).replace("reload: true\n", ""))
    governor = Governor(load_policy(path), HostInfo("test"))
    assert governor._seat._watch is None
    governor.close()
