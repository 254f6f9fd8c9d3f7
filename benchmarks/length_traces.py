"""Recorded texts for `benchmarks.length`: where the demo's draft was right, and how sure it was.

`benchmarks.record_matches` made them; an order is drawn by seed. Nothing here needs a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.length_streams import MAX_DRAFT_LEN, Draw, Stream
from flyball.controller.match_text import MatchText
from flyball.controller.match_trace import read_matches

TRACES = Path(__file__).parent / "traces"
DOMAINS = ("code", "prose", "tables")


@cache
def recorded() -> tuple[MatchText, ...]:
    """The texts that are kept with the benchmark."""
    return tuple(read_matches(TRACES))


def stream_of(name: str, texts: Sequence[MatchText]) -> Stream:
    """Greedy texts in this order, without their first tokens, which need no round.

    Args:
        name: of the scenario.
        texts: of more than one token each, recorded for `MAX_DRAFT_LEN` positions ahead or more.
    """
    ahead = [text.ahead(np.arange(1, len(text.tokens))) for text in texts]
    sizes = np.array([len(text.tokens) - 1 for text in texts])
    spare = np.array([text.limit - len(text.tokens) for text in texts])
    ends = np.cumsum(sizes)
    return Stream(
        name=name,
        known=None,
        ahead=None,
        match=np.concatenate([text.match[1:] == 1.0 for text in texts]),
        confidence=np.concatenate([sure for sure, _ in ahead])[:, :MAX_DRAFT_LEN].astype(float),
        entropy=np.concatenate([spread for _, spread in ahead])[:, :MAX_DRAFT_LEN].astype(float),
        ends=tuple(ends.tolist()),
        limits=tuple((ends + spare).tolist()),
    )


def draw(name: str, domains: Sequence[str], rng: Draw, size: int) -> Stream:
    """Whole texts of some domains in an order drawn anew for every pass, `size` tokens or more."""
    texts = [text for text in recorded() if text.domain in domains]
    chosen: list[MatchText] = []
    num_tokens = 0
    while num_tokens < size:
        for number in rng.permutation(len(texts)).tolist():
            chosen.append(texts[number])
            num_tokens += len(texts[number].tokens) - 1
            if num_tokens >= size:
                break
    return stream_of(name, chosen)


RECORDED: dict[str, Callable[[Draw, int], Stream]] = {
    **{domain: partial(draw, domain, (domain,)) for domain in DOMAINS},
    "mixed": partial(draw, "mixed", DOMAINS),
}
