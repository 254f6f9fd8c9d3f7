"""Sampling by seeds: a text's tokens are a function of prompt, seed and settings alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.integrations.hf.device import upload
from flyball.integrations.hf.text import Texts
from flyball.kernels.philox import token_noise

Longs = NDArray[np.int64]

_MOST_ELEMENTS = 2**24  # of noise at a time, where many tokens are read


class SeededDraws:
    """Draws tokens of texts that have seeds.

    The token at index t of the generated text, 0 for the first new one, is

        argmax_v(scores_v + g[seed, t, v])    with Gumbel noise g, see `token_noise`

    which is a draw from softmax(scores). What noise a token gets depends neither on the round in
    which it is drawn nor on who draws it. So a target that compares drafted tokens with its own
    draws keeps exactly the tokens that it would have drawn without drafts, and a draft that draws
    with the same noise meets it often: for distributions p and q with a probability of at least
    (1 - d) / (1 + d), d = TV(p, q), where rejection sampling accepts 1 - d (Daliri, Musco and
    Suresh 2024, arXiv 2408.07978, drafter-invariant speculative decoding).

    Args:
        texts: of the batch, with seeds.
    """

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._at: Longs = np.zeros((2, 0), np.int64)
        self._noise: list[torch.Tensor] = []  # (rows, vocab) of the tokens from there on

    def __call__(self, rows: Longs, num_drafted: int, scores: torch.Tensor) -> torch.Tensor:
        """Draw tokens ahead of the settled text; noise is made once, for draft and target.

        Args:
            rows: (r,) of the batch.
            num_drafted: drafted tokens before the first one to draw.
            scores: (r, width, vocab) processed scores, or logarithms of probabilities.

        Returns:
            (r, width) tokens.
        """
        texts, end = self._texts, num_drafted + scores.shape[1]
        seeds = _bits(texts.seed[rows])
        at = np.stack([seeds, (texts.num_tokens - texts.first_new)[rows]])
        if not np.array_equal(at, self._at):
            self._at, self._noise = at, []
        if len(self._noise) < end:
            index = at[1][:, None] + np.arange(len(self._noise), end)
            own, places = (upload(x, scores.device) for x in (seeds, index))
            for some in places.split(_num_columns(scores), dim=1):
                self._noise.extend(token_noise(own, some, scores.shape[2]).unbind(dim=1))
        return _draw(scores, self._noise[num_drafted:end])

    def noise(self, row: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Noise (N, vocab) of tokens that the latest draw was of, `place` after the first one."""
        return torch.stack(self._noise, dim=1)[row, place]

    def again(self, columns: Longs, scores: torch.Tensor) -> torch.Tensor:
        """What tokens of the settled text would be by other scores; their noise is made anew.

        Args:
            columns: (rows, width) of the text; those before its first new token mean nothing.
            scores: (rows, width, vocab) of these tokens.

        Returns:
            (rows, width) tokens.
        """
        texts, vocab = self._texts, scores.shape[2]
        seeds = upload(_bits(texts.seed), scores.device)
        index = upload(np.maximum(columns - texts.first_new[:, None], 0), scores.device)
        size = _num_columns(scores)
        parts = [
            _draw(part, token_noise(seeds, at, vocab).unbind(dim=1))
            for part, at in zip(scores.split(size, dim=1), index.split(size, dim=1), strict=True)
        ]
        return torch.cat(parts, dim=1)


def _num_columns(scores: torch.Tensor) -> int:
    """Columns of scores (rows, width, vocab) for which noise is made at a time."""
    rows, _, vocab = scores.shape
    return max(1, _MOST_ELEMENTS // max(1, rows * vocab))


def _bits(seeds: NDArray[np.uint64]) -> Longs:
    """Seeds (rows,) in torch's type."""
    return seeds.view(np.int64)


def _draw(scores: torch.Tensor, noise: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tokens (rows, width) by scores (rows, width, vocab), and noise (rows, vocab) of each."""
    best = [(scores[:, place] + column).argmax(dim=-1) for place, column in enumerate(noise)]
    return torch.stack(best, dim=1)
