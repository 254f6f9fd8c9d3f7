"""All drafts of a batch: each row takes the one that the governor picks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.governor import Governor, Offer, Plan
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.draft import ModelDraft, Proposal
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.text import Moves, Texts
from flyball.integrations.lookup import PromptLookup

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


class Drafts:
    """Draft models and prompt lookup behind one proposal.

    Args:
        models: draft models, numbered from 0.
        lookup: prompt lookup, numbered after them; None without.
        texts: of the batch.
        processors: of the batch.
        governor: told what the drafts not used would have done.
    """

    def __init__(
        self,
        models: list[ModelDraft],
        lookup: PromptLookup | None,
        texts: Texts,
        processors: RowProcessors,
        governor: Governor,
    ) -> None:
        self._models = models
        self._lookup = lookup
        self._texts = texts
        self._processors = processors
        self._governor = governor

    def add(self, rows: Longs) -> None:
        """New rows begin."""
        for model in self._models:
            model.add(rows)
        if self._lookup is not None:
            self._lookup.add(rows)

    def keep(self, moves: Moves) -> None:
        """Close up after rows have left."""
        for model in self._models:
            model.keep(moves)
        if self._lookup is not None:
            self._lookup.move(moves.sources, moves.targets)

    def offers(self) -> list[Offer]:
        """What is proposed without running a model."""
        offer = None if self._lookup is None else self._lookup.offer()
        return [] if offer is None else [offer]

    @property
    def has_read(self) -> bool:
        """Whether a draft model read prompts or skipped text in the present round."""
        return any(model.has_read for model in self._models)

    @property
    def forward_s(self) -> float:
        """Seconds spent in draft models' forwards."""
        return sum(model.cached.forward_s for model in self._models)

    def propose(self, plan: Plan, slots: Ints, draft_len: Longs) -> tuple[Proposal, int, int]:
        """Draft up to draft_len (rows,) tokens, each row with the draft of the plan.

        Returns:
            The proposal, the number of the model that drafted, and its steps; 0 where none did.
        """
        drafting, num_steps, wanted = 0, 0, draft_len.any()
        result = looked_up = self._look_up(plan, draft_len) if wanted else None
        for model in self._models:
            own = model.share(plan.draft, draft_len) if wanted else draft_len
            if own.any():
                proposal = model.propose(plan.step_id, slots, own)
                result = proposal if result is None else _merge(proposal, result)
                drafting, num_steps = model.number, proposal.tokens.shape[1]
            elif self._is_due(model):
                model.read(slots, model.room >= 0)
        if result is None:
            nothing = torch.zeros(len(draft_len), 0, dtype=torch.long, device=self._texts.device)
            result = Proposal(nothing, np.zeros_like(draft_len))
        if looked_up is not None and not self._processors.prefix_free:
            # A model writes for all rows as it goes along.
            self._texts.draft(0, result.tokens)
        return result, drafting, num_steps

    def _is_due(self, model: ModelDraft) -> bool:
        """Whether a draft should read what it skipped."""
        governor = self._governor
        return governor.wants_reading and model.num_unread >= governor.read_every(model.number)

    def _look_up(self, plan: Plan, draft_len: Longs) -> Proposal | None:
        if self._lookup is None:
            return None
        own: Longs = np.where(plan.draft == self._lookup.number, draft_len, 0)
        if not own.any():
            return None
        tokens = upload(self._lookup.tokens[:, : int(own.max())], self._texts.device)
        return Proposal(tokens, own)

    def settle(
        self, slots: Ints, offers: list[Offer], num_accepted: Longs, emitted: Longs, kept: Longs
    ) -> None:
        """Learn what became of the round.

        Args:
            slots: (rows,) of all rows.
            offers: as given for the round.
            num_accepted: (rows,) drafted tokens accepted.
            emitted: (rows, width) settled tokens.
            kept: (rows,) how many of them are the row's.
        """
        for model in self._models:
            model.settle(num_accepted)
        for offer in offers:
            assert self._lookup is not None
            width = min(emitted.shape[1], self._lookup.tokens.shape[1])
            limit = np.minimum(kept, offer.draft_len)
            same = self._lookup.tokens[:, :width] == emitted[:, :width]
            same &= np.arange(width) < limit[:, None]
            matched = same.cumprod(axis=1).sum(axis=1)
            compared = np.minimum(matched + 1, limit)
            self._governor.compare(slots, offer, matched, compared)


def _merge(one: Proposal, other: Proposal) -> Proposal:
    """Rows of `one` where it proposes something, else of `other`, whose q is a point mass."""
    rows = one.draft_len > 0
    surplus = max(0, other.tokens.shape[1] - one.tokens.shape[1])
    tokens = torch.nn.functional.pad(one.tokens, (0, surplus))
    tokens[:, : other.tokens.shape[1]] = torch.where(
        upload(rows, tokens.device)[:, None],
        tokens[:, : other.tokens.shape[1]],
        other.tokens,
    )

    def widen(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        if values is None:
            return None
        return np.pad(values, ((0, 0), (0, surplus)), constant_values=np.nan)

    return Proposal(
        tokens,
        np.maximum(one.draft_len, other.draft_len),
        one.probs,
        one.drawn,
        widen(one.confidence),
        widen(one.entropy),
    )
