"""What a search sees of the loop and says to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.saved import SavedRow
from flyball.integrations.hf.text import Texts


class Queue(Protocol):
    """Prompts to come; what comes next may depend on what the loop has done."""

    def __len__(self) -> int:
        """Prompts that wait, 0 where none may begin now; one may where all rows are free."""

    def popleft(self) -> Callable[[], Prompts]:
        """Makes the next one, with at most as many texts as rows are free."""


class Watch(Protocol):
    """Looks at the rows after prompts were read and after every round."""

    @property
    def wants_entropy(self) -> bool:
        """Whether texts are to keep the target's entropy at each token."""

    def look(self, texts: Texts, save: Callable[[int], SavedRow]) -> NDArray[np.bool_]:  # (rows,)
        """Which rows to end beside those that have finished: they leave at once.

        Args:
            texts: of the batch; `request` numbers them in the order in which they were queued.
            save: what models have read of a row, for texts that begin with it.
        """
