"""Loading the reasoning pair: a solver of calculator problems, and a judge."""

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
        tokenizer: one token a character, of both; padding on the left.
    """

    solver: Any
    judge: Any
    tokenizer: Any


def load_reasoner(dtype: str = "float32", folder: Path = MODELS) -> Reasoner:
    """Load the shipped models on the CPU.

    Args:
        dtype: of the weights in memory; they are stored in bfloat16.
        folder: of models that were trained anew.
    """
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    solver, judge = (
        LlamaForCausalLM.from_pretrained(folder / name, dtype=getattr(torch, dtype)).eval()
        for name in ("solver", "judge")
    )
    return Reasoner(solver, judge, PreTrainedTokenizerFast.from_pretrained(folder / "solver"))
