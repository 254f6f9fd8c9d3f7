"""Searches that cannot be done as asked are refused before the first token, with the remedy."""

from __future__ import annotations

from transformers import GenerationConfig

from flyball.controller.errors import HostError
from flyball.integrations.hf.heat import Answer
from flyball.integrations.hf.scorers import Scorer
from flyball.integrations.hf.search_beam import Beams

_METHODS = ("best_of_n", "self_consistency", "beam")


def check_search(
    method: str,
    scorer: Scorer | None,
    answer: Answer | None,
    beams: Beams,
    max_step_tokens: int | None,
    memory_tokens: int | None,
) -> None:
    """Refuse arguments of a search that make no sense together."""
    if method not in _METHODS:
        raise HostError(f"expected one of {', '.join(_METHODS)} as method, but got {method!r}")
    if beams.num_beams < 1:
        raise HostError(f"expected num_candidates of at least 1, but got {beams.num_beams}")
    if memory_tokens is not None and memory_tokens < 1:
        raise HostError(f"expected memory_tokens of at least 1, but got {memory_tokens}")
    if scorer is None and method != "self_consistency":
        raise HostError(f"expected a scorer for {method}, but got none; pass scorer=")
    if answer is None and method == "self_consistency":
        raise HostError(
            "expected a function that finds the answer for self_consistency, but got none; "
            "pass answer="
        )
    if method == "beam":
        _check_beams(beams, max_step_tokens)


def _check_beams(beams: Beams, max_step_tokens: int | None) -> None:
    if beams.width < 1 or beams.num_beams % beams.width:
        raise HostError(
            f"expected a width that divides num_candidates, but got {beams.width} "
            f"and {beams.num_beams}"
        )
    if beams.step_token_id is None and max_step_tokens is None:
        raise HostError(
            "expected to know where steps end, but got neither; pass step_token_id= or "
            "max_step_tokens="
        )
    if beams.max_step_tokens < 1 or beams.max_steps < 1:
        raise HostError(
            f"expected steps of at least 1 token, at least 1 of them, but got "
            f"{beams.max_step_tokens} and {beams.max_steps}"
        )


def check_sampled(config: GenerationConfig) -> None:
    """Refuse a search whose candidates would all be the same."""
    if not config.do_sample:
        raise HostError(
            "expected do_sample=True for a search, but got False, which makes all candidates "
            "equal; pass do_sample=True"
        )
