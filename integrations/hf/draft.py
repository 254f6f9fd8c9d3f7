"""A draft model that proposes for all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.governor import Governor
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.device import HostCopy, upload
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.text import Moves, Texts
from flyball.kernels.confidence import Confidence, confidence
from flyball.kernels.head import AcceptanceHead

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]

_LONG_READ = 2  # tokens; what a round left over only shadows want to know of


@dataclass(frozen=True)
class Proposal:
    """A finished draft.

    Attributes:
        tokens: (rows, K) drafted tokens.
        draft_len: (rows,) how many of them are proposed.
        probs: (rows, K, vocab) the distributions they were drawn from, where `drawn`; None under
            greedy and where nothing was drawn.
        drawn: (rows,) whether the row's tokens were drawn; the others' distribution is a point
            mass. None where probs is None.
        confidence: (rows, K) largest probabilities, or what an acceptance head predicts; None
            where nobody asked.
        entropy: (rows, K) of the distributions, in nats; None where nobody asked.
    """

    tokens: torch.Tensor
    draft_len: Longs
    probs: torch.Tensor | None = None
    drawn: Bools | None = None
    confidence: NDArray[np.float64] | None = None
    entropy: NDArray[np.float64] | None = None


class ModelDraft:
    """Drafts with a small model; between drafts its cache may lag behind the text.

    K drafted tokens cost K forwards: the first one also reads what was settled since, and the
    last drafted token is read only once it is settled. Reading tells for every skipped token
    whether the draft would have been right, which the governor is told.

    Args:
        number: among the host's drafts.
        cached: the draft model.
        texts: of the batch.
        processors: of the batch; they shape the draft's distribution as they do the target's.
        governor: told about read tokens and asked when to stop.
        do_sample: draw from the distribution, or take its argmax.
        head: predicts acceptance from the states of `cached`, which must keep them; the largest
            probability is the confidence without one.

    Attributes:
        has_read: whether it read more in the present round than a round leaves over.
    """

    def __init__(
        self,
        number: int,
        cached: CachedModel,
        texts: Texts,
        processors: RowProcessors,
        governor: Governor,
        do_sample: bool,
        head: AcceptanceHead | None = None,
    ) -> None:
        self.number = number
        self.cached = cached
        self.has_read = False
        self._texts = texts
        self._processors = processors
        self._governor = governor
        self._do_sample = do_sample
        self._head = head
        self._state = torch.empty(0)  # (rows, hidden) that the latest logits were made from
        self._seen: Longs = np.zeros(0, np.int64)  # tokens of each row in the cache
        self._fed: Longs = np.zeros(0, np.int64)  # drafted ones after them
        self._drafted = False  # whether it proposed in the present round

    def add(self, rows: Longs) -> None:
        """New rows begin."""
        self._seen = np.concatenate([self._seen, np.zeros(len(rows), np.int64)])

    def keep(self, moves: Moves) -> None:
        """Close up after rows have left."""
        self.cached.move_rows(moves.sources, moves.targets)
        self._seen = self._seen[moves.order]

    @property
    def num_unread(self) -> int:
        """The most settled tokens that any row it can serve has not read yet."""
        return int(((self._texts.num_own - self._seen) * (self.room >= 0)).max(initial=0))

    @property
    def room(self) -> Longs:
        """Tokens (rows,) that fit into the draft's context after the settled text."""
        return self.cached.context - self._texts.num_own

    def share(self, draft: Ints, draft_len: Longs) -> Longs:
        """Of draft_len (rows,), what rows that use this draft get from it (rows,)."""
        return np.where(draft == self.number, np.clip(self.room, 0, draft_len), 0)

    def read(self, slots: Ints, rows: Bools) -> torch.Tensor:
        """Bring the cache of some rows up to the text, and others on the way as far as they come.

        Args:
            slots: (rows,) of all rows.
            rows: (rows,) which to bring up; they must fit into the draft's context.

        Returns:
            (rows, vocab) logits after the last token read of each row.
        """
        texts = self._texts
        fresh = np.flatnonzero(rows & (self._seen == 0))
        if len(fresh):
            self._read_prompts(fresh)
        lag = np.where(self.room >= 0, texts.num_own - self._seen, 0)
        width = int(lag[rows].max())
        lag = np.minimum(lag, width) * (self._seen > 0)
        columns = (texts.num_padding + self._seen)[:, None] + np.arange(width)
        index = np.minimum(columns, texts.host.shape[1] - 1)
        tokens = texts.host[np.arange(texts.num_rows)[:, None], index]
        logits = self._forward(upload(tokens, texts.device), 0)
        if width == 1:
            self._seen = self._seen + lag
            self._keep_state(slice(None), 0)
            return logits[:, 0]
        if width > _LONG_READ:
            self.has_read = True
        if width > _LONG_READ or self._governor.follows_shadows:
            self._report(slots, logits, columns[:, 1:], np.arange(1, width) < lag[:, None])
        self._seen = self._seen + lag
        every = upload(np.arange(texts.num_rows), texts.device)
        last = upload(np.maximum(lag - 1, 0), texts.device)
        self._keep_state(every, last)
        return logits[every, last]

    def _keep_state(self, rows: torch.Tensor | slice, columns: torch.Tensor | int) -> None:
        if self._head is not None:
            self._state = self.cached.hidden[rows, columns]

    def _forward(self, tokens: torch.Tensor, ahead: int | Longs) -> torch.Tensor:
        # A row that fills the context takes no more part; it gives its last column.
        lengths = np.minimum(self._seen + ahead, self.cached.context - 1)
        return self.cached.forward(tokens, lengths)

    def _read_prompts(self, rows: Longs) -> None:
        """Read the prompts of rows (r,) but for their last tokens."""
        texts = self._texts
        self.has_read = True
        lengths = np.maximum(texts.prompt_len[rows] - texts.num_padding[rows] - 1, 1)
        columns = texts.num_padding[rows, None] + np.arange(int(lengths.max()))
        tokens = texts.host[rows[:, None], np.minimum(columns, texts.host.shape[1] - 1)]
        self.cached.read_prompts(upload(tokens, texts.device), lengths, rows)
        self._seen[rows] = lengths

    def _report(self, slots: Ints, logits: torch.Tensor, columns: Longs, known: Bools) -> None:
        """Tell the governor how the draft would have done at columns (rows, width - 1)."""
        texts = self._texts
        known = known & (columns >= texts.prompt_len[:, None])
        rows = np.arange(texts.num_rows)
        first = self._seen - texts.num_own + 1
        scores = self._processors(texts, rows, first, logits[:, :-1], known)
        index = np.minimum(columns, texts.host.shape[1] - 1)
        settled = texts.host[rows[:, None], index]
        signs = self._signs_of_read(scores) if self._governor.follows_shadows else ()
        if self._do_sample:
            wanted = upload(settled[..., None], texts.device)
            q = HostCopy(scores.softmax(dim=-1).gather(2, wanted).squeeze(2)).get()
            p = np.where(known, texts.probs[rows[:, None], index], 1.0)
            match = np.minimum(q / p, 1.0)
        else:
            match = (HostCopy(scores.argmax(dim=-1)).get() == settled).astype(np.float64)
        self._governor.read(slots, np.where(known, match, np.nan), self.number, *signs)

    def _signs_of_read(self, scores: torch.Tensor) -> NDArray[np.float64]:
        """What shadows are told (signs, rows, width) of text with these scores."""
        states = self._state if self._head is None else self.cached.hidden[:, :-1]
        return HostCopy(self._signs(confidence(scores), states)).get().astype(np.float64)

    def propose(self, step_id: int, slots: Ints, draft_len: Longs) -> Proposal:
        """Draft up to draft_len (rows,) tokens for each row; they must fit into its context."""
        self._fed, self._drafted = np.zeros_like(draft_len), True
        drafted: list[torch.Tensor] = []
        probs: list[torch.Tensor] = []
        signs: list[HostCopy] = []  # (1 or 2, rows) confidence, and entropy where wanted
        rows = np.arange(len(draft_len))
        wanted = draft_len > 0
        logits = self.read(slots, wanted)
        for position in range(1, int(draft_len.max()) + 1):
            scores = self._processors(self._texts, rows, position - 1, logits[:, None])[:, 0]
            if self._governor.wants_confidence:
                sure = confidence(scores)
                token = sure.token
                signs.append(HostCopy(self._signs(sure, self._state)))
                draft_len = self._stop(step_id, draft_len, signs)
                if self._do_sample:
                    probs.append(sure.probs)
            elif self._do_sample:
                probs.append(scores.softmax(dim=-1))
            else:
                token = scores.argmax(dim=-1)
            if self._do_sample:
                token = torch.multinomial(probs[-1], 1).squeeze(1)
            drafted.append(token[:, None])
            if not self._processors.prefix_free:
                self._texts.draft(position - 1, drafted[-1])
            going_on = draft_len > position
            if not going_on.any():
                break
            logits = self._forward(drafted[-1], self._fed)[:, 0]
            self._keep_state(slice(None), 0)
            self._fed = self._fed + going_on
        known = [np.stack(rows, axis=1, dtype=np.float64) for rows in _by_sign(signs)]
        return Proposal(
            tokens=torch.cat(drafted, dim=1),
            draft_len=draft_len,
            probs=torch.stack(probs, dim=1) if probs else None,
            drawn=wanted if probs else None,
            confidence=known[0] if known else None,
            entropy=known[1] if len(known) > 1 else None,
        )

    def _signs(self, sure: Confidence, states: torch.Tensor) -> torch.Tensor:
        """What the governor is told (signs, ...) of drafts with these states (..., hidden)."""
        likely = sure.largest if self._head is None else self._head(states)
        if self._governor.wants_entropy:
            return torch.stack([likely, sure.entropy()])
        return likely[None]

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

    def settle(self, num_accepted: Longs) -> None:
        """Keep what the cache holds of the accepted tokens (rows,)."""
        self.has_read = False
        if self._drafted:
            self._seen = self._seen + np.minimum(num_accepted, self._fed)
            self._drafted = False


def _by_sign(signs: list[HostCopy]) -> Iterator[tuple[NDArray[np.float32], ...]]:
    """Copies (signs, rows) of several steps, by sign."""
    return zip(*(sign.get() for sign in signs), strict=True)
