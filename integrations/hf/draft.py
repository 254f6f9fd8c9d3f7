"""A draft model that proposes for all rows of a call at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.governor import Governor, Plan
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.device import HostCopy
from flyball.integrations.hf.processors import Processors
from flyball.integrations.hf.text import Texts
from flyball.kernels.confidence import max_probability

Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]

READ_EVERY = 32  # skipped tokens after which the draft reads them all in one forward


@dataclass(frozen=True)
class Proposal:
    """A finished draft.

    Attributes:
        tokens: (rows, K) drafted tokens.
        draft_len: (rows,) how many of them are proposed.
        probs: (rows, K, vocab) the distributions they were drawn from; None under greedy.
        confidence: (rows, K) largest probabilities; None where nobody asked.
    """

    tokens: torch.Tensor
    draft_len: Longs
    probs: torch.Tensor | None
    confidence: NDArray[np.float64] | None


class ModelDraft:
    """Drafts with a small model; between drafts its cache may lag behind the text.

    K drafted tokens cost K forwards: the first one also reads what was settled since, and the
    last drafted token is read only once it is settled. Reading tells for every settled token
    whether the draft would have been right, which the governor is told.

    Args:
        cached: the draft model.
        texts: of the call.
        processors: of the call; they shape the draft's distribution as they do the target's.
        governor: told about read tokens and asked when to stop.
        do_sample: draw from the distribution, or take its argmax.
    """

    def __init__(
        self,
        cached: CachedModel,
        texts: Texts,
        processors: Processors,
        governor: Governor,
        do_sample: bool,
    ) -> None:
        self._cached = cached
        self._texts = texts
        self._processors = processors
        self._governor = governor
        self._do_sample = do_sample
        self._seen: Longs = texts.num_padding.copy()  # columns of the text in the cache
        self._fed: Longs = np.zeros_like(self._seen)  # drafted tokens in the cache, by row
        self._row = np.zeros(len(self._seen), np.intp)  # of the plan, by row of the batch
        self._num_fed = 0
        self._context = getattr(cached.model.config, "max_position_embeddings", None) or 2**62
        self._text_probs: torch.Tensor | None = None
        if do_sample:
            self._text_probs = torch.ones(texts.tokens.shape, device=texts.tokens.device)

    @property
    def num_unread(self) -> int:
        """The most settled tokens that any row it can serve has not read yet."""
        return int(((self._texts.num_tokens - self._seen) * self._served).max())

    @property
    def _room(self) -> Longs:
        """Tokens (rows,) that fit into the draft's context after the settled text."""
        return self._context - (self._texts.num_tokens - self._texts.num_padding)

    @property
    def _served(self) -> Bools:
        """Live rows whose text fits into the draft's context."""
        return ~self._texts.finished & (self._room >= 0)

    def note_probs(self, probs: torch.Tensor, num_tokens: Longs, count: Longs) -> None:
        """Remember the target's probability of tokens just settled.

        Args:
            probs: (rows, width) p of each emitted token.
            num_tokens: (rows,) settled columns before them.
            count: (rows,) how many each row has.
        """
        if self._text_probs is None:
            return
        columns = np.arange(probs.shape[1])
        row, column = np.nonzero(columns < count[:, None])
        target = (num_tokens[:, None] + columns)[row, column]
        rows, targets, sources = (
            torch.from_numpy(x).to(probs.device) for x in (row, target, column)
        )
        self._text_probs[rows, targets] = probs[rows, sources]

    def read(self, slots: NDArray[np.int32]) -> torch.Tensor:
        """Bring the cache up to the text.

        Args:
            slots: of the live rows, in order.

        Returns:
            (rows, 1, vocab) logits after the last settled token.
        """
        texts, live = self._texts, self._served
        width = self.num_unread
        index = texts.num_tokens[:, None] - width + np.arange(width)
        valid = (index >= self._seen[:, None]) & live[:, None]
        tokens = texts.tokens.gather(1, _to(index.clip(0), texts.tokens))
        # Logits are wanted where the next token was generated, and after the last one.
        generated = (valid & (index + 1 >= texts.prompt_len)).any(axis=0)
        num_logits = max(1, width - int(generated.argmax()) if generated.any() else 1)
        first_position = self._seen - texts.num_padding
        logits = self._cached.forward(tokens, valid, first_position, num_logits)
        if num_logits > 1:
            first = width - num_logits
            self._report(slots, logits[:, :-1], index[:, first:-1] + 1, valid[:, first:-1])
        self._seen = np.where(live, texts.num_tokens, self._seen)
        return logits[:, -1:]

    def _report(
        self, slots: NDArray[np.int32], logits: torch.Tensor, index: Longs, valid: Bools
    ) -> None:
        """Tell the governor how the draft would have done at columns `index` of the text."""
        texts = self._texts
        present = valid & (index >= texts.prompt_len)  # nothing of rows that are not served
        scores = self._processors(texts.tokens, index[:, 0].clip(1), logits)
        columns = _to(index.clip(0), texts.tokens)
        settled = texts.tokens.gather(1, columns)
        if self._text_probs is None:
            match = (scores.argmax(dim=-1) == settled).float()
        else:
            q = scores.softmax(dim=-1).gather(2, settled[..., None]).squeeze(2)
            match = (q / self._text_probs.gather(1, columns)).clamp(max=1.0)
        live = ~texts.finished
        host = np.where(present, HostCopy(match).get(), np.nan)[live]
        self._governor.read(slots, host)

    def propose(self, plan: Plan, slots: NDArray[np.int32], draft_len: Longs) -> Proposal:
        """Draft up to draft_len (rows,) tokens for each row, as long as its context reaches."""
        texts = self._texts
        draft_len = np.clip(self._room, 0, draft_len)
        drafted: list[torch.Tensor] = []
        probs: list[torch.Tensor] = []
        confidences: list[HostCopy] = []
        self._fed = np.zeros_like(draft_len)
        self._num_fed = 0
        if not draft_len.any():
            nothing = texts.tokens[:, :0]
            return Proposal(nothing, draft_len, None, None)
        self._row = np.cumsum(~texts.finished) - 1
        logits = self.read(slots)
        for position in range(1, int(draft_len.max()) + 1):
            scores = self._processors(texts.tokens, texts.num_tokens + position - 1, logits)
            scores = scores[:, 0]
            if self._governor.wants_confidence:
                confidences.append(HostCopy(max_probability(scores)))
                draft_len = self._stop(plan, draft_len, confidences)
            drafted.append(self._draw(scores, probs))
            texts.draft(position - 1, drafted[-1])
            going_on = draft_len > position
            if not going_on.any():
                break
            first_position = self._seen + self._fed - texts.num_padding
            logits = self._cached.forward(
                drafted[-1][:, None], going_on[:, None], first_position, 1
            )
            self._fed += going_on
            self._num_fed += 1
        return Proposal(
            tokens=torch.stack(drafted, dim=1),
            draft_len=draft_len,
            probs=torch.stack(probs, dim=1) if probs else None,
            confidence=np.stack([c.get() for c in confidences], axis=1).astype(np.float64)
            if confidences
            else None,
        )

    def _stop(self, plan: Plan, draft_len: Longs, confidences: list[HostCopy]) -> Longs:
        """Ask the governor which rows end here, before a token is drawn from these scores."""
        # A GPU is kept busy by asking about the step before the one that runs now.
        lag = 1 if self._texts.tokens.is_cuda else 0
        position = len(confidences) - lag
        if position < 1:
            return draft_len
        going_on = np.flatnonzero(draft_len > len(confidences))
        if len(going_on) == 0:
            return draft_len
        confidence = confidences[position - 1].get()[going_on].astype(np.float64)
        stopped = self._governor.stop(plan.step_id, self._row[going_on], position, confidence)
        draft_len = draft_len.copy()
        draft_len[going_on[stopped]] = len(confidences)
        return draft_len

    def _draw(self, scores: torch.Tensor, probs: list[torch.Tensor]) -> torch.Tensor:
        if not self._do_sample:
            return scores.argmax(dim=-1)
        probs.append(scores.softmax(dim=-1))
        return torch.multinomial(probs[-1], 1).squeeze(1)

    def settle(self, num_accepted: Longs) -> None:
        """Keep what the cache holds of the accepted tokens (rows,)."""
        kept = np.minimum(num_accepted, self._fed)
        if self._num_fed:
            self._cached.keep(np.arange(self._num_fed) < kept[:, None])
        self._seen = self._seen + kept
        self._num_fed = 0


def _to(array: Longs, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(like.device)
