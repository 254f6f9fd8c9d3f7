"""How long a decoding round takes: a roofline with soft edges, and the CPU beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hardware.device_settings import Settings
from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.integrations.hardware.device_work import Model, Work, tokens_per_round

Floats = NDArray[np.float64]

HOST_OVERLAP = 4.0  # exponent of the soft maximum of the device's and the CPU's time
DRAFT_HOST = 0.35  # CPU time of a draft step, over that of a target's step
LONG_CONTEXT = 1024.0


@dataclass(frozen=True)
class Forwards:
    """Seconds (S,) of some forwards: in all, and what arithmetic and memory alone would take."""

    total_s: Floats
    compute_s: Floats
    memory_s: Floats

    def __add__(self, other: Forwards) -> Forwards:
        """One after the other."""
        return Forwards(
            self.total_s + other.total_s,
            self.compute_s + other.compute_s,
            self.memory_s + other.memory_s,
        )

    def times(self, count: Floats) -> Forwards:
        """So many of them, (S,)."""
        return Forwards(self.total_s * count, self.compute_s * count, self.memory_s * count)


@dataclass(frozen=True)
class Round:
    """A decoding round.

    Attributes:
        round_s: (S,) seconds, prefill that is mixed in and the wait for the CPU included.
        device_s: (S,) of them that the device works.
        compute_share: (S,) of them that matrix units are busy.
        memory_share: (S,) of the highest bandwidth that is drawn.
        host_share: (S,) that the CPU works.
        prefill_share: (S,) of the device's seconds that prompts take.
        num_tokens: (S,) tokens that a request gets from it, on average.
    """

    round_s: Floats
    device_s: Floats
    compute_share: Floats
    memory_share: Floats
    host_share: Floats
    prefill_share: Floats
    num_tokens: Floats


def soft_max(first: Floats, second: Floats, exponent: float) -> Floats:
    """(first^p + second^p)^(1/p): between the larger of both and their sum."""
    larger = np.maximum(first, second)
    smaller = np.minimum(first, second)
    ratio = np.divide(smaller, larger, out=np.zeros_like(larger), where=larger > 0)
    soft: Floats = larger * (1.0 + ratio**exponent) ** (1.0 / exponent)
    return soft


def round_of(
    spec: DeviceSpec,
    work: Work,
    settings: Settings,
    graphics_clock_mhz: Floats,
    num_requests: Floats,
    acceptance: float,
) -> Round:
    """A round (S,) of num_requests (S,): K draft steps, K + 1 tokens verified, prompts read.

    Every term is homogeneous of degree 0 to -1 in the three clocks together and rises as any of
    them falls, so that without a power or thermal limit T(f) <= T(f0) x max_j f0_j / f_j.

    Args:
        spec: the device.
        work: what is decoded.
        settings: (S,); its graphics clock is what was asked for.
        graphics_clock_mhz: (S,) that is in force.
        num_requests: (S,) in the round.
        acceptance: of drafted tokens, one by one.
    """
    core = graphics_clock_mhz / spec.max_graphics_mhz
    memory = settings.memory_clock_mhz / spec.max_memory_mhz
    draft_len = settings.draft_len if work.draft else np.zeros_like(core)
    num_tokens = tokens_per_round(acceptance, draft_len)
    read_factor = _read_factor(settings, work.context_len)

    def forward(model: Model, tokens: Floats, requests: Floats) -> Forwards:
        return _forward(spec, model, tokens, requests, work.context_len, core, memory, read_factor)

    decoding = forward(work.target, num_requests * (draft_len + 1.0), num_requests)
    if work.draft:
        decoding = decoding + forward(work.draft, num_requests, num_requests).times(draft_len)
    prompts = num_requests * num_tokens / work.answer_len
    nothing = np.zeros_like(core)
    prefill = forward(work.target, nothing + work.prompt_len, nothing).times(prompts)
    both = decoding + prefill

    host_s = spec.host_s * settings.backend_column("host_factor")
    host_s = host_s * (1.0 + DRAFT_HOST * draft_len) * (1.0 + 0.004 * num_requests)
    host_s = host_s * spec.max_cpu_mhz / settings.cpu_clock_mhz
    hidden_s = (1.0 - spec.host_serial) * host_s
    round_s = soft_max(both.total_s, hidden_s, HOST_OVERLAP) + spec.host_serial * host_s
    return Round(
        round_s,
        np.minimum(both.total_s, round_s),
        both.compute_s / round_s,
        both.memory_s * memory / round_s,
        np.minimum(host_s / round_s, 1.0),
        prefill.total_s / both.total_s,
        num_tokens,
    )


def _read_factor(settings: Settings, context_len: float) -> Floats:
    """Bytes of weights that take as long as one byte of keys and values, (S,)."""
    doublings = max(np.log2(context_len / LONG_CONTEXT), 0.0)
    longer: Floats = settings.backend_column("long_factor") ** doublings
    return longer / settings.backend_column("kv_efficiency")


def _forward(
    spec: DeviceSpec,
    model: Model,
    num_tokens: Floats,
    num_requests: Floats,
    context_len: float,
    core: Floats,
    memory: Floats,
    read_factor: Floats,
) -> Forwards:
    """A forward (S,) at clocks that are shares (S,) of the highest.

    compute = flops of full tiles / (efficiency x flops_s x core)
    memory  = bytes / (efficiency x bandwidth), bandwidth = soft minimum of memory's and core's
    total   = soft_max(compute, memory) + layers x latency / core
    """
    tiles = np.ceil(num_tokens / spec.tile) * spec.tile
    flops = model.flops(tiles, context_len)
    compute_s = flops / (spec.compute_efficiency * spec.flops_s * core)
    kv_bytes = num_requests * context_len * model.kv_bytes_per_token
    num_bytes = model.weight_bytes / spec.memory_efficiency + kv_bytes * read_factor
    at_highest_s = num_bytes / spec.bandwidth_bytes_s
    slowness = soft_max(1.0 / memory, 1.0 / (spec.core_bandwidth * core), spec.roof_exponent)
    memory_s = at_highest_s * slowness
    latency_s = model.num_layers * spec.layer_s / core
    total_s = soft_max(compute_s, memory_s, spec.roof_exponent) + latency_s
    useful_s = compute_s * num_tokens / np.maximum(tiles, 1.0)
    return Forwards(total_s, 0.35 * compute_s + 0.65 * useful_s, at_highest_s / memory)
