"""Recorded texts laid end to end, for replays that look at many of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flyball.controller.errors import TraceError
from flyball.controller.match_text import MatchText, runs

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]
Rows = NDArray[np.intp]


def of_draft(texts: Sequence[MatchText], name: str | None) -> list[MatchText]:
    """The texts as one draft saw them; with no name, as the only one did that steps.

    Raises:
        TraceError: there are several, or none of that name.
    """
    names = sorted({text.draft for text in texts})
    if not names:
        raise TraceError("expected texts, but the trace has none; record some")
    if name is None:
        stepping = sorted({text.draft for text in texts if text.steps}) or names
        name = stepping[0] if len(stepping) == 1 else None
    if name not in names:
        problem = "several drafts" if name is None else f"no draft '{name}'"
        raise TraceError(
            f"expected the name of a draft, but the trace has {problem}; give --draft with one "
            f"of: {', '.join(names)}"
        )
    return [text for text in texts if text.draft == name]


class Corpus:
    """Texts of one target and one draft, as arrays over all their t positions.

    Under sampling it is drawn once, for each position, whether the draft's proposal is accepted
    there: with the probability that was recorded, given the text.

    Args:
        texts: at least one.
        rng: draws under sampling; greedy texts need none.

    Attributes:
        texts: (m,) as given.
        num_ahead: positions for which a draft that leaves the text is recorded.
        first: (m,) where each text begins.
        end: (m,) where it ends.
        limit: (m,) where it would have been ended.
        prompt_len: (m,) tokens of each prompt.
        steps: whether the draft runs token by token; else it makes offers.
        match: (t,) probability that the draft's proposal is accepted.
        run: (t,) how many proposals in a row are accepted from each position; of an offer, its
            leading tokens.
        strength: (t,) of the offer at each position, -1 where there is none; (0,) without offers.

    Raises:
        TraceError: there is no text, or they are of several targets or drafts.
    """

    def __init__(self, texts: Sequence[MatchText], rng: np.random.Generator) -> None:
        pairs = sorted({(text.target, text.draft, text.sampled, text.steps) for text in texts})
        if len(pairs) != 1:
            found = ", ".join(f"{target} with {draft}" for target, draft, *_ in pairs) or "none"
            raise TraceError(
                f"expected texts of one target and one draft, sampled or greedy, but got {found}; "
                "give one draft's trace"
            )
        self.texts = tuple(texts)
        self.num_ahead = min(text.num_ahead for text in texts)
        self.steps = texts[0].steps
        sizes = np.array([len(text.match) for text in texts])
        if sizes.max() < 2:
            raise TraceError(
                "expected a text of two tokens at least, since the first comes with the prompt, "
                "but all have one; record with a larger --max-new-tokens"
            )
        self.end: Longs = sizes.cumsum()
        self.first: Longs = self.end - sizes
        self.limit: Longs = self.first + np.array([text.limit for text in texts])
        self.prompt_len: Longs = np.array([text.prompt_len for text in texts])
        self.match: Floats = np.concatenate([text.match for text in texts]).astype(np.float64)
        self.strength = np.concatenate([text.strength for text in texts])
        if not self.steps:
            self.run: Longs = np.concatenate([text.matched for text in texts]).astype(np.int64)
            return
        hit = self.match >= 1.0
        if texts[0].sampled:
            hit = rng.random(len(hit)) < self.match
        self.run = runs(hit, self.end.repeat(sizes))

    def check_ahead(self, max_draft_len: int) -> None:
        """Refuse policies that may look further ahead than the trace tells.

        Raises:
            TraceError: in one line.
        """
        if max_draft_len > self.num_ahead:
            raise TraceError(
                f"expected a trace for {max_draft_len} positions ahead, which the policy may "
                f"draft, but got {self.num_ahead}; lower length.max_draft_len, or record with a "
                "larger --ahead"
            )

    @cached_property
    def _signs(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Confidence and entropy on the text (2, t), and after leaving it (2, b, K - 1)."""
        width = self.num_ahead - 1
        on_path = np.stack(
            [
                np.concatenate([getattr(text, name) for text in self.texts])
                for name in ("confidence", "entropy")
            ]
        )
        tails = np.stack(
            [
                np.concatenate([getattr(text, name)[:, :width] for text in self.texts])
                for name in ("tail_confidence", "tail_entropy")
            ]
        )
        return on_path, tails

    @cached_property
    def _branch(self) -> tuple[Rows, Longs]:
        """Number and position of the branch at which a draft from each position (t,) leaves."""
        places = np.concatenate(
            [first + text.branches for first, text in zip(self.first, self.texts, strict=True)]
        )
        number = np.searchsorted(places, np.arange(len(self.match)))
        return number, places

    def ahead(self, start: Longs, position: int) -> Floats:
        """What drafts that go on from some places see at their position, 1 for the first token.

        Args:
            start: (n,) places of their first tokens.
            position: from 1 to `num_ahead`.

        Returns:
            (2, n) confidence and entropy; NaN where it is not known.
        """
        on_path, tails = self._signs
        place = start + position - 1
        here = on_path[:, np.minimum(place, len(self.match) - 1)]
        if self.texts[0].sampled:
            text = np.searchsorted(self.end, start, side="right")
            return np.where(place < self.end[text], here, np.nan)
        number, places = self._branch
        branch = number[start]
        beyond = place - places[branch]  # 1 for the first position off the text
        if not (beyond > 0).any():
            return here.astype(np.float64)
        there = tails[:, branch, np.maximum(beyond - 1, 0)]
        return np.where(beyond > 0, there, here).astype(np.float64)

    def read(self, places: Longs) -> tuple[Floats, Floats]:
        """What a draft that reads the text shows at some places, any shape.

        Returns:
            Probability of acceptance, and (2, ...) confidence and entropy.
        """
        return self.match[places], self._signs[0][:, places].astype(np.float64)
