"""The growing texts of a batch, and when each of them ends."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
)

from flyball.integrations.hf.device import upload

Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Seeds = NDArray[np.uint64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Ending:
    """When texts end.

    Attributes:
        max_length: columns, padding included, with which a text is full.
        eos: (e,) tokens that end a text.
        deadline: seconds since the epoch after which one more token ends it.
        others: the caller's own criteria.
    """

    max_length: int
    eos: Longs
    deadline: float
    others: StoppingCriteriaList

    @classmethod
    def prepared(cls, stopping: StoppingCriteriaList, config: GenerationConfig) -> Ending:
        """From criteria and configuration as transformers prepared them."""
        limits = [c.max_length for c in stopping if type(c) is MaxLengthCriteria]
        eos = [c.eos_token_id for c in stopping if type(c) is EosTokenCriteria]
        times = [c.initial_timestamp + c.max_time for c in stopping if type(c) is MaxTimeCriteria]
        own = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)
        return cls(
            max_length=min([*limits, config.max_length]),
            eos=np.unique([int(token) for ids in eos for token in ids.flatten()]).astype(np.int64),
            deadline=min(times, default=float("inf")),
            others=StoppingCriteriaList(c for c in stopping if type(c) not in own),
        )


@dataclass(frozen=True)
class Moves:
    """How a batch closes up after rows have left.

    Attributes:
        order: (rows left,) old row of each row that stays.
        sources: (m,) rows that change place.
        targets: (m,) their new places.
    """

    order: Longs
    sources: Longs
    targets: Longs


class Texts:
    """Token buffer with one row a text; rows grow unevenly, come and go.

    Args:
        num_rows: most rows at a time.
        device: of the models.
        together: all rows go on until the last has ended, as stock decoding does where it knows
            no end token.

    Attributes:
        max_rows: most rows at a time.
        tokens: (max_rows, capacity) token ids on the device, settled and drafted.
        host: the same in the host's memory, settled ones only.
        probs: (max_rows, capacity) the target's probability of each settled token, under
            sampling.
        entropy: (max_rows, capacity) the target's entropy in nats at each, where a watch wants it.
        request: (rows,) number of the request in each row.
        number: (rows,) of the text among those that were prepared together.
        seed: (rows,) of each text's draws; 0 where texts have none.
        num_tokens: (rows,) columns that are settled, padding included.
        num_padding: (rows,) columns of left padding.
        prompt_len: (rows,) columns of the prompt, padding included; of a text that goes on from
            another row, all with which it began in this one.
        num_before: (rows,) of them, tokens that were generated in other rows.
        finished: (rows,) whether the row needs no more tokens.
    """

    def __init__(self, num_rows: int, device: torch.device, *, together: bool) -> None:
        self.device = device
        self._together = together
        self.max_rows = num_rows
        self.tokens = torch.zeros(num_rows, 0, dtype=torch.long, device=device)
        self.host: Longs = np.zeros((num_rows, 0), np.int64)
        self.probs = np.ones((num_rows, 0), np.float32)
        self.entropy = np.full((num_rows, 0), np.nan, np.float32)
        nobody = np.zeros(0, np.int64)
        self.request, self.number = nobody, nobody
        self.seed: Seeds = np.zeros(0, np.uint64)
        self.num_tokens, self.num_padding, self.prompt_len = nobody, nobody, nobody
        self.num_before = nobody
        self._limit, self._ends_at = nobody, nobody
        self._deadline = np.zeros(0)
        self._endings = np.zeros(0, object)  # of Ending
        self._asks = False  # whether any row has criteria of the caller
        self._eos: list[int] = []  # the same for all rows
        self._slack = 0  # columns that surely fit before any limit
        self._next_deadline = np.inf
        self._last_end = 0  # where the longest of the rows that left has ended
        self.finished: Bools = np.zeros(0, np.bool_)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self.request)

    @property
    def num_own(self) -> Longs:
        """Settled tokens of each row (rows,) without padding."""
        return self.num_tokens - self.num_padding

    @property
    def first_new(self) -> Longs:
        """Column (rows,) of each text's first generated token."""
        return self.prompt_len - self.num_before

    @property
    def remaining(self) -> Longs:
        """Tokens (rows,) that may still be added."""
        return self._limit - self.num_tokens

    def add(
        self,
        request: Longs,
        prompts: Longs,
        num_padding: Longs,
        ending: Ending,
        seeds: Seeds | None = None,
        num_before: int = 0,
    ) -> Longs:
        """Begin texts in new rows.

        Args:
            request: (r,) their numbers.
            prompts: (r, prompt) token ids, padded on the left.
            num_padding: (r,) columns of padding.
            ending: of all of them.
            seeds: (r,) of their draws; None without.
            num_before: last tokens of each that were generated before.

        Returns:
            (r,) the rows.
        """
        count, width = prompts.shape
        rows = self.num_rows + np.arange(count)
        # As in stock decoding, limits are looked at after a token was added.
        limit = max(ending.max_length, width + 1)
        self._reserve(width + 1)
        self.host[rows, :width] = prompts
        if self.tokens.is_cuda:
            self.tokens[rows[0] : rows[0] + count, :width] = upload(prompts, self.device)
        self.request = np.concatenate([self.request, request])
        self.number = np.concatenate([self.number, np.arange(count)])
        own = np.zeros(count, np.uint64) if seeds is None else seeds
        self.seed = np.concatenate([self.seed, own])
        self.num_padding = np.concatenate([self.num_padding, num_padding])
        for name, value in (
            ("num_tokens", width), ("prompt_len", width), ("num_before", num_before),
            ("_limit", limit),
        ):  # fmt: skip
            setattr(self, name, np.concatenate([getattr(self, name), np.full(count, value)]))
        self._deadline = np.concatenate([self._deadline, np.full(count, ending.deadline)])
        self._ends_at = np.concatenate([self._ends_at, np.zeros(count, np.int64)])
        self.finished = np.concatenate([self.finished, np.zeros(count, np.bool_)])
        self._endings = np.concatenate([self._endings, np.full(count, ending, object)])
        self._asks = self._asks or len(ending.others) > 0
        self._eos = ending.eos.tolist()
        self._slack = 0
        self._next_deadline = min(self._next_deadline, ending.deadline)
        return rows

    def leave(self) -> Moves:
        """Close up the rows that have finished."""
        gone = np.flatnonzero(self.finished)
        left = self.num_rows - len(gone)
        order = np.arange(left)
        holes, movers = gone[gone < left], left + np.flatnonzero(~self.finished[left:])
        order[holes] = movers
        self.probs[holes], self.entropy[holes] = self.probs[movers], self.entropy[movers]
        self.host[holes] = self.host[movers]
        if self.tokens.is_cuda:
            self.tokens[upload(holes, self.device)] = self.tokens[upload(movers, self.device)]
        self._last_end = max(self._last_end, int(self._ends_at[gone].max(initial=0)))
        for name in (
            "request", "number", "seed", "num_tokens", "num_padding", "prompt_len",
            "num_before", "finished", "_limit", "_deadline", "_ends_at", "_endings",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[order])
        return Moves(order, movers, holes)

    def draft(self, column: int, drafted: torch.Tensor) -> None:
        """Write tokens (rows, width) from `column` places after the settled text on."""
        width = drafted.shape[1]
        self._reserve(int(self.num_tokens.max()) + column + width)
        index = self.num_tokens[:, None] + column + np.arange(width)
        self.tokens[: self.num_rows].scatter_(1, upload(index, self.device), drafted)

    def append(
        self,
        emitted: Longs,
        count: Longs,
        probs: Floats | None = None,
        entropy: Floats | None = None,
    ) -> Longs:
        """Settle the accepted tokens and the one that follows.

        Args:
            emitted: (rows, width) these tokens.
            count: (rows,) how many of them each row has; 0 where a row has none yet.
            probs: (rows, width) the target's probability of each, under sampling.
            entropy: (rows, width) its entropy at each, where wanted.

        Returns:
            (rows,) how many were kept: fewer where a text ended among them.
        """
        width = emitted.shape[1]
        self._reserve(int(self.num_tokens.max()) + width)
        columns = self.num_tokens[:, None] + np.arange(width)
        places = (np.arange(self.num_rows)[:, None], columns)
        self.host[places] = emitted
        if probs is not None:
            self.probs[places] = probs
        if entropy is not None:
            self.entropy[places] = entropy
        if self.tokens.is_cuda:
            index = upload(columns, self.device)
            self.tokens[: self.num_rows].scatter_(1, index, upload(emitted, self.device))
        self._slack -= width
        is_end = [emitted == token for token in self._eos]
        if (
            self._slack > 0
            and not self._asks
            and self._next_deadline == np.inf
            and not any(found.any() for found in is_end)
            and not self._together
        ):
            self.num_tokens = self.num_tokens + count
            return count
        new = np.arange(width) < count[:, None]
        ends = columns >= self._limit[:, None] - 1
        for found in is_end:
            ends |= found
        ends &= new
        if self._asks:
            ends |= self._ask_others(new)
        ends[:, 0] |= (time.time() > self._deadline) & new[:, 0]
        return self._settle(ends, count)

    def _ask_others(self, new: Bools) -> Bools:
        """Ask the caller's own criteria about every prefix that ends in a new token."""
        ends = np.zeros_like(new)
        lengths = self.num_tokens[:, None] + np.arange(new.shape[1]) + 1
        by_ending: dict[int, list[int]] = {}
        for row, ending in enumerate(self._endings):
            by_ending.setdefault(id(ending), []).append(row)
        for rows in by_ending.values():
            among = np.isin(np.arange(self.num_rows), rows)[:, None]
            for length in np.unique(lengths[new & among]).tolist():
                members = np.flatnonzero((new & among & (lengths == length)).any(axis=1))
                prefixes = self.tokens[upload(members, self.device), :length]
                done = np.zeros(self.num_rows, np.bool_)
                done[members] = self._endings[rows[0]].others(prefixes, None).cpu().numpy()
                ends |= new & (lengths == length) & done[:, None]
        return ends

    def _settle(self, ends: Bools, count: Longs) -> Longs:
        ended = ends.any(axis=1)
        if not ended.any() and not self._together:
            self.num_tokens = self.num_tokens + count
            self._slack = int(self.remaining.min()) - 1
            return count
        after = ends.argmax(axis=1) + 1
        first = ended & (self._ends_at == 0)
        self._ends_at = np.where(first, self.num_tokens + after, self._ends_at)
        kept = count if self._together else np.where(ended, after, count)
        self.num_tokens = self.num_tokens + kept
        self.finished = self._ends_at > 0
        if self._together:
            # A row that has ended goes on until the last one has, and is cut there.
            end = self._longest_end if self.finished.all() else np.inf
            self.finished = self.num_tokens >= np.minimum(end, self._limit)
        return kept

    def text(self, row: int) -> Longs:
        """A copy of a row's settled tokens, padding included."""
        end = self.num_tokens[row]
        if self._together and (self._ends_at > 0).all():
            end = min(end, self._longest_end)
        return self.host[row, :end].copy()

    @property
    def _longest_end(self) -> int:
        return max(self._last_end, int(self._ends_at.max()))

    def _reserve(self, num_columns: int) -> None:
        capacity = self.host.shape[1]
        if num_columns <= capacity:
            return
        host = np.zeros((self.max_rows, max(256, 2 * num_columns)), np.int64)
        host[:, :capacity] = self.host
        probs = np.ones(host.shape, np.float32)
        probs[:, :capacity] = self.probs
        entropy = np.full(host.shape, np.nan, np.float32)
        entropy[:, :capacity] = self.entropy
        self.host, self.probs, self.entropy = host, probs, entropy
        if self.device.type == "cpu":
            self.tokens = torch.from_numpy(host)
        else:
            tokens = torch.zeros(host.shape, dtype=torch.long, device=self.device)
            tokens[:, :capacity] = self.tokens
            self.tokens = tokens
