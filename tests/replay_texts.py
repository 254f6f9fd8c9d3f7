"""Made-up exact traces for tests of replays."""

from __future__ import annotations

from typing import Any

import numpy as np

from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.match_text import MatchText, branches_of
from flyball.controller.policy_file import load_policy

NUM_AHEAD = 8
COSTS = CostTable(
    version=1,
    target="t",
    draft="d",
    machine="none",
    source="made up",
    batch_sizes=[1, 8],
    verify_lens=[1, 4, 9],
    verify_s=[[1.0, 1.2, 1.8], [1.5, 3.0, 5.5]],
    draft_step_s=[0.1, 0.15],
    draft_start_s=[0.05, 0.05],
    ask_s=[0.03, 0.04],
    host_s=[0.02, 0.05],
    prompt_token_s=0.01,
)


def make_text(
    rng: np.random.Generator,
    size: int,
    spare: int,
    sampled: bool = False,
    ease: float | None = None,
) -> MatchText:
    """A text, whose tokens a draft meets with probability `ease` on average; 1/2 by default."""
    sure = rng.random(size) if ease is None else rng.beta(6 * ease, 6 * (1 - ease), size)
    sure = np.clip(sure, 1e-6, None).astype(np.float32)
    match = (rng.random(size) < sure).astype(np.float32)
    if sampled:
        match = sure
    tails = (len(branches_of(match, sampled)), NUM_AHEAD - 1)
    signs = {
        name: rng.random(tails).astype(np.float32) for name in ("tail_confidence", "tail_entropy")
    }
    return MatchText(
        domain=str(rng.choice(["a", "b"])),
        target="t",
        draft="d",
        prompt_len=int(rng.integers(1, 9)),
        limit=size + spare,
        num_ahead=NUM_AHEAD,
        sampled=sampled,
        tokens=np.zeros(size, np.int32),
        match=match,
        target_log_p=np.zeros(size, np.float32),
        draft_log_p=np.zeros(size, np.float32),
        confidence=sure,
        entropy=-np.log(sure),
        **signs,
    )


def make_corpus(seed: int = 0, num_texts: int = 12, sampled: bool = False) -> Corpus:
    rng = np.random.default_rng(seed)
    texts = [
        make_text(rng, int(rng.integers(1, 60)), int(rng.integers(0, 3)), sampled)
        for _ in range(num_texts - 1)
    ]
    return Corpus([make_text(rng, 40, 0, sampled), *texts], np.random.default_rng(1))


def make_uneven_corpus(seed: int, num_texts: int) -> Corpus:
    """Texts of which some are easier for the draft than others, as real ones are."""
    rng = np.random.default_rng(seed)
    texts = [
        make_text(rng, int(rng.integers(100, 200)), 0, ease=float(rng.beta(2, 2)))
        for _ in range(num_texts)
    ]
    return Corpus(texts, np.random.default_rng(1))


def policy(**length: Any) -> Any:
    return load_policy(
        {
            "version": 1,
            "length": {"max_draft_len": NUM_AHEAD, **length},
            "governor": {"follow": "length"},
        }
    )
