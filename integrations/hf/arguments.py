"""Arguments of `generate` that a decoding callable of its own cannot receive."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import StoppingCriteriaList, StopStringCriteria

from flyball.controller.errors import HostError

_NOT_HERE = {
    "custom_generate": "it is the governor's own place",
    "assistant_model": "pass it to govern(model, [assistant_model])",
    "prompt_lookup_num_tokens": "pass 'prompt_lookup' to govern(model, ['prompt_lookup'])",
    "assistant_tokenizer": "drafts share the target's tokenizer",
    "synced_gpus": "one process decodes at a time",
}


def with_stop_strings(
    settings: dict[str, Any], stop_strings: str | Sequence[str] | None, tokenizer: Any
) -> dict[str, Any]:
    """Settings of `generate` with stop strings as a criterion, which a callable can receive.

    Raises:
        HostError: for settings that a governed `generate` does not take.
    """
    for name, remedy in _NOT_HERE.items():
        if settings.get(name) not in (None, False):
            raise HostError(f"expected no {name} for a governed generate; {remedy}")
    settings = dict(settings)
    config = settings.get("generation_config")
    if config is not None and config.stop_strings is not None:
        stop_strings = config.stop_strings if stop_strings is None else stop_strings
        config = settings["generation_config"] = copy.deepcopy(config)
        config.stop_strings = None
    if stop_strings is None:
        return settings
    if tokenizer is None:
        raise HostError("expected a tokenizer with stop_strings; pass tokenizer=")
    if not stop_strings or not all(stop_strings):
        raise HostError("expected stop_strings of at least one character, but got an empty one")
    criterion = StopStringCriteria(tokenizer=tokenizer, stop_strings=stop_strings)
    settings["stopping_criteria"] = StoppingCriteriaList(
        [*(settings.get("stopping_criteria") or []), criterion]
    )
    return settings
