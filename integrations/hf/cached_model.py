"""A causal language model with its key-value cache, for rows that advance unevenly."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.controller.errors import HostError
from flyball.integrations.hf.cache import RowCache, Snapshot
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.tree import tree_mask

Longs = NDArray[np.int64]

_STEP_ROOM = 64  # columns that a mask has room for beyond its first step's


class CachedModel:
    """Forwards in which every row continues its own text.

    Position ids count a row's own tokens and its mask ends at its own last token, so every row
    sees exactly the text that it would see alone. Who calls keeps count of each row's length:
    to forget rejected tokens is to pass a smaller one.

    Args:
        model: decoder-only model that passed `checks.check_model`.
        num_rows: most texts at a time.
        capacity: columns to start with; more are added as needed.
        keep_hidden: keep the last hidden states of each forward.
        num_lanes: rows that belong to each text, next to each other.
        max_tokens: of each lane in the cache, see `RowCache`; None without a bound.

    Attributes:
        hidden: (rows, width, hidden) states that the latest forward's logits were made from, where
            asked for.
        forward_s: seconds spent in the model's forwards (on a GPU: in launching them).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        num_rows: int,
        capacity: int,
        keep_hidden: bool = False,
        num_lanes: int = 1,
        max_tokens: int | None = None,
    ) -> None:
        self.model = model
        config = model.config.get_text_config()
        self.context: int = getattr(config, "max_position_embeddings", None) or 2**62
        self.hidden = torch.empty(0)
        self.forward_s = 0.0
        self._keep_hidden = keep_hidden
        self._num_lanes = num_lanes
        self._cache = RowCache(model, num_rows * num_lanes, capacity, num_lanes, max_tokens)
        self._takes_logits_to_keep = (
            "logits_to_keep" in inspect.signature(model.forward).parameters
        )
        self._causal = torch.empty(0)
        self._causal_room = 0
        self._step = torch.empty(0)  # mask of the latest step of one token a row
        self._step_lengths: Longs = np.zeros(0, np.int64)

    def read_prompts(
        self,
        tokens: torch.Tensor,
        lengths: Longs,
        rows: Longs,
        images: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        """Fill empty rows.

        Args:
            tokens: (r, width) prompts from column 0 on, or (r, width, hidden) their embeddings;
                anything behind their ends.
            lengths: (r,) tokens of each prompt, at least 1.
            rows: (r,) rows to fill.
            images: of the prompts, as the model's forward takes them.

        Returns:
            (r, vocab) logits after each prompt.
        """
        self._cache.begin_prompt(rows, tokens.shape[1], tokens.device)
        # What follows a prompt's end is never attended to, so the causal mask alone is right.
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        last, place = np.unique(lengths - 1, return_inverse=True)
        wanted = upload(last, tokens.device)
        logits = self._run(tokens, positions, None, wanted, images)
        if not self._takes_logits_to_keep:
            logits = logits[:, wanted]
        return logits[torch.arange(len(rows), device=tokens.device), upload(place, tokens.device)]

    def forward(
        self,
        tokens: torch.Tensor,
        lengths: Longs,
        lane: int | None = None,
        rows: Longs | None = None,
    ) -> torch.Tensor:
        """Feed one block of columns.

        Args:
            tokens: (rows, width) token ids; a row may end in columns that it does not keep.
            lengths: (rows,) tokens that each row has in the cache.
            lane: which one of each text's rows goes on; None for all of them.
            rows: (rows,) of the cache; None for the first ones.

        Returns:
            (rows, width, vocab) logits.
        """
        width = tokens.shape[1]
        num_columns = self._cache.begin_step(lengths, width, tokens.device, lane, rows)
        positions = self._positions(lengths, np.arange(width))
        mask = self._mask(lengths, width, num_columns, tokens.device)
        return self._run(tokens, upload(positions, tokens.device), mask, 0)

    def forward_tree(
        self, tokens: torch.Tensor, lengths: Longs, depth: Longs, visible: NDArray[np.bool_]
    ) -> torch.Tensor:
        """Feed one block of columns that form a tree in every row.

        Args:
            tokens: (rows, T) token ids, the columns of a `TreeBlock`.
            lengths: (rows,) tokens that each row has in the cache.
            depth: (T,) tokens between the row's text and each column's.
            visible: (T, T) columns of the block that each column attends to.

        Returns:
            (rows, T, vocab) logits.
        """
        num_columns = self._cache.begin_step(lengths, len(depth), tokens.device)
        positions = self._positions(lengths, depth)
        mask = tree_mask(lengths, visible, num_columns, self.model.dtype, tokens.device)
        return self._run(tokens, upload(positions, tokens.device), mask, 0)

    def keep_path(self, lengths: Longs, num_accepted: Longs, path: Longs) -> None:
        """Bring what was accepted of a tree to where the text goes on.

        Args:
            lengths: (rows,) tokens that each row had in the cache before `forward_tree`.
            num_accepted: (rows,) accepted tokens.
            path: (rows, K + 1) columns of the block that hold them, as in `TreeVerdict`.
        """
        column = path[np.arange(len(path)), num_accepted]
        # The spine's tokens stand at their depth; an accepted sibling is the last of a path.
        moves = column != num_accepted
        if moves.any():
            sources = np.where(moves, lengths + column, -1)
            self._cache.compact(sources[:, None], lengths + num_accepted)

    def move_rows(self, sources: Longs, targets: Longs) -> None:
        """Copy rows (m,) over others."""
        self._cache.move_rows(sources, targets)

    def use_rows(self, num_texts: int) -> None:
        """So many first texts are in use, and stay whatever the others need."""
        self._cache.num_used = num_texts * self._num_lanes

    def keep_columns(self, longest: int) -> None:
        """No row uses more than so many columns any more."""
        self._cache.longest = longest

    def reserve_rows(self, num_texts: int) -> None:
        """Make room for so many texts; those that are there stay."""
        self._cache.reserve_rows(num_texts)

    def snapshot(self, row: int, length: int) -> Snapshot:
        """Keys and values of a row's first `length` tokens, for rows that begin with them."""
        return self._cache.copy_out(row, length)

    def begin_from(self, rows: Longs, snapshot: Snapshot) -> None:
        """Fill empty rows (r,) with what was read elsewhere."""
        self._cache.copy_in(rows, snapshot)

    def _positions(self, lengths: Longs, depth: Longs) -> Longs:
        """Position ids (rows, width) of tokens at depth (width,) behind each row's text."""
        # A text may outgrow the context one token at a time, as in stock decoding; what is drafted
        # behind it is not kept, and models with learned positions have none for it.
        last = np.maximum(lengths, self.context - 1)[:, None]
        positions: Longs = np.minimum(lengths[:, None] + depth, last)
        return positions

    def _run(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        logits_to_keep: int | torch.Tensor,
        images: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        extra: dict[str, Any] = dict(images or {})
        extra["inputs_embeds" if tokens.is_floating_point() else "input_ids"] = tokens
        if self._takes_logits_to_keep:
            extra["logits_to_keep"] = logits_to_keep
        if self._keep_hidden:
            extra["output_hidden_states"] = True
        start = time.perf_counter()
        output = self.model(
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **extra,
        )
        self.forward_s += time.perf_counter() - start
        if self._keep_hidden:
            self.hidden = self._last_hidden(output)
        logits: torch.Tensor = output.logits
        return logits

    def _last_hidden(self, output: Any) -> torch.Tensor:
        if not output.hidden_states:
            raise HostError(
                f"expected hidden states for the acceptance head, but {type(self.model).__name__} "
                "gives none; leave acceptance_head unset"
            )
        last: torch.Tensor = output.hidden_states[-1]
        return last

    def _mask(
        self, lengths: Longs, width: int, num_columns: int, device: torch.device
    ) -> torch.Tensor | None:
        """What to add to attention scores (rows, 1, width, columns); None where all is seen."""
        if len(lengths) == 1:
            return self._single_mask(width, num_columns, device) if width > 1 else None
        if width == 1:
            if (lengths == lengths[0]).all():
                return None
            return self._step_mask(lengths, num_columns, device)
        return self._block_mask(lengths, width, num_columns, device)

    def _block_mask(
        self, lengths: Longs, width: int, num_columns: int, device: torch.device
    ) -> torch.Tensor:
        limit = upload(lengths[:, None] + np.arange(width), device)
        hidden = torch.arange(num_columns, device=device) > limit[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=device)
        return mask.masked_fill_(hidden, torch.finfo(self.model.dtype).min)

    def _step_mask(self, lengths: Longs, num_columns: int, device: torch.device) -> torch.Tensor:
        """The same for one token a row, where most steps let each row see one column more."""
        before = self._step_lengths
        grown = lengths - before if len(before) == len(lengths) else np.full(1, -1)
        fits = num_columns <= self._step.shape[-1]
        if fits and ((grown == 0) | (grown == 1)).all():
            rows = np.flatnonzero(grown)
            places = (upload(rows, device), 0, 0, upload(lengths[rows], device))
            self._step[places] = 0.0
        else:
            self._step = self._block_mask(lengths, 1, num_columns + _STEP_ROOM, device)
        self._step_lengths = lengths.copy()
        mask = self._step[..., :num_columns]
        return mask.contiguous() if mask.is_cuda else mask

    def _single_mask(self, width: int, num_columns: int, device: torch.device) -> torch.Tensor:
        """The same for one row: a window of one triangle, which is made once."""
        past = num_columns - width
        if past > self._causal_room or width > len(self._causal):
            self._causal_room = max(256, 2 * past)
            height = max(64, 2 * width)
            lowest = torch.finfo(self.model.dtype).min
            triangle = torch.full(
                (height, self._causal_room + height), lowest, dtype=self.model.dtype, device=device
            )
            self._causal = triangle.triu_(self._causal_room + 1)
        first = self._causal_room - past
        window = self._causal[None, None, :width, first : first + num_columns]
        # Attention kernels of a GPU want aligned rows, which they see to in a tensor of its own.
        return window.contiguous() if window.is_cuda else window
