"""What an acceptance head learns from: states of the draft, and whether the target agreed.

Both models continue prompts of the training corpora side by side. Each token of a text is the
target's with probability `target_share`, else the draft's (token mixing, SpecDec++, arXiv
2405.19715, section 3), and only positions where the draft's was taken count: states as a draft
meets them in mid-round. With a share of 1 the text is the target's own and every position counts:
states as a draft meets them as long as it is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from flyball.demo.loader import DemoModels
from flyball.demo.train import PROMPT_LENS, sample_batch, token_streams
from flyball.integrations.hf.cached_model import CachedModel

ROWS = 96  # texts that are written at a time
NEW_TOKENS = 200


@dataclass(frozen=True)
class HeadData:
    """Positions of texts.

    Attributes:
        hidden: (n, hidden) last hidden state of the draft, which proposes the token.
        match: (n,) [argmax q = argmax p]: whether a greedy draft is accepted.
        overlap: (n,) 1 - TV(p, q): how likely a draft drawn at temperature 1 is.
    """

    hidden: torch.Tensor
    match: torch.Tensor
    overlap: torch.Tensor

    @classmethod
    def join(cls, parts: Iterable[HeadData]) -> HeadData:
        """All positions of several."""
        columns = zip(*((part.hidden, part.match, part.overlap) for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))


@torch.no_grad()
def write_texts(
    models: DemoModels,
    prompts: torch.Tensor,
    new_tokens: int,
    target_share: float,
    sample: bool,
    generator: torch.Generator,
) -> HeadData:
    """Continue prompts (rows, width) of one length with both models side by side.

    Args:
        models: the pair.
        prompts: token ids.
        new_tokens: to write in each row; the end token is never written.
        target_share: share of tokens that are the target's.
        sample: draw tokens at temperature 1, or take the most probable ones.
        generator: of all that is drawn.
    """
    rows, width = prompts.shape
    target = CachedModel(models.target, rows, width + new_tokens)
    draft = CachedModel(models.draft, rows, width + new_tokens, keep_hidden=True)
    lengths = np.full(rows, width)
    logits = [model.read_prompts(prompts, lengths, np.arange(rows)) for model in (target, draft)]
    steps = []
    for _ in range(new_tokens):
        for scores in logits:
            scores[:, models.tokenizer.eos_token_id] = -torch.inf
        p, q = (scores.softmax(dim=-1) for scores in logits)
        best = [scores.argmax(dim=-1) for scores in logits]
        wanted, drafted = (
            [torch.multinomial(x, 1, generator=generator).squeeze(1) for x in (p, q)]
            if sample
            else best
        )
        mixed = torch.rand(rows, generator=generator) < target_share
        counts = ~mixed if target_share < 1.0 else mixed
        match, overlap = (best[0] == best[1]).float(), torch.minimum(p, q).sum(dim=-1)
        steps.append(HeadData(draft.hidden[counts, -1], match[counts], overlap[counts]))
        tokens = torch.where(mixed, wanted, drafted)[:, None]
        logits = [model.forward(tokens, lengths)[:, 0] for model in (target, draft)]
        lengths = lengths + 1
    return HeadData.join(steps)


def training_data(
    models: DemoModels, texts: list[str], target_share: float, num_batches: int, seed: int
) -> Iterator[HeadData]:
    """Batches of ROWS texts of the training corpora, domains in equal shares.

    Args:
        models: the pair.
        texts: "greedy", "sampled" or both, taken in turns.
        target_share: share of tokens that are the target's.
        num_batches: how many.
        seed: of prompts and texts.
    """
    generator = torch.Generator().manual_seed(seed)
    streams = token_streams(models.tokenizer)
    domains = dict.fromkeys(streams, 1.0)
    for number in range(num_batches):
        prompt_len = PROMPT_LENS[number % len(PROMPT_LENS)]
        prompts = sample_batch(streams, domains, ROWS, generator)[:, :prompt_len]
        sample = texts[number % len(texts)] == "sampled"
        yield write_texts(models, prompts, NEW_TOKENS, target_share, sample, generator)
