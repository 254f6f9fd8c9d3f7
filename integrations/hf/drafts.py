"""All drafts of a batch: each row takes the one that the governor picks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.governor import Governor, Offer, Plan
from flyball.integrations.hf.device import HostCopy, upload
from flyball.integrations.hf.draft import ModelDraft
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.proposal import Proposal
from flyball.integrations.hf.saved import SavedDraft
from flyball.integrations.hf.seeds import SeededDraws
from flyball.integrations.hf.sources import LookedUp, Mixed, Solo
from flyball.integrations.hf.text import Moves, Texts
from flyball.integrations.hf.views import PromptImages
from flyball.integrations.lookup import PromptLookup
from flyball.kernels.draw import draw_token
from flyball.kernels.tree import best_siblings, draw_siblings

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Drafts:
    """Draft models, their ensemble and prompt lookup behind one proposal.

    Args:
        models: draft models, whose lanes are drafts.
        lookup: prompt lookup; None without.
        texts: of the batch.
        processors: of the batch.
        governor: decides when drafts end; told what the drafts not used would have done.
        do_sample: draw from the distributions, or take their argmax.
        tree_width: candidates at each position; 1 for chains.
        draws: of texts with seeds, whose drafts are chains; None without.
    """

    def __init__(
        self,
        models: list[ModelDraft],
        lookup: PromptLookup | None,
        texts: Texts,
        processors: RowProcessors,
        governor: Governor,
        do_sample: bool,
        tree_width: int = 1,
        draws: SeededDraws | None = None,
    ) -> None:
        self._models = models
        self._lookup = lookup
        self._texts = texts
        self._processors = processors
        self._governor = governor
        self._do_sample = do_sample
        self._tree_width = tree_width if draws is None else 1
        self._draws = draws
        self._lanes = {
            number: (model, lane) for model in models for lane, number in enumerate(model.numbers)
        }
        # Behind the members stands their ensemble.
        self._together = len(self._lanes) + (lookup is not None)

    def add(self, rows: Longs, images: PromptImages | None = None) -> None:
        """New rows begin."""
        for model in self._models:
            model.add(rows, images)
        if self._lookup is not None:
            self._lookup.add(rows)

    def save(self, row: int) -> list[SavedDraft]:
        """What each model has read of a row."""
        return [model.save(row) for model in self._models]

    def begin_from(self, rows: Longs, saved: list[SavedDraft]) -> None:
        """New rows (r,) begin with what was read of another."""
        for model, own in zip(self._models, saved, strict=True):
            model.begin_from(rows, own)

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

    def room(self) -> Ints | None:
        """Tokens (stepping drafts, rows) that each draft has room for; None where all have."""
        whole = slice(None)
        rooms = [model.room(whole) for model in self._models]
        if all((room >= self._governor.max_draft_len).all() for room in rooms):
            return None
        lanes = [self._lanes[number] for number in sorted(self._lanes)]
        by_draft = [model.room(slice(lane, lane + 1)) for model, lane in lanes]
        if self._governor.drafts_together:
            able = [room for room in rooms if (room > 0).all()]
            by_draft.append(np.min(able or rooms, axis=0))
        return np.maximum(by_draft, 0).astype(np.int32)

    @property
    def has_read(self) -> bool:
        """Whether a draft model read prompts or skipped text in the present round."""
        return any(model.has_read for model in self._models)

    @property
    def forward_s(self) -> float:
        """Seconds spent in draft models' forwards."""
        return sum(model.cached.forward_s for model in self._models)

    @property
    def num_reads(self) -> int:
        """Tokens that draft models have read."""
        return sum(model.reads.num_tokens for model in self._models)

    @property
    def flops(self) -> float:
        """What that took."""
        return sum(model.reads.flops(model.cached.model) for model in self._models)

    def propose(
        self, plan: Plan, slots: Ints, draft_len: Longs, offers: list[Offer]
    ) -> tuple[Proposal, int, int]:
        """Draft up to draft_len (rows,) tokens, each row with the draft of the plan.

        Returns:
            The proposal, the number of the draft that stepped, and its steps; 0 where none did.
        """
        proposal, drafting, num_steps = None, 0, 0
        looked_up, ran = None, set()
        if draft_len.any():
            looked_up = self._look_up(plan, draft_len)
            stepping: Bools = draft_len > 0
            if self._lookup is not None:
                stepping = np.logical_and(stepping, plan.draft != self._lookup.number)
            if stepping.any():
                drafting = int(plan.draft[stepping][0])
                source = self._source(drafting, plan, offers, stepping)
                own = np.where(stepping, np.clip(source.room, 0, draft_len), 0)
                if own.any():
                    proposal = self._draft(source, plan.step_id, slots, own)
                    num_steps = proposal.tokens.shape[1]
                    ran = set(self._lanes) if drafting == self._together else {drafting}
        self._catch_up(slots, ran)
        if proposal is None:
            result = looked_up or Proposal.nothing(len(draft_len), self._texts.device)
        elif looked_up is None:
            result = proposal
        else:
            rows = upload(proposal.draft_len > 0, self._texts.device)
            result = proposal.merge(looked_up, rows)
        if looked_up is not None and not self._processors.prefix_free:
            # A model writes for all rows as it goes along.
            self._texts.draft(0, result.tokens)
        return result, drafting, num_steps

    def _source(
        self, number: int, plan: Plan, offers: list[Offer], stepping: Bools
    ) -> Solo | Mixed:
        """What drafts as draft `number` of the host, for some rows (rows,)."""
        if number != self._together:
            model, lane = self._lanes[number]
            every = np.inf
            if self._governor.wants_reading and len(model.numbers) > 1:
                every = self._governor.read_every(number)
            return Solo(model, lane, self._texts, self._processors, every)
        assert plan.weights is not None and plan.wanted is not None
        one = plan.wanted.runs_one
        idle: Bools = np.logical_and(one, (plan.weights <= 0).all(axis=0))
        # A member whose context is full must not keep the others from drafting.
        able = [m for m in self._models if (m.room(slice(None))[stepping] > 0).all()]
        models = [model for model in able if not idle[list(model.numbers)].all()]
        return Mixed(
            models or able or self._models,
            self._offered(offers),
            plan.weights,
            idle,
            self._texts,
            self._processors,
            self._governor.wants_entropy,
        )

    def _offered(self, offers: list[Offer]) -> LookedUp | None:
        """The offer of this round, as a member."""
        if self._lookup is None or not offers:
            return None
        device = self._texts.device
        tokens = upload(self._lookup.tokens[: self._texts.num_rows], device)
        draft_len = upload(offers[0].draft_len, device)
        return LookedUp(self._lookup.number, tokens, draft_len)

    def _draft(
        self, source: Solo | Mixed, step_id: int, slots: Ints, draft_len: Longs
    ) -> Proposal:
        """Draft up to draft_len (rows,) tokens for each row; they must fit into its context."""
        drafted: list[torch.Tensor] = []
        probs: list[torch.Tensor] = []
        siblings: list[torch.Tensor] = []
        signs: list[HostCopy] = []  # (1 or 2, rows) confidence, and entropy where wanted
        # A sibling's place in line depends on what the processors make of the text before it.
        width = self._tree_width if self._processors.prefix_free else 1
        wants_probs = self._do_sample or width > 1
        rows, drawn = np.arange(len(draft_len)), draft_len > 0
        source.start(slots, drawn)
        for position in range(1, int(draft_len.max()) + 1):
            if self._governor.wants_confidence:
                if wants_probs:
                    sure, q = source.sure_probs(position - 1)
                else:
                    sure = source.sure(position - 1)
                token = sure.token
                signs.append(HostCopy(source.signs(sure)))
                draft_len = self._stop(step_id, draft_len, signs)
            elif wants_probs:
                q = source.probs(position - 1)
                token = q.argmax(dim=-1)
            else:
                token = source.best(position - 1)
            if self._draws is not None:
                # By the target's noise for this token, so that both often draw the same.
                token = self._draws(rows, position - 1, q.log()[:, None])[:, 0]
            elif self._do_sample:
                probs.append(q)
                token = draw_token(q)
            if width > 1:
                pick = draw_siblings if self._do_sample else best_siblings
                siblings.append(pick(q, token, width))
            drafted.append(token[:, None])
            if not self._processors.prefix_free:
                self._texts.draft(position - 1, drafted[-1])
            going_on = draft_len > position
            if not going_on.any():
                break
            source.feed(drafted[-1], going_on)
        known = [np.stack(rows, axis=1, dtype=np.float64) for rows in _by_sign(signs)]
        return Proposal(
            tokens=torch.cat(drafted, dim=1),
            draft_len=draft_len,
            probs=torch.stack(probs, dim=1) if probs else None,
            drawn=drawn,
            confidence=known[0] if known else None,
            entropy=known[1] if len(known) > 1 else None,
            siblings=torch.stack(siblings, dim=1) if siblings else None,
            members=source.members,
        )

    def _stop(self, step_id: int, draft_len: Longs, signs: list[HostCopy]) -> Longs:
        """Ask the governor which rows end here, before a token is drawn from these scores."""
        # A GPU is kept busy by asking about the step before the one that runs now.
        lag = 1 if self._texts.tokens.is_cuda else 0
        position = len(signs) - lag
        if position < 1:
            return draft_len
        going_on = np.flatnonzero(draft_len > len(signs))
        if len(going_on) == 0:
            return draft_len
        known = signs[position - 1].get()[:, going_on].astype(np.float64)
        stopped = self._governor.stop(step_id, going_on, position, *known)
        if stopped.any():
            draft_len = draft_len.copy()
            draft_len[going_on[stopped]] = len(signs)
        return draft_len

    def _catch_up(self, slots: Ints, ran: set[int]) -> None:
        """Let drafts that did not run read what they skipped, once it is enough."""
        if not self._governor.wants_reading:
            return
        lanes = slice(None)
        for model in self._models:
            if not ran.isdisjoint(model.numbers):
                continue
            every = min(map(self._governor.read_every, model.numbers))
            if model.num_unread(lanes) >= every:
                model.read(slots, model.room(lanes) >= 0, lanes)

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


def _by_sign(signs: list[HostCopy]) -> Iterator[tuple[NDArray[np.float32], ...]]:
    """Copies (signs, rows) of several steps, by sign."""
    return zip(*(sign.get() for sign in signs), strict=True)
