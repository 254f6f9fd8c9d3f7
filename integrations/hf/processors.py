"""Logits processors at positions whose prefixes differ from row to row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList
from transformers.generation import logits_process

from flyball.controller.errors import HostError
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.text import Texts

Longs = NDArray[np.int64]

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

    Args:
        processor: transformers' processor, which numbers the rows it gets from 0.
    """

    def __init__(self, processor: logits_process.PrefixConstrainedLogitsProcessor) -> None:
        self._allowed = processor._prefix_allowed_tokens_fn
        self.rows: NDArray[np.intp] = np.zeros(0, np.intp)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        mask = torch.full_like(scores, -torch.inf)
        for place, row in enumerate(self.rows.tolist()):
            allowed = self._allowed(row, input_ids[place])
            if len(allowed) == 0:
                raise HostError(
                    f"expected prefix_allowed_tokens_fn to allow a token, but it allows none for "
                    f"row {row} after {input_ids.shape[1]} tokens; return the end token there"
                )
            mask[place, allowed] = 0
        return scores + mask


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

    def __call__(
        self,
        tokens: torch.Tensor,
        prefix_len: Longs,
        logits: torch.Tensor,
        request: Longs,
    ) -> torch.Tensor:
        """Scores from logits.

        Args:
            tokens: (rows, columns) settled and drafted text of each row from column 0.
            prefix_len: (rows,) tokens before the first position of the block.
            logits: (rows, width, vocab); position j of row i follows prefix_len[i] + j tokens.
            request: (rows,) the number under which `prefix_allowed_tokens_fn` knows each row.

        Returns:
            (rows, width, vocab) in float32, where stock decoding processes its scores too.
        """
        scores = logits.float()
        rows, width, vocab = scores.shape
        if self.prefix_free:
            flat = scores.reshape(-1, vocab)
            processed: torch.Tensor = self._processors(tokens[:, :1], flat)
            return processed.view(rows, width, vocab)
        return self._by_prefix_length(tokens, prefix_len, scores, request)

    def _by_prefix_length(
        self, tokens: torch.Tensor, prefix_len: Longs, scores: torch.Tensor, request: Longs
    ) -> torch.Tensor:
        """One call for each distinct prefix length, with the rows that have it."""
        width = scores.shape[1]
        result = torch.empty_like(scores)
        for length in range(int(prefix_len.min()), int(prefix_len.max()) + width):
            column = length - prefix_len
            members = np.flatnonzero((column >= 0) & (column < width))
            if len(members) == 0:
                continue
            for processor in self._processors:
                if isinstance(processor, _PrefixConstrained):
                    processor.rows = request[members]
            rows, columns = (upload(x, scores.device) for x in (members, column[members]))
            result[rows, columns] = self._processors(tokens[rows, :length], scores[rows, columns])
        return result


class RowProcessors:
    """The processors of each row of a batch whose rows come and go.

    Attributes:
        prefix_free: whether all look at scores alone.
    """

    def __init__(self) -> None:
        self._by_row = np.zeros(0, object)
        self._shared: Processors | None = None  # the one that serves all rows
        self.prefix_free = True

    def add(self, processors: Processors, num_rows: int) -> None:
        """The processors of new rows."""
        new = np.full(num_rows, processors, object)
        self._by_row = np.concatenate([self._by_row, new])
        # What looks at scores alone is the same for all prompts of a call.
        self.prefix_free = self.prefix_free and processors.prefix_free
        alone = self.prefix_free or len(self._by_row) == num_rows
        self._shared = processors if alone or processors is self._shared else None

    def keep(self, order: Longs) -> None:
        """Keep the rows in this order (rows left,)."""
        self._by_row = self._by_row[order]

    def __call__(
        self, texts: Texts, rows: Longs, num_drafted: int | Longs, logits: torch.Tensor
    ) -> torch.Tensor:
        """Scores (r, width, vocab) of rows (r,) from logits after num_drafted drafted tokens."""
        if self._shared is not None and not self._shared.used:
            return logits.float()
        own = self._by_row[rows]
        prefix_len = texts.num_tokens[rows] + num_drafted
        if len(rows) == texts.num_rows:
            tokens = texts.tokens[: len(rows)]
        else:
            tokens = texts.tokens[upload(rows, texts.device)]
        request = texts.request[rows]
        if self._shared is not None:
            return self._shared(tokens, prefix_len, logits, request)
        parts = [
            p(tokens[i : i + 1], prefix_len[i : i + 1], logits[i : i + 1], request[i : i + 1])
            for i, p in enumerate(own)
        ]
        return torch.cat(parts)
