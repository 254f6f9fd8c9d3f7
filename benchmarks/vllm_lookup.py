"""Claim: the drafter that looks up beats vLLM's n-grams, the more so where outputs repeat.

python -m benchmarks.vllm_lookup [--quick] [--json FILE] [--seed-base N]

The demo's models in two real engines on the CPU, float32 and greedy, both governed alike, that
take turns on one core: one drafts by vLLM's own `ngram`, the other by `flyball vllm-args --method
lookup`. Closed loops of 1 and 16 clients over new requests of each domain, then over the same ones
again. Ratios of tokens per second are geometric means over repetitions, with 95% intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.vllm_server import MAX_NUM_SEQS
from benchmarks.vllm_turns import Options, compare
from benchmarks.vllm_variants import MAX_DRAFT_LEN, speculative_config
from flyball.commands import vllm_args


def _options(target: Path, draft: Path) -> Mapping[str, Options]:
    lookup = vllm_args.speculative_config("lookup", MAX_DRAFT_LEN, MAX_NUM_SEQS, None)
    return {
        "ngram": {"speculative_config": speculative_config("ngram", draft)},
        "lookup": {"speculative_config": lookup},
    }


if __name__ == "__main__":
    compare("vllm_lookup", __doc__, _options, {1: 3, 16: 20}, ("new", "again"))
