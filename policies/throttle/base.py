"""What a throttle policy is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from flyball.policies.throttle.space import Floats, Places, Space


class ThrottleSettings(BaseModel):
    """Settings that every throttle policy has; each policy adds its own and its name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    policy: str
    actuator: Literal["engine", "cpu", "nvml"] = Field(
        default="engine",
        description="What a host sets: its own batch and draft length, and with 'cpu' threads and "
        "the CPU's clock, with 'nvml' the clocks and the power limit of its GPU as well.",
    )
    dry_run: bool = Field(
        default=True, description="A host logs what it would set, and sets nothing."
    )
    window_s: float = Field(
        default=2.0, gt=0.0, description="Seconds that a host measures a setting, at least."
    )


@dataclass(frozen=True)
class Goal:
    """What the hardware is set for.

    Attributes:
        maximize: "tokens_per_joule", or "tokens_per_second" under the power cap.
        latency_slo_s: seconds that the SLO's quantile of token latencies may take at most; None
            without a promise.
        power_cap_w: watts that a window may draw on average; None without a cap.
    """

    maximize: Literal["tokens_per_joule", "tokens_per_second"] = "tokens_per_joule"
    latency_slo_s: float | None = None
    power_cap_w: float | None = None


@dataclass(frozen=True)
class Context:
    """What is asked of the hardware, and cannot be chosen.

    Attributes:
        tokens_per_s: that arrive to be generated, whether or not they can be; infinite where
            requests wait all along, as in a queue that is worked off.
        batch_size: requests that decode at a time.
        acceptance: share of drafted tokens that the target accepts, one by one; 0 without a
            draft.
    """

    tokens_per_s: float
    batch_size: float
    acceptance: float = 0.0

    @property
    def array(self) -> Floats:
        """(3,) in the order above."""
        return np.array([self.tokens_per_s, self.batch_size, self.acceptance])


@dataclass(frozen=True)
class Window:
    """What a stretch of time under one setting showed.

    Attributes:
        setting: (knobs,) places.
        context: of these seconds.
        window_s: its length, without the switch to the setting.
        num_tokens: generated.
        energy_j: drawn; NaN where no meter shows it. CPU seconds where these stand in for joules.
        latency_s: the SLO's quantile of token latencies; NaN where no token was generated.
        num_waiting: requests that waited to be let in, at its end.
        busy: share of it in which steps ran, 0 to 1; NaN where that is not known.
    """

    setting: Places
    context: Context
    window_s: float
    num_tokens: int
    energy_j: float
    latency_s: float
    num_waiting: int = 0
    busy: float = float("nan")

    @property
    def energy_per_token_j(self) -> float:
        """NaN where no token was generated."""
        return self.energy_j / self.num_tokens if self.num_tokens else float("nan")

    @property
    def work_per_token_s(self) -> float:
        """Seconds of steps a token; NaN where that is not known."""
        worked_s = self.busy * self.window_s
        return worked_s / self.num_tokens if self.num_tokens else float("nan")

    @property
    def tokens_per_s(self) -> float:
        """Generated."""
        return self.num_tokens / self.window_s

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.energy_j / self.window_s

    def keeps(self, goal: Goal) -> bool:
        """Whether it kept the SLO and the cap, as far as it was measured."""
        slo, cap = goal.latency_slo_s, goal.power_cap_w
        return not (
            (slo is not None and self.latency_s > slo) or (cap is not None and self.power_w > cap)
        )


class ThrottlePolicy:
    """Decides which setting the hardware is to run at, window by window.

    Energy per token and latency are unknown functions of setting and context; a window shows
    both, with noise, at one point. Trying a setting costs a window at it, and one that breaks the
    SLO is felt by users; so few tries, safe ones, and none once they do not pay.

    Lifetime: made once from its settings; then `decide` before each window and `learn` after it.
    Both may take long: they run beside decoding, never within it. Windows may be lost; what was
    decided need not be what `learn` says was in force.

    Args:
        settings: of its own class `Settings`.
        space: what can be set.
        goal: what for.
        rng: for policies that draw.
    """

    Settings: ClassVar[type[ThrottleSettings]]

    def __init__(self, settings: Any, space: Space, goal: Goal, rng: np.random.Generator) -> None:
        self.settings = settings
        self.space = space
        self.goal = goal
        self.rng = rng

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        """The setting (knobs,) for the coming window.

        Args:
            context: as far as it can be told beforehand: that of the window before, mostly.
            num_waiting: requests that wait to be let in now.
        """
        raise NotImplementedError

    def learn(self, window: Window) -> None:
        """Take in what a window showed."""

    @property
    def searching(self) -> bool:
        """Whether the next decision may be a try, rather than the best that is known."""
        return False

    @property
    def figures(self) -> dict[str, float]:
        """What it has learned, for metrics and reports: names and numbers."""
        return {}

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """What it has learned, to go on from."""
        return {}

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there; of the same space.

        Raises:
            ValueError: the state is of another space; in one line.
        """
