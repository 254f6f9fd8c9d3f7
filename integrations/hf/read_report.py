"""What the governor is told of drafts: how sure they are, and how right they were on read text."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.governor import Governor
from flyball.integrations.hf.device import HostCopy, upload
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.seeds import SeededDraws
from flyball.integrations.hf.text import Texts
from flyball.kernels.confidence import Confidence, confidence
from flyball.kernels.head import AcceptanceHead

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


class ReadReport:
    """Tells the governor of text that a draft read whether it would have been right.

    Args:
        texts: of the batch.
        processors: of the batch; they shape the draft's distribution as they do the target's.
        governor: that is told.
        do_sample: whether tokens are drawn, or the most likely taken.
        head: predicts acceptance from a draft's states; the largest probability is the confidence
            without one.
        draws: of texts with seeds; None without.
    """

    def __init__(
        self,
        texts: Texts,
        processors: RowProcessors,
        governor: Governor,
        do_sample: bool,
        head: AcceptanceHead | None,
        draws: SeededDraws | None,
    ) -> None:
        self._texts = texts
        self._processors = processors
        self._governor = governor
        self._do_sample = do_sample
        self._head = head
        self._draws = draws

    def signs(self, sure: Confidence, states: torch.Tensor) -> torch.Tensor:
        """Confidence, and entropy if known, (signs, ...) of distributions made from states."""
        likely = sure.largest if self._head is None else self._head(states)
        return likely[None] if sure.entropy is None else torch.stack([likely, sure.entropy])

    def tell(
        self,
        slots: Ints,
        logits: torch.Tensor,
        states: torch.Tensor,
        columns: Longs,
        known: Bools,
        number: int,
    ) -> None:
        """Tell how a draft would have done at some columns of the text.

        Args:
            slots: (rows,) of all rows.
            logits: (rows, width, vocab) after each token read; those of the last say nothing yet.
            states: (rows, width, hidden) that they were made from, if they are wanted.
            columns: (rows, width - 1) of the tokens after them.
            known: (rows, width - 1) where there is one.
            number: of the draft.
        """
        texts = self._texts
        known = known & (columns >= texts.prompt_len[:, None])
        rows = np.arange(texts.num_rows)
        first = columns[:, 0] - texts.num_tokens
        scores = self._processors(texts, rows, first, logits[:, :-1], known)
        index = np.clip(columns, 0, texts.host.shape[1] - 1)
        settled = texts.host[rows[:, None], index]
        signs = self._signs_of(scores, states) if self._governor.follows_shadows else ()
        if self._draws is not None:
            match = HostCopy(self._draws.again(columns, scores)).get() == settled
        elif self._do_sample:
            wanted = upload(settled[..., None], texts.device)
            q = HostCopy(scores.softmax(dim=-1).gather(2, wanted).squeeze(2)).get()
            p = np.where(known, texts.probs[rows[:, None], index], 1.0)
            match = np.minimum(q / p, 1.0)
        else:
            match = HostCopy(scores.argmax(dim=-1)).get() == settled
        match = np.where(known, match.astype(np.float64), np.nan)
        self._governor.read(slots, match, number, *signs)

    def _signs_of(self, scores: torch.Tensor, states: torch.Tensor) -> NDArray[np.float64]:
        """What shadows are told (signs, rows, width - 1) of text with these scores."""
        entropy = self._governor.wants_entropy
        sure = confidence(scores, entropy=entropy, margin=False, log_sum_exp=False)
        if self._head is not None:
            states = states[:, :-1]
        return HostCopy(self.signs(sure, states)).get().astype(np.float64)
