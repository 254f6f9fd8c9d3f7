"""Beam searches under every policy, on the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rejection_best import conformal
from benchmarks.rejection_pool import candidate_seeds, written_answer
from benchmarks.rejection_prefixes import Prefixes
from benchmarks.rejection_turn import Tally, Turn
from flyball.controller.contests import Contests
from flyball.controller.guard import Guard
from flyball.controller.policy_file import load_policy
from flyball.demo.arithmetic import MIXES, STEP_END, draw_problems, is_right
from flyball.integrations.hf.search_beam import Beams

SIZES = (4, 8, 16, 32)
WIDTH = 4
STEP_CHECKS = (1, 2, 3, 4, 6, 8, 12, 16)
TAUS = (1, 2, 4, 8)
RISK = 0.1
WORTHS = (10_000, 20_000, 40_000)  # tokens that a win is worth
_SMALL = 8  # expansions up to which fewer policies are tried
_AT_ONCE = 25  # problems of a turn
MAX_STEPS, _MAX_STEP_TOKENS = 20, 256


def sections(size: int = max(SIZES)) -> dict[str, dict[str, Any] | None]:
    """The policies that prune so many expansions; None stops nobody."""
    found: dict[str, dict[str, Any] | None] = {"none": None}
    few = size <= _SMALL
    for worth in WORTHS[:1] if few else WORTHS:
        found[f"conformal {RISK} worth {worth}"] = {
            **conformal(RISK),
            "value_of_winning": float(worth),
            "check_at_tokens": list(STEP_CHECKS),
        }
    for tau in TAUS[:2] if few else TAUS:
        section = {"policy": "top_fraction", "width": WIDTH, "tau": tau}
        found[f"top_fraction 1/{WIDTH} tau {tau}"] = section
    return found


class BeamPlayer:
    """A policy, and the beam searches that it meets.

    Args:
        prefixes: of the problems.
        section: of the policy file; None stops nobody.
        size: expansions of a step.

    Attributes:
        right: whether each answer was right.
        tally: of all searches.
        contests: of them.
    """

    def __init__(self, prefixes: Prefixes, section: dict[str, Any] | None, size: int) -> None:
        content: dict[str, Any] = {"version": 1}
        if section is not None:
            content["rejection"] = section
        self.right: list[bool] = []
        self.tally = Tally()
        self._guard = Guard()
        self.contests = Contests(load_policy(content), self._guard)
        self._prefixes = prefixes
        step_end = prefixes.models.tokenizer.convert_tokens_to_ids(STEP_END)
        self._beams = Beams(size, WIDTH, step_end, _MAX_STEP_TOKENS, MAX_STEPS)

    def turn(self, numbers: Sequence[int], seeds: Sequence[int]) -> list[NDArray[np.int64]]:
        """Search for the answers to problems of these numbers, side by side."""
        models = self._prefixes.models
        turn = Turn(
            self.contests,
            self._prefixes,
            self._beams,
            (models.solver, models.judge),
            models.tokenizer.eos_token_id,
            self.tally,
        )
        found = turn.run(numbers, seeds)
        for number, result in zip(numbers, found, strict=True):
            answer = written_answer(models, result.tokens)
            problem = self._prefixes.problems[number]
            self.right.append(answer is not None and is_right(problem, answer[1]))
        return [result.tokens for result in found]

    def row(self) -> dict[str, Any]:
        """What was measured."""
        contests, tally = self.contests, self.tally
        return {
            "accuracy": float(np.mean(self.right)),
            "flops": tally.flops,
            "tokens": tally.num_tokens,
            "wrong": tally.num_wrong / tally.num_free if tally.num_free else None,
            "audited": contests.num_audited / max(contests.num_groups, 1),
            "stopped": contests.num_stopped,
            "faults": sum(self._guard.faults.values()),
        }


def prefixes_of(num_problems: int, seed: int) -> Prefixes:
    """What most searches come by: those of the largest size that stop nobody."""
    problems = draw_problems(np.random.default_rng(seed), MIXES["usual"], num_problems)
    prefixes = Prefixes(problems)
    play(prefixes, "none", max(SIZES), seed)
    return prefixes


def play(prefixes: Prefixes, name: str, size: int, seed: int) -> dict[str, Any]:
    """Beam searches under one policy."""
    player = BeamPlayer(prefixes, sections()[name], size)
    seeds = candidate_seeds(seed, len(prefixes.problems))
    for start in range(0, len(seeds), _AT_ONCE):
        some = range(start, min(start + _AT_ONCE, len(seeds)))
        player.turn(some, [seeds[number] for number in some])
    return {"part": "beams", "policy": name, "n": size, **player.row()}
