"""What a governor does, as Prometheus metrics.

The totals a governor keeps are cumulative already; this turns their growth into Prometheus
counters. Means are left to the reader as ratios of rates: seconds by decisions, accepted by
proposed tokens, accepted tokens by rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

import flyball

Mode = Literal["governing", "observing", "off"]
MODES: tuple[Mode, ...] = ("governing", "observing", "off")


@dataclass(frozen=True, slots=True)
class ThrottleStatus:
    """What a throttle does; totals run since it was made.

    Attributes:
        setting: in force, knobs by name.
        num_windows: that ended.
        faults: how often each kind of fault happened.
    """

    setting: Mapping[str, float | str]
    num_windows: int
    faults: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """Where a governor stands; totals run since it was made.

    Attributes:
        mode: whether it decides, only watches, or does neither.
        policy: policy in force and its version, as in traces: `goodput/1`.
        draft_len: mean planned draft length of the last plan.
        price: tokens that a second is worth; NaN before any is known.
        num_rounds: requests' verification rounds, those without a draft included.
        num_proposed: draft tokens that were verified.
        num_accepted: of them accepted.
        num_decisions: steps that were decided.
        decision_s: seconds these decisions took.
        fallbacks: how often each kind of fault or refusal led to plain decoding.
        num_rejected: candidates that were stopped before they finished.
        throttle: None without.
    """

    mode: Mode
    policy: str
    draft_len: float
    price: float
    num_rounds: int
    num_proposed: int
    num_accepted: int
    num_decisions: int
    decision_s: float
    fallbacks: Mapping[str, int]
    num_rejected: int = 0
    throttle: ThrottleStatus | None = None


class GovernorMetrics:
    """The metrics of one engine's governor.

    Args:
        engine: value of their label `engine`, the engine's index as in the host's own metrics.
        registry: where they are registered, once for all that is updated here.
    """

    def __init__(self, engine: str, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            # One process writes an engine's gauges; after a restart the newer one is right.
            return Gauge(
                f"flyball_{name}",
                text,
                ["engine", *labels],
                registry=registry,
                multiprocess_mode="livemostrecent",
            )

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"flyball_{name}", text, ["engine", *labels], registry=registry)

        self._engine = engine
        draft_len = gauge("draft_len", "Mean planned draft length of the last plan.")
        price = gauge("price_tokens_per_second", "Tokens that a second is worth.")
        self._mode = gauge("mode", "1 for the mode that the governor is in.", "mode")
        self._policy = gauge("policy_info", "1 for the policy in force.", "policy", "version")
        self._fallbacks = counter("fallbacks", "Falls back to plain decoding.", "kind")
        rounds = counter("rounds", "Requests' verification rounds.")
        proposed = counter("proposed_tokens", "Draft tokens verified.")
        accepted = counter("accepted_tokens", "Draft tokens accepted.")
        decisions = counter("decisions", "Steps decided.")
        rejected = counter("rejected", "Candidates stopped before they finished.")
        decision_s = counter("decision_seconds", "Seconds spent in decisions.")
        self._setting = gauge("throttle_setting", "What is in force of a knob.", "knob")
        windows = counter("throttle_windows", "Windows that a throttle measured.")
        self._faults = counter("throttle_faults", "Faults of a throttle.", "kind")
        self._draft_len = draft_len.labels(engine)
        self._price = price.labels(engine)
        self._rounds = _Total(rounds.labels(engine))
        self._proposed = _Total(proposed.labels(engine))
        self._accepted = _Total(accepted.labels(engine))
        self._decisions = _Total(decisions.labels(engine))
        self._rejected = _Total(rejected.labels(engine))
        self._decision_s = _Total(decision_s.labels(engine))
        self._windows = _Total(windows.labels(engine))
        self._totals: dict[tuple[Counter, str], _Total] = {}
        self._policy_now: Gauge | None = None

    def update(self, status: Status) -> None:
        """Show a status; about once a second is often enough."""
        self._draft_len.set(status.draft_len)
        self._price.set(status.price)
        self._rounds.reach(status.num_rounds)
        self._proposed.reach(status.num_proposed)
        self._accepted.reach(status.num_accepted)
        self._decisions.reach(status.num_decisions)
        self._rejected.reach(status.num_rejected)
        self._decision_s.reach(status.decision_s)
        for mode in MODES:
            self._mode.labels(self._engine, mode).set(mode == status.mode)
        self._show_kinds(self._fallbacks, status.fallbacks)
        self._show_policy(status.policy)
        if status.throttle is not None:
            self._show_throttle(status.throttle)

    def _show_kinds(self, counter: Counter, totals: Mapping[str, int]) -> None:
        for kind, total in totals.items():
            if (counter, kind) not in self._totals:
                self._totals[counter, kind] = _Total(counter.labels(self._engine, kind))
            self._totals[counter, kind].reach(total)

    def _show_throttle(self, throttle: ThrottleStatus) -> None:
        for knob, value in throttle.setting.items():
            if not isinstance(value, str):  # a name has no place on a scale
                self._setting.labels(self._engine, knob).set(value)
        self._windows.reach(throttle.num_windows)
        self._show_kinds(self._faults, throttle.faults)

    def _show_policy(self, policy: str) -> None:
        now = self._policy.labels(self._engine, policy, flyball.__version__)
        if self._policy_now is not None and self._policy_now is not now:
            # Series cannot be removed from prometheus_client's files for several processes.
            self._policy_now.set(0)
        now.set(1)
        self._policy_now = now


class _Total:
    """A counter that follows a cumulative total."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._seen = 0.0

    def reach(self, total: float) -> None:
        # A smaller total is another governor's, which began at zero.
        self._counter.inc(total - self._seen if total >= self._seen else total)
        self._seen = total
