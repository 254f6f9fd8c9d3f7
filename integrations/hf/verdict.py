"""What the target says of drafts: how much it keeps, and what follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.errors import HostError
from flyball.integrations.hf.device import HostCopy, upload
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.proposal import Proposal
from flyball.integrations.hf.seeds import SeededDraws
from flyball.integrations.hf.text import Texts
from flyball.kernels.tree import verify_tree, verify_tree_greedy
from flyball.kernels.verify import Verification, verify, verify_greedy

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """What the target said.

    Attributes:
        num_accepted: (rows,) drafted tokens accepted.
        num_chain: (rows,) of them without a sibling, which is the last where there is one.
        emitted: (rows, width) accepted tokens and the one that follows.
        scores: (rows, columns, vocab) processed, after each column of the verified block, the
            drafted ones first.
        probs: (rows, width) the target's probability of each emitted token; None under greedy.
        path: (rows, width) columns whose scores each emitted token comes from; None where they
            are the first ones in order.
    """

    num_accepted: Longs
    num_chain: Longs
    emitted: Longs
    scores: torch.Tensor
    probs: NDArray[np.float32] | None
    path: Longs | None = None

    def along_path(self, values: torch.Tensor) -> torch.Tensor:
        """Of values (rows, columns, ...) of the block those of the emitted tokens."""
        if self.path is None:
            return values
        rows = np.arange(len(self.path))[:, None]
        return values[upload(rows, values.device), upload(self.path, values.device)]


class Judge:
    """Compares drafts with the target's logits.

    Args:
        texts: of the batch.
        processors: of the batch.
        do_sample: whether tokens are drawn.
        verification: how sampled chains are verified.
        draws: of texts with seeds; None without.

    Attributes:
        draws: the same.
    """

    def __init__(
        self,
        texts: Texts,
        processors: RowProcessors,
        do_sample: bool,
        verification: Verification,
        draws: SeededDraws | None = None,
    ) -> None:
        self._texts = texts
        self._processors = processors
        self._do_sample = do_sample
        self._verification = verification
        self.draws = draws

    def __call__(self, rows: Longs, logits: torch.Tensor, proposal: Proposal) -> Verdict:
        """The verdict on drafts of rows (r,).

        Args:
            rows: of the batch.
            logits: (r, columns, vocab) after the last settled token, each drafted one, and then
                each sibling where there are any (`TreeBlock`).
            proposal: of these rows.
        """
        present = None
        if not self._processors.plain:
            present = np.arange(logits.shape[1]) <= proposal.draft_len[:, None]
        # Where there are siblings, processors look at scores alone: any prefix will do.
        scores = self._processors(self._texts, rows, 0, logits, present)
        if proposal.siblings is not None:
            return self._tree(rows, scores, proposal)
        if self.draws is not None:
            drawn = self.draws(rows, 0, scores)
            probs = scores.softmax(dim=-1).gather(2, drawn[..., None]).squeeze(2)
            return self._compared(scores, proposal, drawn, HostCopy(probs))
        if not self._do_sample:
            return self._compared(scores, proposal, scores.argmax(dim=-1))
        return self._sampled(rows, scores, proposal)

    def _compared(
        self,
        scores: torch.Tensor,
        proposal: Proposal,
        own: torch.Tensor,
        probs: HostCopy | None = None,
    ) -> Verdict:
        """Keep what repeats the target's own tokens (r, columns)."""
        tokens = proposal.tokens
        own_, drafted = HostCopy(own), HostCopy(tokens)
        emitted, accepted = own_.get(), proposal.draft_len
        if tokens.shape[1]:
            accepted = verify_greedy(emitted, drafted.get(), accepted)
        return Verdict(accepted, accepted, emitted, scores, None if probs is None else probs.get())

    def _sampled(self, rows: Longs, scores: torch.Tensor, proposal: Proposal) -> Verdict:
        tokens = proposal.tokens
        found = verify(
            scores,
            proposal.probs,
            tokens,
            *self._per_row(rows, proposal, scores.device),
            method=self._verification,
            certain=_certain(proposal, scores.device),
        )
        values = (tokens, found.num_accepted, found.next_token, found.target_prob)
        copies = [HostCopy(value) for value in values]
        drafted, num_accepted, following, probs = (copy.get() for copy in copies)
        _check(rows, following)
        emitted = np.concatenate([drafted, following[:, None]], axis=1)
        emitted[np.arange(len(rows)), num_accepted] = following
        return Verdict(num_accepted, num_accepted, emitted, scores, probs)

    def _per_row(
        self, rows: Longs, proposal: Proposal, device: torch.device
    ) -> tuple[torch.Tensor, ...]:
        """Lengths, seeds and places (r,); seeds are drawn anew for every draft.

        By seeds of the text a draft's verdict would be known from the draws of an earlier round,
        which the present draft's length may depend on.
        """
        seeds = torch.empty(len(rows), dtype=torch.long).random_()
        per_row = np.stack([proposal.draft_len, seeds.numpy(), self._texts.num_own[rows]])
        return upload(per_row, device).unbind()

    def _tree(self, rows: Longs, scores: torch.Tensor, proposal: Proposal) -> Verdict:
        candidates = proposal.candidates
        if not self._do_sample:
            best, drafted = HostCopy(scores.argmax(dim=-1)), HostCopy(candidates)
            found = verify_tree_greedy(best.get(), drafted.get(), proposal.draft_len)
            emitted = np.take_along_axis(best.get(), found.path, axis=1)
            num_chain = found.num_accepted - (found.choice > 0)
            return Verdict(found.num_accepted, num_chain, emitted, scores, None, found.path)
        tree = verify_tree(
            scores,
            proposal.probs,
            candidates,
            *self._per_row(rows, proposal, scores.device),
            certain=_certain(proposal, scores.device),
        )
        following = tree.next_token[:, None]
        fed = proposal.block.tokens(torch.zeros_like(tree.next_token), candidates)
        emitted_ = fed.gather(1, tree.path).roll(-1, dims=1)
        emitted_.scatter_(1, tree.num_accepted[:, None], following)
        host_probs = HostCopy(tree.target_prob)
        counts = torch.stack([tree.num_accepted, tree.choice, tree.next_token], dim=1)
        host = HostCopy(torch.cat([counts, tree.path, emitted_], dim=1)).get()
        width, accepted = tree.path.shape[1], host[:, 0]
        _check(rows, host[:, 2])
        return Verdict(
            accepted,
            accepted - (host[:, 1] > 0),
            host[:, 3 + width :],
            scores,
            host_probs.get(),
            host[:, 3 : 3 + width],
        )


def _certain(proposal: Proposal, device: torch.device) -> torch.Tensor | None:
    """Rows (rows,) whose tokens were looked up; None where a model drafted for all or none."""
    if proposal.probs is None or proposal.drawn is None or proposal.drawn.all():
        return None
    return upload(~proposal.drawn, device)


def _check(rows: Longs, following: Longs) -> None:
    """Refuse scores that nothing was drawn from."""
    if (following < 0).any():
        raise HostError(
            "expected a finite score in every row and no NaN, but row "
            f"{int(rows[following < 0][0])} of the batch has none to draw from; look for a logits "
            "processor that masks everything, or compute in a wider dtype"
        )
