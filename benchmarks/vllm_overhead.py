"""Claim: governing a vLLM engine costs its scheduler microseconds a step.

python -m benchmarks.vllm_overhead [--quick] [--json FILE]

The demo's models in a real engine on the CPU, in this process and on one core; 1 and 32 requests
that decode together. Microseconds are wall time inside the governor's hooks, all of them, between
forwards that leave no cache warm. Steps that hand in and plan anew are dear, the others cheap, so
mean, median and 99th percentile are given.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.vllm_load import DOMAINS, QUICK_NEW_TOKENS
from benchmarks.vllm_server import MAX_MODEL_LEN, MAX_NUM_SEQS, stay_on_one_core
from benchmarks.vllm_serving import PACKAGES, read_prompts
from benchmarks.vllm_variants import METHODS, POLICY, speculative_config
from flyball.demo.widen import save_for_vllm

SIZES = (1, 32)
NEW_TOKENS = 600
WARM_STEPS = 50  # until costs have been probed
COLUMNS = ("method", "requests", "steps", "mean_us", "median_us", "p99_us", "step_ms")


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("vllm_overhead", __doc__, "shorter texts")
    arguments = parser.parse_args()
    stay_on_one_core()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = folder / "policy.yaml"
        policy.write_text(POLICY, encoding="utf-8")
        os.environ["FLYBALL_POLICY"] = str(policy)
        target, draft = save_for_vllm(folder)
        num_tokens = NEW_TOKENS // (1 + 3 * arguments.quick)
        for method in METHODS:  # vLLM does not start again where numba has run
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found += pool.apply(_measure, (method, target, draft, num_tokens))
    report.print_table("microseconds of a step spent governing", found, COLUMNS)
    result = {f"{row['method']}_{row['requests']}_mean_us": row["mean_us"] for row in found}
    report.print_summary(result)
    report.write("vllm_overhead", vars(arguments), found, result, arguments.json, PACKAGES)


def _measure(method: str, target: Path, draft: Path, num_tokens: int) -> list[dict[str, Any]]:
    from vllm import LLM

    llm = LLM(
        str(target),
        dtype="float32",
        enforce_eager=True,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        speculative_config=speculative_config(method, draft),
        scheduler_cls="flyball.integrations.vllm.GovernedScheduler",
    )
    rows = []
    for size in SIZES:
        _decode(llm, size, QUICK_NEW_TOKENS[1])
        micros, seconds = _decode(llm, size, num_tokens)
        rows.append(
            {
                "method": method,
                "requests": size,
                "steps": len(micros),
                "mean_us": float(micros.mean()),
                "median_us": float(np.median(micros)),
                "p99_us": float(np.quantile(micros, 0.99)),
                "step_ms": 1e3 * float(np.median(seconds)),
            }
        )
    return rows


def _decode(llm: Any, size: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds of governing and seconds of each step that all requests took part in."""
    from vllm import SamplingParams

    engine = llm.llm_engine
    pilot = engine.engine_core.engine_core.scheduler.pilot
    prompts = read_prompts()
    settings = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    for number in range(size):
        texts = prompts[DOMAINS[number % len(DOMAINS)]]
        prompt = texts[number % len(texts)][: 48 + number]
        engine.add_request(f"{size}-{num_tokens}-{number}", {"prompt_token_ids": prompt}, settings)
    micros, seconds = [], []
    while engine.has_unfinished_requests():
        before_s, start_s = pilot.decision_s, time.perf_counter()
        done = engine.step()
        micros.append(1e6 * (pilot.decision_s - before_s))
        seconds.append(time.perf_counter() - start_s)
        if any(output.finished for output in done):
            while engine.has_unfinished_requests():
                engine.step()
            break
    start = min(WARM_STEPS, len(micros) // 3)
    return np.array(micros[start:]), np.array(seconds[start:])


if __name__ == "__main__":
    main()
