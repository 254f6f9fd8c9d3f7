"""Rows and ratios from what `benchmarks.vllm_serving` measured; no clock and no server in here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.report import Floats, Ratio, paired_ratio, resamples
from benchmarks.vllm_load import LOADS
from benchmarks.vllm_variants import (
    GOVERNOR,
    LENGTHS,
    OFF,
    TABLE,
    Table,
    Variant,
    static_name,
)

PHASED = "phased"
SPECULATION = "vllm:spec_decode_num_"
GOVERNED = "flyball_"
DRAFTED = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"
_ENGINE = re.compile(r'engine="[^"]*",?')
Counters = Mapping[str, float]
Summary = dict[str, Any]


def read_metrics(text: str) -> dict[str, float]:
    """What Prometheus' text format tells of drafts, and all that is Flyball's.

    Labels of vLLM's are summed up; Flyball's stay in the name, but for the engine's.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        full, _, value = line.rpartition(" ")
        name = full.partition("{")[0]
        if name.endswith("_created"):
            continue
        if name.startswith(SPECULATION):
            found[name] = found.get(name, 0.0) + float(value)
        elif name.startswith(GOVERNED) and not math.isnan(float(value)):
            found[_ENGINE.sub("", full).replace("{}", "")] = float(value)
    return found


def stream_of(load: int) -> str:
    """Name of the measurement at one concurrency."""
    return f"load {load}"


STREAMS = (*(stream_of(load) for load in LOADS), PHASED)


@dataclass(frozen=True)
class Measured:
    """One variant's answers to one phase.

    Attributes:
        unit: repetition and number of the phase; the same for every variant.
        load: requests in flight.
        domain: of the prompts, or `mixed`.
        tokens: answered, in the seconds that count.
        seconds: the steady part at a load, all of it in a phased run.
        texts: tokens of every answer.
        disturbed: share of the cores that other programs took meanwhile.
    """

    unit: tuple[int, int]
    load: int
    domain: str
    tokens: float
    seconds: float
    texts: tuple[tuple[int, ...], ...]
    disturbed: float


@dataclass
class Log:
    """Everything that was measured, by method, variant and stream.

    Attributes:
        runs: in the order of `unit`.
        counters: what the server's counters gained meanwhile; gauges as they stood at the end.
        tables: the tables chosen in hindsight, by method.
    """

    runs: dict[tuple[str, str, str], list[Measured]] = field(default_factory=dict)
    counters: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def add(
        self, variant: Variant, stream: str, run: Measured, before: Counters, after: Counters
    ) -> None:
        """Add one phase and what the server's counters were around it."""
        key = (variant.method, variant.name, stream)
        self.runs.setdefault(key, []).append(run)
        sums = self.counters.setdefault(key, {})
        for name, value in after.items():
            if name.partition("{")[0].endswith(("_total", "_count", "_sum")):
                sums[name] = sums.get(name, 0.0) + value - before.get(name, 0.0)
            else:
                sums[name] = value


def rate(runs: Sequence[Measured]) -> float:
    """Median over repetitions of tokens per second."""
    return float(np.median(repetition_rates(runs)))


def repetition_rates(runs: Sequence[Measured]) -> list[float]:
    """Tokens per second of each repetition."""
    found = []
    for rep in sorted({run.unit[0] for run in runs}):
        mine = [run for run in runs if run.unit[0] == rep]
        found.append(sum(r.tokens for r in mine) / sum(r.seconds for r in mine))
    return found


def ratio(runs: Sequence[Measured], base: Sequence[Measured]) -> Ratio:
    """How much faster `runs` are; units are repetitions, or phases of a load in a phased run.

    In the units of both: what fell out early has fewer.
    """
    common = {run.unit for run in runs} & {run.unit for run in base}
    runs, base = ([run for run in part if run.unit in common] for part in (runs, base))
    index = resamples([str(run.load) for run in runs])
    return paired_ratio(*_arrays(runs), *_arrays(base), index)


def _arrays(runs: Sequence[Measured]) -> tuple[Floats, Floats]:
    return np.array([r.tokens for r in runs]), np.array([r.seconds for r in runs])


def finalists(log: Log, method: str, stream: str) -> dict[int, list[Measured]]:
    """Runs of the constant lengths that were measured most often; see `vllm_run.Stage`."""
    found = {k: log.runs.get((method, static_name(k), stream), []) for k in LENGTHS}
    most = max(map(len, found.values()))
    return {k: runs for k, runs in found.items() if len(runs) == most}


def fastest(log: Log, method: str, stream: str, count: int) -> list[int]:
    """The finalists that were fastest, by median rate."""
    rates = {k: rate(runs) for k, runs in finalists(log, method, stream).items()}
    return sorted(rates, key=lambda k: -rates[k])[:count]


def best_lengths(log: Log, method: str) -> dict[int, int]:
    """The constant length that was fastest in hindsight, by load."""
    return {load: fastest(log, method, stream_of(load), 1)[0] for load in LOADS}


def against_unseen(log: Log, method: str, mode: str, stream: str) -> Ratio | None:
    """A mode against the constant length that was fastest in the other repetitions.

    The fastest of nine by the very runs that are compared owes some of it to luck; this rival was
    chosen without them: among the finalists, in repetitions that did not make them so, by the
    others. None where there is one repetition only.
    """
    constants = finalists(log, method, stream)
    runs = log.runs[method, mode, stream]
    others = {
        run.unit[0]
        for k in LENGTHS
        if k not in constants
        for run in log.runs.get((method, static_name(k), stream), [])
    }
    repetitions = sorted({run.unit[0] for run in runs} - others)
    if len(repetitions) < 2:
        return None
    mine: list[Measured] = []
    theirs: list[Measured] = []
    for rep in repetitions:
        rates = {
            k: rate([run for run in found if run.unit[0] != rep]) for k, found in constants.items()
        }
        rival = constants[max(rates, key=rates.__getitem__)]
        mine += [run for run in runs if run.unit[0] == rep]
        theirs += [run for run in rival if run.unit[0] == rep]
    return ratio(mine, theirs)


def num_differing(log: Log, runs: Sequence[Measured], stream: str) -> int:
    """Texts that are not those of the engine alone, token for token."""
    expected = {run.unit: run.texts for run in log.runs["", OFF, stream]}
    return sum(
        mine != plain
        for run in runs
        for mine, plain in zip(run.texts, expected[run.unit], strict=True)
    )


def rows(log: Log) -> list[dict[str, Any]]:
    """One row for each method, variant and stream."""
    names = (OFF, *(static_name(k) for k in LENGTHS), TABLE, GOVERNOR)
    keys = sorted(log.runs, key=lambda key: (STREAMS.index(key[2]), key[0], names.index(key[1])))
    return [_row(log, *key) for key in keys]


def _row(log: Log, method: str, name: str, stream: str) -> dict[str, Any]:
    runs, counters = log.runs[method, name, stream], log.counters[method, name, stream]
    drafted, accepted = counters.get(DRAFTED), counters.get(ACCEPTED)
    return {
        "stream": stream,
        "method": method,
        "variant": name,
        "tokens_per_s": rate(runs),
        "repetitions": len({run.unit[0] for run in runs}),
        "tokens_per_s_of_repetitions": repetition_rates(runs),
        "drafted": int(drafted) if drafted is not None else None,
        "accepted": int(accepted) if accepted is not None else None,
        "acceptance": accepted / drafted if accepted is not None and drafted else None,
        "num_texts": sum(len(run.texts) for run in runs),
        "num_unlike_off": num_differing(log, runs, stream),
        "disturbed": max(run.disturbed for run in runs),
        "units": [
            {
                "repetition": run.unit[0], "load": run.load, "domain": run.domain,
                "tokens": run.tokens, "seconds": run.seconds, "disturbed": run.disturbed,
            }
            for run in runs
        ],
        "counters": counters,
    }  # fmt: skip


def summary(log: Log, methods: Sequence[str]) -> Summary:
    """Every comparison, by method, and how quiet the machine was."""
    disturbed = [run.disturbed for runs in log.runs.values() for run in runs]
    return {
        **{method: _of_method(log, method) for method in methods},
        "mean_disturbed": float(np.mean(disturbed)),
    }


def _of_method(log: Log, method: str) -> Summary:
    def to(mode: str, base: str, base_method: str = method) -> Summary:
        return {
            s: ratio(log.runs[method, mode, s], log.runs[base_method, base, s]) for s in STREAMS
        }

    def to_best_static(mode: str, streams: Sequence[str]) -> Summary:
        found: Summary = {}
        for stream in streams:
            rival = static_name(fastest(log, method, stream, 1)[0])
            runs = log.runs[method, mode, stream], log.runs[method, rival, stream]
            found[stream] = {"rival": rival, "ratio": ratio(*runs)}
        return found

    k0 = static_name(0)
    return {
        "governed_vs_best_static": to_best_static(GOVERNOR, STREAMS),
        "governed_vs_static_chosen_unseen": {
            stream: against_unseen(log, method, GOVERNOR, stream) for stream in STREAMS
        },
        "governed_vs_best_table": {
            "rival": [list(entry) for entry in log.tables[method]],
            "ratio": ratio(log.runs[method, GOVERNOR, PHASED], log.runs[method, TABLE, PHASED]),
        },
        "governed_vs_off": to(GOVERNOR, OFF, ""),
        "governed_vs_k0": to(GOVERNOR, k0),
        "k0_vs_off": to(k0, OFF, ""),
        "best_table_vs_best_static": to_best_static(TABLE, (PHASED,)),
        "governor_modes": [
            name
            for name, value in log.counters[method, GOVERNOR, PHASED].items()
            if name.startswith(f"{GOVERNED}mode") and value
        ],
        "num_unlike_off": sum(
            num_differing(log, runs, stream)
            for (m, _, stream), runs in log.runs.items()
            if m == method
        ),
    }
