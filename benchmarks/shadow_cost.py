"""Claim: all shadows together take at most 2% of a round.

python -m benchmarks.shadow_cost [--quick] [--json FILE]

The demo's models in transformers, governed by the default, at batch 1, 4 and 16. Clocks stand
around everything that is done for shadows: what they are told of settled text, their walks, and
taking the seat. Their share of the decoding loop's seconds is reported, which no difference of two
runs could say so well on a machine whose speed changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from transformers.utils import logging

from benchmarks import report
from flyball.controller.governor import Governor
from flyball.controller.seat import Seat
from flyball.controller.shadows import Shadows
from flyball.demo.loader import load_demo
from flyball.integrations.hf import govern

SIZES = (1, 4, 16)
POLICY = {"version": 1, "length": {"policy": "goodput", "max_draft_len": 16}}
# Governor.read is of use without shadows, too: its share is an upper bound.
TIMED = (
    (Shadows, ("admit", "note", "allow", "walk")),
    (Governor, ("read",)),
    (Seat, ("hire",)),
)
COLUMNS = ("batch", "rounds", "round_ms", "shadows_us", "reads_us", "seat_us", "share")


class Clock:
    """Seconds spent in calls of some classes, each call within another counting once."""

    def __init__(self) -> None:
        self.spent_s: dict[type, float] = {owner: 0.0 for owner, _ in TIMED}
        self._inside = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure as long as the context lasts."""
        with ExitStack() as stack:
            for owner, names in TIMED:
                for name in names:
                    timed = self._timed(owner, getattr(owner, name))
                    stack.enter_context(mock.patch.object(owner, name, timed))
            yield

    def _timed(self, owner: type, method: Any) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            if self._inside:
                return method(*args, **settings)
            self._inside, started_s = True, time.perf_counter()
            try:
                return method(*args, **settings)
            finally:
                self.spent_s[owner] += time.perf_counter() - started_s
                self._inside = False

        return call


def main() -> None:
    """Measure, print, write."""
    arguments = report.argument_parser("shadow_cost", __doc__, "few short texts").parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [_measure(size, arguments.quick) for size in SIZES]
    report.print_table("shadows in real rounds", rows, COLUMNS)
    summary = {f"share_at_batch_{row['batch']}": row["share"] for row in rows}
    report.print_summary(summary)
    report.write("shadow_cost", vars(arguments), rows, summary, arguments.json)


def _measure(size: int, quick: bool) -> dict[str, Any]:
    models, num_tokens = load_demo(), 60 if quick else 200
    prompts = [
        models.tokenizer(text)["input_ids"]
        for texts in models.prompts.values()
        for text in texts[: 4 if quick else 12]
    ]
    clock = Clock()
    with govern(models.target, [models.draft], policy=POLICY) as gov:
        settings = {"batch_size": size, "max_new_tokens": num_tokens, "do_sample": False}
        gov.generate_many(prompts[: 2 * size], **settings)  # warm
        rounds, total_s = gov.stats.num_rounds, gov.stats.total_s
        with clock.watching():
            gov.generate_many(prompts, **settings)
        rounds, total_s = gov.stats.num_rounds - rounds, gov.stats.total_s - total_s
    shadows_s, reads_s, seat_s = (clock.spent_s[owner] for owner, _ in TIMED)
    return {
        "batch": size,
        "rounds": rounds,
        "round_ms": 1e3 * total_s / rounds,
        "shadows_us": 1e6 * shadows_s / rounds,
        "reads_us": 1e6 * reads_s / rounds,
        "seat_us": 1e6 * seat_s / rounds,
        "share": (shadows_s + reads_s + seat_s) / total_s,
    }


if __name__ == "__main__":
    main()
