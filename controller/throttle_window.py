"""What the steps of a window add up to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flyball.controller.stream_latencies import StreamLatencies
from flyball.policies.throttle.base import Context, Window
from flyball.policies.throttle.space import Places

Ints = NDArray[np.integer]


@dataclass
class WindowSums:
    """Sums over the steps of a window that is under way.

    Attributes:
        setting: (knobs,) in force.
        began_s: by the throttle's clock.
    """

    setting: Places
    began_s: float
    num_tokens: int = 0
    num_seen: int = 0
    num_accepted: int = 0
    num_arrived: float = 0.0
    steps_s: float = 0.0
    batch_s: float = 0.0  # requests times seconds
    latencies: StreamLatencies = field(default_factory=StreamLatencies)

    def add(
        self,
        num_tokens: int,
        step_s: float,
        batch_size: float,
        streams: tuple[Ints, Ints] | None,
        num_seen: int,
        num_accepted: int,
        num_arrived: float | None,
    ) -> None:
        """Add a step; see `Throttle.observe`."""
        self.num_tokens += num_tokens
        self.num_seen += num_seen
        self.num_accepted += num_accepted
        self.num_arrived += num_tokens if num_arrived is None else num_arrived
        self.steps_s += step_s
        self.batch_s += batch_size * step_s
        if streams is not None:
            self.latencies.add(*streams, step_s)
        elif num_tokens:
            each_s = np.array([step_s * batch_size / num_tokens])
            self.latencies.counts.add(each_s, float(num_tokens))

    def window(
        self, ended_s: float, energy_j: float, num_waiting: int, share: float, acceptance: float
    ) -> Window:
        """What the window showed.

        Args:
            ended_s: by the throttle's clock.
            energy_j: drawn.
            num_waiting: requests that wait at its end.
            share: of token latencies that the SLO speaks of.
            acceptance: where nothing was drafted.
        """
        window_s = ended_s - self.began_s
        context = Context(
            tokens_per_s=self.num_arrived / window_s,
            batch_size=self.batch_s / self.steps_s if self.steps_s else 0.0,
            acceptance=self.num_accepted / self.num_seen if self.num_seen else acceptance,
        )
        return Window(
            setting=self.setting,
            context=context,
            window_s=window_s,
            num_tokens=self.num_tokens,
            energy_j=energy_j,
            latency_s=self.latencies.counts.quantile(share),
            num_waiting=num_waiting,
            busy=min(self.steps_s / window_s, 1.0),
        )
