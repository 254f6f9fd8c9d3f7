"""The growing texts of one call, and when each of them ends."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
)

Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Texts:
    """Token buffer with one row a text; rows grow unevenly, prompts are padded on the left.

    Attributes:
        tokens: (rows, max_length + 1) token ids on the model's device.
        num_tokens: (rows,) columns that are settled, padding included.
        num_padding: (rows,) columns of left padding.
        finished: (rows,) whether the row needs no more tokens.
    """

    def __init__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        stopping: StoppingCriteriaList,
        config: GenerationConfig,
    ) -> None:
        rows, self.prompt_len = input_ids.shape
        limits = [c.max_length for c in stopping if type(c) is MaxLengthCriteria]
        # As in stock decoding, limits are looked at after a token was added.
        self._max_length = max(min([*limits, config.max_length]), self.prompt_len + 1)
        pad = config._pad_token_tensor
        self._pad = 0 if pad is None else int(pad)
        self.tokens = torch.full(
            (rows, self._max_length + 1), self._pad, dtype=torch.long, device=input_ids.device
        )
        self.tokens[:, : self.prompt_len] = input_ids
        self.num_tokens: Longs = np.full(rows, self.prompt_len)
        if attention_mask is None:
            self.num_padding: Longs = np.zeros(rows, np.int64)
        else:
            self.num_padding = (self.prompt_len - attention_mask.sum(dim=1)).cpu().numpy()
        self.finished: Bools = np.zeros(rows, np.bool_)
        self._ends_at: Longs = np.zeros(rows, np.int64)  # 0 while no criterion was met
        eos = [c.eos_token_id for c in stopping if type(c) is EosTokenCriteria]
        self._eos = (
            np.unique(np.concatenate([ids.cpu().numpy().ravel() for ids in eos]))
            if (eos)
            else np.zeros(0, np.int64)
        )
        self._deadline = min(
            (c.initial_timestamp + c.max_time for c in stopping if type(c) is MaxTimeCriteria),
            default=float("inf"),
        )
        own = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)
        self._others = StoppingCriteriaList(c for c in stopping if type(c) not in own)

    @property
    def remaining(self) -> Longs:
        """Tokens (rows,) that may still be added."""
        return np.where(self.finished, 0, self._max_length - self.num_tokens)

    def draft(self, column: int | Longs, drafted: torch.Tensor) -> None:
        """Write tokens (rows,) at `column` places after the settled text."""
        # A finished row writes into the spare column; nobody reads it.
        index = np.minimum(self.num_tokens + column, self._max_length)
        self.tokens.scatter_(1, _to(index, self.tokens)[:, None], drafted[:, None])

    def append(self, following: torch.Tensor, emitted: Longs, count: Longs) -> Longs:
        """Settle the accepted tokens, which `draft` has written, and the one that follows.

        Args:
            following: (rows,) the token after the last accepted one, on the device.
            emitted: (rows, width) accepted tokens and the one that follows.
            count: (rows,) how many of them each row has; 0 for finished rows.

        Returns:
            (rows,) how many were kept: fewer where a text ended among them.
        """
        columns = np.arange(emitted.shape[1])
        new = columns < count[:, None]
        self.draft(np.maximum(count - 1, 0), following)
        ends = new & (emitted[..., None] == self._eos).any(axis=-1)
        if self._others:
            ends |= self._ask_others(new)
        ends |= (self.num_tokens[:, None] + columns + 1 >= self._max_length) & new
        if time.time() > self._deadline:
            ends[:, 0] |= new[:, 0]
        return self._settle(ends, count)

    def _ask_others(self, new: Bools) -> Bools:
        """Ask the caller's own criteria about every prefix that ends in a new token."""
        ends = np.zeros_like(new)
        lengths = self.num_tokens[:, None] + np.arange(new.shape[1]) + 1
        for length in np.unique(lengths[new]).tolist():
            members = np.flatnonzero((new & (lengths == length)).any(axis=1))
            prefixes = self.tokens[_to(members, self.tokens), :length]
            done = np.zeros(len(new), np.bool_)
            done[members] = self._others(prefixes, None).cpu().numpy()
            ends |= new & (lengths == length) & done[:, None]
        return ends

    def _settle(self, ends: Bools, count: Longs) -> Longs:
        first = ends.argmax(axis=1)
        ended = ends.any(axis=1) & (self._ends_at == 0)
        kept = count
        if len(self._eos):
            kept = np.where(ended, first + 1, count)
        self._ends_at[ended] = (self.num_tokens + first + 1)[ended]
        self.num_tokens = self.num_tokens + kept
        self.finished = self._ends_at > 0
        if not len(self._eos):
            # Stock decoding pads a finished row only if it knows an end token; without one all
            # rows go on until the last has ended.
            length = self._ends_at.max() if self.finished.all() else np.inf
            self.finished = self.num_tokens >= min(length, self._max_length)
        return kept

    def sequences(self) -> torch.Tensor:
        """All rows (rows, length), padded on the right as stock decoding does."""
        length = (
            int(self._ends_at.max()) if (self._ends_at > 0).all() else int(self.num_tokens.max())
        )
        result = self.tokens[:, :length].clone()
        lengths = _to(self.num_tokens, self.tokens)
        beyond = torch.arange(length, device=result.device) >= lengths[:, None]
        return result.masked_fill_(beyond, self._pad)


def _to(array: Longs, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(like.device)
