"""What every benchmark shares: the JSON's frame, paired ratios, tables and the progress bar."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_RESAMPLES = 10_000
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Ratio:
    """How much faster one mode is than another.

    Attributes:
        of_totals: tokens per second over all units, divided by the other mode's; the main number.
        low: 2.5% bootstrap quantile of it; None where a group has one unit only.
        high: 97.5% bootstrap quantile of it; likewise.
        median_of_pairs: median over the units of each unit's own ratio.
    """

    of_totals: float
    low: float | None
    high: float | None
    median_of_pairs: float

    def __str__(self) -> str:
        """The main number and its interval."""
        if self.low is None or self.high is None:
            return f"{self.of_totals:.3f} [too few units for an interval]"
        return f"{self.of_totals:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resamples(groups: Sequence[str], seed: int = 0) -> Ints | None:
    """Bootstrap indices that keep the number of units of each group.

    Args:
        groups: (units,) group of each unit, such as a text's domain.
        seed: of the draw; ratios of one benchmark share it.

    Returns:
        (NUM_RESAMPLES, units) indices; None where a group has one unit, which cannot vary.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(groups)
    if np.unique(names, return_counts=True)[1].min() < 2:
        return None
    index = np.empty((NUM_RESAMPLES, len(names)), np.int64)
    for name in np.unique(names):
        members = np.flatnonzero(names == name)
        index[:, members] = rng.choice(members, (NUM_RESAMPLES, len(members)))
    return index


def paired_ratio(
    tokens: Floats, seconds: Floats, base_tokens: Floats, base_seconds: Floats, index: Ints | None
) -> Ratio:
    """Ratio of rates of two modes that decoded the same units.

    Args:
        tokens: (units,) of the mode.
        seconds: (units,) of the mode.
        base_tokens: (units,) of the mode it is compared with.
        base_seconds: (units,) of the mode it is compared with.
        index: from `resamples`; units are resampled in pairs.
    """
    totals = (tokens.sum() / seconds.sum()) / (base_tokens.sum() / base_seconds.sum())
    median = np.median((tokens / seconds) / (base_tokens / base_seconds))
    if index is None:
        return Ratio(float(totals), None, None, float(median))
    boot = (tokens[index].sum(axis=1) / seconds[index].sum(axis=1)) / (
        base_tokens[index].sum(axis=1) / base_seconds[index].sum(axis=1)
    )
    low, high = np.quantile(boot, [0.025, 0.975])
    return Ratio(float(totals), float(low), float(high), float(median))


def machine() -> dict[str, Any]:
    """The processor, its cores that this process may use, and the GPU if there is one."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    can_tell = hasattr(os, "sched_getaffinity")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if can_tell else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Versions of Python, Flyball and the packages that matter; None for those not installed."""
    import flyball

    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "flyball": flyball.__version__,
    }
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def argument_parser(script: str, description: str | None, quick: str) -> argparse.ArgumentParser:
    """What every benchmark is told; `quick` says what its quick run is worth."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{script}", description=description
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write the result there")
    return parser


def add_seed_base(parser: argparse.ArgumentParser, chooses: str) -> None:
    """For benchmarks with chance in them."""
    parser.add_argument(
        "--seed-base", type=_seed, default=0, metavar="N", help=f"chooses {chooses}"
    )


def _new_file(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in an existing folder, but got {text}")
    return path


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, but got {text}")
    return int(text)


def write(
    name: str,
    arguments: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    path: Path | None,
    packages: Sequence[str] = PACKAGES,
) -> None:
    """Write the result as JSON.

    Args:
        name: of the benchmark.
        arguments: it was run with.
        rows: what was measured.
        summary: what follows from it; `Ratio`s become objects.
        path: file, or None to write nothing.
        packages: whose versions matter.
    """
    if path is None:
        return
    result = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": {name: value for name, value in arguments.items() if name != "json"},
        "machine": machine(),
        "versions": versions(packages),
        "rows": list(rows),
        "summary": dict(summary),
    }
    path.write_text(json.dumps(result, indent=1, default=_plain) + "\n", encoding="utf-8")


def _plain(value: object) -> Any:
    if isinstance(value, Ratio):
        return asdict(value)
    if isinstance(value, Path):
        return value.name  # where it lay on this machine is nobody's business
    raise TypeError(f"expected a value that JSON can hold, but got {type(value).__name__}")


def progress() -> Progress:
    """A progress bar on standard error."""
    columns = (
        TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=Console(file=sys.stderr))


def in_parallel(
    work: Callable[[Any], list[dict[str, Any]]], jobs: Sequence[Any]
) -> list[dict[str, Any]]:
    """Rows of all jobs, one process a core, with a progress bar; in no order."""
    rows: list[dict[str, Any]] = []
    with progress() as bar, multiprocessing.Pool(os.cpu_count()) as pool:
        task = bar.add_task("walking", total=len(jobs))
        for found in pool.imap_unordered(work, jobs):
            rows += found
            bar.advance(task)
    return rows


def print_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print the chosen columns of rows; missing values are left empty."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        justify: Any = "right" if number else "left"
        table.add_column(column.replace("_", " "), justify=justify, no_wrap=not number)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else 130).print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def print_summary(summary: Mapping[str, Any], indent: str = "") -> None:
    """Print nested results, one line each."""
    for name, value in summary.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}:")
            print_summary(value, indent + "  ")
        else:
            print(f"{indent}{name}: {f'{value:.3f}' if isinstance(value, float) else value}")
