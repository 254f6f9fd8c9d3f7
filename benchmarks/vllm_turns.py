"""Two real vLLM engines that take turns on one core, both governed."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.vllm_load import DOMAINS, Job, domain_jobs
from benchmarks.vllm_server import MAX_MODEL_LEN, MAX_NUM_SEQS, stay_on_one_core
from benchmarks.vllm_serving import PACKAGES, read_prompts
from benchmarks.vllm_variants import POLICY
from flyball.demo.widen import save_for_vllm

Options = Mapping[str, Any]


def compare(
    name: str,
    doc: str | None,
    options: Callable[[Path, Path], Mapping[str, Options]],
    num_jobs: Mapping[int, int],
    rounds: Sequence[str],
) -> None:
    """Measure, print, write.

    Ratios of tokens per second are geometric means over repetitions, with 95% intervals.

    Args:
        name: of the benchmark.
        doc: its docstring.
        options: of `LLM` for two engines, by name, from the folders of target and draft; the
            first is the baseline.
        num_jobs: requests of a repetition for each number of clients.
        rounds: names of the rounds in which the same requests are asked for.
    """
    parser = report.argument_parser(name, doc, "two repetitions; says little")
    report.add_seed_base(parser, "requests")
    arguments = parser.parse_args()
    stay_on_one_core()
    with tempfile.TemporaryDirectory() as folder:
        rows, names = _measure(arguments, Path(folder), options, num_jobs, rounds)
    columns = ("load", "domain", "requests", *names, "ratio", "low", "high", "num_unlike")
    report.print_table("tokens per second", rows, columns)
    summary = {
        f"{row['requests']}_{row['domain']}_{row['load']}": [row["ratio"], row["low"], row["high"]]
        for row in rows
    }
    report.print_summary(summary)
    report.write(name, vars(arguments), rows, summary, arguments.json, PACKAGES)


def _measure(
    arguments: argparse.Namespace,
    folder: Path,
    options: Callable[[Path, Path], Mapping[str, Options]],
    num_jobs: Mapping[int, int],
    rounds: Sequence[str],
) -> tuple[list[dict[str, Any]], list[str]]:
    target, draft = save_for_vllm(folder)
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    os.environ["FLYBALL_POLICY"] = str(folder / "policy.yaml")
    context = multiprocessing.get_context("spawn")
    engines: dict[str, Connection] = {}
    for name, own in options(target, draft).items():
        engines[name], theirs = context.Pipe()
        context.Process(target=_serve, args=(target, own, theirs), daemon=True).start()
        theirs.close()  # or its end would not be noticed
        engines[name].recv()
    prompts, num_reps = read_prompts(), 2 if arguments.quick else 10
    found: dict[tuple[int, str, str], list[list[float]]] = {}
    unlike: dict[tuple[int, str, str], int] = {}
    with report.progress() as bar:
        for rep in bar.track(range(num_reps + 1), description="measuring"):
            rng = np.random.default_rng([arguments.seed_base, rep])
            for load in num_jobs:
                for domain in DOMAINS:
                    jobs = domain_jobs(prompts, domain, num_jobs[load], rng)
                    for asked in rounds:
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
    names = list(engines)
    return [_row(key, names, np.array(rates), unlike[key]) for key, rates in found.items()], names


def _take_turns(
    engines: dict[str, Connection], jobs: Sequence[Job], load: int, rng: np.random.Generator
) -> tuple[list[float], list[list[tuple[int, ...]]]]:
    """Tokens per second of each engine, and its texts."""
    answers: dict[str, tuple[float, list[tuple[int, ...]]]] = {}
    for name in rng.permutation(list(engines)).tolist():
        engines[name].send((jobs, load))
        answers[name] = engines[name].recv()
    return [answers[name][0] for name in engines], [answers[name][1] for name in engines]


def _row(
    key: tuple[int, str, str], names: Sequence[str], rates: np.ndarray, num_unlike: int
) -> dict[str, Any]:
    load, domain, asked = key
    gain = np.log(rates[:, 1] / rates[:, 0])
    error = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    low, ratio, high = np.exp(gain.mean() + error * np.array([-1.0, 0.0, 1.0])).tolist()
    return {
        "load": load,
        "domain": domain,
        "requests": asked,
        **dict(zip(names, np.median(rates, axis=0).tolist(), strict=True)),
        "ratio": ratio,
        "low": low,
        "high": high,
        "num_unlike": num_unlike,
    }


def _serve(target: Path, options: Options, line: Connection) -> None:
    """An engine that answers jobs until there are none."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(target),
        dtype="float32",
        enforce_eager=True,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        enable_prefix_caching=False,
        scheduler_cls="flyball.integrations.vllm.GovernedScheduler",
        **options,
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
