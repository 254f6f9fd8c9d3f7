"""Prompts as transformers prepared them for one call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from flyball.integrations.hf.processors import Processors
from flyball.integrations.hf.saved import SavedRow
from flyball.integrations.hf.text import Ending
from flyball.integrations.hf.views import PromptImages

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Prompts:
    """Texts to generate, as transformers prepared them.

    Attributes:
        tokens: (texts, prompt) token ids, padded on the left.
        num_padding: (texts,) columns of padding.
        ending: when they end.
        processors: of their logits.
        images: that they show; None without any.
        seeds: (texts,) of their draws; None where tokens are drawn without.
        num_before: last tokens of each that were generated before, in another row.
        saved: what models have read of the one text; None where they begin anew.
    """

    tokens: Longs
    num_padding: Longs
    ending: Ending
    processors: Processors
    images: PromptImages | None = None
    seeds: NDArray[np.uint64] | None = None
    num_before: int = 0
    saved: SavedRow | None = None

    @classmethod
    def prepared(
        cls,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        config: GenerationConfig,
        images: PromptImages | None = None,
    ) -> Prompts:
        """From what transformers hands to a decoding callable; no mask, no padding."""
        if attention_mask is None:
            num_padding = np.zeros(len(input_ids), np.int64)
        else:
            num_padding = (input_ids.shape[1] - attention_mask.sum(dim=1)).cpu().numpy()
        return cls(
            tokens=input_ids.cpu().numpy(),
            num_padding=num_padding,
            ending=Ending.prepared(stopping_criteria, config),
            processors=Processors(logits_processor),
            images=images,
        )
