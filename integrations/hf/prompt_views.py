"""What the views of a draft model see of a batch's prompts, until it has read them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.controller.errors import HostError
from flyball.integrations.hf.text import Texts
from flyball.integrations.hf.views import (
    DraftView,
    PromptImages,
    ViewedPrompt,
    note_absent,
    view_prompts,
)

Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


class PromptViews:
    """Prompts as each lane gets to read them.

    Args:
        views: one a lane.
    """

    def __init__(self, views: tuple[DraftView, ...]) -> None:
        self._views = views
        self._noted = False  # whether it was said which views stand aside
        self._unread: dict[tuple[int, int], ViewedPrompt] = {}  # with images, by row and lane

    def add(self, texts: Texts, rows: Longs, images: PromptImages | None) -> tuple[Longs, Bools]:
        """Prompts of new rows.

        Returns:
            (rows, lanes) column of the text less place among the lane's own tokens; and whether
            the view has what it needs of the prompt.

        Raises:
            HostError: a prompt does not end in text.
        """
        shape = len(rows), len(self._views)
        offset = np.repeat(texts.num_padding[rows, None], shape[1], axis=1)
        present = np.ones(shape, np.bool_)
        if images is None and all(view.image in (None, "none") for view in self._views):
            return offset, present
        spans = zip(texts.num_padding[rows], texts.prompt_len[rows], strict=True)
        prompts = [texts.host[r, a:b] for r, (a, b) in zip(rows, spans, strict=True)]
        for lane, view in enumerate(self._views):
            viewed = view_prompts(view, prompts, images)
            present[:, lane] = [not prompt.absent for prompt in viewed]
            offset[:, lane] = texts.prompt_len[rows] - [len(p.tokens) for p in viewed]
            if images is not None:
                _check_ends(prompts, viewed)
                self._unread.update({(int(r), lane): p for r, p in zip(rows, viewed, strict=True)})
        # A row of which no view sees what it wants is read as text.
        present[~present.any(axis=1), 0] = True
        missing = [view for lane, view in enumerate(self._views) if not present[:, lane].all()]
        if missing and not self._noted:
            self._noted = True
            note_absent(missing)
        return offset, present

    def keep(self, order: Longs) -> None:
        """Rows close up: the one at each place was in row order[place] before."""
        if self._unread:
            old = {int(row): place for place, row in enumerate(order)}
            self._unread = {
                (old[row], lane): prompt
                for (row, lane), prompt in self._unread.items()
                if row in old
            }

    def take(self, rows: Longs, lanes: Longs) -> list[ViewedPrompt] | None:
        """Prompts with images that these rows and lanes (n,) read now; None for bare text."""
        viewed = [
            self._unread.pop(place, None)
            for place in zip(rows.tolist(), lanes.tolist(), strict=True)
        ]
        if viewed[0] is None:
            return None
        return [prompt for prompt in viewed if prompt is not None]


def _check_ends(prompts: list[Longs], viewed: list[ViewedPrompt]) -> None:
    """Refuse views that end in something else than their prompts: what follows is read alike."""
    for prompt, view in zip(prompts, viewed, strict=True):
        if len(view.tokens) == 0 or view.tokens[-1] != prompt[-1]:
            raise HostError(
                "expected prompts that end in text, but an image or a caption stands last in one; "
                "put the question or an instruction after it"
            )
