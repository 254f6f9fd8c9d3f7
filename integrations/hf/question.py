"""One prompt of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flyball.integrations.hf.heat import Origin
from flyball.integrations.hf.prompts import Prompts


@dataclass(frozen=True)
class Question:
    """A prompt whose candidates are to begin.

    Attributes:
        make: prepares it.
        seed: from which those of its candidates come.
        next_number: of candidates, among all of the search.
    """

    make: Callable[[], Prompts]
    seed: int
    next_number: Callable[[], int]

    def prepare(self) -> tuple[Prompts, Origin]:
        """The prompt, and the text that its candidates begin with."""
        prompts = self.make()
        return prompts, Origin(prompts.tokens[0], np.zeros(0), np.zeros(0))
