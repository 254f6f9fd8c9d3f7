"""Reading finished texts with a model, in large batches: what it says of every position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList

from flyball.controller.errors import HostError
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.processors import Processors
from flyball.kernels.confidence import confidence

Longs = NDArray[np.int64]
Scores = Callable[[torch.Tensor], torch.Tensor]

MAX_LOGITS = 2**26  # at a time: 256 MB in float32


@dataclass(frozen=True)
class FinishedText:
    """A text to read.

    Attributes:
        tokens: (n,) ids of the prompt and of what was generated.
        prompt_len: tokens of the prompt, at least 1 and less than n.
        domain: label for reports.
        limit: tokens that might have been generated; None where all of them were.
    """

    tokens: Longs
    prompt_len: int
    domain: str = ""
    limit: int | None = None

    @property
    def generated(self) -> Longs:
        """(t,) generated tokens."""
        return self.tokens[self.prompt_len :]


@dataclass(frozen=True)
class Reading:
    """What a model says of positions, given the text before each.

    Attributes:
        best: (rows, width) its most probable token.
        confidence: (rows, width) that token's probability.
        entropy: (rows, width) of its distribution, nats.
        log_p: (rows, width) log-probability of the text's own token, nats.
    """

    best: torch.Tensor
    confidence: torch.Tensor
    entropy: torch.Tensor
    log_p: torch.Tensor


def scores_of(processors: LogitsProcessorList) -> Scores:
    """What makes float32 scores (..., vocab) of logits, as decoding does.

    Raises:
        HostError: a processor looks at more than the scores.
    """
    if not Processors(processors).prefix_free:
        raise HostError(
            "expected logits processors that look at the scores alone, such as temperature and "
            f"top-p, but got {', '.join(type(p).__name__ for p in processors)}; "
            "record texts that were generated without the others"
        )

    def process(logits: torch.Tensor) -> torch.Tensor:
        flat = logits.float().reshape(-1, logits.shape[-1])
        nothing = torch.empty(len(flat), 0, dtype=torch.long, device=flat.device)
        scores: torch.Tensor = processors(nothing, flat)
        return scores.view(logits.shape)

    return process


def read_block(scores: torch.Tensor, tokens: torch.Tensor) -> Reading:
    """What scores (rows, width, vocab) say of tokens (rows, width)."""
    sure = confidence(scores, margin=False)
    assert sure.entropy is not None and sure.log_sum_exp is not None
    own = scores.gather(-1, tokens[..., None]).squeeze(-1)
    return Reading(sure.token, sure.largest, sure.entropy, own - sure.log_sum_exp)


def rows_at_a_time(vocab_size: int, batch_size: int) -> int:
    """How many texts are read together, so that logits at every prompt's end fit too."""
    return max(1, min(batch_size, int((MAX_LOGITS // vocab_size) ** 0.5)))


def read_texts(cached: CachedModel, scores: Scores, texts: Sequence[FinishedText]) -> Reading:
    """Read texts into the first rows of an empty cache, up to the last token but one.

    Returns:
        (len(texts), longest t) on the host; what stands behind a text's end means nothing.
    """
    device = cached.model.device
    prompt_len = np.array([text.prompt_len for text in texts])
    prompts = upload(_pad([text.tokens[: text.prompt_len] for text in texts]), device)
    generated = upload(_pad([text.generated for text in texts]), device)
    logits = cached.read_prompts(prompts, prompt_len, np.arange(len(texts)))
    blocks = [_on_host(read_block(scores(logits[:, None]), generated[:, :1]))]
    width = max(1, MAX_LOGITS // (len(texts) * logits.shape[-1]))
    for start in range(0, generated.shape[1] - 1, width):
        end = min(start + width, generated.shape[1] - 1)
        logits = cached.forward(generated[:, start:end], prompt_len + start)
        blocks.append(_on_host(read_block(scores(logits), generated[:, start + 1 : end + 1])))
    return Reading(
        *(
            torch.cat([getattr(block, name) for block in blocks], dim=1)
            for name in ("best", "confidence", "entropy", "log_p")
        )
    )


def _on_host(block: Reading) -> Reading:
    return Reading(
        block.best.cpu(), block.confidence.cpu(), block.entropy.cpu(), block.log_p.cpu()
    )


def _pad(rows: Sequence[Longs]) -> Longs:
    """One array with 0 behind the rows' ends."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = tokens
    return padded
