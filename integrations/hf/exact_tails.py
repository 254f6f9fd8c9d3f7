"""What a draft sees where it runs on after its first miss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.exact_read import Scores
from flyball.kernels.confidence import confidence

Singles = NDArray[np.float32]
Longs = NDArray[np.int64]


def tails(
    cached: CachedModel,
    scores: Scores,
    source: Longs,
    length: Longs,
    token: Longs,
    num_steps: int,
    batch_size: int,
) -> tuple[Singles, Singles]:
    """Go on greedily from places in texts that the cache has read.

    Every place gets a row of its own with a copy of its text's keys and values, of which it sees
    the first `length`; rows of many texts share a forward.

    Args:
        cached: the draft, with texts in rows from `batch_size` on; the rows before them are free.
        scores: from logits.
        source: (b,) row of each place's text.
        length: (b,) tokens of the text before the place.
        token: (b,) the draft's own token there, the first that it reads.
        num_steps: tokens that it goes on.
        batch_size: places at a time.

    Returns:
        Largest probability and entropy (nats), both (b, num_steps), of each next position.
    """
    largest, spread = (np.empty((len(source), num_steps), np.float32) for _ in range(2))
    for start in range(0, len(source), batch_size):
        chunk = slice(start, start + batch_size)
        cached.move_rows(source[chunk], np.arange(len(source[chunk])))
        block = upload(token[chunk, None], cached.model.device)
        sure: list[torch.Tensor] = []
        unsure: list[torch.Tensor] = []
        for step in range(num_steps):
            after = scores(cached.forward(block, length[chunk] + step))
            found = confidence(after, margin=False, log_sum_exp=False)
            assert found.entropy is not None
            block = found.token
            sure.append(found.largest)
            unsure.append(found.entropy)
        if num_steps:
            largest[chunk] = torch.cat(sure, dim=1).cpu().numpy()
            spread[chunk] = torch.cat(unsure, dim=1).cpu().numpy()
    return largest, spread
