"""Claim: an ensemble of draft views keeps up with the best everywhere, and wins on the whole.

python -m benchmarks.ensemble [--quick] [--seed-base N] [--json FILE] [--picture FILE]

The demo's vision-language pair in transformers, batch 1. Members are four views of one draft: the
image, no image, pooled image tokens, a caption. In-domain, second-turn and out-of-domain prompts;
greedy decoding and sampling at temperature 1; single members, every weighting rule, the best
fixed mixture in hindsight, trees of width 2 and 3, block verification, and transformers' own
assisted generation, whose assistant gets no image. All of these draft 5 tokens a round and begin
anew with every scenario. Then over five times as many prompts, as one stream in which modes learn
on from text to text: single members, the default and TABED with 5 tokens a round, and each member
and the governor, which may switch the ensemble off, with lengths of their own. Modes take turns at
every prompt. `tracking` walks rules over finished texts whose scenario switches.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from benchmarks import report
from benchmarks.ensemble_modes import SERVED, VIEWS, Mode, modes, off, served
from benchmarks.ensemble_summary import summarise
from benchmarks.ensemble_texts import ReadText, grid_acceptance, read_texts
from benchmarks.ensemble_tracking import draw, track
from flyball.demo.vlm_data import SCENARIOS, draw_prompts
from flyball.demo.vlm_loader import VlmModels, load_vlm_demo
from flyball.policies.ensemble.base import simplex_grid

_SERVED = 5  # times as many prompts for those who learn on from text to text


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("ensemble", __doc__, "few short texts")
    report.add_seed_base(parser, "prompts and draws")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="weights over time, as PNG")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    models = load_vlm_demo()
    num_prompts, num_tokens = (2, 40) if arguments.quick else (8, 100)
    seed = 1000 + arguments.seed_base  # the demo's own prompts have another one
    drawn = draw_prompts(models.tokenizer, seed, (1 + _SERVED) * num_prompts)
    prompts = {scenario: found[:num_prompts] for scenario, found in drawn.items()}
    further = {scenario: found[num_prompts:] for scenario, found in drawn.items()}
    rows, mixtures = [], {}
    texts: dict[tuple[bool, str], list[ReadText]] = {}
    for sampled in (False, True):
        for scenario in SCENARIOS:
            read = read_texts(models, prompts[scenario], num_tokens, sampled, seed)
            texts[sampled, scenario] = read
            grid = simplex_grid(len(VIEWS))
            mixtures[sampled, scenario] = grid[grid_acceptance(read, grid, sampled).argmax()]
    with report.progress() as bar:
        task = bar.add_task("decoding", total=2 * len(SCENARIOS) * (1 + _SERVED) * num_prompts)
        for row in (
            *_decode(models, prompts, mixtures, num_tokens, seed),
            *_serve(models, further, num_tokens, seed),
        ):
            rows.append(row)
            if row["last"]:
                bar.advance(task)
    tracked = track(texts)
    table, summary = summarise(rows, tracked)
    for sampled in (False, True):
        name = "sampling" if sampled else "greedy"
        own = [line for line in table if line["sampled"] == sampled]
        columns = ("mode", *SCENARIOS, "mean", "tokens_per_s", "of_best_single")
        report.print_table(f"tokens a round, {name}", own, columns)
    report.print_summary(summary)
    if arguments.picture is not None:
        draw(texts, arguments.picture)
    report.write("ensemble", vars(arguments), table, summary, arguments.json)


def _decode(
    models: VlmModels,
    prompts: dict[str, Any],
    mixtures: dict[tuple[bool, str], np.ndarray],
    num_tokens: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """What every mode of a constant length makes of every prompt.

    A scenario begins with fresh governors.
    """
    rng = np.random.default_rng(seed)
    for sampled in (False, True):
        for scenario in SCENARIOS:
            running = modes(models, mixtures[sampled, scenario])
            for number, prompt in enumerate(prompts[scenario]):
                turn = (sampled, scenario, number, prompt)
                yield from _take_turns(running, turn, num_tokens, seed, rng)


def _serve(
    models: VlmModels, prompts: dict[str, Any], num_tokens: int, seed: int
) -> Iterator[dict[str, Any]]:
    """What modes that learn on make of every prompt, as one stream."""
    rng = np.random.default_rng(seed)
    for sampled in (False, True):
        running = {"off": off(models), **served(models)}
        for scenario in SCENARIOS:
            for number, prompt in enumerate(prompts[scenario]):
                turn = (sampled, scenario, number, prompt)
                for row in _take_turns(running, turn, num_tokens, seed, rng):
                    # Without drafts it decodes here for comparison alone.
                    name = row["mode"]
                    yield {**row, "mode": SERVED.format(name) if name == "off" else name}


def _take_turns(
    running: dict[str, Mode],
    turn: tuple[bool, str, int, Any],
    num_tokens: int,
    seed: int,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """What all modes make of a prompt, in an order drawn by `rng`."""
    sampled, scenario, number, prompt = turn
    names, made = list(running), {}
    for place in rng.permutation(len(names)).tolist():
        torch.manual_seed(seed + number)
        made[names[place]] = running[names[place]](prompt, num_tokens, sampled)
    for name in names:
        yield {
            "sampled": sampled,
            "scenario": scenario,
            "prompt": number,
            "mode": name,
            "tokens": len(made[name].tokens),
            "rounds": made[name].num_rounds,
            "seconds": made[name].seconds,
            "unlike": not sampled and made[name].tokens != made["off"].tokens,
            "last": name == names[-1],
        }


if __name__ == "__main__":
    main()
