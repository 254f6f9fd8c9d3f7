"""Claim: searches that stop losers early take fewer seconds, not only fewer operations.

python -m benchmarks.rejection_live [--quick] [--seed-base N] [--json FILE]

Best of n and beams of the demo's reasoning pair with and without rejection, in turns of the same
problems, from a cold start and with all audits. A part of `benchmarks.rejection` that needs a
machine with nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers.utils import logging

from benchmarks import report
from benchmarks.rejection_beams import MAX_STEPS, RISK, STEP_CHECKS, WIDTH, WORTHS
from benchmarks.rejection_best import RISKS, TIE, conformal
from benchmarks.rejection_pool import (
    MAX_NEW_TOKENS,
    SAMPLING,
    candidate_seeds,
    prompt_ids,
    written_answer,
)
from flyball.demo.arithmetic import MIXES, STEP_END, Problem, draw_problems, is_right
from flyball.demo.reasoner_loader import Reasoner, load_reasoner
from flyball.integrations.hf import ImplicitRewardModel, govern, search

# Candidates, and problems: the first 2 / risk groups are audited, which few would go by.
LIVE = {"best_of_n": {16: 1000, 32: 1000}, "beam": {16: 500, 32: 250}}
QUICK_LIVE = {16: 50, 32: 25}
BATCH_SIZE = 128
_AT_ONCE = 50  # problems of a turn


class Player:
    """A policy that plays for real, and what it has used up.

    Args:
        models: solver and judge.
        name: of the policy.
        section: of the policy file; None stops nobody.

    Attributes:
        right: whether each answer was right.
        best: score of each candidate that won.
        seconds: of all searches.
        num_tokens: generated, by stopped candidates too.
    """

    def __init__(self, models: Reasoner, name: str, section: dict[str, Any] | None) -> None:
        self.name = name
        self.right: list[bool] = []
        self.best: list[float] = []
        self.seconds = 0.0
        self.num_tokens = 0
        self._models = models
        content: dict[str, Any] = {"version": 1}
        if section is not None:
            content["rejection"] = section
        self.gov = govern(models.solver, policy=content)
        self.scorer = ImplicitRewardModel(models.judge, max_rows=4 * BATCH_SIZE)

    @property
    def flops(self) -> float:
        """Of solver and judge."""
        return self.gov.stats.target_flops + self.scorer.flops

    def result(self) -> dict[str, Any]:
        """A row; the governor is closed."""
        contests = self.gov.governor.contests
        self.gov.close()
        return {
            "policy": self.name,
            "accuracy": float(np.mean(self.right)),
            "flops": self.flops,
            "seconds": self.seconds,
            "tokens": self.num_tokens,
            "audited": contests.num_audited / max(contests.num_groups, 1),
            "stopped": contests.num_stopped,
            "faults": sum(self.gov.governor.faults.values()),
        }

    def turn(self, problems: list[Problem], seeds: list[int], **settings: Any) -> None:
        """Search for the answers to some problems."""
        prompts = [prompt_ids(self._models, problem) for problem in problems]
        start = time.perf_counter()
        found = search(
            self.gov,
            prompts,
            scorer=self.scorer,
            seeds=seeds,
            batch_size=BATCH_SIZE,
            max_new_tokens=MAX_NEW_TOKENS,
            **SAMPLING,
            **settings,
        )
        self.seconds += time.perf_counter() - start
        for problem, result in zip(problems, found, strict=True):
            answer = written_answer(self._models, result.tokens)
            self.right.append(answer is not None and is_right(problem, answer[1]))
            self.num_tokens += result.num_tokens
            self.best.append(result.candidates[result.best].score)


def _sections(method: str) -> dict[str, dict[str, Any] | None]:
    """The policies of a method; None stops nobody."""
    if method == "best_of_n":
        return {"none": None} | {f"conformal {risk}": conformal(risk) for risk in RISKS}
    worth = {"value_of_winning": float(WORTHS[0]), "check_at_tokens": list(STEP_CHECKS)}
    return {"none": None, f"conformal {RISK} worth {WORTHS[0]}": {**conformal(RISK), **worth}}


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("rejection_live", __doc__, "few problems: no figure to go by")
    report.add_seed_base(parser, "problems, candidates and orders")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = live(20_000 + arguments.seed_base, arguments.quick)
    columns = ("method", "n", "policy", "accuracy", "seconds", "audited", "stopped")
    report.print_table("for real, in turns", rows, columns)
    summary = live_summary(rows)
    report.print_summary(summary)
    report.write("rejection_live", vars(arguments), rows, summary, arguments.json)


def live(seed: int, quick: bool) -> list[dict[str, Any]]:
    """All methods and sizes."""
    models, rows = load_reasoner(), list[dict[str, Any]]()
    with report.progress() as bar:
        task = bar.add_task("for real, in turns", total=None)
        for method, numbers in LIVE.items():
            for size, number in (QUICK_LIVE if quick else numbers).items():
                rows += _play(models, method, size, number, seed, lambda: bar.advance(task))
    return rows


def _play(
    models: Reasoner,
    method: str,
    size: int,
    num_problems: int,
    seed: int,
    advance: Callable[[], None],
) -> list[dict[str, Any]]:
    """A method with and without rejection, in turns of some problems in a drawn order."""
    players = [Player(models, name, section) for name, section in _sections(method).items()]
    settings: dict[str, Any] = {"method": method, "num_candidates": size}
    if method == "beam":
        step_end = models.tokenizer.convert_tokens_to_ids(STEP_END)
        settings |= {"width": WIDTH, "step_token_id": step_end, "max_steps": MAX_STEPS}
    rng = np.random.default_rng([seed, 2])
    problems, seeds = _drawn(num_problems, seed)
    for start in range(0, num_problems, _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        for place in rng.permutation(len(players)).tolist():
            players[place].turn(problems[some], seeds[some], **settings)
            advance()
    best = np.array(players[0].best)
    # Seeds make the same candidates, so a lower best is a winner that was stopped. Of beams it
    # need not be: what survives a step decides what the next one is made of.
    wrong = [float(np.mean(best - np.array(player.best) > TIE)) for player in players]
    return [
        {"part": "live", "method": method, "n": size, "lower": share, **player.result()}
        for share, player in zip(wrong, players, strict=True)
    ]


def live_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds without rejection over those with it."""
    found: dict[str, Any] = {}
    for method, size in sorted({(row["method"], row["n"]) for row in rows}):
        own = {row["policy"]: row for row in rows if (row["method"], row["n"]) == (method, size)}
        base = own.pop("none")
        found[f"{method} n={size}"] = {
            name: f"{base['seconds'] / row['seconds']:.2f} times as fast, "
            f"{base['flops'] / row['flops']:.2f} times fewer operations, accuracy "
            f"{100 * (row['accuracy'] - base['accuracy']):+.1f} points, a lower best score in "
            f"{row['lower']:.3f}"
            for name, row in own.items()
        }
    return found


def _drawn(num_problems: int, seed: int) -> tuple[list[Problem], list[int]]:
    problems = draw_problems(np.random.default_rng(seed), MIXES["usual"], num_problems)
    return problems, candidate_seeds(seed, num_problems)


if __name__ == "__main__":
    main()
