"""Logits processors at positions whose prefixes differ from row to row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList
from transformers.generation import logits_process

from flyball.controller.errors import HostError
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.text import Texts

Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]

# These look at the scores alone, so one call serves all rows and positions.
_PREFIX_FREE = frozenset(
    getattr(logits_process, name)
    for name in (
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "MinPLogitsWarper",
        "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopHLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
    )
)
# These keep state from call to call and expect exactly one call a token.
_STATEFUL = frozenset(
    getattr(logits_process, name)
    for name in (
        "SynthIDTextWatermarkLogitsProcessor",
        "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    )
)


class _PrefixConstrained:
    """`prefix_allowed_tokens_fn` for some rows of a batch, each under its own number.

    Behind a drafted token it may allow nothing (behind an end token, say); nothing is masked then,
    since the text does not get there.

    Args:
        processor: transformers' processor, which numbers the rows it gets from 0.

    Attributes:
        rows: (r,) numbers of the rows to come.
        settled: (r,) whether their prefixes are settled text, without drafted tokens.
    """

    def __init__(self, processor: logits_process.PrefixConstrainedLogitsProcessor) -> None:
        self._allowed = processor._prefix_allowed_tokens_fn
        self.rows: Longs = np.zeros(0, np.int64)
        self.settled: Bools = np.zeros(0, np.bool_)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        mask = torch.full_like(scores, -torch.inf)
        for place, row in enumerate(self.rows.tolist()):
            allowed = self._allowed(row, input_ids[place])
            if len(allowed) == 0 and not self.settled[place]:
                allowed = slice(None)
            elif len(allowed) == 0:
                raise HostError(
                    f"expected prefix_allowed_tokens_fn to allow a token, but it allows none for "
                    f"row {row} after {input_ids.shape[1]} tokens; return the end token there"
                )
            mask[place, allowed] = 0
        return scores + mask


@dataclass(frozen=True)
class Block:
    """Positions of some rows, one after the other.

    Attributes:
        tokens: (rows, columns) settled and drafted text of each row from column 0.
        prefix_len: (rows,) tokens before the first position; position j follows j more.
        present: (rows, width) positions that there are; nobody reads the scores of others.
        num_settled: (rows,) tokens of the settled text.
        number: (rows,) under which `prefix_allowed_tokens_fn` knows each row.
    """

    tokens: torch.Tensor
    prefix_len: Longs
    present: Bools
    num_settled: Longs
    number: Longs

    def row(self, i: int) -> Block:
        """One row of it."""
        one = slice(i, i + 1)
        return Block(
            self.tokens[one],
            self.prefix_len[one],
            self.present[one],
            self.num_settled[one],
            self.number[one],
        )


class Processors:
    """Applies a processor list to a block of positions, each with its own prefix.

    A processor must be a function of a row's prefix and scores alone: it is asked about drafted
    prefixes too, and about the rows of one length at a time.

    Args:
        processors: as transformers prepared them.

    Raises:
        HostError: for a processor that keeps state between calls.
    """

    def __init__(self, processors: LogitsProcessorList) -> None:
        stateful = [type(p).__name__ for p in processors if type(p) in _STATEFUL]
        if stateful:
            raise HostError(
                f"expected logits processors without state, but got {', '.join(stateful)}; "
                "generate without custom_generate"
            )
        constrained = logits_process.PrefixConstrainedLogitsProcessor
        self._processors = LogitsProcessorList(
            _PrefixConstrained(p) if type(p) is constrained else p for p in processors
        )
        self.used = len(self._processors) > 0
        self.prefix_free = all(type(p) in _PREFIX_FREE for p in processors)

    def __call__(self, block: Block, scores: torch.Tensor) -> torch.Tensor:
        """Process scores (rows, width, vocab) of a block of positions."""
        rows, width, vocab = scores.shape
        if self.prefix_free:
            flat = scores.reshape(-1, vocab)
            processed: torch.Tensor = self._processors(block.tokens[:, :1], flat)
            return processed.view(rows, width, vocab)
        return self._by_prefix_length(block, scores)

    def _by_prefix_length(self, block: Block, scores: torch.Tensor) -> torch.Tensor:
        """One call for each distinct prefix length, with the rows that have it."""
        result = scores.clone()
        lengths = block.prefix_len[:, None] + np.arange(scores.shape[1])
        for length in np.unique(lengths[block.present]).tolist():
            members, column = np.nonzero((lengths == length) & block.present)
            for processor in self._processors:
                if isinstance(processor, _PrefixConstrained):
                    processor.rows = block.number[members]
                    processor.settled = block.num_settled[members] >= length
            rows, columns = (upload(x, scores.device) for x in (members, column))
            prefixes = block.tokens[rows, :length]
            result[rows, columns] = self._processors(prefixes, scores[rows, columns])
        return result


class RowProcessors:
    """The processors of each row of a batch whose rows come and go.

    Attributes:
        prefix_free: whether all look at scores alone.
        plain: whether there are none, so that scores are the logits.
    """

    def __init__(self) -> None:
        self._by_row = np.zeros(0, object)
        self._shared: Processors | None = None  # the one that serves all rows
        self.prefix_free = self.plain = True

    def add(self, processors: Processors, num_rows: int) -> None:
        """The processors of new rows."""
        new = np.full(num_rows, processors, object)
        self._by_row = np.concatenate([self._by_row, new])
        # What looks at scores alone is the same for all prompts of a call.
        self.prefix_free = self.prefix_free and processors.prefix_free
        self.plain = self.plain and not processors.used
        alone = self.prefix_free or len(self._by_row) == num_rows
        self._shared = processors if alone or processors is self._shared else None

    def keep(self, order: Longs) -> None:
        """Keep the rows in this order (rows left,)."""
        self._by_row = self._by_row[order]

    def __call__(
        self,
        texts: Texts,
        rows: Longs,
        num_drafted: int | Longs,
        logits: torch.Tensor,
        present: Bools | None = None,
    ) -> torch.Tensor:
        """Scores from logits.

        Args:
            texts: of the batch.
            rows: (r,) rows to process.
            num_drafted: drafted tokens before the block, of all rows or of each (r,); negative
                within the settled text.
            logits: (r, width, vocab).
            present: (r, width) positions that there are; all by default.

        Returns:
            (r, width, vocab) in float32, where stock decoding processes its scores too.
        """
        scores = logits.float()
        if self.plain:
            return scores
        if len(rows) == texts.num_rows:
            tokens = texts.tokens[: len(rows)]
        else:
            tokens = texts.tokens[upload(rows, texts.device)]
        settled = texts.num_tokens[rows]
        block = Block(
            tokens,
            settled + num_drafted,
            np.ones(logits.shape[:2], np.bool_) if present is None else present,
            settled,
            texts.number[rows],
        )
        if self._shared is not None:
            return self._shared(block, scores)
        own = self._by_row[rows]
        return torch.cat([p(block.row(i), scores[i : i + 1]) for i, p in enumerate(own)])
