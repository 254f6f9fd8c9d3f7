"""Claim: a governor finds threads, batch and draft length that cost least CPU within an SLO.

python -m benchmarks.throttle_cpu [--quick] [--seed-base N] [--json FILE]

Real knobs and real measurements: the demo pair works off a queue of prompts in transformers while
a throttle section of the policy file sets torch's threads, the CPUs that they may run on, the
batch and the longest draft, for the least CPU seconds per token (no meter of joules is needed)
within a limit on the 99th percentile of token latency. The limit is 1.25 times what the defaults
show: as many threads as cores, batches of 8, lengths as the governor likes them. What was found is
then run in turns with the defaults. The surface, every setting measured by itself, is told apart.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers.utils import logging

from benchmarks import report
from flyball.controller.limits import Limits
from flyball.controller.stream_latencies import StreamLatencies
from flyball.demo.loader import DemoModels, load_demo
from flyball.integrations.hardware.cpu import CpuActuator
from flyball.integrations.hf import GovernedGenerate, govern
from flyball.integrations.hf.stats import RoundStats

_DEFAULT_BATCH, _MOST_ROWS = 8, 64
_SLACK = 1.25  # of the limit over what the defaults show
_NEW_TOKENS = (30, 90)
_BATCHES, _LENGTHS = (1, 2, 4, 8, 16, 32, 64), (0, 1, 2, 4, 8)
_WINDOW_S = 1.5
_MOST_WINDOWS = 60


@dataclass
class Spent:
    """What some tokens cost.

    Attributes:
        cpu_s: of all threads.
        seconds: by the clock.
        num_tokens: generated.
        latencies: seconds per token of stretches, as the throttle sees them.
    """

    cpu_s: float = 0.0
    seconds: float = 0.0
    num_tokens: int = 0
    latencies: StreamLatencies = field(default_factory=StreamLatencies)

    def note(self, one: RoundStats) -> None:
        """Take in a round."""
        self.num_tokens += one.num_tokens
        self.latencies.add(one.slots, one.num_accepted + 1, one.step_s)

    def row(self) -> dict[str, Any]:
        """Milliseconds."""
        return {
            "cpu_ms_per_token": 1e3 * self.cpu_s / self.num_tokens,
            "p99_ms": 1e3 * self.latencies.counts.quantile(0.99),
            "tokens_per_s": self.num_tokens / self.seconds,
            "tokens": self.num_tokens,
        }


class Work:
    """The demo's prompts, in an order drawn by seed, without end."""

    def __init__(self, models: DemoModels, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        texts = [text for own in models.prompts.values() for text in own]
        self._prompts = [models.tokenizer(text)["input_ids"] for text in texts]

    def some(self, count: int) -> tuple[list[list[int]], list[int]]:
        """Prompts, and how many tokens each wants."""
        places = self._rng.integers(len(self._prompts), size=count)
        wanted = self._rng.integers(*_NEW_TOKENS, size=count, endpoint=True)
        return [self._prompts[place] for place in places], wanted.tolist()


def decode(gov: GovernedGenerate, work: Work, count: int, rows: int, spent: Spent) -> None:
    """Work off some prompts, so many at a time; rounds are noted by the governor's `on_round`."""
    prompts, wanted = work.some(count)
    cpu_s, start = time.process_time(), time.perf_counter()
    gov.generate_many(prompts, batch_size=rows, max_new_tokens=wanted, do_sample=False)
    spent.cpu_s += time.process_time() - cpu_s
    spent.seconds += time.perf_counter() - start


class Fixed:
    """A governed pair under settings that stay.

    Args:
        models: the demo's.
        hardware: knobs of the CPU; those left out stay as they are.
        batch: prompts at a time.
        longest: draft; None for as the governor likes it.
    """

    def __init__(
        self, models: DemoModels, hardware: dict[str, float], batch: int, longest: int | None
    ) -> None:
        self.spent = Spent()
        self._hardware, self._batch = hardware, batch
        self._gov = govern(models.target, [models.draft], on_round=lambda r: self.spent.note(r))
        self._gov.governor.limits = Limits(draft_len=longest)

    def run(self, work: Work, count: int) -> None:
        """Decode under them."""
        with CpuActuator() as cpu:
            cpu.apply(self._hardware)
            decode(self._gov, work, count, self._batch, self.spent)

    def forget(self) -> None:
        """What was spent so far was to warm up."""
        self.spent = Spent()


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("throttle_cpu", __doc__, "few prompts: no figure to go by")
    report.add_seed_base(parser, "prompts and orders")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    models, cores = load_demo(), len(os.sched_getaffinity(0))
    seed, count = 20_000 + arguments.seed_base, 16 if arguments.quick else 64
    turns = 4 if arguments.quick else 12
    slo_ms = _SLACK * usual_p99_ms(models, seed, turns, count)
    found, windows = tune(models, Work(models, seed + 2), slo_ms, 4 * _MOST_ROWS)
    rows = [{"part": "window", **row} for row in windows]
    compared = compare(models, found, seed + 3, turns, count)
    rows += [{"part": "turn", **row} for row in compared]
    if not arguments.quick:
        rows += [{"part": "surface", **row} for row in surface(models, cores, seed + 4)]
    summary = summarise(rows, slo_ms, found)
    columns = ("mode", "cpu_ms_per_token", "p99_ms", "tokens_per_s")
    report.print_table("in turns", [row for row in rows if row["part"] == "turn"], columns)
    report.print_summary(summary)
    report.write("throttle_cpu", vars(arguments), rows, summary, arguments.json)


def usual_p99_ms(models: DemoModels, seed: int, turns: int, count: int) -> float:
    """What the defaults show in most turns: one turn's quantile is off by a third."""
    default, shown = Fixed(models, {}, _DEFAULT_BATCH, None), []
    default.run(Work(models, seed), count)
    for turn in range(turns):
        default.forget()
        default.run(Work(models, seed + 1 + turn), count)
        shown.append(default.spent.row()["p99_ms"])
    return float(np.median(shown))


def tune(
    models: DemoModels, work: Work, slo_ms: float, count: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Let the governor search; the setting that it stays with, and all windows."""
    policy = {
        "version": 1,
        "slo": {"token_latency_p99_ms": slo_ms},
        "throttle": {
            "policy": "constrained_bo",
            "actuator": "cpu",
            "dry_run": False,
            "window_s": _WINDOW_S,
        },
    }
    windows: list[dict[str, Any]] = []
    spent = Spent()
    with govern(models.target, [models.draft], policy=policy, on_round=spent.note) as gov:
        # The first call of so many rows opens the throttle; it is over before a window is.
        prompts, _ = work.some(_MOST_ROWS)
        gov.generate_many(prompts, batch_size=_MOST_ROWS, max_new_tokens=1, do_sample=False)
        throttle = gov.session.throttle
        assert throttle is not None
        _listen(throttle.policy, throttle.space, windows)
        while throttle.policy.searching and throttle.num_windows < _MOST_WINDOWS:
            decode(gov, work, count, _MOST_ROWS, spent)
        return throttle.space.named(throttle.setting), windows


def _listen(policy: Any, space: Any, windows: list[dict[str, Any]]) -> None:
    """Note every window that the policy learns from now on."""
    learn: Callable[[Any], None] = policy.learn

    def noted(window: Any) -> None:
        windows.append(
            {
                **space.named(window.setting),
                "cpu_ms_per_token": 1e3 * window.energy_per_token_j,
                "p99_ms": 1e3 * window.latency_s,
                "tokens_per_s": window.tokens_per_s,
            }
        )
        learn(window)

    policy.learn = noted


def compare(
    models: DemoModels, found: dict[str, Any], seed: int, turns: int, count: int
) -> list[dict[str, Any]]:
    """Defaults and what was found, in turns of the same prompts."""
    hardware = {name: found[name] for name in ("num_threads", "num_cpus")}
    modes = {
        "defaults": Fixed(models, {}, _DEFAULT_BATCH, None),
        "found": Fixed(models, hardware, int(found["batch_size"]), int(found["draft_len"])),
    }
    for mode in modes.values():
        mode.run(Work(models, seed), count)
    rows, rng = [], np.random.default_rng(seed)
    for turn in range(turns):
        for name in rng.permutation(list(modes)).tolist():
            modes[name].forget()
            modes[name].run(Work(models, seed + 1 + turn), count)
            rows.append({"mode": name, "turn": turn, **modes[name].spent.row()})
    return rows


def surface(models: DemoModels, cores: int, seed: int) -> list[dict[str, Any]]:
    """Every setting by itself, in an order drawn by seed."""
    settings = list(itertools.product(sorted({1, cores}), _BATCHES, _LENGTHS))
    rows = []
    with report.progress() as bar:
        task = bar.add_task("surface", total=len(settings))
        for place in np.random.default_rng(seed).permutation(len(settings)).tolist():
            threads, batch, longest = settings[place]
            mode = Fixed(models, {"num_threads": float(threads)}, batch, longest)
            mode.run(Work(models, seed), batch)
            mode.forget()
            mode.run(Work(models, seed + 1), max(2 * batch, 16))
            rows.append(
                {
                    "num_threads": threads,
                    "batch_size": batch,
                    "draft_len": longest,
                    **mode.spent.row(),
                }
            )
            bar.advance(task)
    return rows


def summarise(
    rows: Sequence[dict[str, Any]], slo_ms: float, found: dict[str, Any]
) -> dict[str, Any]:
    """CPU seconds saved, and how close that comes to the best of the surface."""
    by_mode = {
        mode: [row for row in rows if row["part"] == "turn" and row["mode"] == mode]
        for mode in ("defaults", "found")
    }
    cpu, p99 = (
        {mode: np.array([row[name] for row in own]) for mode, own in by_mode.items()}
        for name in ("cpu_ms_per_token", "p99_ms")
    )
    ratio = cpu["found"] / cpu["defaults"]
    summary: dict[str, Any] = {
        "SLO, ms": slo_ms,
        "found": found,
        "windows": sum(row["part"] == "window" for row in rows),
        "CPU seconds per token, found over defaults, median of turns": float(np.median(ratio)),
        "lowest and highest turn": f"{ratio.min():.3f} to {ratio.max():.3f}",
        "p99 of the defaults, median, ms": float(np.median(p99["defaults"])),
        "p99 of what was found, median, ms": float(np.median(p99["found"])),
        "turns of it over the SLO": int((p99["found"] > slo_ms).sum()),
    }
    points = [row for row in rows if row["part"] == "surface" and row["p99_ms"] <= slo_ms]
    if points:
        best = min(points, key=lambda row: row["cpu_ms_per_token"])
        names = ("num_threads", "batch_size", "draft_len")
        same = next(
            (row for row in points if all(row[name] == found[name] for name in names)), None
        )
        summary["best of the surface"] = {name: best[name] for name in names}
        summary["its CPU ms per token"] = best["cpu_ms_per_token"]
        if same is not None:
            summary["found, CPU ms per token there"] = same["cpu_ms_per_token"]
    return summary


if __name__ == "__main__":
    main()
