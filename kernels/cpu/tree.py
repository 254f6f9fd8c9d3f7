"""Tree verification with as few passes as a look at the values allows; see `kernels.tree`.

The reference goes through every column of every row, and through the vocabulary for each sibling.
Here siblings are looked at only where a row's spine was rejected, and only one of their columns is
normalised: that of the one which is accepted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.kernels.cpu.chains import Chains
from flyball.kernels.cpu.draw import draw
from flyball.kernels.cpu.philox import uniforms
from flyball.kernels.reference import tree as reference
from flyball.kernels.reference.draw import distributions
from flyball.kernels.tree import VerifiedTree
from flyball.kernels.tree_block import tree_block

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

# From so many rows on, each of so few scores, going row by row costs more than it saves.
_MANY_ROWS, _FEW_SCORES = 16, 2**13


def verify_tree(
    target_logits: torch.Tensor,
    draft: torch.Tensor | None,
    candidates: torch.Tensor,
    draft_len: torch.Tensor,
    seeds: torch.Tensor,
    places: torch.Tensor,
    *,
    temperature: float = 1.0,
    certain: torch.Tensor | None = None,
) -> VerifiedTree:
    """All spines together, then row by row what follows them."""
    count, width, vocab = target_logits.shape
    if count >= _MANY_ROWS and width * vocab <= _FEW_SCORES:
        return reference.verify_tree(
            target_logits,
            draft,
            candidates,
            draft_len,
            seeds,
            places,
            temperature=temperature,
            certain=certain,
        )
    most = candidates.shape[1]
    depths, numbers = np.arange(most + 1), np.arange(candidates.shape[2])
    to_test, to_draw = uniforms(
        seeds.numpy()[:, None, None], (places.numpy()[:, None] + depths)[..., None], numbers
    )
    chains = Chains(draft, candidates[..., 0], draft_len, certain)
    found = _Verifying(target_logits, temperature, chains, candidates.numpy())
    for row, number in enumerate(found.spines(to_test[:, :most, 0])):
        found.end(row, number, to_test[row], to_draw[row, :, 0])
    return found.verified()


class _Verifying:
    """What becomes of each row.

    Args:
        logits: (rows, 1 + K * width, vocab).
        temperature: positive.
        chains: the spines.
        candidates: (rows, K, width).
    """

    def __init__(
        self, logits: torch.Tensor, temperature: float, chains: Chains, candidates: Longs
    ) -> None:
        count, most, width = candidates.shape
        self._logits, self._temperature = logits, temperature
        self._chains, self._candidates = chains, candidates
        self._block = tree_block(most, width)
        self._columns = np.tile(np.arange(most + 1), (count, 1))
        self._num_accepted, self._choice, self._next_token = np.zeros((3, count), np.int64)
        self._probs = np.full((count, most + 1), np.nan)
        self._bad = np.zeros(count, np.bool_)
        p, none = distributions(logits[:, : most + 1], temperature)
        self._p: NDArray[Any] = p.numpy()
        self._none = none.numpy()

    def spines(self, to_test: Floats) -> list[int]:
        """How many tokens of each spine are accepted, by uniforms (rows, K)."""
        chains = self._chains
        rows, depths = np.arange(len(to_test))[:, None], np.arange(to_test.shape[1])
        self._p_spine = self._p[rows, depths, chains.tokens]
        accept = (to_test * chains.q_drawn() < self._p_spine) & chains.proposed
        found: list[int] = accept.cumprod(axis=1).sum(axis=1).tolist()
        return found

    def end(self, row: int, num_spine: int, to_test: Floats, to_draw: Floats) -> None:
        """Settle a row whose spine is accepted so far.

        Args:
            row: of the batch.
            num_spine: accepted tokens of its spine.
            to_test: (K + 1, width) uniforms of its candidates.
            to_draw: (K + 1,) for the token that follows.
        """
        above, choice, column = self._p[row, num_spine], 0, num_spine
        law, depth = above, num_spine
        bad = bool(self._none[row, : num_spine + 1].any())
        if not bad and num_spine < self._chains.lengths[row]:
            law, choice = self._siblings(row, num_spine, to_test[num_spine])
            bad = not np.isfinite(law.sum())
        if choice and not bad:
            depth = num_spine + 1
            column = self._block.num_spine + num_spine * (self._block.width - 1) + choice
            p, none = distributions(self._logits[row, column], self._temperature)
            law, bad = p.numpy(), bool(none)
        if bad:
            self._bad[row], self._next_token[row] = True, -1
            return
        token, _ = draw(law, float(to_draw[depth]))
        self._num_accepted[row], self._choice[row] = depth, choice
        self._next_token[row], self._columns[row, depth] = token, column
        self._probs[row, :num_spine] = self._p_spine[row, :num_spine]
        if choice:
            self._probs[row, num_spine] = above[self._candidates[row, num_spine, choice]]
            above = law
        self._probs[row, depth] = above[token]

    def _siblings(self, row: int, depth: int, to_test: Floats) -> tuple[NDArray[Any], int]:
        """The last p_i (vocab,) of a depth whose spine token is rejected, and the sibling taken.

        0 for none.
        """
        q = self._q(row, depth)
        p, taken = _residual(self._p[row, depth], q), self._candidates[row, depth].tolist()
        for choice in range(1, len(taken)):
            if taken[choice] < 0:
                break
            q[taken[choice - 1]] = 0.0
            total = q.sum()
            if total > 0:
                q /= total
            if to_test[choice] * q[taken[choice]] < p[taken[choice]]:
                return p, choice
            p = _residual(p, q)
        return p, 0

    def _q(self, row: int, depth: int) -> NDArray[Any]:
        """A row's q (vocab,) at a depth, to be written into."""
        drawn = self._chains.q(row, depth)
        if drawn is not None:
            return drawn.astype(self._p.dtype)
        q = np.zeros(self._p.shape[2], self._p.dtype)
        q[self._chains.tokens[row, depth]] = 1.0
        return q

    def verified(self) -> VerifiedTree:
        """All of it, probabilities in the target's dtype, or in single precision."""
        dtype = torch.promote_types(self._logits.dtype, torch.float32)
        return VerifiedTree(
            torch.from_numpy(self._num_accepted),
            torch.from_numpy(self._choice),
            torch.from_numpy(self._columns),
            torch.from_numpy(self._next_token),
            torch.from_numpy(self._probs).to(dtype),
            torch.from_numpy(self._bad),
        )


def _residual(p: NDArray[Any], q: NDArray[Any]) -> NDArray[Any]:
    """norm(max(p - q, 0)); where p == q up to rounding leaves none, p, as it is in the limit."""
    rest: NDArray[Any] = np.maximum(p - q, 0.0)
    total = rest.sum()
    if total == 0:
        return p
    rest /= total
    return rest
