"""Claim: the tensor work of a round is bound by one read of its logits, and faster than its peers.

python -m benchmarks.kernels [--quick] [--json FILE]

Every implementation takes turns on the same inputs: Flyball's kernels for the device at hand, the
eager and the compiled reference, and of other projects transformers' `_speculative_sampling` (row
by row) and vLLM's `rejection_sample` where they can be imported. `of_copy` divides two rates:
bytes that nobody can avoid, each counted once, and those that a copy within the device's memory
reads and writes in the same turns. `slower` is the median over turns of the time by ours.

On a GPU times are those of kernels that follow each other; `call_ms` has the launches in it. A run
takes at most ten minutes there. From a tree that is not installed:

    PYTHONPATH=src python -m benchmarks.kernels --json FILE
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from benchmarks import report
from benchmarks.kernels_cases import OPS, Batch, Call, Case, Shape, build
from benchmarks.kernels_clock import copier, synchronises, take_turns

COLUMNS = (
    "op", "implementation", "requests", "draft_len", "vocab", "dtype", "ms", "slower", "of_copy",
    "gb_per_s", "call_ms",
)  # fmt: skip
CENTRE = {
    "cpu": Shape(1, 8, 128_256),
    "cuda": Shape(64, 4, 128_256),
}
# What varies, one at a time, from the centre.
VARIED = {
    "cpu": {"vocab": (32_000, 151_936, 50_257), "draft_len": (1, 4, 16), "requests": (4, 16)},
    "cuda": {"vocab": (32_000, 151_936, 50_257), "draft_len": (1, 8, 16), "requests": (1, 8, 256)},
}
DTYPES = {"cpu": ("bfloat16",), "cuda": ("bfloat16", "float16")}
PACKAGES = ("torch", "triton", "transformers", "vllm", "numpy")
_BUDGET_S = 480.0  # for all devices together where one of them is a GPU
_COMPILED = ("confidence", "mix_draw", "verify", "verify_block", "accept_gradient")


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("kernels", __doc__, "few turns at the central shape")
    arguments = parser.parse_args()
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    rows = [row for device in devices for row in _measure(device, arguments, devices)]
    summary = _summary(rows)
    report.print_summary(summary)
    report.write("kernels", vars(arguments), rows, summary, arguments.json, PACKAGES)


def _shapes(device: str, quick: bool) -> list[Shape]:
    centre = CENTRE[device]
    if quick:
        return [centre]
    shapes = [centre] + [replace(centre, dtype=dtype) for dtype in DTYPES[device]]
    for name, values in VARIED[device].items():
        shapes += [replace(centre, **{name: value}) for value in values]
    return shapes


def _measure(
    device: str, arguments: argparse.Namespace, devices: list[str]
) -> list[dict[str, Any]]:
    until = time.monotonic() + _BUDGET_S / len(devices) if len(devices) > 1 else float("inf")
    rows: list[dict[str, Any]] = []
    shapes = _shapes(device, arguments.quick)
    with report.progress() as bar:
        task = bar.add_task(device, total=len(shapes) * len(OPS))
        for shape in shapes:
            central = shape == CENTRE[device]
            batch = Batch(shape, device, seed=len(rows))
            for op in OPS:
                bar.advance(task)
                # Neither knows of vocabularies or draft lengths.
                other = op in ("head", "cache") and not central and shape.dtype == "float32"
                if other or time.monotonic() > until:
                    continue
                compiles = central and op in _COMPILED and not arguments.quick
                rows += _turns(op, build(op, batch), batch, compiles, arguments.quick)
            del batch
    report.print_table(f"kernels on {device}", rows, COLUMNS)
    return rows


def _turns(op: str, case: Case, batch: Batch, compiles: bool, quick: bool) -> list[dict[str, Any]]:
    copy, copy_bytes = copier(batch.device)
    calls: dict[str, Call] = {"copy": copy, "ours": case.ours, **case.others}
    if compiles:
        calls["compiled"] = torch.compile(case.others["eager"], dynamic=False)
    failed = {name: reason for name in list(calls) if (reason := _warm(calls[name]))}
    for name in failed:
        del calls[name]
    # Calls of a second are not repeated as often as calls of a millisecond.
    num_turns = 5 if quick else 21
    seconds = take_turns(calls, batch.device, num_turns, np.random.default_rng(len(op)))
    rate = copy_bytes / np.median(seconds["copy"]["device_s"])
    shape = {"device": batch.device, **asdict(batch.shape)}
    rows: list[dict[str, Any]] = []
    for name, found in seconds.items():
        of = copy_bytes if name == "copy" else case.num_bytes
        median = float(np.median(found["device_s"]))
        row = {
            "op": op, "implementation": name, **shape, "ms": 1000.0 * median,
            "call_ms": 1000.0 * float(np.median(found["call_s"])), "bytes": of,
            "gb_per_s": of / median / 1e9, "of_copy": float(of / median / rate),
        }  # fmt: skip
        if name != "copy":
            ours = seconds["ours"]
            row["slower"] = float(np.median(found["device_s"] / ours["device_s"]))
            row["slower_call"] = float(np.median(found["call_s"] / ours["call_s"]))
        if name == "ours" and batch.device == "cuda":
            row["synchronises"] = synchronises(case.ours)
        rows.append(row)
    rows += [
        {"op": op, "implementation": name, **shape, "failed": why} for name, why in failed.items()
    ]
    return rows


def _warm(call: Call) -> str:
    """Run a call until it is compiled; what kept it from running, in a line."""
    try:
        for _ in range(2):
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Exception as error:  # a peer that does not run here is a row of the table
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the central shapes: how much slower others are, and ours by the copy."""
    summary: dict[str, Any] = {}
    for device, centre in CENTRE.items():
        for row in rows:
            same = all(
                row.get(key) == value for key, value in asdict(centre).items() if key != "dtype"
            )
            if row["device"] != device or not same or "failed" in row:
                continue
            own = summary.setdefault(device, {}).setdefault(f"{row['op']} {row['dtype']}", {})
            if row["implementation"] == "ours":
                own |= {"ms": row["ms"], "of_copy": row["of_copy"]}
                own |= {"synchronises": row["synchronises"]} if "synchronises" in row else {}
            elif row["implementation"] != "copy":
                own[f"{row['implementation']} takes times"] = row["slower"]
    if "cuda" not in summary:
        summary["cuda"] = "no GPU was at hand; docs/kernels.md says what is predicted"
    return summary


if __name__ == "__main__":
    main()
