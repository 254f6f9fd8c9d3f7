"""An engine in this process as a device: batch, budgets, draft length."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from flyball.controller.governor import Governor
from flyball.integrations.hardware.base import LeverActuator
from flyball.integrations.hardware.orders import Undo
from flyball.policies.throttle.space import Knob, Value


class CallbackLever:
    """A knob that an engine reads at its next step.

    Args:
        knob: what it can be set to.
        get: what is in force.
        put: sets it; called by the thread that decodes.
    """

    slow = False

    def __init__(self, knob: Knob, get: Callable[[], Value], put: Callable[[Value], None]) -> None:
        self.knob = knob
        self._get = get
        self._put = put

    def read(self) -> Value:
        """What is in force."""
        return self._get()

    def write(self, value: Value) -> None:
        """Set."""
        self._put(value)

    def undos(self) -> list[Undo]:
        """Set what is in force now."""
        return [partial(self._put, self._get())]


class EngineActuator(LeverActuator):
    """Sets what an engine in this process lets be set; all of it ends with the process.

    Args:
        engine: its name, different from those of other engines in the process.
        levers: its knobs.
        dry_run: log what would be set, and set nothing.
    """

    def __init__(
        self, engine: str, levers: Sequence[CallbackLever], dry_run: bool = False
    ) -> None:
        device = f"engine {engine} of process {os.getpid()}"
        super().__init__(device, levers, dry_run, of_process=True)


def count_knob(
    name: str, most: int, least: int = 1, default: int | None = None, safe: int | None = None
) -> Knob:
    """A knob of an engine: powers of two between, and both ends.

    Args:
        name: of the knob.
        most: largest value.
        least: smallest.
        default: what is in force where nobody governs; the largest, if it is left out.
        safe: keeps latencies lowest; the default, if it is left out.
    """
    default = most if default is None else default
    powers = {1 << k for k in range(most.bit_length())}
    safe = default if safe is None else safe
    values = sorted({least, most, default, safe} | {p for p in powers if least <= p <= most})
    places = values.index(default), values.index(safe)
    return Knob(name, tuple(map(float, values)), "count", *places)


def draft_lever(governor: Governor, safe: int | None = None) -> CallbackLever:
    """The longest draft that a governor plans, 0 included; its policy decides below that.

    Args:
        governor: whose limits the host goes by.
        safe: keeps latencies lowest; the longest, if it is left out: shorter drafts can fall
            behind what arrives.
    """
    most = governor.max_draft_len

    def limit(value: Value) -> None:
        governor.limits.draft_len = int(value)

    def in_force() -> Value:
        limited = governor.limits.draft_len
        return float(most if limited is None else limited)

    return CallbackLever(count_knob("draft_len", most, least=0, safe=safe), in_force, limit)


def batch_lever(governor: Governor, most: int) -> CallbackLever:
    """The most requests that decode at a time, where the host goes by the governor's limits.

    One at a time is the safe value: prompts of a queue that is worked off keep nobody waiting.

    Args:
        governor: whose limits the host goes by.
        most: that the host takes.
    """

    def limit(value: Value) -> None:
        governor.limits.batch_size = int(value)

    def in_force() -> Value:
        limited = governor.limits.batch_size
        return float(most if limited is None else limited)

    return CallbackLever(count_knob("batch_size", most, safe=1), in_force, limit)
