"""Models and drafts that cannot be governed are refused, in one line with the remedy."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from torch.distributed.tensor import DTensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from flyball.controller.contract import PROMPT_LOOKUP
from flyball.controller.errors import HostError
from flyball.integrations.hf.views import DraftView, Image, image_token
from flyball.kernels.verify import Verification

_ATTENTION = ("sdpa", "eager")
# Local attention by cache column, which masked holes shift.
_COLUMN_ATTENTION = frozenset({"gpt_neo"})
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
    check_attention(model, role)
    check_cache(DynamicCache(config=model.config), role)


def _check_one_process(model: PreTrainedModel, role: str) -> None:
    """Refuse a model that several processes run together: each would decide for itself."""
    split = any(isinstance(p, DTensor) for p in model.parameters())
    if split or is_fsdp_managed_module(model) or is_deepspeed_zero3_enabled():
        raise HostError(
            f"expected a {role} in one process, but {type(model).__name__} is split over several; "
            "generate without custom_generate"
        )


def check_attention(model: PreTrainedModel, role: str) -> None:
    """Refuse attention that was not tested."""
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


def has_section_rope(model: PreTrainedModel) -> bool:
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
