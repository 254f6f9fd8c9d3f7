"""Measure the vision-language pair: agreement of each view by scenario, milliseconds per step.

python -m flyball.demo.measure_vlm
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.demo.vlm_data import SCENARIOS
from flyball.demo.vlm_loader import VlmModels, greedy_answers, left_padded, load_vlm_demo
from flyball.demo.vlm_views import VIEWS, batch_logits, make_batch

NEW_TOKENS = 100
ROWS = 8  # prompts read at a time
DRAFT_LEN = 5


@dataclass(frozen=True)
class Agreement:
    """How a view of the draft reads the target's own greedy answers.

    Attributes:
        matches: for each answer, whether each of its tokens is the one the view would propose.
    """

    matches: list[NDArray[np.bool_]]

    @property
    def per_token(self) -> float:
        """Share of tokens that the view would propose."""
        return float(np.concatenate(self.matches).mean())

    @property
    def mean_run(self) -> float:
        """Mean number of matches before a miss."""
        flat = np.concatenate(self.matches)
        return float(flat.sum() / max(1, (~flat).sum()))

    def block_efficiency(self, draft_len: int) -> float:
        """Mean tokens of a round, the bonus token included, with rounds cut at an answer's end."""
        num_rounds = sum(_num_rounds(row, draft_len) for row in self.matches)
        return sum(map(len, self.matches)) / num_rounds


def _num_rounds(matches: NDArray[np.bool_], draft_len: int) -> int:
    """Rounds of greedy speculative decoding that write one answer."""
    position = num_rounds = 0
    while position < len(matches):
        window = matches[position : position + draft_len]
        num_accepted = len(window) if window.all() else int(window.argmin())
        position += num_accepted + 1
        num_rounds += 1
    return num_rounds


@torch.no_grad()
def agreements(
    models: VlmModels, scenario: str, num_prompts: int, views: tuple[str, ...] = VIEWS
) -> dict[str, Agreement]:
    """Agreement of each view, along the target's greedy answers to a scenario's first prompts."""
    matches: dict[str, list[NDArray[np.bool_]]] = {view: [] for view in views}
    prompts = models.prompts[scenario][:num_prompts]
    for start in range(0, len(prompts), ROWS):
        rows = prompts[start : start + ROWS]
        answers = greedy_answers(models.target, rows, NEW_TOKENS)
        dialogues = list(zip(rows, answers, strict=True))
        for view in views:
            batch = make_batch(dialogues, view)
            hits = batch_logits(models.draft, batch).argmax(dim=-1) == batch.labels
            flat = hits[batch.answers].numpy()
            matches[view] += np.split(flat, np.cumsum([len(a) for a in answers])[:-1])
    return {view: Agreement(rows) for view, rows in matches.items()}


@torch.no_grad()
def step_ms(model: Any, models: VlmModels, width: int, repeats: int = 60) -> float:
    """Median milliseconds of a forward over `width` new tokens after a prompt, batch size 1."""
    inputs = left_padded(models.prompts["captions"][:1])
    cache = model(**inputs, use_cache=True).past_key_values
    ids = torch.randint(4, 260, (1, width), generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        times.append(time.perf_counter() - start)
        cache.crop(-width)
    return sorted(times)[repeats // 2] * 1e3


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=24, help="of each scenario")
    args = parser.parse_args()
    models = load_vlm_demo()
    print("accepted per token / mean run / block efficiency at draft length 5")
    print(f"{'scenario':12}" + "".join(f"{view:>22}" for view in VIEWS))
    for scenario in SCENARIOS:
        row = agreements(models, scenario, args.prompts)
        cells = [
            f"{a.per_token:.3f} / {a.mean_run:4.1f} / {a.block_efficiency(DRAFT_LEN):.2f}"
            for a in row.values()
        ]
        print(f"{scenario:12}" + "".join(f"{cell:>22}" for cell in cells))
    print("\nms a step    1 token   6 tokens")
    for name, model in (("target", models.target), ("draft", models.draft)):
        print(f"{name:9}" + "".join(f"{step_ms(model, models, w):11.2f}" for w in (1, 6)))


if __name__ == "__main__":
    main()
