"""Measure the acceptance head against logistic regressions on the draft's confidences.

    python -m flyball.demo.measure_head [--head FILE] [--sample]

Both models read the target's own continuations of the held-out prompts. Regressions are fitted by
scikit-learn on one half of the texts and judged on the other, then the other way round.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from flyball.demo.head_scores import Floats, calibration_error, losses, regress
from flyball.demo.loader import HEAD, DemoModels, load_demo
from flyball.integrations.hf.cached_model import CachedModel
from flyball.kernels.head import AcceptanceHead

NEW_TOKENS = 200
NUM_RESAMPLES = 2000
RECORD_MEMORY = 40.0  # tokens after which a text's own record has faded to 1/e


@dataclass(frozen=True)
class Reading:
    """What was known of each position before its token, and what became of it; all (texts, new).

    Attributes:
        columns: by name: log-odds of the head, log-odds of max q, entropy of q in nats, position
            in the text, log-odds of the text's own recent acceptance.
        accepted: 1 where the target accepted.
    """

    columns: dict[str, Floats]
    accepted: Floats

    @classmethod
    def join(cls, parts: list[Reading]) -> Reading:
        """All texts of several."""
        columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in parts[0].columns}
        return cls(columns, np.concatenate([part.accepted for part in parts]))


# What each regression reads. The first two are judged as they are, too.
FEATURES = {
    "max q": ["max q"],
    "head": ["head"],
    "max q, entropy, position": ["max q", "entropy", "position"],
    "head, max q, entropy, position": ["head", "max q", "entropy", "position"],
    "max q, entropy, position, record": ["max q", "entropy", "position", "record"],
    "head, position, record": ["head", "position", "record"],
    "head, max q, entropy, position, record": [
        "head", "max q", "entropy", "position", "record"
    ],
}  # fmt: skip
RIVAL = "max q, entropy, position"


@torch.no_grad()
def read_texts(
    models: DemoModels, head: AcceptanceHead, domain: str, num_prompts: int, sample: bool
) -> Reading:
    """The target's continuations of held-out prompts as the draft reads them."""
    eos = models.tokenizer.eos_token_id
    inputs = models.tokenizer(
        models.prompts[domain][:num_prompts],
        return_tensors="pt",
        padding=True,
        return_token_type_ids=False,
    )
    torch.manual_seed(0)
    text = models.target.generate(
        **inputs,
        do_sample=sample,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        **({"top_k": 0} if sample else {}),
    )
    mask = torch.ones_like(text)
    mask[:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    settings = {"input_ids": text, "attention_mask": mask, "position_ids": positions}
    output = models.draft(**settings, output_hidden_states=True)
    proposing = slice(-NEW_TOKENS - 1, -1)
    scores = [output.logits[:, proposing], models.target(**settings).logits[:, proposing]]
    for logits in scores:
        logits[..., eos] = -torch.inf
    q, p = (logits.double().softmax(dim=-1) for logits in scores)
    if sample:
        overlap = torch.minimum(p, q).sum(dim=-1)
        accepted = (torch.rand(overlap.shape) < overlap).double()
    else:
        accepted = (q.argmax(dim=-1) == text[:, -NEW_TOKENS:]).double()
    top = q.amax(dim=-1).clamp(1e-6, 1.0 - 1e-6)
    columns = {
        "head": head.logit(output.hidden_states[-1][:, proposing]).double(),
        "max q": top.logit(),
        "entropy": torch.special.entr(q).sum(dim=-1),
        "position": positions[:, -NEW_TOKENS:].double(),
        "record": _record(accepted),
    }
    return Reading({name: value.numpy() for name, value in columns.items()}, accepted.numpy())


def _record(accepted: torch.Tensor) -> torch.Tensor:
    """Log-odds of each text's discounted share of acceptances before each position."""
    keep = float(np.exp(-1.0 / RECORD_MEMORY))
    hits, seen = torch.full_like(accepted[:, 0], 2.8), 4.0  # a prior of 0.7
    shares = []
    for column in accepted.unbind(dim=1):
        shares.append(hits / seen)
        hits, seen = keep * hits + column, keep * seen + 1.0
    return torch.stack(shares, dim=1).clamp(1e-3, 1.0 - 1e-3).logit()


def compare_next(everything: Reading) -> None:
    """Print how well the token after an accepted one is foreseen, which `stop` turns on."""
    before = {name: column[:, :-1] for name, column in everything.columns.items()}
    accepted, weight = everything.accepted[:, 1:], everything.accepted[:, :-1]
    print("log-loss of the token after an accepted one, from this one's:", end="")
    for names in (["max q"], ["head"], ["head", "max q"]):
        probability = regress(before, names, accepted, weight)
        loss = np.average(losses(probability, accepted), weights=weight)
        print(f"  {', '.join(names)} {loss:.4f};", end="")
    print()


def compare(readings: dict[str, Reading]) -> None:
    """Print calibration error and log-loss of the head, of regressions, and of both."""
    everything = Reading.join(list(readings.values()))
    predictions = {
        f"{name}, as it is": 1.0 / (1.0 + np.exp(-everything.columns[name]))
        for name in ("max q", "head")
    }
    predictions |= {
        name: regress(everything.columns, names, everything.accepted)
        for name, names in FEATURES.items()
    }
    rival = losses(predictions[RIVAL], everything.accepted).mean(axis=1)
    resample = np.random.default_rng(0).integers(0, len(rival), (NUM_RESAMPLES, len(rival)))
    print(f"{'':40}{'ECE':>7}{'log-loss':>10}" + "".join(f"{d:>8}" for d in readings)
          + f"   less than {RIVAL!r} by")  # fmt: skip
    for name, probability in predictions.items():
        loss = losses(probability, everything.accepted).mean(axis=1)
        gain = 1.0 - loss[resample].sum(axis=1) / rival[resample].sum(axis=1)
        low, high = np.quantile(gain, [0.025, 0.975])
        shares = "".join(f"{part.mean():8.4f}" for part in np.split(loss, len(readings)))
        error = calibration_error(probability, everything.accepted)
        print(f"{name:40}{error:7.4f}{loss.mean():10.4f}{shares}"
              f"   {1.0 - loss.sum() / rival.sum():+.1%} [{low:+.1%}, {high:+.1%}]")  # fmt: skip


@torch.inference_mode()
def step_costs(
    models: DemoModels, head: AcceptanceHead, rows: int, repeats: int = 1000
) -> dict[str, float]:
    """Median microseconds of the head, and of a draft step with and without keeping its states."""
    ids = torch.randint(0, 512, (rows, 1))
    lengths = np.full(rows, 200)
    calls: dict[str, Callable[[], object]] = {
        "head": functools.partial(head, torch.randn(rows, head.hidden_size))
    }
    for name, keep in (("draft step", False), ("draft step that keeps states", True)):
        cached = CachedModel(models.draft, rows, 256, keep_hidden=keep)
        cached.read_prompts(ids.expand(rows, 200), lengths, np.arange(rows))
        calls[name] = functools.partial(cached.forward, ids, lengths)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(
        repeats
    ):  # in turns, as a draft does: alone, the head would keep the caches warm
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * float(np.median(values)) for name, values in times.items()}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m flyball.demo.measure_head")
    parser.description = "Measure the acceptance head on held-out prompts."
    parser.add_argument("--head", type=Path, default=HEAD)
    parser.add_argument("--sample", action="store_true", help="sampled texts; greedy otherwise")
    parser.add_argument("--prompts", type=int, default=24, help="of each domain, an even number")
    args = parser.parse_args()
    if find_spec("sklearn") is None:
        parser.error("expected scikit-learn for the regressions; pip install scikit-learn")
    try:
        head = AcceptanceHead.load(args.head)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    models = load_demo()
    readings = {
        domain: read_texts(models, head, domain, args.prompts, args.sample)
        for domain in models.prompts
    }
    compare(readings)
    compare_next(Reading.join(list(readings.values())))
    torch.set_num_threads(1)
    for rows in (1, 8):
        costs = step_costs(models, head, rows)
        print(f"us, {rows} rows: " + ", ".join(f"{n} {us:.0f}" for n, us in costs.items()))


if __name__ == "__main__":
    main()
