"""Loading the reasoning pair: a solver of calculator problems, and judges of what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyball.demo.loader import MODELS


@dataclass(frozen=True)
class Reasoner:
    """The reasoning pair of the demo; problems are drawn by `arithmetic`.

    Attributes:
        solver: LlamaForCausalLM that writes solutions, often wrong at products.
        judge: LlamaForCausalLM trained on right solutions; the sum of its log-likelihoods of the
            written tokens is a process reward.
        process_reward: LlamaForSequenceClassification with one label, the logit that a text is
            right so far, at its last token; None where it was not trained.
        tokenizer: one token a character, of all three; padding on the left.
    """

    solver: Any
    judge: Any
    process_reward: Any
    tokenizer: Any


def load_reasoner(dtype: str = "float32", folder: Path = MODELS) -> Reasoner:
    """Load the shipped models on the CPU.

    Args:
        dtype: of the weights in memory; they are stored in bfloat16.
        folder: of models that were trained anew.
    """
    import torch
    from transformers import (
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    kinds = {
        "solver": LlamaForCausalLM,
        "judge": LlamaForCausalLM,
        "process_reward": LlamaForSequenceClassification,
    }
    models = {
        name: kind.from_pretrained(folder / name, dtype=getattr(torch, dtype)).eval()
        for name, kind in kinds.items()
        if (folder / name).exists()
    }
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "solver")
    return Reasoner(**{"process_reward": None, **models}, tokenizer=tokenizer)
