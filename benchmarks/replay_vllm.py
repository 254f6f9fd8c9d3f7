"""Claim: an event simulation says within 10% what a real vLLM server does under load.

python -m benchmarks.replay_vllm [--quick] [--seed-base N] [--json FILE]

The demo's models behind vLLM on the CPU, closed loops of 1, 4 and 16 clients. One engine decodes
the same requests with constant draft lengths and with lengths drawn at random; the rounds of the
latter are recorded, and their seconds are the cost table. A second engine is governed. What both
wrote is read with the draft, and replayed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from benchmarks import report
from benchmarks.vllm_load import Phase, mixed_phase
from benchmarks.vllm_server import Answers, Server
from benchmarks.vllm_serving import PACKAGES, read_prompts
from benchmarks.vllm_variants import (
    MAX_DRAFT_LEN,
    MODE_VARIABLE,
    POLICY,
    constant,
    speculative_config,
    write_mode,
)
from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.match_text import MatchText
from flyball.controller.policy_file import load_policy
from flyball.controller.replay import HOSTS, replay
from flyball.controller.trace_costs import costs_of_trace
from flyball.controller.trace_format import read_trace
from flyball.demo.widen import save_for_vllm
from flyball.integrations.hf.exact import FinishedText, RecordSettings, record_matches

LOADS = (1, 4, 16)
STATIC = (0, 2, 4, 8)
DRAWN, GOVERNED = "drawn", "governor"
REPETITIONS = 4
COLUMNS = ("load", "variant", "tokens_per_s", "predicted", "ratio", "seconds_per_step")
DRAWN_POLICY = {
    "policy": "exp3",
    "exploration": 1.0,
    "arms": list(range(MAX_DRAFT_LEN + 1)),
    "max_draft_len": MAX_DRAFT_LEN,
}


class Runs:
    """What the servers answered: tokens and seconds by load and variant, and the texts."""

    def __init__(self) -> None:
        self.rates: dict[tuple[int, str], list[tuple[float, float]]] = {}
        self.texts: dict[tuple[int, int], tuple[Phase, Answers]] = {}

    def add(self, phase: Phase, rep: int, variant: str, answers: Answers) -> None:
        """A phase was answered."""
        self.rates.setdefault((phase.load, variant), []).append(answers.whole())
        self.texts.setdefault((phase.load, rep), (phase, answers))


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("replay_vllm", __doc__, "one repetition; says little")
    report.add_seed_base(parser, "requests and orders")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        rows = asyncio.run(_measure(arguments, Path(name)))
    report.print_table("served and replayed", rows, COLUMNS)
    ratios = [row["ratio"] for row in rows]
    summary = {"least_ratio": min(ratios), "largest_ratio": max(ratios)}
    report.print_summary(summary)
    report.write("replay_vllm", vars(arguments), rows, summary, arguments.json, PACKAGES)


async def _measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    target, draft = save_for_vllm(folder)
    runs = Runs()
    cores = os.sched_getaffinity(0)
    async with AsyncExitStack() as stack:
        engines = {}
        for name, policy in _policies(folder).items():
            file = folder / f"{name}.json"
            write_mode(None, file)
            flags = [
                "--model", str(target),
                "--speculative-config", json.dumps(speculative_config("draft_model", draft)),
                "--scheduler-cls", "benchmarks.vllm_modes.SwitchedScheduler",
            ]  # fmt: skip
            environment = {MODE_VARIABLE: str(file), "FLYBALL_POLICY": str(policy)}
            engines[name] = await stack.enter_async_context(
                Server(name, flags, environment, folder)
            )
        await asyncio.gather(*(engine.ready() for engine in engines.values()))
        os.sched_setaffinity(0, engines[DRAWN].host_cores)
        try:
            await _run(arguments, engines, runs, folder)
        finally:
            os.sched_setaffinity(0, cores)
    costs = costs_of_trace(read_trace(folder / "trace"))
    texts = _read(runs, target, draft)
    return [_row(runs, texts, costs, load, variant) for load, variant in runs.rates]


def _policies(folder: Path) -> dict[str, Path]:
    drawn, governed = folder / "drawn.yaml", folder / "governed.yaml"
    content = {
        "version": 1,
        "length": DRAWN_POLICY,
        "trace": {"dir": str(folder / "trace")},
    }
    drawn.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML, too
    governed.write_text(POLICY, encoding="utf-8")
    return {DRAWN: drawn, GOVERNED: governed}


async def _run(
    arguments: argparse.Namespace, engines: dict[str, Server], runs: Runs, folder: Path
) -> None:
    prompts = read_prompts()
    repetitions = 1 if arguments.quick else REPETITIONS
    names = [*(f"K={length}" for length in STATIC), DRAWN, GOVERNED]
    for engine in engines.values():
        for load in LOADS:
            await engine.run(mixed_phase(prompts, load, True, [arguments.seed_base, 1000]))
    with report.progress() as bar:
        task = bar.add_task("serving", total=repetitions * len(LOADS) * len(names))
        for rep in range(repetitions):
            for load in LOADS:
                phase = mixed_phase(prompts, load, arguments.quick, [arguments.seed_base, rep])
                order = np.random.default_rng([arguments.seed_base, rep, load]).permutation(names)
                for name in order.tolist():
                    engine = engines[GOVERNED if name == GOVERNED else DRAWN]
                    length = int(name.removeprefix("K=")) if name.startswith("K=") else None
                    file = folder / f"{engine.name}.json"
                    write_mode(None if length is None else constant(length), file)
                    runs.add(phase, rep, name, await engine.run(phase))
                    bar.advance(task)


def _read(runs: Runs, target: Path, draft: Path) -> dict[tuple[int, int], list[MatchText]]:
    """What the draft would have done on the answers of every phase."""
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (target, draft)]
    found = {}
    for key, (phase, answers) in runs.texts.items():
        finished = [
            FinishedText(np.array([*job.prompt, *done.tokens]), len(job.prompt))
            for job, done in zip(phase.jobs, answers.done, strict=True)
        ]
        found[key] = record_matches(
            models[0], models[1], finished, RecordSettings(num_ahead=MAX_DRAFT_LEN)
        )
    return found


def _row(
    runs: Runs,
    texts: dict[tuple[int, int], list[MatchText]],
    costs: CostTable,
    load: int,
    variant: str,
) -> dict[str, Any]:
    tokens, seconds = np.array(runs.rates[load, variant]).sum(axis=0)
    predicted_s, num_steps = 0.0, 0
    for (of_load, rep), own in texts.items():
        if of_load == load:
            corpus = Corpus(own, np.random.default_rng(rep))
            found = replay(corpus, _policy(variant), costs, HOSTS["vllm"], load)
            predicted_s += float(found.step_s.sum())
            num_steps += len(found.step_s)
    return {
        "load": load,
        "variant": variant,
        "tokens_per_s": tokens / seconds,
        "predicted": tokens / predicted_s,
        "ratio": seconds / predicted_s,
        "seconds_per_step": predicted_s / num_steps,
    }


def _policy(variant: str) -> Any:
    if variant == GOVERNED:
        return load_policy(yaml.safe_load(POLICY))
    if variant == DRAWN:
        return load_policy({"version": 1, "length": DRAWN_POLICY})
    length = int(variant.removeprefix("K="))
    section = {"policy": "static", "draft_len": length, "max_draft_len": MAX_DRAFT_LEN}
    return load_policy({"version": 1, "length": section})


if __name__ == "__main__":
    main()
