"""The knobs that a device and its engine have."""

from __future__ import annotations

from collections.abc import Sequence

from flyball.integrations.hardware.device_settings import BACKENDS, DEFAULT_BACKEND
from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.policies.throttle.space import Knob, Space, Value


def space_of(
    spec: DeviceSpec,
    *,
    batch_sizes: Sequence[float],
    default_batch: float,
    draft_lens: Sequence[float] = (),
    default_draft: float = 0.0,
    every: tuple[int, int, int] = (1, 1, 1),
    power_limits: bool = False,
    backends: bool = False,
) -> Space:
    """The settings of a device: its clocks first; knobs with one value only are left out.

    Without a governor clocks and power limit are at their highest; that is also what keeps
    latencies lowest.

    Args:
        spec: of the device.
        batch_sizes: limits, or batches, that the engine can be given; ascending.
        default_batch: that it has.
        draft_lens: that it can draft; ascending; empty without a draft.
        default_draft: that it drafts.
        every: takes each so-many-th graphics, memory and CPU clock, from the highest down.
        power_limits: whether the power limit can be set.
        backends: whether the attention backend can be chosen.
    """
    clocks = (spec.graphics_clocks_mhz, spec.memory_clocks_mhz, spec.cpu_clocks_mhz)
    names = ("graphics_clock_mhz", "memory_clock_mhz", "cpu_clock_mhz")
    knobs = [
        _clock(name, steps[::-1][::each][::-1])
        for name, steps, each in zip(names, clocks, every, strict=True)
    ]
    if power_limits:
        limits = spec.power_limits_w
        knobs.append(Knob("power_limit_w", limits, "limit", len(limits) - 1, len(limits) - 1))
    knobs.append(_count("batch_size", batch_sizes, default_batch))
    if draft_lens:
        knobs.append(_count("draft_len", draft_lens, default_draft))
    if backends:
        place = tuple(BACKENDS).index(DEFAULT_BACKEND)
        knobs.append(Knob("attention_backend", tuple(BACKENDS), "category", place, place))
    return Space(tuple(knob for knob in knobs if len(knob.values) > 1))


def _clock(name: str, clocks_mhz: Sequence[float]) -> Knob:
    highest = len(clocks_mhz) - 1
    return Knob(name, tuple(clocks_mhz), "clock", highest, highest)


def _count(name: str, values: Sequence[float], default: float) -> Knob:
    numbers: tuple[Value, ...] = tuple(values)
    place = numbers.index(default)
    return Knob(name, numbers, "count", place, place)
