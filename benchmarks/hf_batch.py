"""Batch 8: jobs of many prompts that want texts of different lengths.

Each prompt wants a number of new tokens drawn by seed from a range that was fixed beforehand. A
waiting batch runs to the longest of its rows, in plain `generate` as in our loop, and only the
tokens that each row wanted count: that is what a server with static batches does. `generate_many`
gets the wanted numbers and fills a row that ended with the next prompt. Jobs mix the domains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.hf_clock import timed
from benchmarks.hf_modes import GOVERNED, PLAIN, STATIC, Ours, Runner, Stock, governed, static
from benchmarks.hf_run import MIXED, Log, Run, choose, inputs_of, settle_garbage
from benchmarks.report import progress
from flyball.demo.loader import DemoModels

BATCH_SIZE = 8
BATCH_STATIC_LENS = (0, 2, 4, 8)
WANTED_TOKENS = (40, 240)
QUICK_WANTED_TOKENS = (10, 60)
GENERATE_MANY = f"{GOVERNED}, generate_many"
BATCH_MODES = (PLAIN, *(f"{STATIC} {k}" for k in BATCH_STATIC_LENS), GOVERNED, GENERATE_MANY)

Rows = list[torch.Tensor]


@dataclass(frozen=True)
class Job:
    """Prompts that are there at once.

    Attributes:
        prompts: (tokens,) ids of each prompt.
        wanted: new tokens that each wants at most.
        batches: arguments of `generate` for each waiting batch.
    """

    prompts: Rows
    wanted: list[int]
    batches: list[dict[str, Any]]


def make_job(models: DemoModels, num_texts: int, wanted_range: tuple[int, int], seed: int) -> Job:
    """Draw a job.

    Args:
        models: the demo's.
        num_texts: of each domain.
        wanted_range: least and most new tokens a prompt may want.
        seed: chooses prompts, their order and how much they want.
    """
    texts = [text for _, text in choose(models.prompts, num_texts, seed)]
    rng = np.random.default_rng([seed, 2])
    wanted = rng.integers(*wanted_range, len(texts), endpoint=True).tolist()
    prompts = [inputs_of(models, [text], 1)["input_ids"][0] for text in texts]
    batches = [
        inputs_of(models, texts[i : i + BATCH_SIZE], max(wanted[i : i + BATCH_SIZE]))
        for i in range(0, len(texts), BATCH_SIZE)
    ]
    return Job(prompts, wanted, batches)


def run_jobs(
    models: DemoModels, num_jobs: int, num_texts: int, wanted_range: tuple[int, int], seed: int
) -> Log:
    """Decode all jobs in every mode, job by job, in an order shuffled by seed.

    Args:
        models: the demo's.
        num_jobs: to decode.
        num_texts: of each domain in a job.
        wanted_range: least and most new tokens a prompt may want.
        seed: of the draw; job j is drawn by 1000 (seed + 1) + j.
    """
    modes = job_modes(models)
    first = 1000 * (seed + 1)
    jobs = [make_job(models, num_texts, wanted_range, first + j) for j in range(num_jobs)]
    warm_up = make_job(models, 3, (8, 24), first + num_jobs)
    for _, decode in modes.values():
        decode(warm_up)
    settle_garbage()
    log, rng, names = Log(), np.random.default_rng([seed, 3]), list(modes)
    with progress() as bar:
        task = bar.add_task("", total=len(jobs) * len(names))
        for job in jobs:
            runs = {}
            for number in rng.permutation(len(names)).tolist():
                name = names[number]
                bar.update(task, description=f"batch {BATCH_SIZE}: {name}")
                runs[name] = timed_job(models, *modes[name], job)
                bar.advance(task)
            plain = runs[PLAIN][0]
            for name in names:
                rows, seconds, counts = runs[name]
                tokens = sum(len(row) for row in rows)
                equal = sum(torch.equal(a, b) for a, b in zip(rows, plain, strict=True))
                log.add(name, MIXED, Run(MIXED, tokens, seconds, len(rows), equal, counts))
    return log


def job_modes(models: DemoModels) -> dict[str, tuple[Runner, Callable[[Job], Rows]]]:
    """Runners of all modes, and how each decodes a job: rows may hold more than they wanted."""
    waiting: dict[str, Runner] = {PLAIN: Stock(models)}
    for k in BATCH_STATIC_LENS:
        waiting[f"{STATIC} {k}"] = static(models, k)
    waiting[GOVERNED] = governed(models)
    modes: dict[str, tuple[Runner, Callable[[Job], Rows]]] = {
        name: (runner, partial(_waiting, runner)) for name, runner in waiting.items()
    }
    many = governed(models)
    modes[GENERATE_MANY] = (many, lambda job: _many(many, job))
    return modes


def _waiting(runner: Runner, job: Job) -> Rows:
    rows: Rows = []
    for batch in job.batches:
        rows += runner.generate(batch)[:, batch["input_ids"].shape[1] :].unbind()
    return rows


def _many(ours: Ours, job: Job) -> Rows:
    texts = ours.generate_many(job.prompts, job.wanted, BATCH_SIZE)
    return [text[len(prompt) :] for text, prompt in zip(texts, job.prompts, strict=True)]


def timed_job(
    models: DemoModels, runner: Runner, decode: Callable[[Job], Rows], job: Job
) -> tuple[Rows, float, Any]:
    """What each row of a job wanted, the seconds that the job took, and counts of its rounds."""
    before = runner.counts()
    rows, seconds = timed(models.target.device, lambda: decode(job))
    after = runner.counts()
    counts = None if after is None or before is None else after - before
    return cut(rows, job.wanted, models.target.generation_config.eos_token_id), seconds, counts


def cut(rows: Sequence[torch.Tensor], wanted: Sequence[int], eos: int) -> Rows:
    """What each row (tokens,) wanted: up to its own limit, and its end token if it has one."""
    found = []
    for row, limit in zip(rows, wanted, strict=True):
        ends = (row == eos).nonzero()
        found.append(row[: min(limit, int(ends[0]) + 1) if len(ends) else limit].cpu())
    return found
