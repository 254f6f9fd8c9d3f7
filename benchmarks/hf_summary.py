"""Rows and ratios from what `benchmarks.hf` measured; no clock and no model in here.

A "best" mode is chosen in hindsight on the same texts, which favours it over the governor, and
stays fixed while the bootstrap resamples texts within their domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.hf_batch import BATCH_SIZE, GENERATE_MANY
from benchmarks.hf_modes import (
    GOVERNED,
    GOVERNED_DRAFT,
    GOVERNED_RANDOM,
    PLAIN,
    STATIC,
    STOCK,
    Counts,
)
from benchmarks.hf_run import DOMAINS, MIXED, Log, Run
from benchmarks.report import Floats, Ratio, paired_ratio, resamples

STREAMS = (*DOMAINS, MIXED)
Summary = dict[str, Any]


def rate(runs: Sequence[Run]) -> float:
    """Tokens per second over all runs."""
    return sum(r.tokens for r in runs) / sum(r.seconds for r in runs)


def ratio(runs: Sequence[Run], base: Sequence[Run]) -> Ratio:
    """How much faster `runs` are than `base`, which decoded the same units in the same order."""
    index = resamples([r.group for r in runs])
    return paired_ratio(*_arrays(runs), *_arrays(base), index)


def _arrays(runs: Sequence[Run]) -> tuple[Floats, Floats]:
    tokens = np.array([r.tokens for r in runs], np.float64)
    return tokens, np.array([r.seconds for r in runs], np.float64)


def best(log: Log, stream: str, prefix: str) -> str:
    """The fastest mode on a stream among those whose name starts with `prefix`."""
    rates = {
        mode: rate(runs)
        for (mode, s), runs in log.runs.items()
        if s == stream and mode.startswith(prefix)
    }
    return max(rates, key=lambda mode: rates[mode])


def rows(log: Log, batch: int) -> list[dict[str, Any]]:
    """One row for each mode and stream."""
    return [_row(log, mode, s, batch) for s in STREAMS for mode, of in log.runs if of == s]


def _row(log: Log, mode: str, stream: str, batch: int) -> dict[str, Any]:
    runs = log.runs[mode, stream]
    counts, probed = _sum(runs), log.probes.get((mode, stream))
    known = counts or probed
    return {
        "stream": stream,
        "batch": batch,
        "mode": mode,
        "tokens_per_s": rate(runs),
        "ms_per_token": 1e3 / rate(runs),
        "accepted_per_round": known.accepted / known.rounds if known else None,
        "drafted_per_round": known.drafted / known.rounds if known else None,
        "host_ms_per_round": _host_ms(counts),
        "outside_forwards_ms_per_round": _host_ms(probed),
        "num_texts": sum(r.num_texts for r in runs),
        "num_equal_to_plain": sum(r.num_equal for r in runs),
        "unit_tokens": [r.tokens for r in runs],
        "unit_seconds": [r.seconds for r in runs],
    }


def _sum(runs: Sequence[Run]) -> Counts | None:
    known = [r.counts for r in runs if r.counts is not None]
    return sum(known[1:], known[0]) if known else None


def _host_ms(counts: Counts | None) -> float | None:
    return 1e3 * counts.host_s / counts.rounds if counts and counts.rounds else None


def single_summary(log: Log) -> Summary:
    """Every comparison at batch 1."""
    runs = log.runs

    def against(mode: str, prefix: str) -> Summary:
        found: Summary = {}
        for stream in STREAMS:
            rival = best(log, stream, prefix)
            found[stream] = {
                "rival": rival,
                "ratio": ratio(runs[mode, stream], runs[rival, stream]),
            }
        return found

    def to(mode: str, base: str, streams: Sequence[str] = STREAMS) -> Summary:
        return {s: ratio(runs[mode, s], runs[base, s]) for s in streams}

    static0 = f"{STATIC} 0"
    return {
        "governed_vs_best_stock": against(GOVERNED, STOCK),
        "governed_vs_best_static": against(GOVERNED, STATIC),
        "governed_draft_only_vs_best_stock": against(GOVERNED_DRAFT, STOCK),
        "governed_draft_only_vs_best_static": against(GOVERNED_DRAFT, STATIC),
        "governed_vs_draft_only": to(GOVERNED, GOVERNED_DRAFT),
        "governed_vs_plain": {
            **to(GOVERNED, PLAIN),
            "random draft": ratio(runs[GOVERNED_RANDOM, MIXED], runs[PLAIN, MIXED]),
        },
        "static0_vs_plain": to(static0, PLAIN),
        "random_draft_vs_static0": to(GOVERNED_RANDOM, static0, (MIXED,)),
        "mixed_gap": {m: gap(log, m) for m in (GOVERNED, GOVERNED_DRAFT)},
        "host_ms_per_round": _host_ms(_sum(runs[GOVERNED, MIXED])),
        "outside_forwards_ms_per_round": {
            mode: _host_ms(counts) for (mode, s), counts in log.probes.items() if s == MIXED
        },
    }


def gap(log: Log, mode: str) -> Summary:
    """Where a mode stands on the mixed stream between the best static length and the oracle.

    The oracle runs each domain at that domain's own best static length:
    gap_closed = (mode - best static) / (oracle - best static), in tokens per second. Above 1 the
    mode beats every choice of one length a domain; None where the oracle gains nothing.
    """
    one = best(log, MIXED, STATIC)
    lengths = {d: best(log, d, STATIC) for d in DOMAINS}
    # Static lengths learn nothing, so their runs of a domain are those of the mixed stream.
    oracle = [run for d in DOMAINS for run in log.runs[lengths[d], d]]
    base = [run for d in DOMAINS for run in log.runs[one, d]]
    gained = rate(oracle) - rate(base)
    return {
        "best_static": one,
        "oracle_lengths": lengths,
        "ceiling": ratio(oracle, base),
        "gap_closed": (rate(log.runs[mode, MIXED]) - rate(base)) / gained if gained > 0 else None,
    }


def batch_summary(log: Log) -> Summary:
    """Every comparison at batch 8."""

    def to(mode: str, base: str) -> Ratio:
        return ratio(log.runs[mode, MIXED], log.runs[base, MIXED])

    one = best(log, MIXED, STATIC)
    plain = f"{PLAIN}_batch{BATCH_SIZE}"
    return {
        f"batch{BATCH_SIZE}_vs_{plain}": {
            mode: to(mode, PLAIN) for mode in (one, GOVERNED, GENERATE_MANY)
        },
        f"batch{BATCH_SIZE}_governed_vs_best_static": {"rival": one, "ratio": to(GOVERNED, one)},
        "generate_many_vs_waiting_batches": to(GENERATE_MANY, GOVERNED),
    }
