"""Chain verification with as few passes as a look at the values allows; see `kernels.verify`.

The reference goes through every column of every row. Here rows leave with their first rejection,
so that what follows it is never normalised, and q is read in whole only in the one column of a row
that a residual is taken of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.kernels.cpu.chains import Chains
from flyball.kernels.cpu.draw import draw
from flyball.kernels.cpu.philox import uniforms
from flyball.kernels.reference import verify as reference
from flyball.kernels.reference.draw import distributions
from flyball.kernels.verify import Verification, Verified

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

_STEP = 2**18  # scores normalised at a time, at least; a look between two steps takes 0.04 ms
# From so many rows on, each of so few scores, going row by row costs more than it saves: 2.9 ms
# instead of 1.8 at 256 rows of 5 x 512 on one core of an AMD EPYC, 30 instead of 3 at 4,000 of 20.
_MANY_ROWS, _FEW_SCORES = 32, 2**12


def verify(
    target_logits: torch.Tensor,
    draft: torch.Tensor | None,
    draft_tokens: torch.Tensor,
    draft_len: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    method: Verification = "standard",
    certain: torch.Tensor | None = None,
    wants_overlap: bool = False,
) -> Verified:
    """Some columns of the rows that are still in it, and then the next ones."""
    count, width, vocab = target_logits.shape
    if count >= _MANY_ROWS and width * vocab <= _FEW_SCORES:
        return reference.verify(
            target_logits,
            draft,
            draft_tokens,
            draft_len,
            seeds,
            places,
            temperature=temperature,
            method=method,
            certain=certain,
            wants_overlap=wants_overlap,
        )
    at = places.numpy()[:, None] + np.arange(width)
    to_test, to_draw = uniforms(seeds.numpy()[:, None], at, np.zeros((1, 1), np.int64))
    if width == 1:
        return _undrafted(target_logits[:, 0], temperature, to_draw[:, 0], wants_overlap)
    found = _Verifying(Chains(draft, draft_tokens, draft_len, certain), to_draw, wants_overlap)
    if method == "block":
        found.block(target_logits, temperature, to_test)
    else:
        found.standard(target_logits, temperature, to_test)
    return found.verified(torch.promote_types(target_logits.dtype, torch.float32))


def _undrafted(
    logits: torch.Tensor, temperature: float, to_draw: Floats, wants_overlap: bool
) -> Verified:
    """A token each by logits (rows, vocab), for rounds so short that all the rest would show."""
    probs, none = distributions(logits, temperature)
    pairs = zip(probs.numpy(), to_draw.tolist(), strict=True)
    drawn = torch.tensor([draw(p, uniform)[0] for p, uniform in pairs], dtype=torch.long)
    prob = probs.gather(1, drawn[:, None]).masked_fill_(none[:, None], torch.nan)
    nothing = prob[:, :0]
    return Verified(
        torch.zeros_like(drawn),
        drawn.masked_fill_(none, -1),
        nothing,
        prob,
        none,
        nothing if wants_overlap else None,
    )


class _Verifying:
    """What becomes of each row.

    Args:
        chains: the drafts.
        to_draw: (rows, K + 1) uniforms for the token that follows.
        wants_overlap: whether to compute it.
    """

    def __init__(self, chains: Chains, to_draw: Floats, wants_overlap: bool) -> None:
        count, most = chains.tokens.shape
        self._chains, self._to_draw = chains, to_draw
        self._q_drawn = chains.q_drawn()
        self._num_accepted, self._next_token = np.zeros((2, count), np.int64)
        self._bad = np.zeros(count, np.bool_)
        self._p_drawn = np.zeros((count, most))
        self._p_next = np.zeros(count)
        self._overlap = np.zeros((count, most)) if wants_overlap else None

    def standard(self, logits: torch.Tensor, temperature: float, to_test: Floats) -> None:
        """Token by token."""
        count, width, vocab = logits.shape
        rows, start = np.arange(count), 0
        while len(rows):
            # A thread normalises a row, so that all have work, and little of it is wasted.
            step = max(_STEP // (len(rows) * vocab), torch.get_num_threads() // len(rows), 1)
            end = min(width, start + step)
            block = logits[:, start:end]
            if len(rows) < count:
                block = block[torch.from_numpy(rows)]
            p, columns = self._see(block, temperature, rows, start)
            own = (rows, columns)
            accept = to_test[own] * self._q_drawn[own] < self._p_drawn[own]
            accept &= self._chains.proposed[own]
            run = accept.cumprod(axis=1).sum(axis=1)
            self._num_accepted[rows] += run
            going = run == end - start
            for place in (~going).nonzero()[0].tolist():
                row, column = int(rows[place]), int(run[place])
                self._end(p[place, column], row, start + column)
            rows, start = rows[going], end

    def block(self, logits: torch.Tensor, temperature: float, to_test: Floats) -> None:
        """From the longest prefix of each row back to the one that passes its test."""
        lengths = self._chains.lengths
        longest = int(lengths.max(initial=0))
        every = np.arange(len(lengths))
        p, _ = self._see(logits[:, : longest + 1], temperature, every, 0)
        ratio = self._ratio()
        kept = np.ones((len(every), longest + 1))  # P
        for place in range(longest):
            kept[:, place + 1] = np.minimum(kept[:, place] * ratio[:, place], 1.0)
        for row, number in enumerate(lengths.tolist()):
            while number:
                chance = self._chance(p[row], row, number, float(kept[row, number]))
                self._bad[row] |= chance != chance
                if to_test[row, number - 1] < chance:
                    break
                number -= 1
            self._num_accepted[row] = number
            self._end(p[row, number], row, number, float(kept[row, number]))

    def _see(
        self, logits: torch.Tensor, temperature: float, rows: Longs, start: int
    ) -> tuple[NDArray[Any], slice]:
        """The target's p (n, c, vocab) in rows (n,) from column `start` on; the drafted columns.

        What is to be known of the drafted tokens in there is noted.
        """
        p, _ = distributions(logits, temperature)
        columns = slice(start, min(start + p.shape[1], self._p_drawn.shape[1]))
        tokens = self._chains.tokens[rows, columns]
        probs: NDArray[Any] = p.numpy()
        drawn = probs[np.arange(len(rows))[:, None], np.arange(tokens.shape[1]), tokens]
        self._p_drawn[rows, columns] = drawn
        if self._overlap is not None and tokens.size:
            self._overlap[rows, columns] = self._chains.overlap(p, drawn, rows, columns)
        return probs, columns

    def _chance(self, p: NDArray[Any], row: int, number: int, kept: float) -> float:
        """Chance h that a row's first `number` tokens are kept, by p (columns, vocab)."""
        if number == self._chains.lengths[row]:
            return kept
        surplus = float(self._chains.residual(p[number] * kept, row, number).sum())  # Z
        spare = surplus + 1 - kept  # 0 where P = 1 and p == q: all is kept
        return surplus / spare if spare else 1.0

    def _end(self, p: NDArray[Any], row: int, column: int, kept: float = 1.0) -> None:
        """Draw the token after the accepted ones of a row, where the target's is p (vocab,)."""
        uniform, rest = self._to_draw[row, column], p
        if column < self._chains.lengths[row]:
            rest = self._chains.residual(p if kept == 1.0 else p * kept, row, column)
        token, total = draw(rest, uniform)
        if total == 0:
            # p == q up to rounding leaves no residual; p is its limit.
            token, total = draw(p, uniform)
        self._bad[row] |= total != total
        self._next_token[row] = token
        self._p_next[row] = p[token]

    def verified(self, dtype: torch.dtype) -> Verified:
        """All of it, floats in that dtype."""
        self._num_accepted[self._bad] = 0
        self._next_token[self._bad] = -1
        count, most = self._p_drawn.shape
        probs = np.zeros((count, most + 1))
        probs[:, :-1] = self._p_drawn
        probs[np.arange(count), self._num_accepted] = self._p_next
        unseen = np.arange(most + 1) > self._num_accepted[:, None]
        unseen |= self._bad[:, None]
        probs[unseen] = np.nan
        unseen = unseen[:, :-1] | ~self._chains.proposed
        ratio, overlap = self._ratio(), self._overlap
        ratio[unseen] = np.nan
        if overlap is not None:
            overlap[unseen] = np.nan
        return Verified(
            torch.from_numpy(self._num_accepted),
            torch.from_numpy(self._next_token),
            torch.from_numpy(ratio).to(dtype),
            torch.from_numpy(probs).to(dtype),
            torch.from_numpy(self._bad),
            None if overlap is None else torch.from_numpy(overlap).to(dtype),
        )

    def _ratio(self) -> Floats:
        """Ratios p / q (rows, K) of the drafted tokens, as far as p is known."""
        # numpy would have to be kept from warning of 0 / 0, which takes it longer.
        result: Floats = (
            torch.from_numpy(self._p_drawn) / torch.from_numpy(self._q_drawn)
        ).numpy()
        return result
