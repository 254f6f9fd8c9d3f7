"""Keys and values of rows that grow unevenly, without holes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from flyball.integrations.hf.device import upload
from flyball.kernels.cache import compact

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Snapshot:
    """Keys and values of a row's first tokens.

    Attributes:
        length: tokens.
        layers: keys and values (heads, length, head size) of each layer.
    """

    length: int
    layers: list[tuple[torch.Tensor, torch.Tensor]]


class _Place:
    """Where the coming forward writes, for all layers.

    Attributes:
        max_rows: rows that the buffers have room for.
        num_rows: rows in use.
        capacity: columns that the buffers have room for.
        rows: (r,) rows whose prompt is read, or None where all rows go on.
        start: column of a single row's first token.
        num_columns: columns that the forward attends to.
        past: of them, columns before the forward.
        num_lanes: rows that belong to each text.
        lane: the one of each text's rows that goes on; None where all do.
        first: row of the first text that goes on, where those that do follow each other.
        chosen: (num_rows,) rows that go on where they do not; None where they do.
    """

    def __init__(self, max_rows: int, capacity: int, num_lanes: int) -> None:
        self.max_rows = max_rows
        self.num_lanes = num_lanes
        self.lane: int | None = None
        self.first = 0
        self.chosen: torch.Tensor | None = None
        self.num_rows = max_rows
        self.capacity = capacity
        self.rows: torch.Tensor | None = None
        self.start = 0
        self.num_columns = 0
        self.past = 0
        self._rows: Longs = np.zeros(0, np.int64)
        self._columns: Longs = np.zeros((0, 0), np.int64)
        self._device = torch.device("cpu")
        self._index: dict[int, torch.Tensor] = {}

    def write_at(self, rows: Longs, columns: Longs, device: torch.device) -> None:
        """The coming forward writes in rows (r,) at columns (r, width)."""
        self._rows, self._columns, self._device = rows, columns, device
        self._index.clear()

    def index(self, num_heads: int) -> torch.Tensor:
        """Places (rows * heads * width,) in a buffer whose first three axes are flattened."""
        if num_heads not in self._index:
            blocks = self._rows[:, None, None] * num_heads + np.arange(num_heads)[:, None]
            places = blocks * self.capacity + self._columns[:, None]
            self._index[num_heads] = upload(places.ravel(), self._device)
        return self._index[num_heads]


class _RowLayer(DynamicLayer):
    """One layer's keys and values in buffers (rows, heads, capacity, head size)."""

    keys: torch.Tensor
    values: torch.Tensor
    is_initialized: bool

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self._place = place

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states (rows, heads, width, head size); returns all that are attended to.

        A prompt attends to itself alone, so what comes in goes out.
        """
        place = self._place
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = (
                x.new_zeros(place.max_rows, x.shape[1], place.capacity, x.shape[3])
                for x in (key_states, value_states)
            )
            self.is_initialized = True
        if place.rows is not None:
            width = key_states.shape[2]
            self.keys[place.rows, :, :width] = key_states
            self.values[place.rows, :, :width] = value_states
            return key_states, value_states
        return self._write(self.keys, key_states), self._write(self.values, value_states)

    def _write(self, buffer: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        place = self._place
        first = place.first
        if place.num_rows == 1:
            end = place.start + states.shape[2]
            buffer[first : first + 1, :, place.start : end] = states
        else:
            size = buffer.shape[3]
            flat = buffer.view(-1, size)
            flat.index_copy_(0, place.index(buffer.shape[1]), states.reshape(-1, size))
        if place.chosen is not None:
            return buffer[:, :, : place.num_columns].index_select(0, place.chosen)
        every = 1 if place.lane is None else place.num_lanes
        return buffer[first : first + every * place.num_rows : every, :, : place.num_columns]

    def grow(self) -> None:
        """Take on the place's shape.

        What is beyond a row's text is finite, since masked weights multiply it.
        """
        place = self._place
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(place.max_rows, old.shape[1], place.capacity, old.shape[3])
            rows, columns = min(len(old), len(new)), min(old.shape[2], new.shape[2])
            new[:rows, :, :columns] = old[:rows, :, :columns]
            setattr(self, name, new)

    def get_seq_length(self) -> int:
        """Columns before the present forward."""
        return self._place.past

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the present forward attends to, and their offset."""
        return self._place.num_columns, 0


class RowCache(DynamicCache):
    """A cache in which every row writes at its own end.

    transformers' own cache concatenates, which copies everything in every step (a quarter to two
    fifths of a small model's forward on a CPU), and has one end for all rows, so that rejected
    tokens leave holes. Here a token is written once, in place; the next tokens of a row overwrite
    its rejected ones, and memory is that of the longest text, at most doubled. With `max_tokens`
    rows times columns stay within that as long as the texts' own do: the cache is high while many
    texts are short, and wide once fewer are long.

    Args:
        model: whose cache it is.
        num_rows: most rows at a time.
        capacity: columns to start with.
        num_lanes: rows that belong to each text, next to each other.
        max_tokens: of each lane; None without a bound.

    Attributes:
        longest: columns that any row uses; who calls lowers it when rows have left.
        num_used: first rows that stay whatever the others need; who calls sets it.
    """

    layers: list[_RowLayer]

    def __init__(
        self,
        model: PreTrainedModel,
        num_rows: int,
        capacity: int,
        num_lanes: int = 1,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(config=model.config)
        self.longest = 0
        self.num_used = 0
        self._most_rows = num_rows
        self._max_tokens = None if max_tokens is None else max_tokens * num_lanes
        if self._max_tokens is not None:
            num_rows, capacity = num_lanes, min(capacity, max_tokens or capacity)
        self._place = _Place(num_rows, capacity, num_lanes)
        self.layers = [_RowLayer(self._place) for _ in self.layers]

    def begin_prompt(self, rows: Longs, width: int, device: torch.device) -> None:
        """The coming forward reads prompts (len(rows), width) into empty rows."""
        self._reserve(int(rows.max()) + 1, width)
        self._place.rows = upload(rows, device)
        self._place.num_columns, self._place.past = width, 0

    def begin_step(
        self,
        lengths: Longs,
        width: int,
        device: torch.device,
        lane: int | None = None,
        chosen: Longs | None = None,
    ) -> int:
        """The coming forward continues each row after lengths (rows,) tokens by `width`.

        With `lane` only that one of each text's rows goes on, with `chosen` (rows,) only those
        rows: attention reads them where they follow each other, else a copy of what is in use.

        Returns:
            Columns that it attends to.
        """
        place = self._place
        place.past = int(lengths.max())
        place.num_columns = place.past + width
        every = 1 if lane is None else place.num_lanes
        rows = (lane or 0) + every * np.arange(len(lengths)) if chosen is None else chosen
        num_rows = len(lengths) * place.num_lanes if chosen is None else int(chosen.max()) + 1
        self._reserve(num_rows, place.num_columns)
        place.rows, place.num_rows, place.lane = None, len(lengths), lane
        place.first, place.chosen = int(rows[0]), None
        if chosen is not None and (np.diff(chosen) != 1).any():
            place.chosen = upload(chosen, device)
        if len(lengths) == 1:
            place.start = place.past
        else:
            place.write_at(rows, lengths[:, None] + np.arange(width), device)
        return place.num_columns

    def move_rows(self, sources: Longs, targets: Longs) -> None:
        """Copy rows (m,) over others."""
        if len(sources) == 0 or not self.layers[0].is_initialized:
            return
        self._reserve(int(max(sources.max(), targets.max())) + 1, 0)
        device = self.layers[0].device
        source, target = upload(sources, device), upload(targets, device)
        for layer in self.layers:
            layer.keys[target] = layer.keys[source]
            layer.values[target] = layer.values[source]

    def copy_out(self, row: int, length: int) -> Snapshot:
        """A copy of a row's first tokens."""
        layers = [
            (layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone())
            for layer in self.layers
        ]
        return Snapshot(length, layers)

    def copy_in(self, rows: Longs, snapshot: Snapshot) -> None:
        """Let empty rows (r,) begin with these tokens."""
        self._reserve(int(rows.max()) + 1, snapshot.length)
        places = upload(rows, self.layers[0].device)
        for layer, (keys, values) in zip(self.layers, snapshot.layers, strict=True):
            layer.keys[places, :, : snapshot.length] = keys
            layer.values[places, :, : snapshot.length] = values

    def compact(self, sources: Longs, start: Longs) -> None:
        """Bring columns `sources` (rows, n) of each row to start (rows,) and on; -1 is none."""
        device, num = self.layers[0].device, len(start)
        states = [part[:num] for layer in self.layers for part in (layer.keys, layer.values)]
        compact(states, upload(sources, device), upload(start, device))

    def reserve_rows(self, num_texts: int) -> None:
        """Make room for so many texts; those that are there stay."""
        place = self._place
        place.max_rows = max(place.max_rows, num_texts * place.num_lanes)
        self._grow()

    def _reserve(self, num_rows: int, num_columns: int) -> None:
        """Make room for the first rows, `num_columns` of them in use beside those that were."""
        place = self._place
        self.longest = max(self.longest, num_columns)
        num_rows = max(num_rows, self.num_used)
        if num_columns <= place.capacity and num_rows <= place.max_rows:
            return
        if self._max_tokens is None:
            place.capacity = 2 * num_columns
        else:
            # What is to spare goes to rows and columns alike.
            num_texts = -(-num_rows // place.num_lanes)
            spare = max(1.0, self._max_tokens / (num_texts * place.num_lanes * self.longest))
            num_texts = int(num_texts * spare**0.5)
            place.max_rows = min(self._most_rows, num_texts * place.num_lanes)
            place.capacity = max(self.longest, self._max_tokens // place.max_rows)
        self._grow()

    def _grow(self) -> None:
        for layer in self.layers:
            if layer.is_initialized:
                layer.grow()
