"""Train the reasoning pair: a solver that is unsure of its products, and a judge.

    python -m flyball.demo.train_reasoner all       # 40 minutes on two CPU cores
    python -m flyball.demo.train_reasoner solver    # or by stage: base, solver, judge, ...

Solver and judge are language models of right solutions. The solver's training is stopped while its
products are still half learned, so that samples differ; one that had learned products and lost
them again is wrong for sure, the same way in every sample. The judge goes on until products are
certain, so its likelihoods tell a right step from a wrong one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from flyball.demo.arithmetic import Problem, draw_problem
from flyball.demo.loader import MODELS
from flyball.demo.reasoner_models import (
    IGNORED,
    LANGUAGE_MODEL,
    SEED,
    make_model,
    make_tokenizer,
    solved_rows,
)
from flyball.demo.train import fit, load, save

BATCH_TOKENS = 4_000
LEARNING_RATE = 2e-3
MOST_PRODUCTS = 3


@dataclass(frozen=True)
class Phase:
    """Part of a training on right solutions.

    Attributes:
        until: share of the steps that are done at its end.
        num_terms: of the problems; one number for all rows of a batch.
        products: share of problems with products.
    """

    until: float
    num_terms: tuple[int, ...]
    products: float


# Short texts first: with operands in fixed places, sums and products are learned within 500 steps.
BASE_PHASES = (
    Phase(0.25, (2,), 0.5),
    Phase(0.5, (2, 3, 4), 0.5),
    Phase(1.0, (4, 5, 6, 7, 8), 0.5),
)
SOLVER_STEPS = 2400  # of the base's
PRACTICE_PHASES = (Phase(1.0, (4, 5, 6, 7, 8), 0.5),)
# Steps of a schedule, how many of them are run, learning rate. How often the solver is right turns
# on the last: after 120 steps fewer 40% of the time, after 120 more 67%.
PRACTICE = ((240, 240, 1e-3), (240, 240, 7e-4), (320, 200, 7e-4))
JUDGE_PHASES = (Phase(1.0, (4, 5, 6, 7, 8), 0.8),)


def draw_batch(rng: np.random.Generator, phase: Phase) -> list[Problem]:
    """Problems of one number of terms and about BATCH_TOKENS tokens."""
    num_terms = int(rng.choice(phase.num_terms))
    rows = BATCH_TOKENS // (3 * num_terms * (num_terms + 1) // 2)
    most = min(MOST_PRODUCTS, num_terms - 1)
    with_products = rng.random(rows) < phase.products
    counts = np.where(with_products, rng.integers(1, most + 1, rows), 0)
    return [draw_problem(rng, num_terms, count) for count in counts.tolist()]


def train_on_solutions(
    model: LlamaForCausalLM,
    phases: tuple[Phase, ...],
    num_steps: int,
    lr: float,
    label: str,
    stop_after: int | None = None,
) -> None:
    """Next-token training on right solutions; prompts bear no loss."""
    print(f"{label}: {model.num_parameters():,} parameters", flush=True)
    rng = np.random.default_rng(SEED)
    step = 0

    def loss_of(model: LlamaForCausalLM) -> torch.Tensor:
        nonlocal step
        phase = next(phase for phase in phases if step / num_steps < phase.until)
        step += 1
        ids, labels = solved_rows(draw_batch(rng, phase))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return F.cross_entropy(
            logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )

    fit(model, loss_of, num_steps, lr, label, stop_after)


def train_base(num_steps: int) -> LlamaForCausalLM:
    """Sums and products, on short texts first."""
    model = make_model(LANGUAGE_MODEL)
    train_on_solutions(model, BASE_PHASES, num_steps, LEARNING_RATE, "base")
    return model


def train_solver(num_steps: int) -> LlamaForCausalLM:
    """As the base, but stopped while products are half learned."""
    model = make_model(LANGUAGE_MODEL)
    rest = (LEARNING_RATE, "solver", SOLVER_STEPS)
    train_on_solutions(model, BASE_PHASES, num_steps, *rest)
    for planned, run, lr in PRACTICE:
        train_on_solutions(model, PRACTICE_PHASES, planned, lr, "practice", run)
    return model


def train_judge(base: Path, num_steps: int) -> LlamaForCausalLM:
    """Products until they are sure."""
    model = load(base)
    model.set_attn_implementation("eager")
    model.train()
    train_on_solutions(model, JUDGE_PHASES, num_steps, LEARNING_RATE / 2, "judge")
    return model


def keep(model: Any, folder: Path) -> None:
    """Weights in bfloat16, with the tokenizer beside them."""
    save(model, folder)
    make_tokenizer().save_pretrained(folder)


def main() -> None:
    """Run one stage or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["all", "base", "solver", "judge"])
    parser.add_argument("--out", type=Path, default=MODELS)
    parser.add_argument("--base", type=Path, default=Path("build/reasoner-base"))
    parser.add_argument("--base-steps", type=int, default=4000)
    parser.add_argument("--judge-steps", type=int, default=700)
    args = parser.parse_args()
    base = args.base
    stages: dict[str, tuple[Path, Callable[[], Any]]] = {
        "base": (base, lambda: train_base(args.base_steps)),
        "solver": (args.out / "solver", lambda: train_solver(args.base_steps)),
        "judge": (args.out / "judge", lambda: train_judge(base, args.judge_steps)),
    }
    for name in stages if args.stage == "all" else [args.stage]:
        folder, train = stages[name]
        keep(train(), folder)


if __name__ == "__main__":
    main()
