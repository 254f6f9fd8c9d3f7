"""Logits processors at positions whose prefixes differ from row to row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList
from transformers.generation import logits_process

from flyball.controller.errors import HostError

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


class Processors:
    """Applies a processor list to a block of positions, each with its own prefix.

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
        self._processors = processors
        self._prefix_free = all(type(p) in _PREFIX_FREE for p in processors)

    def __call__(
        self, tokens: torch.Tensor, prefix_len: NDArray[np.int64], logits: torch.Tensor
    ) -> torch.Tensor:
        """Scores from logits.

        Args:
            tokens: (rows, columns) settled and drafted text of each row from column 0.
            prefix_len: (rows,) tokens before the first position of the block.
            logits: (rows, width, vocab); position j of row i follows prefix_len[i] + j tokens.

        Returns:
            (rows, width, vocab) in float32, where stock decoding processes its scores too.
        """
        scores = logits.float()
        if not self._processors:
            return scores
        rows, width, vocab = scores.shape
        if self._prefix_free:
            flat = scores.reshape(-1, vocab)
            processed: torch.Tensor = self._processors(tokens[:, :1], flat)
            return processed.view(rows, width, vocab)
        return self._by_prefix_length(tokens, prefix_len, scores)

    def _by_prefix_length(
        self, tokens: torch.Tensor, prefix_len: NDArray[np.int64], scores: torch.Tensor
    ) -> torch.Tensor:
        """One call for each distinct prefix length, with all rows in place.

        A processor may depend on the row's number, so rows that have no position at this length
        take part as well and their result is dropped.
        """
        rows, width, _ = scores.shape
        result = torch.empty_like(scores)
        every = np.arange(rows)
        for length in range(int(prefix_len.min()), int(prefix_len.max()) + width):
            column = length - prefix_len
            members = np.flatnonzero((column >= 0) & (column < width))
            if len(members) == 0:
                continue
            picked = scores[every, column.clip(0, width - 1)].clone()
            processed = self._processors(tokens[:, :length], picked)
            result[members, column[members]] = processed[members]
        return result
