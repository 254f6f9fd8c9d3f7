"""What cannot be governed is refused before the first token, in one line with the remedy."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch.distributed.tensor import DTensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.generation.configuration_utils import GenerationMode
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from flyball.controller.contract import PROMPT_LOOKUP
from flyball.controller.errors import HostError
from flyball.integrations.hf.views import DraftView, Image, image_token
from flyball.kernels.verify import Verification

_ATTENTION = ("sdpa", "eager")
# Local attention by cache column, which masked holes shift.
_COLUMN_ATTENTION = frozenset({"gpt_neo"})
# What forwards take only while they read a prompt.
_IMAGE_INPUTS = frozenset({"pixel_values", "mm_encoder_outputs"})
# Frequencies that depend on the longest position of a forward, drafted ones included.
_LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


def check_model(model: PreTrainedModel, role: str) -> None:
    """Refuse a model whose cache or attention the loop does not handle.

    Args:
        model: target or draft.
        role: "target" or "draft", for the message.
    """
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise HostError(f"expected a transformers model as {role}, but got {name}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise HostError(f"expected a decoder-only {role}, but {name} is an encoder-decoder")
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise HostError(
            f"expected a {role} that takes position_ids, but {name} does not; "
            "generate without custom_generate"
        )
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(places) > 1:
        raise HostError(
            f"expected the {role} on one device, but it is on {', '.join(sorted(places))}; "
            "generate without custom_generate"
        )
    if model.device.type not in ("cpu", "cuda"):
        raise HostError(f"expected the {role} on cpu or cuda, but it is on {model.device.type}")
    config = model.config.get_text_config()
    if config.model_type in _COLUMN_ATTENTION or getattr(config, "alibi", False):
        raise HostError(
            f"expected a {role} whose attention depends on positions alone, but {name} counts "
            "cache columns; generate without custom_generate"
        )
    rope = _rope_types(getattr(config, "rope_parameters", None))
    if rope & _LENGTH_DEPENDENT_ROPE:
        raise HostError(
            f"expected a {role} with fixed rotary frequencies, but {name} has "
            f"{', '.join(sorted(rope & _LENGTH_DEPENDENT_ROPE))} scaling; "
            "generate without custom_generate"
        )
    _check_one_process(model, role)
    _check_attention(model, role)
    check_cache(DynamicCache(config=model.config), role)


def _check_one_process(model: PreTrainedModel, role: str) -> None:
    """Refuse a model that several processes run together: each would decide for itself."""
    split = any(isinstance(p, DTensor) for p in model.parameters())
    if split or is_fsdp_managed_module(model) or is_deepspeed_zero3_enabled():
        raise HostError(
            f"expected a {role} in one process, but {type(model).__name__} is split over several; "
            "generate without custom_generate"
        )


def _check_attention(model: PreTrainedModel, role: str) -> None:
    attention = model.config._attn_implementation
    if attention not in _ATTENTION:
        raise HostError(
            f"expected {role} attention {' or '.join(_ATTENTION)}, but got {attention}; "
            "load the model with attn_implementation='sdpa'"
        )


def _rope_types(parameters: Any) -> set[str]:
    """All `rope_type` values in a configuration, which nests them by layer type in some models."""
    if not isinstance(parameters, dict):
        return set()
    nested = [_rope_types(value) for value in parameters.values()]
    own = parameters.get("rope_type")
    return set().union(*nested, {own} if isinstance(own, str) else set())


def _section_rope(model: PreTrainedModel) -> bool:
    """Whether positions have several parts, as those of images in Qwen2-VL."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return any("mrope" in str(key) for key in rope)


def check_cache(cache: Any, role: str) -> None:
    """Refuse caches that are not plain, growing tensors in every layer."""
    if type(cache) is not DynamicCache:
        raise HostError(
            f"expected a DynamicCache for the {role}, but got {type(cache).__name__}; "
            "leave cache_implementation and past_key_values unset"
        )
    if cache.offloading:
        raise HostError(f"the {role}'s cache is offloaded; leave cache_implementation unset")
    # A cache made without a configuration starts without layers and adds plain ones.
    odd = sorted({type(x).__name__ for x in cache.layers if type(x) is not DynamicLayer})
    if odd:
        raise HostError(
            f"expected full attention in every layer of the {role}, but its cache has "
            f"{', '.join(odd)}; generate without custom_generate"
        )


def check_list(drafts: Any) -> None:
    """Refuse a draft in place of a list of drafts."""
    if isinstance(drafts, PreTrainedModel | str):
        raise HostError(
            f"expected a list of drafts, but got {type(drafts).__name__}; write drafts=[...]"
        )


def check_verification(verification: Any, tree_width: Any) -> None:
    """Refuse what is no way of verifying drafts."""
    if tree_width not in (1, 2, 3, 4):
        raise HostError(
            f"expected a tree_width from 1 to 4, but got {tree_width!r}; leave it out for chains"
        )
    if verification == "block" and tree_width > 1:
        raise HostError(
            "expected tree_width=1 with block verification, which knows chains alone, but got "
            f"{tree_width}; leave one of both out"
        )
    if verification not in get_args(Verification):
        raise HostError(
            f"expected verification {' or '.join(get_args(Verification))}, but got "
            f"{verification!r}; leave it out for standard"
        )


def check_drafts(model: PreTrainedModel, drafts: Sequence[Any]) -> None:
    """Refuse drafts that cannot draft for the model."""
    for draft in drafts:
        if isinstance(draft, str) and draft != PROMPT_LOOKUP:
            raise HostError(
                f"expected a model or '{PROMPT_LOOKUP}' as draft, but got '{draft}'; "
                "load the model first"
            )
        if not isinstance(draft, str):
            own = draft.model if isinstance(draft, DraftView) else draft
            check_model(own, "draft")
            _check_pair(model, own)
        if isinstance(draft, DraftView):
            _check_view(model, draft)
    if sum(isinstance(draft, str) for draft in drafts) > 1:
        raise HostError(f"expected '{PROMPT_LOOKUP}' once among the drafts; leave one out")


def _check_view(model: PreTrainedModel, view: DraftView) -> None:
    """Refuse a view that its model, or the target, cannot have."""
    if view.seen not in get_args(Image):
        raise HostError(
            f"expected a view with image {', '.join(get_args(Image))}, but got {view.image!r}; "
            "leave it out for the model's own"
        )
    if view.seen in ("own", "pooled") and image_token(view.model) is None:
        raise HostError(
            f"expected a draft that sees images for a view with image={view.image!r}, but "
            f"{type(view.model).__name__} does not; take image='none' or 'caption'"
        )
    tokens = [image_token(m) for m in (model, view.model)]
    if None not in tokens and tokens[0] != tokens[1]:
        raise HostError(
            f"expected a draft with the target's image placeholder {tokens[0]}, but got "
            f"{tokens[1]}; take a draft of the same family"
        )
    if view.pool < 1:
        raise HostError(f"expected a pool of at least 1, but got {view.pool}; the default is 2")


def _check_pair(model: PreTrainedModel, draft_model: PreTrainedModel) -> None:
    """Refuse a draft that speaks other tokens than the target."""
    sizes = [m.get_input_embeddings().weight.shape[0] for m in (model, draft_model)]
    if sizes[0] != sizes[1]:
        raise HostError(
            f"expected a draft with the target's vocabulary of {sizes[0]} tokens, "
            f"but got {sizes[1]}; take a draft of the same family"
        )
    tokenizers = [_vocabulary(m) for m in (model, draft_model)]
    if all(tokenizers) and tokenizers[0] != tokenizers[1]:
        raise HostError(
            "expected a draft with the target's tokenizer, but the tokenizer.json beside the "
            "draft maps tokens to other ids; take a draft of the same family"
        )
    if model.device != draft_model.device:
        raise HostError(
            f"expected the draft on {model.device}, but it is on {draft_model.device}; "
            "move it with draft_model.to(model.device)"
        )


def _vocabulary(model: PreTrainedModel) -> dict[str, int] | None:
    """Token ids from the tokenizer beside a model, where it was loaded from a folder."""
    path = Path(getattr(model.config, "_name_or_path", "") or "-") / "tokenizer.json"
    if not path.is_file():
        return None
    vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"].get("vocab")
    return vocabulary if isinstance(vocabulary, dict) else None


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
    _check_attention(model, "target")
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
    if image_token(model) is not None and not _section_rope(model):
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
