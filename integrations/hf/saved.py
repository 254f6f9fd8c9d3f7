"""What models have read of a text that leaves the batch, or from which others go on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hf.cache import Snapshot


@dataclass(frozen=True)
class SavedDraft:
    """What a draft model has read of a row.

    Attributes:
        num_seen: (lanes,) tokens of each lane's text; 0 where it has read nothing.
        lanes: their keys and values, where there are any.
    """

    num_seen: NDArray[np.int64]
    lanes: list[Snapshot | None]


@dataclass(frozen=True)
class SavedRow:
    """A row that texts may begin from without reading it again.

    Attributes:
        target: all but the text's last token, which is read to say what follows.
        drafts: as far as each draft model has come.
    """

    target: Snapshot
    drafts: list[SavedDraft]
