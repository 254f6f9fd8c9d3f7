"""What a governor has done, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RoundStats:
    """What one round did.

    Attributes:
        slots: (rows,) which tell texts apart that are written at the same time.
        draft_len: (rows,) tokens proposed.
        num_accepted: (rows,) of them accepted.
        draft: (rows,) which draft proposed them, by its place in the list of drafts.
        num_tokens: tokens added to all texts together.
        step_s: seconds of the round.
        draft_s: of them in the drafts, decisions in mid-draft included.
        verify_s: of them in the verification.
    """

    slots: NDArray[np.int32]
    draft_len: NDArray[np.int64]
    num_accepted: NDArray[np.int64]
    draft: NDArray[np.int32]
    num_tokens: int
    step_s: float
    draft_s: float
    verify_s: float


@dataclass
class GenerateStats:
    """Sums over all calls since the governor was made.

    Attributes:
        num_calls: calls of `generate` and the like.
        num_rounds: rounds, all rows of a batch together counting as one.
        num_tokens: tokens generated.
        num_drafted: tokens drafted.
        num_accepted: drafted tokens accepted.
        num_prompt_tokens: tokens of prompts that the target read.
        num_verified: other tokens that it read: the last of each text, and drafted ones.
        num_draft_reads: tokens that draft models read.
        target_flops: what the target's forwards took, by `forward_flops`.
        draft_flops: what draft models' took.
        total_s: seconds in the decoding loop.
        prompt_s: of them in the target's reading of prompts.
        draft_s: of them in forwards of draft models.
        verify_s: of them in the target's other forwards.
    """

    num_calls: int = 0
    num_rounds: int = 0
    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_prompt_tokens: int = 0
    num_verified: int = 0
    num_draft_reads: int = 0
    target_flops: float = 0.0
    draft_flops: float = 0.0
    total_s: float = 0.0
    prompt_s: float = 0.0
    draft_s: float = 0.0
    verify_s: float = 0.0

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens that were accepted; NaN before any."""
        return self.num_accepted / self.num_drafted if self.num_drafted else float("nan")

    @property
    def rate(self) -> float:
        """Tokens per second; NaN before any."""
        return self.num_tokens / self.total_s if self.total_s else float("nan")

    @property
    def host_s(self) -> float:
        """Seconds that were no model's forward."""
        return self.total_s - self.prompt_s - self.draft_s - self.verify_s
