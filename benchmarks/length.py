"""Claim: the default length policy is the best there is, whatever the text, load and costs.

python -m benchmarks.length [--quick] [--seed-base N] [--part PART] [--json FILE]

Every length policy in virtual time: along synthetic and recorded texts (`texts`), in batches of 1
to 256 requests (`load`), where nothing changes (`regret`), where a useless draft turns good
(`return`), and where confidences tell nothing (`blind`). And how well acceptance is predicted in
mid-draft (`calibration`).
"""

from __future__ import annotations

from typing import Any

from benchmarks import (
    length_blind,
    length_calibration,
    length_load,
    length_regret,
    length_return,
    length_texts,
    report,
)

PARTS = {
    "texts": length_texts.run,
    "load": length_load.run,
    "regret": length_regret.run,
    "return": length_return.run,
    "blind": length_blind.run,
    "calibration": length_calibration.run,
}
NUM_SEEDS, QUICK_SEEDS = 20, 2


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("length", __doc__, "two seeds and short texts")
    report.add_seed_base(parser, "texts")
    parser.add_argument("--part", choices=PARTS, help="this one alone")
    arguments = parser.parse_args()
    count = QUICK_SEEDS if arguments.quick else NUM_SEEDS
    seeds = range(arguments.seed_base, arguments.seed_base + count)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for part in PARTS if arguments.part is None else (arguments.part,):
        found, summary[part] = PARTS[part](seeds, arguments.quick)
        rows += [{"part": part, **row} for row in found]
    report.print_summary(summary)
    report.write("length", vars(arguments), rows, summary, arguments.json)


if __name__ == "__main__":
    main()
