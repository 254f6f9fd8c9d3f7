"""Candidates that grow, fork and end at random, for the tests of scorers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from flyball.integrations.hf.scorers import Partial


def partial(
    tokens: Sequence[Any],
    prompt_len: Sequence[int] | int,
    *,
    candidate: Sequence[int] | None = None,
    parent: Sequence[int] | None = None,
    finished: Sequence[bool] | None = None,
    log_prob: Sequence[Any] = (),
    entropy: Sequence[Any] = (),
) -> Partial:
    n = len(tokens)
    return Partial(
        candidate=np.array(range(n) if candidate is None else candidate, np.int64),
        parent=np.array([-1] * n if parent is None else parent, np.int64),
        tokens=[np.array(x, np.int64) for x in tokens],
        prompt_len=np.broadcast_to(np.array(prompt_len, np.int64), (n,)).copy(),
        finished=np.array([False] * n if finished is None else finished, np.bool_),
        log_prob=[np.array(x, np.float64) for x in log_prob],
        entropy=[np.array(x, np.float64) for x in entropy],
    )


def searches(
    seed: int, num_calls: int = 12, vocab: int = 64
) -> Iterator[tuple[Partial, np.ndarray]]:
    """Calls of a search, each with the candidates (m,) that are gone after it.

    Candidates of three prompts, two of them alike but for their ends, grow by 0 to 60 tokens;
    some fork, end, are left out of a call, or are forgotten. Tokens are those from 3 to before
    `vocab`: where they are few, many texts are alike.
    """
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, vocab, length) for length in (9, 1, 30)]
    prompts.append(np.concatenate([prompts[0], [5, 6]]))
    texts: dict[int, tuple[np.ndarray, int, int]] = {}
    for number in range(6):
        prompt = prompts[number % len(prompts)]
        texts[number] = (prompt, len(prompt), -1)
    fresh = len(texts)
    for _ in range(num_calls):
        for number in list(texts):
            tokens, prompt_len, parent = texts[number]
            count = int(rng.choice([0, 1, 3, 12, 60], p=[0.2, 0.2, 0.3, 0.25, 0.05]))
            texts[number] = (np.append(tokens, rng.integers(3, vocab, count)), prompt_len, parent)
        for number in rng.choice(list(texts), min(3, len(texts)), replace=False).tolist():
            # Beams fork: a copy that goes on differently, perhaps from before the present end.
            tokens, prompt_len, _ = texts[number]
            cut = int(rng.integers(prompt_len, len(tokens) + 1))
            new = np.append(tokens[:cut], rng.integers(3, vocab, int(rng.integers(0, 4))))
            texts[fresh] = (new, prompt_len, number)
            fresh += 1
        scored = [n for n in rng.permutation(list(texts)).tolist() if rng.random() < 0.8]
        ended = [bool(rng.random() < 0.15) for _ in scored]
        yield (
            partial(
                [texts[n][0] for n in scored],
                [texts[n][1] for n in scored],
                candidate=scored,
                parent=[texts[n][2] for n in scored],
                finished=ended,
            ),
            np.array([n for n in scored if rng.random() < 0.15], np.int64),
        )
        for number, end in zip(scored, ended, strict=True):
            if end or len(texts) > 10:
                texts.pop(number)


def fresh_logits(model: Any, tokens: np.ndarray) -> torch.Tensor:
    """Logits of a forward over one text alone."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.from_numpy(tokens)[None]).logits[0]
    return logits
