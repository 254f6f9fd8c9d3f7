"""How load becomes latency: batches, waiting, and the tail of token latencies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.integrations.hardware.device_time import Round
from flyball.integrations.hardware.device_work import Work
from flyball.policies.throttle.base import Context

Floats = NDArray[np.float64]

STRETCH_TOKENS = 16  # over which a reader's seconds per token are taken
QUANTILE = 0.99
FLUCTUATION = 0.8  # standard deviations of the requests in flight that the tail of tokens sees
WAIT_VARIATION = 1.15  # 4.6 (to the 99% quantile) x 0.25 (arrivals more even than Poisson's)
HIGH_UTILISATION = 0.9  # above which more requests come to decode together
FULL = 0.97  # utilisation from which the queue counts as growing
OVERLOAD_S = 30.0  # that an overload lasts, for its steady latency to be finite


@dataclass(frozen=True)
class Crowd:
    """Requests (S,) at a device.

    Attributes:
        running: decode together, on average.
        crowded: decode together in the busiest hundredth of the time.
        backlog: requests in flight over those that run, then.
        gather_s: that a request waits for its batch to fill.
        limit: most that are let in.
    """

    running: Floats
    crowded: Floats
    backlog: Floats
    gather_s: Floats
    limit: Floats


def crowd_of(spec: DeviceSpec, work: Work, batch_size: Floats, context: Context) -> Crowd:
    """Who decodes together under a limit, or a batch, of batch_size (S,) requests.

    Continuous batching runs all in flight up to the limit; the rest waits. Static batching
    waits until `batch_size` requests are there, which takes (batch_size - in flight) / arrivals,
    or until its patience ends. Neither runs more than the memory holds.
    """
    free = max(spec.memory_bytes * 0.92 - work.held_bytes, work.bytes_per_request)
    limit = np.minimum(batch_size, np.floor(free / work.bytes_per_request))
    asked = np.full_like(limit, context.batch_size)
    if spec.gather_s > 0:
        requests_per_s = context.tokens_per_s / work.answer_len
        gather_s = np.minimum(np.maximum(limit - asked, 0.0) / requests_per_s, spec.gather_s)
        gathered = np.minimum(asked + gather_s * requests_per_s, limit)
        return Crowd(gathered, gathered, np.maximum(asked / limit, 1.0), gather_s, limit)
    running = np.minimum(asked, limit)
    most, crowded = _crowded(spec, asked, limit)
    return Crowd(running, crowded, most / crowded, np.zeros_like(limit), limit)


def pressed(
    spec: DeviceSpec, crowd: Crowd, alone: Round, full: Round, tokens_per_s: float
) -> Crowd:
    """More decode together where those in flight cannot keep up with what arrives.

    Requests pile up until 90% of the time brings what is asked, or all places are taken. With a
    round's time linear in the requests n, t(n) = t0 + s (n - n0) from `alone` (n0) to `full`,

        n x tokens / t(n) = asked / 0.9   =>   n = asked' (t0 - s n0) / (tokens - asked' s)

    Args:
        spec: the device.
        crowd: as long as those in flight keep up.
        alone: rounds (S,) of `crowd.running` requests.
        full: rounds (S,) of `crowd.limit` requests.
        tokens_per_s: that arrive.
    """
    asked = tokens_per_s / HIGH_UTILISATION
    room = np.maximum(crowd.limit - crowd.running, 1e-9)
    slope = (full.round_s - alone.round_s) / room
    spare = np.maximum(alone.num_tokens - asked * slope, 1e-12)
    needed = asked * np.maximum(alone.round_s - slope * crowd.running, 0.0) / spare
    running = np.clip(needed, crowd.running, crowd.limit)
    most, crowded = _crowded(spec, running, crowd.limit)
    backlog = np.maximum(crowd.backlog * crowd.crowded, most) / crowded
    return replace(crowd, running=running, crowded=crowded, backlog=backlog)


def _crowded(spec: DeviceSpec, running: Floats, limit: Floats) -> tuple[Floats, Floats]:
    """Requests in flight, and of them running, in the busiest hundredth of the time, (S,)."""
    most = running if spec.gather_s > 0 else running + FLUCTUATION * np.sqrt(running)
    return most, np.minimum(most, limit)


def wait_s(service_s: Floats, load: Floats, places: Floats) -> Floats:
    """Seconds (S,) per token that a request waited to be let in, at the 99% quantile.

    Sakasegawa's approximation for a queue with that many servers (Annals of the Institute of
    Statistical Mathematics 29, 1977), times the variation and the quantile's factor:

        service x load^sqrt(2 (places + 1)) / (places x (1 - load)) x 1.15

    Args:
        service_s: (S,) seconds a token once let in.
        load: (S,) tokens asked for over tokens that can be generated; counted up to 0.97.
        places: (S,) requests that are let in at most.
    """
    below = np.minimum(load, FULL)
    wait: Floats = below ** np.sqrt(2.0 * (places + 1.0)) / (places * (1.0 - below))
    return WAIT_VARIATION * service_s * wait


def overload_s(load: Floats, work: Work) -> Floats:
    """Seconds (S,) per token that a queue has grown to after an overload of 30 s."""
    behind: Floats = np.maximum(1.0 - FULL / load, 0.0) * OVERLOAD_S / work.answer_len
    return behind


def spread(spec: DeviceSpec, variation: Floats, num_tokens: Floats, prefill: Floats) -> Floats:
    """Standard deviation (S,) of the logarithm of a stretch's seconds per token.

    Jitter of the machine, luck of acceptance over the rounds of a stretch, and prompts that are
    read between rounds.

    Args:
        spec: the device.
        variation: (S,) of a round's tokens, relative.
        num_tokens: (S,) of a round.
        prefill: (S,) share of the device's time that prompts take.
    """
    rounds = np.maximum(STRETCH_TOKENS / num_tokens, 1.0)
    square = spec.jitter**2 + variation**2 / rounds + (0.3 * prefill) ** 2
    deviation: Floats = np.sqrt(square)
    return deviation


def tail_factor(spec: DeviceSpec, deviation: Floats) -> Floats:
    """The 99% quantile (S,) of latencies over their median, solved by bisection.

    Latencies are log-normal with this deviation (S,); `tail_share` of them times `tail_factor`,
    twice as spread.
    """
    unique, places = np.unique(deviation, return_inverse=True)
    low, high = np.zeros_like(unique), np.full_like(unique, 4.0)
    shift = np.log(spec.tail_factor)
    for _ in range(34):
        middle = (low + high) / 2.0
        below = (1.0 - spec.tail_share) * ndtr(middle / unique)
        below += spec.tail_share * ndtr((middle - shift) / (2.0 * unique))
        low, high = (
            np.where(below < QUANTILE, middle, low),
            np.where(below < QUANTILE, high, middle),
        )
    factor: Floats = np.exp(high)[places]
    return factor


def draw_factors(spec: DeviceSpec, deviation: float, num: int, rng: np.random.Generator) -> Floats:
    """Latencies (num,) over their median, drawn from that distribution."""
    normal = rng.standard_normal(num) * deviation
    stalled = rng.random(num) < spec.tail_share
    logs: Floats = np.where(stalled, np.log(spec.tail_factor) + 2.0 * normal, normal)
    return np.exp(logs)
