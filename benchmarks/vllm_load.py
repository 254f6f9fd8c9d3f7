"""What `benchmarks.vllm_serving` asks of the servers; drawn by seed from the ranges below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LOADS = (1, 4, 16, 32)
DOMAINS = ("code", "prose", "tables")
MIXED = "mixed"
# Committed before any measurement: tokens of a prompt's slice, of an answer, and requests.
PROMPT_TOKENS = (24, 96)
NEW_TOKENS = (32, 96)
QUICK_NEW_TOKENS = (16, 48)
JOBS = {1: (8, 10), 4: (26, 32), 16: (64, 76), 32: (96, 112)}
QUICK_JOBS = {1: (5, 6), 4: (14, 16), 16: (36, 40), 32: (56, 64)}
PHASE_JOBS = {1: (5, 7), 4: (13, 17), 16: (38, 48), 32: (64, 80)}
QUICK_PHASE_JOBS = {1: (3, 4), 4: (8, 10), 16: (24, 28), 32: (40, 48)}
PHASES_A_LOAD = 2

Prompts = Mapping[str, Sequence[Sequence[int]]]
Draw = np.random.Generator


@dataclass(frozen=True)
class Job:
    """One request: a prompt as tokens and how many tokens to write."""

    prompt: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True)
class Phase:
    """A fixed set of requests at one concurrency.

    Attributes:
        domain: of the prompts, or `MIXED`.
        load: requests in flight; a client starts its next one as soon as its last one ended.
        jobs: in the order in which clients take them.
    """

    domain: str
    load: int
    jobs: tuple[Job, ...]


def mixed_phase(prompts: Prompts, load: int, quick: bool, seed: Sequence[int]) -> Phase:
    """Requests of all domains at one concurrency."""
    rng = np.random.default_rng([*seed, load])
    count = _between(rng, (QUICK_JOBS if quick else JOBS)[load])
    domains = [DOMAINS[i % len(DOMAINS)] for i in range(count)]
    rng.shuffle(domains)
    return Phase(MIXED, load, tuple(_job(prompts, d, quick, rng) for d in domains))


def domain_jobs(prompts: Prompts, domain: str, count: int, rng: Draw) -> tuple[Job, ...]:
    """Requests of one domain."""
    return tuple(_job(prompts, domain, False, rng) for _ in range(count))


def phases(prompts: Prompts, quick: bool, seed: Sequence[int]) -> list[Phase]:
    """Phases that change domain and load each time; every load comes `PHASES_A_LOAD` times."""
    rng = np.random.default_rng(seed)
    counts = QUICK_PHASE_JOBS if quick else PHASE_JOBS
    found: list[Phase] = []
    for load in _unlike_neighbours(rng):
        others = [d for d in DOMAINS if not found or d != found[-1].domain]
        domain = others[int(rng.integers(len(others)))]
        count = _between(rng, counts[load])
        jobs = tuple(_job(prompts, domain, quick, rng) for _ in range(count))
        found.append(Phase(domain, load, jobs))
    return found


def _unlike_neighbours(rng: Draw) -> list[int]:
    while True:
        loads = [int(load) for load in rng.permutation(LOADS * PHASES_A_LOAD)]
        if all(a != b for a, b in zip(loads, loads[1:], strict=False)):
            return loads


def _job(prompts: Prompts, domain: str, quick: bool, rng: Draw) -> Job:
    text = prompts[domain][int(rng.integers(len(prompts[domain])))]
    size = min(len(text), _between(rng, PROMPT_TOKENS))
    start = int(rng.integers(len(text) - size + 1))
    new_tokens = _between(rng, QUICK_NEW_TOKENS if quick else NEW_TOKENS)
    return Job(tuple(text[start : start + size]), new_tokens)


def _between(rng: Draw, limits: tuple[int, int]) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))
