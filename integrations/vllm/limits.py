"""Knobs of vLLM's scheduler, for an `EngineActuator`: how many run at once, tokens of a step."""

from __future__ import annotations

from typing import Any

from flyball.integrations.hardware.engine import CallbackLever, count_knob


def scheduler_levers(scheduler: Any, max_draft_len: int = 0) -> list[CallbackLever]:
    """The limits of admission and of tokens a step; to be set by the thread that schedules.

    `max_num_active_reqs` below what is running lets nobody in until fewer run; those that run
    stay. `max_num_scheduled_tokens` never falls below a token and a draft for each request that
    can run at once; where a prompt or an image of it must fit into a step, it is left alone.

    Args:
        scheduler: of the engine.
        max_draft_len: tokens that a request may have verified in a step, next to its own.
    """
    most_running = int(scheduler.max_num_running_reqs)
    levers = [_lever(scheduler, "max_num_active_reqs", most_running, 1)]
    most = int(scheduler.max_num_scheduled_tokens)
    least = most_running * (1 + max_draft_len)
    config = scheduler.scheduler_config
    in_parts = config.enable_chunked_prefill and not config.disable_chunked_mm_input
    if in_parts and least < most:
        levers.append(_lever(scheduler, "max_num_scheduled_tokens", most, least))
    return levers


def _lever(scheduler: Any, name: str, most: int, least: int) -> CallbackLever:
    knob = count_knob(name, most, least, int(getattr(scheduler, name)))
    return CallbackLever(
        knob,
        lambda: float(getattr(scheduler, name)),
        lambda value: setattr(scheduler, name, int(value)),
    )
