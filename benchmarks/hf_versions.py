"""Claim: another version of Flyball decodes no faster in transformers.

python -m benchmarks.hf_versions OTHER [--sample] [--quick] [--json FILE] [--seed-base N]

OTHER is a checkout of the other version. Each version has a process, and both decode every text,
and every job of a batch of 8, one right after the other, in an order drawn by seed: a machine that
drifts, by a tenth in an hour on a busy host, hits both. Plain `generate` is the same code twice:
its ratio says what two processes differ by. Where tokens are drawn the texts differ with the
version, and seconds of a round say more than tokens per second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.hf_batch import BATCH_MODES, BATCH_SIZE
from benchmarks.hf_run import DOMAINS
from benchmarks.hf_versions_worker import SINGLE_MODES, Sizes

COLUMNS = (
    "mode", "batch", "tokens_per_s", "other_tokens_per_s", "ratio", "low", "high",
    "ms_per_round", "other_ms_per_round", "num_equal", "num_units",
)  # fmt: skip
_HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Decoded:
    """One unit (a text, or a job of texts) by one version.

    Attributes:
        tokens: generated.
        seconds: it took.
        rounds: of it; None where the host does not count.
        digest: of the tokens.
    """

    tokens: int
    seconds: float
    rounds: int | None
    digest: str


class Version:
    """A checkout at work in a process of its own.

    Args:
        tree: root of the checkout.
        sizes: of the run.
    """

    def __init__(self, tree: Path, sizes: Sizes) -> None:
        # This tree's benchmark drives both.
        paths = os.pathsep.join([str(tree / "src"), str(_HERE)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hf_versions_worker", *sizes.arguments()],
            env={**os.environ, "PYTHONPATH": paths},
            cwd=_HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        (found,) = self._answer()
        if not Path(found).is_relative_to(tree):
            raise SystemExit(f"expected Flyball of {tree}, but {found} was imported")

    def decode(self, batch: int, mode: str, unit: int) -> Decoded:
        """Decode a unit."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([batch, mode, unit]) + "\n")
        self._process.stdin.flush()
        return Decoded(*self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> list[Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a version ended before its work did; its error stands above")
        answer: list[Any] = json.loads(line)
        return answer


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    sizes = Sizes(arguments.seed_base, *((1, 64, 1) if arguments.quick else (8, 160, 4)),
                  arguments.sample)  # fmt: skip
    versions = [Version(tree, sizes) for tree in (_HERE, arguments.other)]
    rng = np.random.default_rng(arguments.seed_base)
    units = {1: sizes.texts * len(DOMAINS), BATCH_SIZE: sizes.jobs}
    modes = {1: SINGLE_MODES, BATCH_SIZE: BATCH_MODES}
    found: dict[tuple[int, str], list[list[Decoded]]] = {}
    with report.progress() as bar:
        task = bar.add_task("", total=sum(units[b] * len(modes[b]) for b in units))
        for batch, number in units.items():
            for unit in range(number):
                for mode in rng.permutation(modes[batch]).tolist():
                    bar.update(task, description=f"batch {batch}: {mode}")
                    order = rng.permutation(2).tolist()
                    pair = {i: versions[i].decode(batch, mode, unit) for i in order}
                    found.setdefault((batch, mode), []).append([pair[0], pair[1]])
                    bar.advance(task)
    for version in versions:
        version.close()
    rows = [_row(batch, mode, pairs) for (batch, mode), pairs in sorted(found.items())]
    report.print_table("this version and the other", rows, COLUMNS)
    governed = [row["ratio"] for row in rows if row["ms_per_round"] is not None]
    plain = [row["ratio"] for row in rows if row["ms_per_round"] is None]
    summary = {"median_ratio": float(np.median(governed)), "plain_ratios": plain}
    report.print_summary(summary)
    report.write("hf_versions", vars(arguments), rows, summary, arguments.json)


def _row(batch: int, mode: str, pairs: Sequence[Sequence[Decoded]]) -> dict[str, Any]:
    own, other = ([pair[i] for pair in pairs] for i in range(2))
    sums = [
        (np.array([d.tokens for d in of], np.float64), np.array([d.seconds for d in of]))
        for of in (own, other)
    ]
    ratio = report.paired_ratio(*sums[0], *sums[1], report.resamples([mode] * len(pairs)))
    rates = [float(tokens.sum() / seconds.sum()) for tokens, seconds in sums]
    return {
        "mode": mode, "batch": batch, "tokens_per_s": rates[0], "other_tokens_per_s": rates[1],
        "ratio": ratio.of_totals, "low": ratio.low, "high": ratio.high,
        "median_of_pairs": ratio.median_of_pairs,
        "ms_per_round": _ms_per_round(own), "other_ms_per_round": _ms_per_round(other),
        "num_equal": sum(a.digest == b.digest for a, b in pairs), "num_units": len(pairs),
        "seconds": [[d.seconds for d in pair] for pair in pairs],
    }  # fmt: skip


def _ms_per_round(units: Sequence[Decoded]) -> float | None:
    rounds = [unit.rounds for unit in units if unit.rounds is not None]
    return 1e3 * sum(unit.seconds for unit in units) / sum(rounds) if rounds else None


def _arguments() -> argparse.Namespace:
    parser = report.argument_parser("hf_versions", __doc__, "a minute; says little")
    parser.add_argument("other", type=_checkout, metavar="OTHER", help="root of a checkout")
    parser.add_argument("--sample", action="store_true", help="draw tokens, instead of the best")
    report.add_seed_base(parser, "prompts and orders")
    return parser.parse_args()


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "src" / "flyball").is_dir():
        raise argparse.ArgumentTypeError(f"expected a checkout with src/flyball, but got {text}")
    return path


if __name__ == "__main__":
    main()
