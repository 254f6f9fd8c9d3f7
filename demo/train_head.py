"""Train the acceptance head of the demo's draft.

    python -m flyball.demo.train_head                     # minutes on one core
    python -m flyball.demo.train_head --label overlap     # for drafts that are drawn, not greedy

The draft stays as it is. The loss is SpecDec++'s weighted binary cross-entropy (arXiv 2405.19715,
section 3),

    L = -sum [ y log s + w (1 - y) log(1 - s) ] / (w sum (1 - y) + sum y),

whose minimum is not P(accepted): its log-odds lie log(w) below, which the shipped bias adds back.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch.nn import functional

from flyball.demo.head_data import HeadData, training_data
from flyball.demo.loader import HEAD, load_demo
from flyball.demo.train import SEED, lr_scale
from flyball.kernels.head import AcceptanceHead

LABELS = {"match": 0.0, "overlap": 1.0, "both": 0.5}  # share of the overlap
TEXTS = {"greedy": ["greedy"], "sampled": ["sampled"], "both": ["greedy", "sampled"]}
BATCH_SIZE = 1024  # positions a step
WEIGHT_DECAY = 0.1


def weighted_bce(logit: torch.Tensor, accepted: torch.Tensor, w_rej: float) -> torch.Tensor:
    """Binary cross-entropy of logits (n,) in which a rejection weighs w_rej; accepted is (n,)."""
    rejected = w_rej * (1.0 - accepted)
    gain = accepted * functional.logsigmoid(logit) + rejected * functional.logsigmoid(-logit)
    return -gain.sum() / (rejected.sum() + accepted.sum())


def fit_head(
    hidden: torch.Tensor,
    accepted: torch.Tensor,
    num_blocks: int,
    w_rej: float,
    num_epochs: int,
    lr: float = 5e-3,
) -> AcceptanceHead:
    """A head trained by AdamW in random order; torch's seed decides start and order.

    Args:
        hidden: (n, hidden) states.
        accepted: (n,) probability that the target accepts.
        num_blocks: D.
        w_rej: weight of a rejection; its bias is taken out of the logit afterwards.
        num_epochs: passes over the data.
        lr: at its height.
    """
    head = AcceptanceHead(hidden.shape[1], num_blocks)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    steps_per_epoch = math.ceil(len(accepted) / BATCH_SIZE)
    step = 0
    for epoch in range(num_epochs):
        total = 0.0
        for index in torch.randperm(len(accepted)).split(BATCH_SIZE):
            for group in optimizer.param_groups:
                group["lr"] = lr * lr_scale(step, num_epochs * steps_per_epoch)
            loss = weighted_bce(head.logit(hidden[index]), accepted[index], w_rej)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
            step += 1
        print(f"epoch {epoch + 1}/{num_epochs} loss {total / steps_per_epoch:.4f}", flush=True)
    with torch.no_grad():
        head.out_bias.add_(math.log(w_rej))
    return head.eval()


def main() -> None:
    """Write texts, train, save."""
    args = _arguments()
    batches = []
    for batch in training_data(
        load_demo(), TEXTS[args.texts], args.target_share, args.batches, SEED + 3
    ):
        batches.append(batch)
        print(f"texts {len(batches)}/{args.batches}", flush=True)
    data, share = HeadData.join(batches), LABELS[args.label]
    accepted = (1.0 - share) * data.match + share * data.overlap
    torch.manual_seed(SEED + 3)
    head = fit_head(data.hidden, accepted, args.blocks, args.w_rej, args.epochs)
    head.notes = {
        "label": args.label,
        "texts": args.texts,
        "target_share": str(args.target_share),
        "w_rej": str(args.w_rej),
        "positions": str(len(accepted)),
    }
    head.save(args.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flyball.demo.train_head")
    parser.description = "Train the acceptance head of the demo's draft."
    parser.add_argument(
        "--label", choices=LABELS, default="match",
        help="match: greedy drafts, [argmax q = argmax p]; overlap: drawn ones, 1 - TV(p, q)",
    )  # fmt: skip
    parser.add_argument("--texts", choices=TEXTS, default="both", help="how they are written")
    parser.add_argument(
        "--target-share", type=float, default=1.0, help="of their tokens; the paper mixes 0.15"
    )
    parser.add_argument("--blocks", type=int, default=3, help="residual blocks, D")
    parser.add_argument("--w-rej", type=float, default=1.0, help="weight of a rejection")
    parser.add_argument("--batches", type=int, default=20, help="of 19,200 positions each")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HEAD)
    return parser.parse_args()


if __name__ == "__main__":
    main()
