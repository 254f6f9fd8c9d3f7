"""Seconds of decoding's rounds, and waiting before them, as physics has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flyball.estimators.decode_asked import NAMES, Asked, Floats

_HIGH = 0.9  # share of the time above which more requests come to decode together
_FULL, _OVERLOAD_S = 0.97, 30.0  # load from which queues grow, and seconds that they do
_NO_LOAD = 0.1  # that says a machine without load, finite for its logarithm


@dataclass(frozen=True)
class Times:
    """Times (..., S): what power depends on, and the latency."""

    latency_s: Floats
    load: Floats  # tokens asked for over those that could be generated
    work_s: Floats  # per token, of those that run
    busy: Floats  # share of the time
    served: Floats  # tokens per second
    compute: Floats  # shares of the round that arithmetic, memory, CPU and device take
    memory: Floats
    host: Floats
    device: Floats


def logistic(x: Floats) -> Floats:
    """A share (...) of its logit (...)."""
    found: Floats = 1.0 / (1.0 + np.exp(-x))
    return found


def _soft_max(first: Floats, second: Floats, exponent: Floats) -> Floats:
    larger, smaller = np.maximum(first, second), np.minimum(first, second)
    found: Floats = larger * (1.0 + (smaller / larger) ** exponent) ** (1.0 / exponent)
    return found


def per_round(acceptance: Floats, draft_len: Floats) -> Floats:
    """Tokens (...,) that a round brings: (1 - a^(k + 1)) / (1 - a)."""
    a = np.minimum(acceptance, 1.0 - 1e-6)
    found: Floats = (1.0 - a ** (draft_len + 1.0)) / (1.0 - a)
    return found


def round_variance(acceptance: Floats, draft_len: Floats) -> Floats:
    """Variance (...,) of a round's tokens over their squared mean.

    With E[N^2] = sum over j of (2 j + 1) a^j for j = 0 to k, in closed form.
    """
    a, k = np.minimum(acceptance, 1.0 - 1e-3), draft_len
    mean = (1.0 - a ** (k + 1.0)) / (1.0 - a)
    weighted = a * (1.0 - (k + 1.0) * a**k + k * a ** (k + 1.0)) / (1.0 - a) ** 2
    found: Floats = np.maximum((2.0 * weighted + mean) / mean**2 - 1.0, 0.0)
    return found


def times_of(constants: Floats, asked: Asked, core: Floats) -> Times:
    """A roofline with soft edges, and a queue before it; constants (P, ...) as in `PRIOR`.

    A round of n requests, k drafted tokens each, at clocks relative to the highest; threads that
    run operators work as a clock of the core does, with a power below 1 of their number, and wait
    for each other where they share a CPU:

        step(n, t) = soft_max(compute max(t, tile) / core, (1 + cache n) slowness) + launch / core
        round = step(n, n (k + 1)) + k draft steps + prompts, beside host / cpu

    Latency is round / tokens of a round x exp(level deviations), plus waiting by Sakasegawa's
    formula for a queue with as many servers as requests are let in, plus what an overload of 30 s
    leaves behind. Where the queue is always full, running is the limit and latency the round's.
    """
    at = dict(zip(NAMES, constants, strict=False))
    core = core * asked.threads ** logistic(at["parallel"]) / asked.contention
    k, in_flight = asked.draft_len, np.maximum(asked.in_flight, 1.0)
    full_up = asked.saturated > 0.0
    unlimited = np.where(full_up, 1.0, 2.0) * in_flight
    limit = np.where(np.isfinite(asked.batch_limit), asked.batch_limit, unlimited)
    exponent = 1.0 + np.exp(at["roof"])
    slowness = _soft_max(1.0 / asked.memory, np.exp(-at["core_bandwidth"]) / core, exponent)
    compute, cache, launch = (np.exp(at[name]) for name in ("compute", "cache", "launch"))
    draft, draft_launch = np.exp(at["draft"]), np.exp(at["draft_launch"])
    host = np.exp(at["host"]) * (1.0 + 0.35 * k) / asked.cpu
    serial, tile = logistic(at["serial"]), np.exp(at["tile"])
    tokens = per_round(asked.acceptance, k)
    prompt, answers = np.exp(at["prompt"]) * compute, np.exp(at["answers"])

    def round_of(n: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Length, arithmetic, share of bandwidth and prompts of a round of n requests."""
        rows = (n * (k + 1.0)) ** 4 + tile**4  # a partly filled tile costs as a full one
        arithmetic = compute * rows**0.25 / core
        reading = (1.0 + cache * n) * slowness
        drafted = (
            draft * k * _soft_max(compute * (n**4 + tile**4) ** 0.25 / core, slowness, exponent)
        )
        read = answers * n * tokens * _soft_max(prompt / core, slowness, exponent)
        step = _soft_max(arithmetic, reading, exponent)
        launches = launch * (1.0 + draft_launch * k) / core
        device = step + drafted + read + launches
        length = _soft_max(device, (1.0 - serial) * host, np.array(4.0)) + serial * host
        return length, arithmetic + read, (1.0 + cache * n + draft * k) / length, read

    read_s = np.exp(at["read_s"])
    ended = answers * asked.tokens_per_s  # requests a second
    patience = np.minimum(np.maximum(limit - in_flight, 0.0) / ended, np.exp(at["patience"]))
    patience = asked.gathers * patience
    running = np.minimum(in_flight + patience * ended, limit)
    most, held = _most(asked.gathers, running), running
    queue = np.maximum(asked.gathers * in_flight, most) / np.minimum(most, limit)
    full = round_of(limit)[0]
    running = _pressed(running, limit, round_of(running)[0], full, tokens, asked, read_s)
    running = np.where(full_up, limit, running)
    length, arithmetic, memory, read = round_of(running)
    most = _most(asked.gathers, running)
    crowded = np.minimum(most, limit)
    queue = np.maximum(queue * np.minimum(_most(asked.gathers, held), limit), most) / crowded
    tail_length = round_of(crowded)[0]
    queue = np.where(full_up, 1.0, queue)
    load = asked.tokens_per_s * read_s * full / (limit * tokens)
    load = np.where(full_up, _NO_LOAD, load)
    below = np.minimum(load, _FULL)
    wait_s = below ** np.sqrt(2.0 * (limit + 1.0)) / (limit * (1.0 - below))
    wait_s = np.exp(at["queue"]) * wait_s * read_s * length / tokens + patience * answers
    overload = np.maximum(1.0 - _FULL / np.maximum(load, 1e-9), 0.0)
    luck = round_variance(asked.acceptance, k) / np.maximum(np.exp(at["stretch"]) / tokens, 1.0)
    deviation = np.sqrt(np.exp(2.0 * at["jitter"]) + luck + (0.3 * read / length) ** 2)
    latency = read_s * tail_length / tokens * queue
    latency = latency * np.exp(asked.level * np.minimum(deviation, 2.0))
    latency = latency + np.where(full_up, 0.0, wait_s + _OVERLOAD_S * answers * overload)
    device = np.minimum(1.0, 1.0 - (serial * host) / length)
    arrived, most_served = asked.arrived_per_s, limit * tokens / (read_s * full)
    work_s = read_s * length / (running * tokens)
    return Times(
        latency,
        load,
        work_s,
        np.where(full_up, 1.0, np.minimum(arrived * work_s, 1.0)),
        np.where(full_up, most_served, np.minimum(arrived, most_served)),
        np.minimum(arithmetic / length, device),
        memory,
        np.minimum(host / length, 1.0),
        device,
    )


def _most(gathers: Floats, running: Floats) -> Floats:
    """Requests (...,) in flight in the busiest hundredth of the time."""
    found: Floats = running + (1.0 - gathers) * 0.8 * np.sqrt(running)
    return found


def _pressed(
    running: Floats, limit: Floats, alone: Floats, full: Floats, tokens: Floats, asked: Asked,
    read_s: Floats,
) -> Floats:  # fmt: skip
    """Requests (...,) that decode together once those in flight cannot keep up.

    They pile up until 90% of the time brings what is asked, or all places are taken; a round's
    time is taken as linear in them.
    """
    needed = asked.tokens_per_s * read_s / _HIGH
    slope = (full - alone) / np.maximum(limit - running, 1e-9)
    spare = np.maximum(tokens - needed * slope, 1e-9)
    more = needed * np.maximum(alone - slope * running, 0.0) / spare
    found: Floats = np.minimum(np.maximum(more, running), limit)
    return found
