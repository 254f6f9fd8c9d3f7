"""Measure the reasoning pair: how often the solver is right, where it errs, and who notices.

python -m flyball.demo.measure_reasoner
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from flyball.demo.arithmetic import MIXES, draw_problems
from flyball.demo.reasoner_loader import Reasoner, load_reasoner
from flyball.demo.reasoner_models import IGNORED, PAD_ID, encode, padded
from flyball.demo.reasoner_samples import Samples, write

SEED = 4  # training draws from other seeds
ROWS = 500  # texts that are read at a time
# Whole steps, and tokens of the next one, of which the first two hold its result.
PREFIXES = ((0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (3, 0), (3, 2))


@torch.no_grad()
def likelihood_scores(reasoner: Reasoner, samples: Samples) -> NDArray[np.float64]:
    """Sum of the judge's log-likelihoods of each text's tokens."""  # (texts,)
    scores = []
    for start in range(0, len(samples.texts), ROWS):
        pairs = list(zip(samples.problems, samples.texts, strict=True))[start : start + ROWS]
        prompts = [encode(problem.text) for problem, _ in pairs]
        written = [encode(text) for _, text in pairs]
        both = list(zip(prompts, written, strict=True))
        ids = padded([p + w for p, w in both], PAD_ID)
        labels = padded([[IGNORED] * len(p) + w for p, w in both], IGNORED)
        logits = reasoner.judge(input_ids=ids, use_cache=False).logits.float()
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
        )
        scores.append(-losses.sum(dim=1))
    return torch.cat(scores).double().numpy()


def auc(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Chance that a right text scores above a wrong one, ties half (Mann-Whitney)."""
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    ranks = rankdata(scores)[right].sum() - num_right * (num_right + 1) / 2
    return float(ranks / (num_right * num_wrong))


def main() -> None:
    """Print shares right, places of first errors, and AUCs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=500, help="of each mix")
    parser.add_argument("--samples", type=int, default=4, help="of each problem")
    parser.add_argument("--temperature", type=float, default=0.8)
    args = parser.parse_args()
    reasoner = load_reasoner()
    for number, (name, mix) in enumerate(MIXES.items()):
        problems = draw_problems(np.random.default_rng([SEED, number]), mix, args.problems)
        repeated = [problem for problem in problems for _ in range(args.samples)]
        samples = write(reasoner.solver, reasoner.tokenizer, repeated, args.temperature, SEED)
        print_rights(name, samples, args.samples)
        print_aucs(reasoner, samples)


def print_rights(name: str, samples: Samples, num_samples: int) -> None:
    """Shares right by number of products, and where texts first go wrong."""
    right = samples.right
    products = np.array([problem.num_products for problem in samples.problems])
    by_products = "  ".join(
        f"{n}: {right[products == n].mean():.2f}" for n in np.unique(products).tolist()
    )
    any_right = right.reshape(-1, num_samples).any(axis=1).mean()
    print(f"{name}: right {right.mean():.3f}, one of {num_samples} {any_right:.3f}")
    print(f"  by number of products   {by_products}")
    errors = samples.first_errors
    early = np.mean([step < steps / 3 for step, steps in errors])
    counts = np.bincount([step for step, _ in errors], minlength=7) / len(errors)
    lucky = (right & ~samples.right_so_far).sum() / right.sum()
    print(f"  right answers of texts with an error that cancels out: {lucky:.3f}")
    print(f"  first error in the first third of the steps: {early:.3f} of wrong texts")
    print("  at step " + "  ".join(f"{i + 1}: {share:.2f}" for i, share in enumerate(counts)))


def print_aucs(reasoner: Reasoner, samples: Samples) -> None:
    """How well the judge tells right from wrong, on whole texts and on beginnings."""
    rows = [
        ("right answers", samples, samples.right),
        ("texts without an error", samples, samples.right_so_far),
    ]
    for num_steps, num_tokens in PREFIXES:
        cut = samples.cut(num_steps, num_tokens)
        rows.append((f"{num_steps} steps, {num_tokens} tokens", cut, cut.right_so_far))
    print("  the judge's AUC")
    for name, part, right in rows:
        print(f"  {name:24} {auc(likelihood_scores(reasoner, part), right):.4f}", flush=True)


if __name__ == "__main__":
    main()
