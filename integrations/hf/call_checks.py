"""Calls that cannot be served as asked are refused before the first token, with the remedy."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from flyball.controller.errors import HostError
from flyball.integrations.hf.checks import check_attention, check_cache, has_section_rope
from flyball.integrations.hf.views import image_token

# What forwards take only while they read a prompt.
_IMAGE_INPUTS = frozenset({"pixel_values", "mm_encoder_outputs"})


def check_many(
    prompts: Sequence[Any],
    batch_size: int,
    max_new_tokens: int | Sequence[int] | None,
    settings: dict[str, Any],
) -> list[int | None]:
    """Refuse a queue of prompts that cannot be served; returns the limit of each prompt."""
    if batch_size < 1:
        raise HostError(f"expected a batch_size of at least 1, but got {batch_size}")
    for number, prompt in enumerate(prompts):
        if getattr(prompt, "ndim", 1) != 1 or len(prompt) == 0 or isinstance(prompt, str):
            raise HostError(
                f"expected prompts of at least one token id each, but number {number} is not; "
                "pass tokenizer(texts)['input_ids']"
            )
    if settings.get("streamer") is not None:
        raise HostError("expected no streamer with a queue of prompts; use generate")
    if max_new_tokens is None:
        return [None] * len(prompts)
    if not isinstance(max_new_tokens, Sequence):
        return [int(max_new_tokens)] * len(prompts)
    if len(max_new_tokens) != len(prompts):
        raise HostError(
            f"expected one max_new_tokens for each of {len(prompts)} prompts, "
            f"but got {len(max_new_tokens)}"
        )
    return [int(limit) for limit in max_new_tokens]


def check_seeds(seeds: Sequence[int] | None, num_prompts: int) -> list[int] | None:
    """Refuse seeds that cannot be used; returns plain numbers, None where there are none."""
    if seeds is None:
        return None
    try:
        found = [operator.index(seed) for seed in seeds]
    except TypeError:
        raise HostError(
            f"expected a list of whole numbers as seeds, but got {seeds!r:.60}; "
            "pass one seed for each prompt"
        ) from None
    if len(found) != num_prompts:
        raise HostError(
            f"expected one seed for each of {num_prompts} prompts, but got {len(found)}"
        )
    for seed in found:
        if not 0 <= seed < 2**64:
            raise HostError(f"expected seeds from 0 to 2**64 - 1, but got {seed}")
    return found


def check_drawn(config: GenerationConfig) -> None:
    """Refuse seeds where no token is drawn."""
    if not config.do_sample:
        raise HostError("expected do_sample=True with seeds, but got False; leave seeds out")


def check_prepared(
    input_ids: torch.Tensor, config: GenerationConfig, model_kwargs: dict[str, Any]
) -> None:
    """Refuse settings for one prompt of a queue that make more of it than one text."""
    if any(_says_something(model_kwargs.get(key)) for key in _IMAGE_INPUTS):
        raise HostError("expected no images with a queue of prompts; use generate")
    if len(input_ids) != 1:
        raise HostError("expected num_return_sequences=1 with a queue of prompts; use generate")
    if config.return_dict_in_generate:
        raise HostError(
            "expected return_dict_in_generate=False with a queue of prompts; use generate"
        )


def check_call(
    governed: PreTrainedModel,
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> None:
    """Refuse a call of `generate` that the loop cannot serve as asked."""
    if model is not governed:
        raise HostError(
            f"this governor was made for another {type(governed).__name__}; "
            "call flyball.integrations.hf.govern(model, ...) for this one"
        )
    check_attention(model, "target")
    if input_ids.shape[1] == 0:
        raise HostError("expected a prompt of at least one token, but got none; pass input_ids")
    if config.num_beams and config.num_beams > 1:
        raise HostError(
            f"expected num_beams=1, but got {config.num_beams}; beams cannot be governed"
        )
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise HostError(
            f"expected greedy search or sampling, but the settings ask for {mode.value}; "
            "generate without custom_generate"
        )
    if not model_kwargs.get("use_cache", True):
        raise HostError("expected use_cache=True, but got False; drafts need the cache")
    if config.return_dict_in_generate and (
        config.output_attentions or config.output_hidden_states
    ):
        raise HostError(
            "output_attentions and output_hidden_states are not kept for verified tokens; "
            "set them to False"
        )
    known = {
        "attention_mask",
        "position_ids",
        "past_key_values",
        "use_cache",
        "logits_to_keep",
    }
    if image_token(model) is not None and not has_section_rope(model):
        known |= _IMAGE_INPUTS
    unknown = sorted(
        key for key, value in model_kwargs.items() if key not in known and _says_something(value)
    )
    encoded = model_kwargs.get("mm_encoder_outputs") or {}
    unknown += sorted(
        key for key, value in encoded.items() if key != "image" and value is not None
    )
    if unknown:
        raise HostError(
            f"expected text, and pixel_values where positions count tokens one by one, but got "
            f"{', '.join(unknown)}; generate without custom_generate"
        )
    _check_prompt(input_ids, model_kwargs)
    cache = model_kwargs.get("past_key_values")
    if cache is not None:
        check_cache(cache, "target")
        if getattr(cache, "_is_user_defined", False):
            raise HostError(
                "expected no past_key_values: rejected tokens leave holes in a cache, which "
                "nobody else could read; pass the whole text and no cache"
            )


def _says_something(value: Any) -> bool:
    return value is not None and value != {}


def _check_prompt(input_ids: torch.Tensor, model_kwargs: dict[str, Any]) -> None:
    """Refuse prompts that are not padded on the left, or whose positions are not the usual."""
    mask = model_kwargs.get("attention_mask")
    mask = torch.ones_like(input_ids) if mask is None else mask.long()
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise HostError("expected an attention_mask of 0 and 1, but got other values")
    if not bool(mask.any(dim=1).all()):
        raise HostError("expected at least one token in every row, but a row is all padding")
    if not bool((mask.diff(dim=1) >= 0).all()):
        raise HostError(
            "expected prompts padded on the left, but got holes or padding after a prompt's "
            "first token; set tokenizer.padding_side = 'left'"
        )
    positions = model_kwargs.get("position_ids")
    usual = (mask.cumsum(dim=1) - 1).clamp(min=0)
    if positions is not None and not bool(((positions == usual) | (mask == 0)).all()):
        raise HostError(
            "expected position_ids that count each row's tokens from 0, but got others; "
            "leave position_ids unset"
        )
