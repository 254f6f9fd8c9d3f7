"""What a round drafted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.kernels.tree_block import TreeBlock, tree_block

Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class MemberProbs:
    """What an ensemble's members said, by position.

    Attributes:
        probs: K tensors (rows, members, vocab).
        shares: K tensors (rows, members), weights of the mixture that was drawn from, or whose
            argmax was taken.
        present: K tensors (rows, members), whether the member had a say.
    """

    probs: list[torch.Tensor]
    shares: list[torch.Tensor]
    present: list[torch.Tensor]


@dataclass(frozen=True)
class Proposal:
    """A finished draft.

    Attributes:
        tokens: (rows, K) drafted tokens.
        draft_len: (rows,) how many of them are proposed.
        probs: (rows, K, vocab) the distributions they were drawn from, where `drawn`; None under
            greedy, with seeds, and where nothing was drawn.
        drawn: (rows,) whether the row's tokens were drafted by a model; the others' distribution
            is a point mass. None where no model drafted.
        confidence: (rows, K) largest probabilities, or what an acceptance head predicts; None
            where nobody asked.
        entropy: (rows, K) of the distributions, in nats; None where nobody asked.
        siblings: (rows, K, width - 1) further tokens at each position, all different, in the order
            in which they are tested, -1 behind the last; None in a chain.
        members: of the ensemble, for rows that are `drawn`; None where one draft drafted alone.
    """

    tokens: torch.Tensor
    draft_len: Longs
    probs: torch.Tensor | None = None
    drawn: Bools | None = None
    confidence: NDArray[np.float64] | None = None
    entropy: NDArray[np.float64] | None = None
    siblings: torch.Tensor | None = None
    members: MemberProbs | None = None

    @property
    def candidates(self) -> torch.Tensor:
        """Tokens (rows, K, width) at each position, the drafted one first."""
        assert self.siblings is not None
        return torch.cat([self.tokens[..., None], self.siblings], dim=2)

    @property
    def num_columns(self) -> Longs:
        """Columns (rows,) that the target reads for each row's own sake."""
        width = 1 if self.siblings is None else 1 + self.siblings.shape[2]
        columns: Longs = 1 + width * self.draft_len
        return columns

    @cached_property
    def block(self) -> TreeBlock:
        """The columns that the target reads."""
        _, num_spine, width = self.candidates.shape
        return tree_block(num_spine, width)

    @classmethod
    def nothing(cls, num_rows: int, device: torch.device) -> Proposal:
        """No draft for any row."""
        tokens = torch.zeros(num_rows, 0, dtype=torch.long, device=device)
        return cls(tokens, np.zeros(num_rows, np.int64))

    def merge(self, other: Proposal, rows: torch.Tensor) -> Proposal:
        """This one in its own rows, else another one without a model.

        Args:
            other: with a point mass as distribution.
            rows: (rows,) on the device, those of this one.
        """
        surplus = max(0, other.tokens.shape[1] - self.tokens.shape[1])
        tokens = torch.nn.functional.pad(self.tokens, (0, surplus))
        width = other.tokens.shape[1]
        tokens[:, :width] = torch.where(rows[:, None], tokens[:, :width], other.tokens)

        def widen(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            if values is None:
                return None
            return np.pad(values, ((0, 0), (0, surplus)), constant_values=np.nan)

        siblings = self.siblings
        if siblings is not None:
            siblings = torch.where(rows[:, None, None], siblings, -1)
            siblings = torch.nn.functional.pad(siblings, (0, 0, 0, surplus), value=-1)
        return Proposal(
            tokens,
            np.maximum(self.draft_len, other.draft_len),
            self.probs,
            self.drawn,
            widen(self.confidence),
            widen(self.entropy),
            siblings,
            self.members,
        )
