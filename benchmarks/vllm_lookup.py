"""Claim: the drafter that looks up beats vLLM's n-grams, the more so where outputs repeat.

python -m benchmarks.vllm_lookup [--quick] [--json FILE] [--seed-base N]

The demo's models in two real engines on the CPU, float32 and greedy, both governed alike, that
take turns on one core: one drafts by vLLM's own `ngram`, the other by `flyball vllm-args --method
lookup`. Closed loops of 1 and 16 clients over new requests of each domain, then over the same ones
again. Ratios of tokens per second are geometric means over repetitions, with 95% intervals.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.vllm_load import DOMAINS, Job, domain_jobs
from benchmarks.vllm_server import ENGINE_ENVIRONMENT, MAX_MODEL_LEN, MAX_NUM_SEQS
from benchmarks.vllm_serving import PACKAGES, read_prompts
from benchmarks.vllm_variants import MAX_DRAFT_LEN, POLICY, speculative_config
from flyball.commands import vllm_args
from flyball.demo.widen import save_for_vllm

LOADS = (1, 16)
METHODS = ("ngram", "lookup")
ROUNDS = ("new", "again")
NUM_JOBS = {1: 3, 16: 20}
COLUMNS = (
    "load", "domain", "requests", "ngram", "lookup", "ratio", "low", "high", "num_unlike",
)  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("vllm_lookup", __doc__, "two repetitions; says little")
    report.add_seed_base(parser, "requests")
    arguments = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [core])
    os.environ.update(
        ENGINE_ENVIRONMENT,
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_CPU_OMP_THREADS_BIND=str(core),
    )
    with tempfile.TemporaryDirectory() as name:
        rows = _measure(arguments, Path(name))
    report.print_table("tokens per second", rows, COLUMNS)
    summary = {
        f"{row['requests']}_{row['domain']}_{row['load']}": [row["ratio"], row["low"], row["high"]]
        for row in rows
    }
    report.print_summary(summary)
    report.write("vllm_lookup", vars(arguments), rows, summary, arguments.json, PACKAGES)


def _measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    target, _ = save_for_vllm(folder)
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    os.environ["FLYBALL_POLICY"] = str(folder / "policy.yaml")
    context = multiprocessing.get_context("spawn")
    engines: dict[str, Connection] = {}
    for method in METHODS:
        engines[method], theirs = context.Pipe()
        context.Process(target=_serve, args=(method, target, theirs), daemon=True).start()
        theirs.close()  # or its end would not be noticed
        engines[method].recv()
    prompts, num_reps = read_prompts(), 2 if arguments.quick else 10
    found: dict[tuple[int, str, str], list[list[float]]] = {}
    unlike: dict[tuple[int, str, str], int] = {}
    with report.progress() as bar:
        for rep in bar.track(range(num_reps + 1), description="measuring"):
            rng = np.random.default_rng([arguments.seed_base, rep])
            for load in LOADS:
                for domain in DOMAINS:
                    jobs = domain_jobs(prompts, domain, NUM_JOBS[load], rng)
                    for asked in ROUNDS:
                        rates, texts = _take_turns(engines, jobs, load, rng)
                        if rep == 0:
                            continue  # warms up
                        key = (load, domain, asked)
                        found.setdefault(key, []).append(rates)
                        unlike[key] = unlike.get(key, 0) + sum(
                            a != b for a, b in zip(*texts, strict=True)
                        )
    for line in engines.values():
        line.send(None)
    return [_row(key, np.array(rates), unlike[key]) for key, rates in found.items()]


def _take_turns(
    engines: dict[str, Connection], jobs: Sequence[Job], load: int, rng: np.random.Generator
) -> tuple[list[float], list[list[tuple[int, ...]]]]:
    """Tokens per second of each method, and its texts."""
    answers: dict[str, tuple[float, list[tuple[int, ...]]]] = {}
    for method in rng.permutation(METHODS).tolist():
        engines[method].send((jobs, load))
        answers[method] = engines[method].recv()
    return [answers[m][0] for m in METHODS], [answers[m][1] for m in METHODS]


def _row(key: tuple[int, str, str], rates: np.ndarray, num_unlike: int) -> dict[str, Any]:
    load, domain, asked = key
    gain = np.log(rates[:, 1] / rates[:, 0])
    error = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    low, ratio, high = np.exp(gain.mean() + error * np.array([-1.0, 0.0, 1.0])).tolist()
    return {
        "load": load,
        "domain": domain,
        "requests": asked,
        "ngram": float(np.median(rates[:, 0])),
        "lookup": float(np.median(rates[:, 1])),
        "ratio": ratio,
        "low": low,
        "high": high,
        "num_unlike": num_unlike,
    }


def _serve(method: str, target: Path, line: Connection) -> None:
    """An engine that answers jobs until there are none."""
    from vllm import LLM, SamplingParams

    config = speculative_config("ngram", target)
    if method == "lookup":
        config = vllm_args.speculative_config("lookup", MAX_DRAFT_LEN, MAX_NUM_SEQS, None)
    engine = LLM(
        str(target),
        dtype="float32",
        enforce_eager=True,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        enable_prefix_caching=False,
        speculative_config=config,
        scheduler_cls="flyball.integrations.vllm.GovernedScheduler",
    ).llm_engine
    line.send("ready")
    while (asked := line.recv()) is not None:
        jobs, load = asked
        texts: dict[int, tuple[int, ...]] = {}
        waiting = iter(enumerate(jobs))
        start_s = time.perf_counter()

        def begin(waiting: Any = waiting) -> None:
            for number, job in waiting:
                settings = SamplingParams(
                    temperature=0, max_tokens=job.max_tokens, ignore_eos=True
                )
                prompt = {"prompt_token_ids": list(job.prompt)}
                engine.add_request(str(number), prompt, settings)
                return

        for _ in range(load):
            begin()
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    texts[int(output.request_id)] = tuple(output.outputs[0].token_ids)
                    begin()
        seconds = time.perf_counter() - start_s
        tokens = sum(map(len, texts.values()))
        line.send((tokens / seconds, [texts[number] for number in range(len(jobs))]))


if __name__ == "__main__":
    main()
