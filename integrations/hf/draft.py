"""A draft model that reads and drafts for all rows of a batch at once, in one view or several."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.governor import Governor
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.prompt_views import PromptViews
from flyball.integrations.hf.read_report import ReadReport
from flyball.integrations.hf.reads import Reads
from flyball.integrations.hf.saved import SavedDraft
from flyball.integrations.hf.seeds import SeededDraws
from flyball.integrations.hf.text import Moves, Texts
from flyball.integrations.hf.views import DraftView, PromptImages, embed
from flyball.kernels.confidence import Confidence
from flyball.kernels.head import AcceptanceHead

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]

_LONG_READ = 2  # tokens; what a round left over only shadows want to know of


class ModelDraft:
    """A small model that drafts; between drafts its cache may lag behind the text.

    K drafted tokens cost K forwards: `start` also reads what was settled since, `feed` adds a
    drafted token, and the last drafted one is read only once it is settled. Reading tells for
    every skipped token whether the draft would have been right, which the governor is told.

    A model may see prompts in several views; each has a lane of its own in the cache, with its
    own positions, and all lanes of all rows run as one batch. A lane may also run alone.

    Args:
        views: of the model, one a lane.
        numbers: (lanes,) their places among the host's drafts.
        cached: the model, with room for all lanes.
        texts: of the batch.
        processors: of the batch; they shape the draft's distribution as they do the target's.
        governor: told about read tokens.
        do_sample: whether tokens are drawn, or the most likely taken.
        head: predicts acceptance from the states of `cached`, which must keep them, for one lane;
            the largest probability is the confidence without one.
        draws: of texts with seeds; None without.

    Attributes:
        has_read: whether it read more in the present round than a round leaves over.
        present: (rows, lanes) whether the view has what it needs of the row's prompt.
        reads: tokens that it has read.
    """

    def __init__(
        self,
        views: tuple[DraftView, ...],
        numbers: tuple[int, ...],
        cached: CachedModel,
        texts: Texts,
        processors: RowProcessors,
        governor: Governor,
        do_sample: bool,
        head: AcceptanceHead | None = None,
        draws: SeededDraws | None = None,
    ) -> None:
        self.numbers = numbers
        self.cached = cached
        self.has_read = False
        self.reads = Reads()
        self._num_lanes = len(views)
        self._prompts = PromptViews(views)
        self._texts = texts
        self._governor = governor
        self._report = ReadReport(texts, processors, governor, do_sample, head, draws)
        self._keeps_state = head is not None
        self._state = torch.empty(0)  # (rows, hidden) that the latest logits were made from
        nobody = np.zeros((0, len(views)), np.int64)
        self.present = nobody.astype(np.bool_)
        self._seen = nobody  # tokens of each row and lane in the cache
        self._offset = nobody  # column of the text less place among the lane's own tokens
        self._fed = nobody  # drafted tokens after those seen
        self._drafted = False  # whether it proposed in the present round

    def add(self, rows: Longs, images: PromptImages | None) -> None:
        """New rows begin."""
        offset, present = self._prompts.add(self._texts, rows, images)
        fresh = np.zeros(offset.shape, np.int64)
        self._seen = np.concatenate([self._seen, fresh])
        self.cached.use_rows(len(self._seen))
        self._offset = np.concatenate([self._offset, offset])
        self.present = np.concatenate([self.present, present])

    def save(self, row: int) -> SavedDraft:
        """What it has read of a row, for texts that begin with its text."""
        # A round may have read beyond a text that ended in it.
        seen = np.minimum(self._seen[row], self._own(slice(None))[row] - 1)
        first = row * self._num_lanes
        lanes = [
            self.cached.snapshot(first + lane, length) if length else None
            for lane, length in enumerate(seen.tolist())
        ]
        return SavedDraft(seen, lanes)

    def begin_from(self, rows: Longs, saved: SavedDraft) -> None:
        """Let new rows (r,) begin with what was read of another."""
        self._seen[rows] = saved.num_seen
        for lane, snapshot in enumerate(saved.lanes):
            if snapshot is not None:
                self.cached.begin_from(rows * self._num_lanes + lane, snapshot)

    def keep(self, moves: Moves) -> None:
        """Close up after rows have left."""
        count = self._num_lanes
        lanes = np.arange(count)
        self.cached.move_rows(
            (moves.sources[:, None] * count + lanes).ravel(),
            (moves.targets[:, None] * count + lanes).ravel(),
        )
        for name in ("_seen", "_offset", "present"):
            setattr(self, name, getattr(self, name)[moves.order])
        self.cached.use_rows(len(self._seen))
        self.cached.keep_columns(int(self._own(slice(None)).max(initial=0)))
        self._prompts.keep(moves.order)

    def _own(self, lanes: slice) -> Longs:
        """Settled tokens (rows, l) of each lane's own text."""
        return self._texts.num_tokens[:, None] - self._offset[:, lanes]

    def room(self, lanes: slice) -> Longs:
        """Tokens (rows,) that fit into the draft's context after the settled text."""
        result: Longs = self.cached.context - self._own(lanes).max(axis=1)
        return result

    def num_unread(self, lanes: slice) -> int:
        """The most settled tokens that any row it can serve has not read yet."""
        unread = (self._own(lanes) - self._seen[:, lanes]).max(axis=1)
        return int((unread * (self.room(lanes) >= 0)).max(initial=0))

    def _lane(self, lanes: slice) -> int | None:
        """The only lane that runs; None where all do."""
        whole = len(range(*lanes.indices(self._num_lanes))) == self._num_lanes
        return None if whole else int(lanes.start)

    def read(self, slots: Ints, rows: Bools, lanes: slice) -> torch.Tensor:
        """Bring the cache of some rows up to the text, and others on the way as far as they come.

        Args:
            slots: (rows,) of all rows.
            rows: (rows,) which to bring up; they must fit into the draft's context.
            lanes: l lanes, all or one.

        Returns:
            (rows, l, vocab) logits after the last token read of each row.
        """
        texts = self._texts
        fresh = rows[:, None] & (self._seen[:, lanes] == 0)
        if fresh.any():
            self._read_prompts(fresh, lanes)
        seen, offset = self._seen[:, lanes], self._offset[:, lanes]
        shape = seen.shape
        own = self._own(lanes)
        fits = own.max(axis=1, keepdims=True) <= self.cached.context
        lag = np.where(fits, own - seen, 0)
        width = int(lag[rows].max())
        lag = np.minimum(lag, width) * (seen > 0)
        columns = (offset + seen)[..., None] + np.arange(width)
        index = np.clip(columns, 0, texts.host.shape[1] - 1)
        tokens = texts.host[np.arange(texts.num_rows)[:, None, None], index]
        flat = upload(tokens.reshape(-1, width), texts.device)
        logits = self._forward(flat, seen, lanes)
        self.reads.add(lag, seen)
        self._seen[:, lanes] = seen + lag
        if width == 1:
            self._keep_state(slice(None), 0)
            return _by_lane(logits[:, 0], shape)
        if width > _LONG_READ:
            self.has_read = True
        if width > _LONG_READ or self._governor.follows_shadows:
            by_lane = _by_lane(logits, shape)
            states = self.cached.hidden if self._keeps_state else self._state
            for place, lane in enumerate(range(*lanes.indices(self._num_lanes))):
                known = np.arange(1, width) < lag[:, place, None]
                after, number = columns[:, place, 1:], self.numbers[lane]
                self._report.tell(slots, by_lane[:, place], states, after, known, number)
        every = upload(np.arange(seen.size), texts.device)
        last = upload(np.maximum(lag - 1, 0).ravel(), texts.device)
        self._keep_state(every, last)
        return _by_lane(logits[every, last], shape)

    def _keep_state(self, rows: torch.Tensor | slice, columns: torch.Tensor | int) -> None:
        if self._keeps_state:
            self._state = self.cached.hidden[rows, columns]

    def _forward(self, tokens: torch.Tensor, lengths: Longs, lanes: slice) -> torch.Tensor:
        # A row that fills the context takes no more part; it gives its last column.
        lengths = np.minimum(lengths.ravel(), self.cached.context - 1)
        return self.cached.forward(tokens, lengths, self._lane(lanes))

    def _read_prompts(self, fresh: Bools, lanes: slice) -> None:
        """Read prompts (rows, l) but for their last tokens."""
        texts = self._texts
        self.has_read = True
        rows, places = np.nonzero(fresh)
        lane = np.arange(self._num_lanes)[lanes][places]
        lengths = texts.prompt_len[rows] - self._offset[rows, lane] - 1
        lengths = np.maximum(lengths, 1)
        prompts = self._prompts.take(rows, lane)
        if prompts is not None:
            tokens = embed(self.cached.model, prompts, int(lengths.max()))
            self._read_anew(tokens, lengths, rows * self._num_lanes + lane)
        else:
            self._read_texts(rows, lane, lengths)
        self._seen[rows, lane] = lengths

    def _read_texts(self, rows: Longs, lane: Longs, lengths: Longs) -> None:
        """Read the first tokens (r,) of rows (r,); what has been read in another is copied."""
        columns = np.arange(int(lengths.max()))
        index = np.minimum(self._offset[rows, lane, None] + columns, self._texts.host.shape[1] - 1)
        host = np.where(columns < lengths[:, None], self._texts.host[rows[:, None], index], 0)
        first, alike = _unlike(np.column_stack([lane, lengths, host]))
        places = rows * self._num_lanes + lane
        sources = places[alike]
        for one in first.tolist():
            reader = self._reader(lane[one], host[one, : lengths[one]])
            if reader is not None:
                sources[alike == one] = reader * self._num_lanes + lane[one]
        anew = first[sources[first] == places[first]]
        if len(anew):
            self._read_anew(upload(host[anew], self._texts.device), lengths[anew], places[anew])
        copied = np.flatnonzero(sources != places)
        self.cached.move_rows(sources[copied], places[copied])

    def _reader(self, lane: int, tokens: Longs) -> int | None:
        """A row that has read these first tokens (length,) of its lane's text; None without."""
        rows = np.flatnonzero(self._seen[:, lane] >= len(tokens))
        columns = self._offset[rows, lane, None] + np.arange(len(tokens))
        same = (self._texts.host[rows[:, None], columns] == tokens).all(axis=1)
        return int(rows[same.argmax()]) if same.any() else None

    def _read_anew(self, tokens: torch.Tensor, lengths: Longs, places: Longs) -> None:
        self.cached.read_prompts(tokens, lengths, places)
        self.reads.add(lengths, np.zeros_like(lengths))

    def start(self, slots: Ints, rows: Bools, lanes: slice, every: float = np.inf) -> torch.Tensor:
        """Begin to draft for some rows (rows,).

        Args:
            slots: (rows,) of all rows.
            rows: (rows,) which; they must fit into the draft's context.
            lanes: that draft, all or one.
            every: unread tokens from which on all other lanes read in the same forward.

        Returns:
            (rows, l, vocab) logits of the first tokens.
        """
        self._fed, self._drafted = np.zeros_like(self._seen), True
        whole = slice(None)
        if (
            every < np.inf
            and self.num_unread(whole) >= every
            and (self.room(whole)[rows] >= 0).all()
        ):
            return self.read(slots, rows, whole)[:, lanes]
        return self.read(slots, rows, lanes)

    def feed(self, tokens: torch.Tensor, going_on: Bools, lanes: slice) -> torch.Tensor:
        """Add drafted tokens (rows, 1); logits (rows, l, vocab) of those that follow.

        Args:
            tokens: one for each row.
            going_on: (rows,) whether the row's draft goes on with it.
            lanes: as given to `start`.
        """
        ahead = self._seen[:, lanes] + self._fed[:, lanes]
        if ahead.shape[1] > 1:
            tokens = tokens.repeat_interleave(ahead.shape[1], dim=0)
        logits = self._forward(tokens, ahead, lanes)
        self.reads.add(np.broadcast_to(going_on[:, None], ahead.shape).astype(np.int64), ahead)
        self._keep_state(slice(None), 0)
        self._fed[:, lanes] += going_on[:, None]
        return _by_lane(logits[:, 0], ahead.shape)

    @property
    def wants_entropy(self) -> bool:
        """Whether the governor wants to know it."""
        return self._governor.wants_entropy

    def signs(self, sure: Confidence) -> torch.Tensor:
        """What the governor is told (signs, rows) of the next tokens: confidence, entropy."""
        return self._report.signs(sure, self._state)

    def settle(self, num_accepted: Longs) -> None:
        """Keep what the cache holds of the accepted tokens (rows,)."""
        self.has_read = False
        if self._drafted:
            self._seen = self._seen + np.minimum(num_accepted[:, None], self._fed)
            self._drafted = False


def _by_lane(logits: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Logits (rows * l, ...) as (rows, l, ...)."""
    return logits.view(*shape, *logits.shape[1:])


def _unlike(rows: Longs) -> tuple[Longs, Longs]:
    """Rows (u,) of which none equals another, and for each row (r,) the first that equals it."""
    _, first, alike = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return np.sort(first), first[alike.reshape(-1)]
