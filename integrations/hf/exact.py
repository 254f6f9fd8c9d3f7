"""Recording matches: finished texts, read once with the target and once with a draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList, PreTrainedModel

from flyball.controller.errors import HostError
from flyball.controller.match_text import MatchText, branches_of
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.checks import check_drafts, check_model
from flyball.integrations.hf.exact_read import (
    FinishedText,
    Reading,
    Scores,
    read_texts,
    rows_at_a_time,
    scores_of,
)
from flyball.integrations.hf.exact_tails import tails

__all__ = ["FinishedText", "RecordSettings", "record_matches"]

Singles = NDArray[np.float32]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class RecordSettings:
    """How texts came about, and what is recorded of them.

    Attributes:
        target: name of the target.
        draft: name of the draft.
        num_ahead: positions ahead for which a draft that runs on is recorded, at least 1.
        sampled: whether the texts were sampled; else they are greedy.
        processors: that shaped the scores, such as temperature and top-p.
        batch_size: most texts, and places in them, at a time.
    """

    target: str = "target"
    draft: str = "draft"
    num_ahead: int = 16
    sampled: bool = False
    processors: LogitsProcessorList | None = None
    batch_size: int = 64


def record_matches(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    texts: Sequence[FinishedText],
    how: RecordSettings | None = None,
) -> list[MatchText]:
    """What the draft would have done at every position of the target's texts.

    Decoding reads the same tokens in blocks of other shapes, so in low precision near ties may
    fall the other way there.

    Args:
        target: that generated the texts.
        draft: to be judged.
        texts: finished ones, with prompts.
        how: they came about; greedily by default.

    Returns:
        As many, in the same order.

    Raises:
        HostError: models or texts cannot be read; the message says why and what to do.
    """
    how = RecordSettings() if how is None else how
    check_model(target, "target")
    check_drafts(target, [draft])
    scores = scores_of(how.processors or LogitsProcessorList())
    _check(target, draft, texts, how)
    vocab_size = target.get_input_embeddings().weight.shape[0]
    num_rows = rows_at_a_time(vocab_size, how.batch_size)
    # Texts of like length make a batch with little padding.
    order = np.argsort([len(text.tokens) for text in texts], kind="stable")
    found: dict[int, MatchText] = {}
    with torch.inference_mode():
        for start in range(0, len(order), num_rows):
            members = order[start : start + num_rows].tolist()
            group = [texts[number] for number in members]
            read = _read_group(target, draft, scores, group, how)
            found.update(zip(members, read, strict=True))
    return [found[number] for number in range(len(texts))]


def _check(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    texts: Sequence[FinishedText],
    how: RecordSettings,
) -> None:
    if how.num_ahead < 1 or how.batch_size < 1:
        raise HostError(
            "expected num_ahead and batch_size of at least 1, but got "
            f"{how.num_ahead} and {how.batch_size}"
        )
    context = min(
        getattr(model.config, "max_position_embeddings", None) or 2**62
        for model in (target, draft)
    )
    vocab_size = target.get_input_embeddings().weight.shape[0]
    for number, text in enumerate(texts):
        if not 1 <= text.prompt_len < len(text.tokens):
            raise HostError(
                f"expected a prompt and generated tokens, but text {number} has "
                f"{len(text.tokens)} tokens, {text.prompt_len} of them prompt; leave it out"
            )
        if len(text.tokens) > context:
            raise HostError(
                f"expected texts of at most {context} tokens, which both models can read, but "
                f"text {number} has {len(text.tokens)}; leave it out"
            )
        if text.tokens.min() < 0 or text.tokens.max() >= vocab_size:
            raise HostError(
                f"expected token ids from 0 to {vocab_size - 1}, but text {number} has others; "
                "record with the models that generated it"
            )
        if text.limit is not None and text.limit < len(text.generated):
            raise HostError(
                f"expected a limit of at least the {len(text.generated)} tokens of text {number}, "
                f"but got {text.limit}; give the limit that it was generated with"
            )


def _read_group(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    scores: Scores,
    texts: Sequence[FinishedText],
    how: RecordSettings,
) -> list[MatchText]:
    rows = np.arange(len(texts))
    capacity = max(len(text.tokens) for text in texts) + how.num_ahead
    said = read_texts(CachedModel(target, len(texts), capacity), scores, texts)
    drafter = CachedModel(draft, how.batch_size + len(texts), capacity)
    proposed = read_texts(drafter, scores, texts)
    matches = [
        _match(text, said.log_p[row], proposed, row, how.sampled) for row, text in enumerate(texts)
    ]
    branches = [branches_of(match, how.sampled) for match in matches]
    places = [text.prompt_len + branch for text, branch in zip(texts, branches, strict=True)]
    own = [proposed.best[row].numpy()[branch] for row, branch in enumerate(branches)]
    counts = [len(branch) for branch in branches]
    drafter.move_rows(rows, how.batch_size + rows)
    confidence, entropy = tails(
        drafter,
        scores,
        how.batch_size + np.repeat(rows, counts),
        np.concatenate(places),
        np.concatenate(own),
        how.num_ahead - 1,
        how.batch_size,
    )
    ends = np.cumsum(counts)
    return [
        MatchText(
            domain=text.domain,
            target=how.target,
            draft=how.draft,
            prompt_len=text.prompt_len,
            limit=len(text.generated) if text.limit is None else text.limit,
            num_ahead=how.num_ahead,
            sampled=how.sampled,
            tokens=text.generated.astype(np.int32),
            match=matches[row],
            target_log_p=_of(said.log_p, row, text),
            draft_log_p=_of(proposed.log_p, row, text),
            confidence=_of(proposed.confidence, row, text),
            entropy=_of(proposed.entropy, row, text),
            tail_confidence=confidence[end - count : end],
            tail_entropy=entropy[end - count : end],
        )
        for row, (text, count, end) in enumerate(zip(texts, counts, ends, strict=True))
    ]


def _of(values: torch.Tensor, row: int, text: FinishedText) -> Singles:
    """A row's values (t,)."""
    found: Singles = values[row, : len(text.generated)].numpy().astype(np.float32)
    return found


def _match(
    text: FinishedText, log_p: torch.Tensor, proposed: Reading, row: int, sampled: bool
) -> Singles:
    """Probability (t,) that the draft's proposal is accepted, as in `MatchText.match`."""
    size = len(text.generated)
    if not sampled:
        best = proposed.best[row, :size].numpy()
        return np.asarray(best == text.generated, np.float32)
    own = log_p[:size]
    if not bool(own.isfinite().all()):
        raise HostError(
            "expected texts that the target can have sampled, but it gives a token of a text "
            f"with domain '{text.domain}' no probability; pass the processors it was sampled with"
        )
    ratio: Singles = (proposed.log_p[row, :size] - own).clamp(max=0.0).exp().numpy()
    return ratio
