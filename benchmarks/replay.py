"""Claim: a replay says what a real run does: its rounds exactly, its speed within 5%.

python -m benchmarks.replay [--quick] [--json FILE]

The demo's models in transformers, float32 and greedy, one request at a time. Texts are recorded,
a cost table is measured in turn with the runs, and every policy decodes the same prompts for real
and in replay. Decisions go by a frozen table in both, so that they can be the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from transformers.utils import logging

from benchmarks import report
from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.policy_file import load_policy
from flyball.controller.replay import replay
from flyball.demo.loader import DemoModels, load_demo
from flyball.integrations.hf import govern
from flyball.integrations.hf.exact import FinishedText, RecordSettings, record_matches
from flyball.integrations.hf.govern import GovernedGenerate
from flyball.integrations.hf.measure import CostMeasurement, Grid
from flyball.integrations.hf.stats import RoundStats

MAX_DRAFT_LEN = 16
STATIC = (0, 1, 2, 3, 4, 6, 8, 12, 16)
ADAPTIVE = ("heuristic", "gamma_tune", "threshold", "survival", "thompson", "goodput")
SHADOWS = "default"
GRID = Grid(batch_sizes=(1,), draft_lens=STATIC)
COLUMNS = ("policy", "rounds", "real_rounds", "same", "tokens_per_s", "predicted", "ratio")


@dataclass
class Run:
    """A policy's real runs.

    Attributes:
        gov: that decodes.
        rounds: of all prompts.
        tokens: generated.
    """

    gov: GovernedGenerate
    rounds: list[RoundStats] = field(default_factory=list)
    tokens: int = 0


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("replay", __doc__, "few short texts")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = measure(arguments)
    report.print_table("real and replayed", rows, COLUMNS)
    summary = {
        "all_rounds_same": all(row["same"] for row in rows),
        "least_ratio": min(row["ratio"] for row in rows),
        "largest_ratio": max(row["ratio"] for row in rows),
    }
    report.print_summary(summary)
    report.write("replay", vars(arguments), rows, summary, arguments.json)


def policy_of(name: str) -> dict[str, Any]:
    """The policy file of a variant."""
    kind, _, length = name.partition(" ")
    section: dict[str, Any] = {"policy": "goodput" if name == SHADOWS else kind}
    if length:
        section["draft_len"] = int(length)
    follow = "shadows" if name == SHADOWS else "length"
    return {
        "version": 1,
        "length": {**section, "max_draft_len": MAX_DRAFT_LEN},
        "governor": {"follow": follow},
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each policy."""
    num_prompts, num_tokens = (2, 40) if arguments.quick else (8, 160)
    models = load_demo()
    prompts = [
        models.tokenizer(text)["input_ids"]
        for texts in models.prompts.values()
        for text in texts[:num_prompts]
    ]
    names = [*(f"static {length}" for length in STATIC), *ADAPTIVE, SHADOWS]
    grid = replace(GRID, num_tokens=num_tokens)
    frozen = _table(models, prompts, grid)
    corpus = _record(models, prompts, num_tokens)
    # As many passes as prompts: the machine's speed changes by a tenth within seconds.
    grid = replace(grid, num_passes=len(prompts))
    costs = CostMeasurement(models.target, models.draft, prompts, grid, ("target", "draft"))
    measuring = costs.runs()
    runs = {name: _open(models, name, frozen) for name in names}
    rng = np.random.default_rng(0)
    with report.progress() as bar:
        for prompt in bar.track(prompts, description="decoding"):
            # A pass over the grid for each prompt, its runs among those of the policies.
            turns = [*names, *([""] * len(grid.cells))]
            for place in rng.permutation(len(turns)).tolist():
                if not turns[place]:
                    next(measuring)
                    continue
                run = runs[turns[place]]
                (text,) = run.gov.generate_many(
                    [prompt], max_new_tokens=num_tokens, do_sample=False
                )
                run.tokens += len(text) - len(prompt)
    table = costs.table()
    return [_row(name, run, corpus, frozen, table) for name, run in runs.items()]


def _table(models: DemoModels, prompts: Sequence[Sequence[int]], grid: Grid) -> CostTable:
    costs = CostMeasurement(models.target, models.draft, prompts, grid, ("target", "draft"))
    for _ in costs.runs():
        pass
    return costs.table()


def _record(models: DemoModels, prompts: Sequence[Sequence[int]], num_tokens: int) -> Corpus:
    with govern(models.target) as gov:
        texts = gov.generate_many(prompts, max_new_tokens=num_tokens, do_sample=False)
    finished = [
        FinishedText(text.numpy(), len(prompt), limit=num_tokens)
        for text, prompt in zip(texts, prompts, strict=True)
    ]
    how = RecordSettings(num_ahead=MAX_DRAFT_LEN)
    return Corpus(
        record_matches(models.target, models.draft, finished, how), np.random.default_rng(0)
    )


def _open(models: DemoModels, name: str, frozen: CostTable) -> Run:
    rounds: list[RoundStats] = []
    gov = govern(
        models.target, [models.draft], policy=policy_of(name), costs=frozen,
        on_round=rounds.append,
    )  # fmt: skip
    return Run(gov, rounds)


def _row(
    name: str, run: Run, corpus: Corpus, frozen: CostTable, table: CostTable
) -> dict[str, Any]:
    policy = load_policy(policy_of(name))
    found = replay(corpus, policy, table, told=frozen)
    proposed = np.concatenate([stats.draft_len for stats in run.rounds])
    accepted = np.concatenate([stats.num_accepted for stats in run.rounds])
    same = np.array_equal(found.proposed, proposed) and np.array_equal(found.accepted, accepted)
    predicted = run.tokens / float(found.step_s.sum())
    measured = run.tokens / run.gov.stats.total_s
    return {
        "policy": name,
        "rounds": len(found.proposed),
        "real_rounds": len(proposed),
        "same": bool(same),
        "tokens_per_s": measured,
        "predicted": predicted,
        "ratio": predicted / measured,
    }


if __name__ == "__main__":
    main()
