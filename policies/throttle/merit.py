"""What windows are judged by."""

from __future__ import annotations

from flyball.policies.throttle.base import Goal, Window


def price(window: Window, goal: Goal) -> float:
    """What a token took of what is scarce; NaN where that was not measured.

    Joules, or seconds of the whole machine where tokens per second are to be maximised.
    """
    if goal.maximize == "tokens_per_joule":
        return window.energy_per_token_j
    return window.window_s / window.num_tokens if window.num_tokens else float("nan")


def excess(window: Window, goal: Goal) -> float:
    """The largest ratio of what is limited to its limit; 0 without limits or measurements."""
    found = 0.0
    if goal.latency_slo_s is not None and window.latency_s >= 0.0:
        found = max(found, window.latency_s / goal.latency_slo_s)
    if goal.power_cap_w is not None and window.power_w >= 0.0:
        found = max(found, window.power_w / goal.power_cap_w)
    return found
