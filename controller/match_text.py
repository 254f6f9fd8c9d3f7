"""What a draft would have done at every position of a finished text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


def branches_of(match: Singles, drawn: bool) -> Longs:
    """Positions (b,) of a text at which a draft that runs on leaves it, ascending.

    Under greedy decoding: every miss, and the last position, behind which there is no text. Under
    sampling the place is drawn in the round, so there is none; nor is there one for offers.

    Args:
        match: (t,) as in `MatchText`.
        drawn: whether the place is drawn, or the draft makes offers.
    """
    if drawn:
        return np.zeros(0, np.int64)
    leaves = match < 1.0
    leaves[-1:] = True
    found: Longs = np.flatnonzero(leaves)
    return found


def runs(hit: NDArray[np.bool_], end: Longs) -> Longs:
    """How many proposals in a row are right from each position on, within its text.

    Args:
        hit: (t,) whether the draft is right there, text after text.
        end: (t,) where the text of each position ends.
    """
    count = len(hit)
    misses = np.where(hit, count, np.arange(count))
    nearest = np.minimum.accumulate(misses[::-1])[::-1]
    run: Longs = np.minimum(nearest, end) - np.arange(count)
    return run


def _nothing() -> Ints:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class MatchText:
    """A finished text as one draft saw it; t tokens were generated, t >= 1.

    Position 0 is the first generated token, which comes with the reading of the prompt: rounds
    start at position 1.

    A draft without steps (prompt lookup) offers a whole proposal at every position. It knows no
    probabilities, and what one token of it is worth depends on where the proposal began.

    Attributes:
        domain: label of the text.
        target: name of the target.
        draft: name of the draft.
        prompt_len: tokens of the prompt.
        limit: tokens that might have been generated; more than t where the text ended by itself.
        num_ahead: K, positions that `ahead` tells.
        sampled: whether the text was sampled from the target; else it is the greedy one.
        tokens: (t,) generated ids.
        match: (t,) probability that the draft's proposal is accepted, given the text before:
            1 or 0 under greedy decoding, min(1, q(y) / p(y)) under sampling.
        target_log_p: (t,) log p of each token, nats.
        draft_log_p: (t,) log q of each token, nats.
        confidence: (t,) the draft's largest probability.
        entropy: (t,) of the draft's distribution, nats.
        tail_confidence: (b, K - 1) the same after each of `branches`, where the draft goes on
            from its own token there.
        tail_entropy: (b, K - 1) likewise.
        strength: (t,) of the offer made at each position, -1 where there was none; (0,) for a
            draft that steps.
        matched: (t,) leading tokens of that offer, at most K, that are the text's; (0,) likewise.
    """

    domain: str
    target: str
    draft: str
    prompt_len: int
    limit: int
    num_ahead: int
    sampled: bool
    tokens: Ints
    match: Singles
    target_log_p: Singles
    draft_log_p: Singles
    confidence: Singles
    entropy: Singles
    tail_confidence: Singles
    tail_entropy: Singles
    strength: Ints = field(default_factory=_nothing)
    matched: Ints = field(default_factory=_nothing)

    @property
    def steps(self) -> bool:
        """Whether the draft runs token by token; else it makes offers."""
        return len(self.strength) == 0

    @cached_property
    def branches(self) -> Longs:
        """Positions (b,) where a draft that runs on leaves the text."""
        return branches_of(self.match, self.sampled or not self.steps)

    def ahead(self, starts: Longs) -> tuple[Singles, Singles]:
        """What drafts see that start at some positions and are never stopped.

        On the text until the first miss, then off it. Under sampling a draft leaves the text
        where chance has it, and what it would see there is unknown: the text's own values stand
        for it, NaN behind its end.

        Args:
            starts: (n,) positions from 0 to t - 1.

        Returns:
            Confidence and entropy, both (n, K), of the drafts' positions in turn.
        """
        places = starts[:, None] + np.arange(self.num_ahead)
        on_path = np.minimum(places, len(self.match) - 1)
        if self.sampled:
            beyond = places > on_path
            return (
                np.where(beyond, np.float32(np.nan), self.confidence[on_path]),
                np.where(beyond, np.float32(np.nan), self.entropy[on_path]),
            )
        branch = np.searchsorted(self.branches, starts)
        off_path = places - self.branches[branch, None]  # 1 for the first position off the text

        def pick(path: Singles, tails: Singles) -> Singles:
            tail = np.pad(tails, ((0, 0), (1, 0)))[branch[:, None], np.maximum(off_path, 0)]
            return np.where(off_path > 0, tail, path[on_path])

        return (
            pick(self.confidence, self.tail_confidence),
            pick(self.entropy, self.tail_entropy),
        )
