"""Claim: tuning finds in 60 trials what an exhaustive grid finds, and more often than by chance.

python -m benchmarks.tune [--quick] [--seed-base N] [--json FILE]

A trace of 100,000 rounds of the demo's models, recorded first, at made-up costs. Rivals: every
point of a grid, and as many points drawn evenly. All are judged on slices none was tuned on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.vllm_load import DOMAINS, PROMPT_TOKENS, Prompts
from flyball.controller.cost_table import CostTable, dump_costs
from flyball.controller.match_text import MatchText
from flyball.controller.match_trace import write_matches
from flyball.controller.slices import Setting, processes
from flyball.controller.space import Point, Space, load_space
from flyball.controller.tune import Evaluate, Result, Tuner, TuneSettings
from flyball.demo.loader import load_demo
from flyball.integrations.hf import govern
from flyball.integrations.hf.exact import FinishedText, RecordSettings, record_matches

NUM_TRIALS, NUM_SEEDS, NUM_WORKERS = 60, 20, 2
NUM_SLICES, NUM_HELD_OUT = 8, 4
TOKENS = 280_000  # which make more than 100,000 rounds of a good policy
NEW_TOKENS, BATCH = 300, 16
# With a least confidence of 0 a threshold is a static length.
SPACE = {
    "version": 1,
    "policy": {
        "version": 1,
        "length": {"policy": "threshold", "max_draft_len": 16},
        "governor": {"follow": "length"},
    },
    "parameters": {
        "length.policy": {"choices": ["threshold", "svip"]},
        "length.max_draft_len": {"low": 1, "high": 16, "integer": True},
        "length.min_confidence": {"low": 0.0, "high": 1.0},
        "length.max_difference": {"low": 0.0, "high": 1.0},
    },
}
GRID = {"threshold": "length.min_confidence", "svip": "length.max_difference"}
GRID_VALUES = np.linspace(0.0, 1.0, 26)
# Made up: the claim is about the search, and any costs of this shape will do.
COSTS = CostTable(
    version=1,
    target="demo target",
    draft="demo draft",
    machine="none",
    source="made up",
    batch_sizes=[1, 16],
    verify_lens=[1, 5, 17],
    verify_s=[[6e-3, 7e-3, 12e-3], [10e-3, 16e-3, 50e-3]],
    draft_step_s=[1e-3, 1.2e-3],
    host_s=[5e-4, 5e-4],
    prompt_token_s=2e-5,
)


class Memory:
    """Replays each point once, whoever asks again."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._known: dict[tuple[str, int], Result] = {}

    def __call__(self, tasks: Sequence[tuple[str, int]]) -> list[Result]:
        """Results in order."""
        missing = [task for task in dict.fromkeys(tasks) if task not in self._known]
        self._known.update(zip(missing, self._evaluate(missing), strict=True))
        return [self._known[task] for task in tasks]

    def mean(self, space: Space, points: Sequence[Point], slices: range) -> list[float]:
        """Mean rate of each point over some slices."""
        policies = [space.policy_at(point).model_dump_json() for point in points]
        results = self([(policy, number) for policy in policies for number in slices])
        rates = np.array([result.rate for result in results]).reshape(len(points), len(slices))
        return [float(rate) for rate in rates.mean(axis=1)]


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("tune", __doc__, "two seeds and a tenth of the trace")
    report.add_seed_base(parser, "tunings")
    arguments = parser.parse_args()
    count, tokens = (2, TOKENS // 10) if arguments.quick else (NUM_SEEDS, TOKENS)
    space = load_space(SPACE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_matches(_texts(tokens), folder / "trace" / "0.parquet")
        setting = Setting(
            trace=str(folder / "trace"),
            draft=None,
            costs=dump_costs(COSTS),
            num_slices=NUM_SLICES,
            num_held_out=NUM_HELD_OUT,
        )
        with processes(setting, NUM_WORKERS) as evaluate:
            memory = Memory(evaluate)
            grid = _grid(space, memory)
            seeds = range(arguments.seed_base, arguments.seed_base + count)
            rows = [_row(space, evaluate, memory, grid, seed, folder) for seed in seeds]
    report.print_table("tuned, drawn and the grid's best", rows, tuple(rows[0]))
    summary = {
        "tuned_vs_grid": float(np.median([row["tuned"] / row["grid"] for row in rows])),
        "least_tuned_vs_grid": min(row["tuned"] / row["grid"] for row in rows),
        "beats_drawn": sum(row["tuned"] > row["drawn"] for row in rows),
        "seeds": len(rows),
        "longest_s": max(row["seconds"] for row in rows),
    }
    report.print_summary(summary)
    report.write("tune", vars(arguments), rows, summary, arguments.json)


def _texts(num_tokens: int) -> list[MatchText]:
    """Greedy texts of the demo's target, and what its draft would have done on them."""
    models = load_demo()
    prompts = {
        domain: [models.tokenizer(text)["input_ids"] for text in texts]
        for domain, texts in models.prompts.items()
    }
    rng = np.random.default_rng(0)
    settings = RecordSettings(target="demo target", draft="demo draft")
    found: list[MatchText] = []
    with govern(models.target, [models.draft]) as gov, report.progress() as bar:
        for _ in bar.track(range(num_tokens // (BATCH * NEW_TOKENS)), description="recording"):
            cuts = [_cut(prompts, rng) for _ in range(BATCH)]
            texts = gov.generate_many(
                [tokens for _, tokens in cuts],
                batch_size=BATCH,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
            finished = [
                FinishedText(text.numpy(), len(tokens), domain, NEW_TOKENS)
                for text, (domain, tokens) in zip(texts, cuts, strict=True)
            ]
            found += record_matches(models.target, models.draft, finished, settings)
    return found


def _cut(prompts: Prompts, rng: np.random.Generator) -> tuple[str, Sequence[int]]:
    """A domain, and a part of one of its held-out texts."""
    domain = DOMAINS[int(rng.integers(len(DOMAINS)))]
    text = prompts[domain][int(rng.integers(len(prompts[domain])))]
    size = min(len(text), int(rng.integers(*PROMPT_TOKENS)))
    start = int(rng.integers(len(text) - size + 1))
    return domain, text[start : start + size]


def _grid(space: Space, memory: Memory) -> list[tuple[Point, float, float]]:
    """Every point of the grid, with its mean rates on the slices and on those held out."""
    points: list[Point] = [
        {"length.policy": policy, name: value, "length.max_draft_len": longest}
        for policy, name in GRID.items()
        for value in GRID_VALUES.tolist()
        for longest in range(1, 17)
    ]
    mine = memory.mean(space, points, range(NUM_SLICES))
    unseen = memory.mean(space, points, _held_out())
    return list(zip(points, mine, unseen, strict=True))


def _held_out() -> range:
    return range(NUM_SLICES, NUM_SLICES + NUM_HELD_OUT)


def _row(
    space: Space,
    evaluate: Evaluate,
    memory: Memory,
    grid: list[tuple[Point, float, float]],
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """A tuning that replays everything anew, and as many points drawn."""
    start = time.perf_counter()
    how = TuneSettings(NUM_TRIALS, NUM_SLICES, seed=seed)
    tuner = Tuner(space, evaluate, how, folder / f"{seed}.jsonl", "benchmark")
    trials = list(tuner.run())
    seconds = time.perf_counter() - start
    assert tuner.best is not None
    rng = np.random.default_rng([seed, 1])
    drawn = [space.decode(unit) for unit in rng.random((NUM_TRIALS, space.width))]
    of_drawn = memory.mean(space, drawn, range(NUM_SLICES))
    best_drawn = drawn[int(np.argmax(of_drawn))]
    tuned, chance = memory.mean(space, [tuner.best.point, best_drawn], _held_out())
    return {
        "seed": seed,
        "tuned": tuned,
        "drawn": chance,
        "grid": max(unseen for _, _, unseen in grid),
        "stopped": sum(trial.stopped for trial in trials),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
