"""Loading the shipped demo models and prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS = Path(__file__).parent / "models"
HEAD = MODELS / "draft" / "acceptance_head.safetensors"


@dataclass(frozen=True)
class DemoModels:
    """The demo's target, draft, tokenizer and held-out prompts.

    Attributes:
        target: Llama of 12 layers and 3.6 million parameters.
        draft: Llama of one layer, distilled from the target on code and tables.
        tokenizer: byte-level BPE of 512 tokens, padding on the left.
        prompts: texts by domain: code, prose, tables.
    """

    target: Any
    draft: Any
    tokenizer: Any
    prompts: dict[str, list[str]]


def load_demo(dtype: str = "float32") -> DemoModels:
    """Load the shipped models on the CPU.

    Args:
        dtype: of the weights in memory; they are stored in bfloat16.
    """
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    target, draft = (
        LlamaForCausalLM.from_pretrained(MODELS / name, dtype=getattr(torch, dtype)).eval()
        for name in ("target", "draft")
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODELS / "target")
    prompts = json.loads((MODELS / "prompts.json").read_text(encoding="utf-8"))
    return DemoModels(target, draft, tokenizer, prompts)
