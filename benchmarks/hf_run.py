"""Batch 1: the stream, decoded by all modes text by text, so that a drifting machine hits all.

The order of the modes is shuffled for each text by seed: under rotation a mode would always follow
the same one. Each (text, mode) runs once: what learns must not see a text twice, and more texts
say more than repeats. Garbage is collected before each text and not while the clock runs.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.hf_clock import probe, timed
from benchmarks.hf_modes import Counts, Inputs, Mode, Runner
from benchmarks.report import progress
from flyball.demo.loader import DemoModels

DOMAINS = ("code", "tables", "prose")
MIXED = "mixed"
SEGMENT = 2  # texts of one domain before the stream turns to the next
WARM_UP_TEXT, WARM_UP_TOKENS = "import os\n", 24

Decoded = tuple[torch.Tensor, float, Counts | None]


@dataclass(frozen=True)
class Run:
    """One unit (a text, or a job of texts) in one mode.

    Attributes:
        group: the text's domain.
        tokens: generated.
        seconds: it took.
        num_texts: in the unit.
        num_equal: of them equal to plain generate's.
        counts: of its rounds, where known.
    """

    group: str
    tokens: int
    seconds: float
    num_texts: int
    num_equal: int
    counts: Counts | None


@dataclass
class Log:
    """What was measured.

    Attributes:
        runs: by (mode, stream), in the order of the stream.
        probes: by (mode, stream), from the pass that times the models' forwards.
    """

    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    probes: dict[tuple[str, str], Counts] = field(default_factory=dict)

    def add(self, mode: str, stream: str, run: Run) -> None:
        """Append to the runs of a mode on a stream."""
        self.runs.setdefault((mode, stream), []).append(run)

    def add_probe(self, mode: str, stream: str, counts: Counts) -> None:
        """Add to the probe's sums."""
        before = self.probes.get((mode, stream), Counts(0, 0, 0, 0.0))
        self.probes[mode, stream] = before + counts


@dataclass(frozen=True)
class Entry:
    """A mode with its runners.

    Attributes:
        mode: its name.
        runners: by domain of the text; one and the same where it sees the mixed stream.
        one_domain: whether runs count for streams of one domain.
        mixed: whether runs count for the mixed stream.
    """

    mode: str
    runners: dict[str, Runner]
    one_domain: bool
    mixed: bool


def entries(modes: Sequence[Mode]) -> list[Entry]:
    """Modes that learn get a runner for each domain and another for the mixed stream."""
    found = []
    for mode in modes:
        shared = dict.fromkeys(DOMAINS, mode.make())
        found.append(Entry(mode.name, shared, mode.by_domain and not mode.learns, True))
        if mode.by_domain and mode.learns:
            found.append(Entry(mode.name, {d: mode.make() for d in DOMAINS}, True, False))
    return found


def choose(prompts: dict[str, list[str]], num_texts: int, seed: int) -> list[tuple[str, str]]:
    """The mixed stream: (domain, prompt) in segments, chosen and ordered by seed."""
    rng = np.random.default_rng(seed)
    chosen = {d: [prompts[d][i] for i in rng.permutation(len(prompts[d]))] for d in DOMAINS}
    return [
        (domain, text)
        for start in range(0, num_texts, SEGMENT)
        for domain in DOMAINS
        for text in chosen[domain][start : min(start + SEGMENT, num_texts)]
    ]


def inputs_of(models: DemoModels, texts: Sequence[str], new_tokens: int) -> dict[str, Any]:
    """Arguments of `generate` for a batch padded on the left."""
    batch = models.tokenizer(
        list(texts), return_tensors="pt", padding=True, return_token_type_ids=False
    ).to(models.target.device)
    return {**batch, "max_new_tokens": new_tokens, "do_sample": False}


def settle_garbage() -> None:
    """Take what exists out of later collections, so that these are quick."""
    gc.collect()
    gc.freeze()


def run_stream(
    models: DemoModels, modes: Sequence[Mode], num_texts: int, new_tokens: int, seed: int
) -> Log:
    """Decode the stream in all modes.

    Args:
        models: the demo's.
        modes: to compare; the first is the reference for equal texts.
        num_texts: of each domain.
        new_tokens: to generate for a text.
        seed: chooses prompts and orders.
    """
    stream = choose(models.prompts, num_texts, seed)
    todo, log, rng = entries(modes), Log(), np.random.default_rng([seed, 1])
    # The probe watches the shipped draft, so it has nothing to say about the random one.
    probed = [entry for entry in todo if entry.one_domain]
    _warm_up(models, todo)
    with progress() as bar:
        total = len(todo) * len(stream) + len(probed) * len(DOMAINS)
        task = bar.add_task("", total=total)
        for domain, text in stream:
            inputs = inputs_of(models, [text], new_tokens)
            runs: dict[int, Decoded] = {}
            for number in rng.permutation(len(todo)).tolist():
                entry = todo[number]
                bar.update(task, description=f"{domain}: {entry.mode}")
                runs[number] = decode_text(entry.runners[domain], inputs, models.target.device)
                bar.advance(task)
            _note(log, todo, domain, inputs["input_ids"].shape[1], runs)
        for domain in DOMAINS:
            text = next(text for d, text in stream if d == domain)
            inputs = inputs_of(models, [text], max(8, new_tokens // 2))
            for entry in probed:
                bar.update(task, description=f"forwards alone, {domain}: {entry.mode}")
                counts = probe(models, entry.runners[domain], inputs)
                log.add_probe(entry.mode, domain, counts)
                log.add_probe(entry.mode, MIXED, counts)
                bar.advance(task)
    return log


def _warm_up(models: DemoModels, todo: Sequence[Entry]) -> None:
    inputs = inputs_of(models, [WARM_UP_TEXT], WARM_UP_TOKENS)
    for entry in todo:
        for runner in {id(r): r for r in entry.runners.values()}.values():
            runner.generate(inputs)
    settle_garbage()


def decode_text(runner: Runner, inputs: Inputs, device: torch.device) -> Decoded:
    """Token ids (1, length), the seconds that they took, and counts of the rounds."""
    before = runner.counts()
    out, seconds = timed(device, lambda: runner.generate(inputs))
    after = runner.counts()
    return out, seconds, None if after is None or before is None else after - before


def _note(
    log: Log,
    todo: Sequence[Entry],
    domain: str,
    prompt_len: int,
    runs: dict[int, Decoded],
) -> None:
    plain = runs[0][0]
    for number, (out, seconds, counts) in sorted(runs.items()):
        equal = int(torch.equal(out, plain))
        run = Run(domain, out.shape[1] - prompt_len, seconds, 1, equal, counts)
        for name in _streams(todo[number], domain):
            log.add(todo[number].mode, name, run)


def _streams(entry: Entry, domain: str) -> list[str]:
    return [domain] * entry.one_domain + [MIXED] * entry.mixed
