"""The draft length that a table names for the batch size."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from flyball.policies.length.base import Ints, LengthPolicy, LengthSettings, View


class BatchTableSettings(LengthSettings):
    """Settings of the batch_table policy."""

    policy: Literal["batch_table"] = "batch_table"
    table: list[list[int]] = Field(
        min_length=1,
        description="[first, last, length] for batch sizes first to last, ascending, no gaps.",
    )

    @model_validator(mode="after")
    def _sound(self) -> BatchTableSettings:
        first = 1
        for entry in self.table:
            if len(entry) != 3 or entry[0] != first or entry[1] < first:
                raise ValueError(
                    f"expected table entries [first, last, length], here with first = {first}, "
                    f"but got {entry}"
                )
            if not 0 <= entry[2] <= self.max_draft_len:
                raise ValueError(
                    f"expected table lengths from 0 to max_draft_len = {self.max_draft_len}, "
                    f"but got {entry[2]}"
                )
            first = entry[1] + 1
        return self


class BatchTable(LengthPolicy):
    """One length for each range of batch sizes; beyond the table, its last.

    vLLM's `num_speculative_tokens_per_batch_size`, and what SGLang's adaptive steps amount to
    once they are tuned.
    """

    Settings = BatchTableSettings
    settings: BatchTableSettings

    def __init__(self, settings: BatchTableSettings) -> None:
        super().__init__(settings)
        self._lasts = np.array([entry[1] for entry in settings.table[:-1]])
        self._lengths = [entry[2] for entry in settings.table]

    def decide(self, view: View) -> Ints:
        """The length of this batch size."""
        place = int(self._lasts.searchsorted(len(view.slots)))
        length = min(self._lengths[place], view.max_draft_len)
        return np.full(len(view.slots), length, np.int32)
