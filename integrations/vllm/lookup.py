"""A draft without a model for vLLM: what the text, or one before it, said in this place.

    --speculative-config '{"method": "custom_class",
                           "model": "flyball.integrations.vllm.lookup.LookupDrafter", ...}'

`flyball vllm-args policy.yaml --method lookup` prints it in full.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Offer
from flyball.controller.guard import BadAnswerError, Guard
from flyball.estimators.drafts import OfferDraft
from flyball.integrations.lookup import PromptLookup
from flyball.integrations.ngrams import BACK, Tokens
from flyball.integrations.outputs import EndedTexts

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

_KEPT = 4096  # last tokens of each row's text, for when it ends
_MEMORY_BITS = 18  # of the texts that ended, in tokens
_WITNESSES = np.arange(1, 17)  # last tokens by which a text is known again
_LEAST = 0.1  # probability of being accepted that a proposed token needs


class _Batch:
    """The texts of vLLM's batch, as prompt lookup looks at them."""

    def __init__(self, num_rows: int) -> None:
        self.host: Tokens = np.zeros((num_rows, 0), np.int32)
        self.num_tokens = np.zeros(0, np.int64)
        self.num_padding = np.zeros(num_rows, np.int64)

    @property
    def num_rows(self) -> int:
        return len(self.num_tokens)


class LookupDrafter:
    """Proposes what followed the same tokens in the text itself, or in texts that ended.

    Both make an offer for each request and step, and the longer n-gram that was found again is
    not always the better one: what an offer is worth is learned from how both agreed with the
    text that settled, by length of n-gram, position and request, used or not. The better offer is
    proposed, as far as it is likely to be accepted; the governor cuts what does not pay. vLLM
    tells rows, not requests: that a row has another text is seen by its last tokens. A fault costs
    drafts for a while, and what was known.

    Args:
        vllm_config: the engine's.
    """

    def __init__(self, vllm_config: Any) -> None:
        self._num_rows = int(vllm_config.scheduler_config.max_num_seqs)
        self._most = int(vllm_config.speculative_config.num_speculative_tokens)
        self._guard = Guard()
        self._num_steps = 0
        self._start_anew()

    def _start_anew(self) -> None:
        num_rows = self._num_rows
        self._batch = _Batch(num_rows)
        self._own = PromptLookup(0, num_rows, self._batch, self._most)
        self._ended = EndedTexts(_MEMORY_BITS, self._most)
        self._worth = (OfferDraft(self._most), OfferDraft(self._most))
        self._known: Longs = np.zeros(num_rows, np.int64)  # tokens of each row's text
        self._kept = np.zeros((num_rows, _KEPT), np.int32)  # the last of them, by place
        # The latest offers: tokens (rows, K), how many and how well founded (rows,).
        self._offers: list[tuple[Tokens, Longs, Ints]] = []
        every = np.arange(num_rows)
        self._own.add(every)
        for worth in self._worth:
            worth.admit(every.astype(np.int32))

    def load_model(self, *_: object, **__: object) -> None:
        """There is none; vLLM asks every drafter."""

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        slot_mappings: object = None,
    ) -> list[list[int]]:
        """Drafts for every row of the batch.

        Args:
            sampled_token_ids: of each row, new ones; none where it still reads its prompt.
            num_tokens_no_spec: (>= rows,) settled tokens of each row.
            token_ids_cpu: (>= rows, max_model_len) them.
            slot_mappings: of no use here.

        Returns:
            At most `num_speculative_tokens` for each row.
        """
        self._num_steps += 1
        if sampled_token_ids and not self._guard.benched(self._num_steps):
            try:
                drafts, length = self._propose(
                    len(sampled_token_ids), num_tokens_no_spec, token_ids_cpu
                )
                rows = zip(drafts.tolist(), length.tolist(), sampled_token_ids, strict=True)
                return [row[:num] if new else [] for row, num, new in rows]
            except Exception as error:
                self._guard.count("lookup", repr(error))
                self._guard.bench(self._num_steps)
                self._start_anew()
        return [[] for _ in sampled_token_ids]

    def _propose(
        self, count: int, num_tokens: NDArray[np.int32], host: NDArray[np.int32]
    ) -> tuple[Tokens, Longs]:
        """Tokens (count, K) for the first rows, and how many of them are proposed (count,)."""
        batch = self._batch
        batch.host = host
        batch.num_tokens = num_tokens[:count].astype(np.int64)
        others = self._others()
        self._compare(others)
        self._replace(np.flatnonzero(others), count + np.flatnonzero(self._known[count:]))
        self._follow()
        self._offers = self._look_up()
        return self._choose()

    def _others(self) -> NDArray[np.bool_]:
        """Rows whose text is another one than in the step before."""
        batch, known = self._batch, self._known[: self._batch.num_rows]
        rows = np.arange(batch.num_rows)[:, None]
        places = np.maximum(known[:, None] - _WITNESSES, 0)
        same = batch.host[rows, places] == self._kept[rows, places % _KEPT]
        result: NDArray[np.bool_] = (batch.num_tokens < known) | (known == 0) | ~same.all(axis=1)
        return result

    def _compare(self, others: NDArray[np.bool_]) -> None:
        """Learn from the texts that went on how both offers would have done."""
        rows = np.flatnonzero(~others)
        rows = rows[rows < (len(self._offers[0][1]) if self._offers else 0)]
        new = self._batch.num_tokens[rows] - self._known[rows]
        rows, new = rows[new > 0], new[new > 0]
        if len(rows) == 0:
            return
        ahead = np.arange(self._most)
        columns = np.minimum(self._known[rows, None] + ahead, self._batch.host.shape[1] - 1)
        settled = self._batch.host[rows[:, None], columns]
        for worth, (tokens, offered, strength) in zip(self._worth, self._offers, strict=True):
            limit = np.minimum(new, offered[rows])
            same = (tokens[rows] == settled) & (ahead < limit[:, None])
            matched = same.cumprod(axis=1).sum(axis=1)
            compared = np.minimum(matched + 1, limit)
            worth.note(
                rows.astype(np.int32),
                strength[rows],
                matched.astype(np.int32),
                compared.astype(np.int32),
            )
            if worth.due:
                self._learn(worth)

    def _learn(self, worth: OfferDraft) -> None:
        worth.learn()
        if not worth.healthy:
            raise BadAnswerError("expected finite hazards")

    def _replace(self, rows: Longs, gone: Longs) -> None:
        """Other texts are in these rows (r,), and none in those that are gone (g,)."""
        if len(rows) + len(gone) == 0:
            return
        left = np.concatenate([rows, gone])
        left = left[self._known[left] > 0]
        sources, targets = self._moves(left, rows)
        for row in np.setdiff1d(left, sources).tolist():
            end = int(self._known[row])
            self._ended.add(self._kept[row, np.arange(max(0, end - _KEPT), end) % _KEPT])
        for worth in self._worth:
            self._learn(worth)  # nothing of theirs may be pending
            worth.admit(rows.astype(np.int32))
        self._kept[targets] = self._kept[sources]
        self._own.move(sources, targets)
        moved = self._known[sources]
        self._known[left] = 0
        self._known[targets] = moved
        self._own.add(np.setdiff1d(rows, targets))

    def _moves(self, left: Longs, rows: Longs) -> tuple[Longs, Longs]:
        """Where texts that left their rows (l,) are now, among other rows (r,): from, and to."""
        left = left[self._known[left] >= len(_WITNESSES)]
        if len(left) == 0 or len(rows) == 0:
            return left[:0], rows[:0]
        known = self._known[left]
        places = known[:, None] - _WITNESSES  # (l, witnesses)
        there = self._batch.host[rows[:, None, None], places]
        same = (there == self._kept[left[:, None], places % _KEPT]).all(axis=2)
        same &= self._batch.num_tokens[rows][:, None] >= known
        found = same.any(axis=1)
        return left[same.argmax(axis=1)[found]], rows[found]

    def _follow(self) -> None:
        """Keep the tokens that are new."""
        batch = self._batch
        every = np.arange(batch.num_rows)
        known = np.maximum(self._known[every], batch.num_tokens - _KEPT)
        new = batch.num_tokens - known
        row = every.repeat(new)
        place = np.arange(len(row)) - (new.cumsum() - new - known)[row]
        self._kept[row, place % _KEPT] = batch.host[row, place]
        self._known[every] = batch.num_tokens

    def _look_up(self) -> list[tuple[Tokens, Longs, Ints]]:
        batch = self._batch
        offer = self._own.offer()
        if offer is None:
            nothing = np.zeros(batch.num_rows, np.int32)
            offer = Offer(0, nothing, nothing)
            self._own.tokens = np.zeros((batch.num_rows, self._most), np.int32)
        last = batch.num_tokens[:, None] - 1 - BACK
        windows = batch.host[np.arange(batch.num_rows)[:, None], np.maximum(last, 0)]
        windows[last < 0] = -2  # neither a token nor a gap
        tokens, count, strength = self._ended.propose(windows)
        return [
            (self._own.tokens, offer.draft_len.astype(np.int64), offer.strength),
            (tokens, count, strength.astype(np.int32)),
        ]

    def _choose(self) -> tuple[Tokens, Longs]:
        """The better offer of each row: tokens (rows, K), and how many are proposed (rows,)."""
        slots = np.arange(self._batch.num_rows, dtype=np.int32)
        survival = np.stack(
            [
                worth.survival(slots, offered.astype(np.int32), strength)[:, 1:]
                for worth, (_, offered, strength) in zip(self._worth, self._offers, strict=True)
            ]
        )
        better = survival.sum(axis=2).argmax(axis=0)
        length: Longs = np.count_nonzero(survival[better, slots] >= _LEAST, axis=1)
        tokens = np.where(better[:, None] == 0, self._offers[0][0], self._offers[1][0])
        return tokens, length
