"""Claim: cutting finished drafts by how sure the drafter was does no harm in a vLLM engine.

python -m benchmarks.vllm_probe [--quick] [--json FILE] [--seed-base N]

The demo's models in two real engines on the CPU, float32 and greedy, both governed and with the
same draft model, that take turns on one core: the workers of one are those of `flyball vllm-args
--probe`. Closed loops of 1, 4, 16 and 32 clients over requests of each domain. Ratios of tokens
per second are geometric means over repetitions, with 95% intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.vllm_turns import Options, compare
from benchmarks.vllm_variants import speculative_config
from flyball.integrations.vllm.traits import PROBED_WORKER


def _options(target: Path, draft: Path) -> Mapping[str, Options]:
    config = {"speculative_config": speculative_config("draft_model", draft)}
    return {"plain": config, "probed": {**config, "worker_cls": PROBED_WORKER}}


if __name__ == "__main__":
    compare("vllm_probe", __doc__, _options, {1: 3, 4: 8, 16: 24, 32: 40}, ("new",))
