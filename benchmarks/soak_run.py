"""What every run of `benchmarks.soak` has: settings, a count of calls, and a look at memory."""

from __future__ import annotations

import logging
import pickle
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flyball.policies.registry import LENGTH_POLICIES

MOST_REQUESTS = 256
MOST_GROWTH = 256 * 1024  # bytes, between a quarter of a run and its end


class SoakError(AssertionError):
    """Something that no input explains."""


@dataclass
class Tally:
    """Calls and their seconds.

    Attributes:
        num_calls: calls.
        seconds: in all of them.
        slowest_s: in the slowest.
        name: of the last.
    """

    num_calls: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    name: str = ""

    def time(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function."""
        self.num_calls += 1
        self.name = function.__name__
        begun = time.perf_counter()
        result = function(*arguments)
        spent = time.perf_counter() - begun
        self.seconds += spent
        self.slowest_s = max(self.slowest_s, spent)
        return result


class Footprint:
    """Bytes of all that can be reached from an object, which may not grow with its history."""

    def __init__(self) -> None:
        self._sizes: list[int] = []

    def check(self, thing: object) -> None:
        """Compare with the first two times.

        Raises:
            SoakError: it has grown.
        """
        self._sizes.append(len(pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)))
        first, last = max(self._sizes[:2]), self._sizes[-1]
        if last > first + MOST_GROWTH:
            raise SoakError(f"memory grew from {first} to {last} bytes")


def expect(sound: bool, what: str, value: object) -> None:
    """Demand something of an answer.

    Raises:
        SoakError: it is not so.
    """
    if not sound:
        raise SoakError(f"expected {what}, but got {value!r:.200}")


def random_section(policy: str, choose: random.Random) -> dict[str, Any]:
    """Settings of a policy for a policy file."""
    limit = choose.choice((1, 2, 5, 16, 64))
    section: dict[str, Any] = {"policy": policy, "max_draft_len": limit}
    fields = LENGTH_POLICIES[policy].Settings.model_fields
    if policy == "static":
        section["draft_len"] = choose.randint(0, limit)
    if policy == "batch_table":
        lasts = sorted(choose.sample(range(1, 300), choose.randint(1, 5)))
        firsts = [1, *(last + 1 for last in lasts[:-1])]
        section["table"] = [
            [first, last, choose.randint(0, limit)]
            for first, last in zip(firsts, lasts, strict=True)
        ]
    if "arms" in fields and choose.random() < 0.5:
        arms = sorted(choose.sample(range(65), choose.randint(1, 8)))
        section["arms"] = [choose.randint(0, limit), *(arm for arm in arms if arm > limit)]
    if "max_risk" in fields and choose.random() < 0.5:
        section["max_risk"] = choose.choice(("price", 0.0, 1.0))
    if "min_confidence" in fields:
        section["min_confidence"] = choose.random()
    return section


class _Gatherer(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._messages.append(record.getMessage())


@contextmanager
def strict() -> Iterator[list[str]]:
    """Numpy's warnings are errors; what the governor logs is gathered."""
    messages: list[str] = []
    handler = _Gatherer(messages)
    logger = logging.getLogger("flyball")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
