"""Claim: in transformers the governor beats every stock mode and every fixed draft length.

python -m benchmarks.hf [--quick] [--json FILE] [--seed-base N] [--device cuda]

The demo's target and draft, greedy, float32, torch's own number of threads. At batch 1 a stream of
three domains in segments of two texts goes through every mode, text by text. Modes that learn from
text to text run twice: one runner sees the whole stream, and one for each domain sees only its
own. At batch 8 jobs of prompts that want texts of different lengths do likewise.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

from transformers.utils import logging

from benchmarks import hf_batch, hf_summary, report
from benchmarks.hf_modes import has_dynamic_threshold, single_modes
from benchmarks.hf_run import run_stream
from flyball.demo.loader import DemoModels, load_demo

COLUMNS = (
    "mode", "tokens_per_s", "ms_per_token", "accepted_per_round", "drafted_per_round",
    "host_ms_per_round", "outside_forwards_ms_per_round", "num_equal_to_plain", "num_texts",
)  # fmt: skip
# Sizes a run: texts of a domain, new tokens, jobs, texts of a domain in a job, wanted tokens.
FULL = (8, 160, 3, 8, hf_batch.WANTED_TOKENS)
QUICK = (2, 64, 1, 5, hf_batch.QUICK_WANTED_TOKENS)


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    models = _load(arguments.device)
    texts, new_tokens, jobs, job_texts, wanted = QUICK if arguments.quick else FULL
    notes = []
    if not has_dynamic_threshold():
        notes.append("scikit-learn is not installed: stock's dynamic threshold was left out")
        print(f"note: {notes[0]}", file=sys.stderr)
    seed = arguments.seed_base
    single = run_stream(models, single_modes(models), texts, new_tokens, seed)
    batch = hf_batch.run_jobs(models, jobs, job_texts, wanted, seed)
    rows = hf_summary.rows(single, 1) + hf_summary.rows(batch, hf_batch.BATCH_SIZE)
    summary = {
        **hf_summary.single_summary(single), **hf_summary.batch_summary(batch), "notes": notes
    }  # fmt: skip
    for batch_size, stream in dict.fromkeys((row["batch"], row["stream"]) for row in rows):
        chosen = [r for r in rows if (r["batch"], r["stream"]) == (batch_size, stream)]
        report.print_table(f"{stream}, batch {batch_size}", chosen, COLUMNS)
    report.print_summary(summary)
    report.write("hf", vars(arguments), rows, summary, arguments.json)


def _load(device: str) -> DemoModels:
    models = load_demo("float32")
    return dataclasses.replace(
        models, target=models.target.to(device), draft=models.draft.to(device)
    )


def _arguments() -> argparse.Namespace:
    parser = report.argument_parser("hf", __doc__, "two minutes; says little")
    report.add_seed_base(parser, "prompts and orders")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    arguments = parser.parse_args()
    return arguments


if __name__ == "__main__":
    main()
