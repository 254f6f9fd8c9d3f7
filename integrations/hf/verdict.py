"""What the target says of drafts: how much it keeps, and what follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.integrations.hf.device import HostCopy, upload
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.proposal import Proposal
from flyball.integrations.hf.seeds import SeededDraws
from flyball.integrations.hf.text import Texts
from flyball.kernels.tree import verify_tree_greedy, verify_tree_sampled
from flyball.kernels.verify import Verification, verify_block, verify_greedy, verify_sampled

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
            return self._tree(scores, proposal)
        if self.draws is not None:
            drawn = self.draws(rows, 0, scores)
            probs = scores.softmax(dim=-1).gather(2, drawn[..., None]).squeeze(2)
            return self._compared(scores, proposal, drawn, HostCopy(probs))
        if not self._do_sample:
            return self._compared(scores, proposal, scores.argmax(dim=-1))
        return self._sampled(scores, proposal)

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

    def _sampled(self, scores: torch.Tensor, proposal: Proposal) -> Verdict:
        tokens = proposal.tokens
        p = scores.softmax(dim=-1)
        verify = verify_block if self._verification == "block" else verify_sampled
        accepted_, following = verify(
            p,
            _distributions(proposal, p.shape[2]),
            tokens,
            upload(proposal.draft_len, tokens.device),
            torch.rand(tokens.shape, device=tokens.device),
        )
        emitted_ = torch.cat([tokens, following[:, None]], dim=1)
        emitted_.scatter_(1, accepted_[:, None], following[:, None])
        host_probs = HostCopy(p.gather(2, emitted_[..., None]).squeeze(2))
        host = HostCopy(torch.cat([accepted_[:, None], emitted_], dim=1)).get()
        return Verdict(host[:, 0], host[:, 0], host[:, 1:], scores, host_probs.get())

    def _tree(self, scores: torch.Tensor, proposal: Proposal) -> Verdict:
        candidates = proposal.candidates
        if not self._do_sample:
            best, drafted = HostCopy(scores.argmax(dim=-1)), HostCopy(candidates)
            found = verify_tree_greedy(best.get(), drafted.get(), proposal.draft_len)
            emitted = np.take_along_axis(best.get(), found.path, axis=1)
            num_chain = found.num_accepted - (found.choice > 0)
            return Verdict(found.num_accepted, num_chain, emitted, scores, None, found.path)
        p = scores.softmax(dim=-1)
        tree = verify_tree_sampled(
            p,
            _distributions(proposal, p.shape[2]),
            candidates,
            upload(proposal.draft_len, candidates.device),
            torch.rand(candidates.shape, device=candidates.device),
        )
        fed = proposal.block.tokens(torch.zeros_like(tree.next_token), candidates)
        emitted_ = fed.gather(1, tree.path).roll(-1, dims=1)
        emitted_.scatter_(1, tree.num_accepted[:, None], tree.next_token[:, None])
        along = p[torch.arange(len(p), device=p.device)[:, None], tree.path]
        host_probs = HostCopy(along.gather(2, emitted_[..., None]).squeeze(2))
        counts = torch.stack([tree.num_accepted, tree.choice], dim=1)
        host = HostCopy(torch.cat([counts, tree.path, emitted_], dim=1)).get()
        width, accepted = tree.path.shape[1], host[:, 0]
        return Verdict(
            accepted,
            accepted - (host[:, 1] > 0),
            host[:, 2 + width :],
            scores,
            host_probs.get(),
            host[:, 2 : 2 + width],
        )


def _distributions(proposal: Proposal, vocab: int) -> torch.Tensor:
    """Q (rows, K, vocab) that each drafted token was drawn from."""
    tokens = proposal.tokens
    if proposal.probs is None or proposal.drawn is None:
        return _certain(tokens, vocab)
    missing = tokens.shape[1] - proposal.probs.shape[1]
    if missing == 0 and proposal.drawn.all():
        return proposal.probs
    drawn = upload(proposal.drawn, tokens.device)[:, None, None]
    probs = torch.nn.functional.pad(proposal.probs, (0, 0, 0, missing))
    return torch.where(drawn, probs, _certain(tokens, vocab).to(probs.dtype))


def _certain(tokens: torch.Tensor, vocab: int) -> torch.Tensor:
    """Point masses (rows, K, vocab)."""
    zeros = torch.zeros(*tokens.shape, vocab, device=tokens.device)
    return zeros.scatter_(2, tokens[..., None], 1.0)
