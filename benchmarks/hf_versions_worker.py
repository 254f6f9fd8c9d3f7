"""One version of Flyball at work: decodes what `benchmarks.hf_versions` names, line by line.

A line [batch, mode, unit] is answered by [tokens, seconds, rounds, digest], all in JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import astuple, dataclass
from typing import Any

import torch
from transformers.utils import logging

import flyball
from benchmarks.hf_batch import (
    BATCH_MODES,
    BATCH_STATIC_LENS,
    WANTED_TOKENS,
    Job,
    job_modes,
    make_job,
    timed_job,
)
from benchmarks.hf_modes import (
    GOVERNED,
    GOVERNED_DRAFT,
    PLAIN,
    STATIC,
    Counts,
    Inputs,
    Ours,
    Runner,
    Stock,
    governed,
    static,
)  # fmt: skip
from benchmarks.hf_run import choose, decode_text, inputs_of, settle_garbage
from flyball.demo.loader import DemoModels, load_demo

SINGLE_MODES = (*BATCH_MODES[:-1], GOVERNED_DRAFT)
JOB_TEXTS = 8  # of a domain

Answer = tuple[int, float, int | None, str]


@dataclass(frozen=True)
class Sizes:
    """Of a run.

    Attributes:
        seed: chooses prompts.
        texts: of a domain, one at a time.
        new_tokens: of each.
        jobs: of a batch.
        sample: whether tokens are drawn.
    """

    seed: int
    texts: int
    new_tokens: int
    jobs: int
    sample: bool

    def arguments(self) -> list[str]:
        """On a command line."""
        return [str(int(value)) for value in astuple(self)]

    @classmethod
    def parse(cls, arguments: list[str]) -> Sizes:
        """From `arguments`."""
        seed, texts, new_tokens, jobs, sample = map(int, arguments)
        return cls(seed, texts, new_tokens, jobs, bool(sample))


class Units:
    """Texts and jobs, and the runners of all modes.

    Args:
        models: the demo's.
        sizes: of the run.
    """

    def __init__(self, models: DemoModels, sizes: Sizes) -> None:
        self._models, self._sizes = models, sizes
        self._texts = [text for _, text in choose(models.prompts, sizes.texts, sizes.seed)]
        self._jobs = [self._job(JOB_TEXTS, WANTED_TOKENS, j) for j in range(sizes.jobs)]
        self._single: dict[str, Runner] = {PLAIN: Stock(models)}
        for k in BATCH_STATIC_LENS:
            self._single[f"{STATIC} {k}"] = static(models, k)
        self._single[GOVERNED_DRAFT] = Ours(models, [models.draft])
        self._single[GOVERNED] = governed(models)
        self._batched = job_modes(models)
        for runner in self._single.values():
            runner.generate(self._inputs(self._texts[0][:40], 24))
        warm_up = self._job(3, (8, 24), sizes.jobs)
        for _, decode in self._batched.values():
            decode(warm_up)
        settle_garbage()

    def decode(self, batch: int, mode: str, unit: int) -> Answer:
        """One unit in one mode."""
        torch.manual_seed(unit)
        if batch > 1:
            rows, seconds, counts = timed_job(self._models, *self._batched[mode], self._jobs[unit])
            return sum(map(len, rows)), seconds, _rounds(counts), _digest(rows)
        inputs = self._inputs(self._texts[unit], self._sizes.new_tokens)
        device = self._models.target.device
        out, seconds, counts = decode_text(self._single[mode], inputs, device)
        tokens = out.shape[1] - inputs["input_ids"].shape[1]
        return tokens, seconds, _rounds(counts), _digest([out])

    def _inputs(self, text: str, new_tokens: int) -> Inputs:
        inputs = inputs_of(self._models, [text], new_tokens)
        return {**inputs, "do_sample": self._sizes.sample}

    def _job(self, texts: int, wanted: tuple[int, int], number: int) -> Job:
        job = make_job(self._models, texts, wanted, 1000 * (self._sizes.seed + 1) + number)
        for batch in job.batches:
            batch["do_sample"] = self._sizes.sample
        return job


def _rounds(counts: Counts | None) -> int | None:
    return None if counts is None else counts.rounds


def _digest(rows: list[torch.Tensor]) -> str:
    tokens = json.dumps([row.tolist() for row in rows])
    return hashlib.sha256(tokens.encode()).hexdigest()


def main() -> None:
    """Answer until the input ends."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    units = Units(load_demo("float32"), Sizes.parse(sys.argv[1:]))
    _say([flyball.__path__[0]])
    for line in sys.stdin:
        _say(units.decode(*json.loads(line)))


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
