"""Recording what prompt lookup would have offered at every position of finished texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import PROMPT_LOOKUP
from flyball.controller.match_text import MatchText
from flyball.integrations.hf.exact import RecordSettings
from flyball.integrations.hf.exact_read import FinishedText
from flyball.integrations.lookup import PromptLookup

Longs = NDArray[np.int64]


@dataclass
class _Rows:
    """Finished texts, of which only the first tokens count as settled."""

    host: Longs
    num_tokens: Longs
    num_padding: Longs

    @property
    def num_rows(self) -> int:
        return len(self.num_tokens)


def record_lookups(texts: Sequence[FinishedText], how: RecordSettings) -> list[MatchText]:
    """What prompt lookup would have offered at every position of the texts, sampled or greedy.

    An offer is certain of its tokens, so one is accepted exactly where it is the text's own.

    Args:
        texts: finished ones, with prompts.
        how: they came about.

    Returns:
        As many, in the same order; probabilities are NaN.
    """
    size = np.array([len(text.tokens) for text in texts])
    prompt_len = np.array([text.prompt_len for text in texts])
    host = np.full((len(texts), int(size.max()) + how.num_ahead), -1, np.int64)
    for row, text in enumerate(texts):
        host[row, : len(text.tokens)] = text.tokens
    rows = _Rows(host, prompt_len, np.zeros_like(prompt_len))
    lookup = PromptLookup(0, len(texts), rows, how.num_ahead)
    every = np.arange(len(texts))
    lookup.add(every)
    num_places = int((size - prompt_len).max())
    strength = np.full((len(texts), num_places), -1, np.int32)
    matched = np.zeros((len(texts), num_places), np.int32)
    for place in range(1, num_places):  # the first token comes with the prompt
        rows.num_tokens = np.minimum(prompt_len + place, size)
        offer = lookup.offer()
        if offer is None:
            continue
        following = rows.num_tokens[:, None] + np.arange(how.num_ahead)
        same = (lookup.tokens == host[every[:, None], following]).cumprod(axis=1)
        found = offer.draft_len > 0
        strength[:, place] = np.where(found, offer.strength, -1)
        matched[:, place] = np.where(found, same.sum(axis=1), 0)
    return [_text(text, strength[row], matched[row], how) for row, text in enumerate(texts)]


def _text(
    text: FinishedText,
    strength: NDArray[np.int32],
    matched: NDArray[np.int32],
    how: RecordSettings,
) -> MatchText:
    size = len(text.generated)
    unknown = np.full(size, np.nan, np.float32)
    nothing = np.zeros((0, how.num_ahead - 1), np.float32)
    return MatchText(
        domain=text.domain,
        target=how.target,
        draft=PROMPT_LOOKUP,
        prompt_len=text.prompt_len,
        limit=size if text.limit is None else text.limit,
        num_ahead=how.num_ahead,
        sampled=how.sampled,
        tokens=text.generated.astype(np.int32),
        match=(matched[:size] > 0).astype(np.float32),
        target_log_p=unknown,
        draft_log_p=unknown,
        confidence=unknown,
        entropy=unknown,
        tail_confidence=nothing,
        tail_entropy=nothing,
        strength=strength[:size],
        matched=matched[:size],
    )
