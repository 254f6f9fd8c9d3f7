"""A causal language model with its key-value cache, for rows that advance unevenly."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

Bools = NDArray[np.bool_]


class CachedModel:
    """Forwards with explicit positions over a cache whose rejected columns are masked.

    The cache is never cut row by row: columns that a row does not keep stay as holes that its
    attention mask skips; columns that no row keeps are cropped. Position ids count a row's real
    tokens, so every row sees exactly the text that it would see alone.

    Args:
        model: decoder-only model that passed `checks.check_model`.
        batch_size: rows.
        cache: to continue from, or None for a new one; its columns must be free of holes.
    """

    def __init__(
        self, model: PreTrainedModel, batch_size: int, cache: DynamicCache | None = None
    ) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config) if cache is None else cache
        self._num_columns = self.cache.get_seq_length()
        self._valid: Bools = np.ones((batch_size, max(256, 2 * self._num_columns)), np.bool_)
        self._has_holes = False
        self._takes_logits_to_keep = (
            "logits_to_keep" in inspect.signature(model.forward).parameters
        )
        self._additive = model.config._attn_implementation == "eager"

    def forward(
        self,
        tokens: torch.Tensor,
        valid: Bools,
        first_position: NDArray[np.int64],
        num_logits: int,
    ) -> torch.Tensor:
        """Feed one block of columns.

        Args:
            tokens: (rows, width) token ids; anything where not valid.
            valid: (rows, width) which columns hold a token of the row, kept until `keep`.
            first_position: (rows,) tokens that the row has in the cache.
            num_logits: how many of the last columns need logits.

        Returns:
            (rows, num_logits, vocab) logits.
        """
        width = tokens.shape[1]
        self._reserve(width)
        start, end = self._num_columns, self._num_columns + width
        self._valid[:, start:end] = valid
        self._has_holes = self._has_holes or not valid.all()
        # A hole has position 0: any other may lie beyond the model's context.
        positions = np.where(valid, first_position[:, None] + valid.cumsum(axis=1) - 1, 0)
        extra = {"logits_to_keep": num_logits} if self._takes_logits_to_keep else {}
        output = self.model(
            input_ids=tokens,
            attention_mask=self._attention_mask(start, end, tokens.device),
            position_ids=torch.from_numpy(positions).to(tokens.device),
            past_key_values=self.cache,
            use_cache=True,
            **extra,
        )
        self._num_columns = end
        logits: torch.Tensor = output.logits[:, -num_logits:]
        return logits

    def keep(self, kept: Bools) -> None:
        """Settle which of the columns fed last each row keeps.

        Args:
            kept: (rows, width) for the last `width` columns, those of several forwards included.
        """
        width = kept.shape[1]
        used = np.flatnonzero(kept.any(axis=0))
        surplus = width - (int(used[-1]) + 1 if len(used) else 0)
        start = self._num_columns - width
        self._valid[:, start : self._num_columns] = kept
        if surplus:
            self.cache.crop(-surplus)
            self._num_columns -= surplus
        if not kept[:, : width - surplus].all():
            self._has_holes = True

    def _attention_mask(self, start: int, end: int, device: torch.device) -> torch.Tensor | None:
        """Which columns each query sees (rows, 1, width, columns); None where the model knows."""
        width = end - start
        if not self._has_holes and (width == 1 or start == 0):
            return None
        causal = torch.ones(width, end, dtype=torch.bool, device=device).tril(start)
        if self._has_holes:
            valid = torch.from_numpy(self._valid[:, :end]).to(device)
            # A query in a hole sees itself: a row that sees nothing would turn into NaN.
            visible = causal & valid[:, None, None, :] | causal.triu(start)
        else:
            visible = causal.expand(len(self._valid), 1, width, end)
        if not self._additive:
            return visible
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)

    def _reserve(self, width: int) -> None:
        needed = self._num_columns + width
        if needed > self._valid.shape[1]:
            grown = np.ones((len(self._valid), 2 * needed), np.bool_)
            grown[:, : self._num_columns] = self._valid[:, : self._num_columns]
            self._valid = grown
