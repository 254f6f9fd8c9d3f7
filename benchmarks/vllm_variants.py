"""What is compared: an engine alone, every constant draft length, the best table, the governor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.vllm_load import LOADS

MAX_DRAFT_LEN = 8
METHODS = ("ngram", "draft_model")
LENGTHS = tuple(range(MAX_DRAFT_LEN + 1))
QUICK_LENGTHS = (0, 1, 2, 4, 8)
OFF = "off"
TABLE = "table"
GOVERNOR = "governor"
MODE_VARIABLE = "BENCHMARK_MODE_FILE"
POLICY = f"version: 1\nlength: {{policy: goodput, max_draft_len: {MAX_DRAFT_LEN}}}\n"
# Batch sizes for which the best length at 1, 4, 16 and 32 is taken: cut at geometric means.
RANGES = {1: (1, 2), 4: (3, 8), 16: (9, 24), 32: (25, 512)}

Table = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Variant:
    """One way to serve.

    Attributes:
        method: of drafting; empty where nothing is drafted.
        name: `off`, `K=3`, `table` or `governor`.
        table: batch sizes, first and last, and their draft length; None for the governor.
    """

    method: str
    name: str
    table: Table | None = None

    @property
    def server(self) -> str:
        """Name of the server that serves it; all that draft alike share one."""
        return self.method or self.name


def constant(draft_len: int) -> Table:
    """The table that holds one draft length."""
    return ((1, RANGES[LOADS[-1]][1], draft_len),)


def static_name(draft_len: int) -> str:
    """Name of the variant with a constant draft length."""
    return f"K={draft_len}"


def variants(methods: Sequence[str], lengths: Sequence[int]) -> list[Variant]:
    """All but the tables, which follow from the results of the others."""
    found = [Variant("", OFF)]
    for method in methods:
        found += [Variant(method, static_name(k), constant(k)) for k in lengths]
        found.append(Variant(method, GOVERNOR))
    return found


def best_table(lengths: Mapping[int, int]) -> Table:
    """The table in hindsight, from the constant length that was fastest at each load."""
    return tuple((*RANGES[load], length) for load, length in sorted(lengths.items()))


def speculative_config(method: str, draft: Path) -> dict[str, object]:
    """How vLLM is told of a method of drafting, up to `MAX_DRAFT_LEN` tokens a step.

    A table is set for every server, because without one vLLM pads a request's first decode step
    with tokens that nobody drafted.
    """
    config: dict[str, object] = {
        "method": method,
        "num_speculative_tokens": MAX_DRAFT_LEN,
        "num_speculative_tokens_per_batch_size": constant(MAX_DRAFT_LEN),
    }
    if method == "ngram":
        config |= {"prompt_lookup_min": 2, "prompt_lookup_max": 4}
    else:
        config["model"] = str(draft)
    return config


def mode_file(server: str, folder: Path) -> Path:
    """Where a server finds the table that it is to use, or null for the governor."""
    return folder / f"{server}.json"


def write_mode(table: Table | None, file: Path) -> None:
    """Hand a server its next mode; it may look at the file at any time."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(table), encoding="utf-8")
    os.replace(part, file)
