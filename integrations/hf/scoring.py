"""A caller's scorer, whose mistakes cost nothing but its scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.integrations.hf.scorers import Partial, Scorer, forget

logger = logging.getLogger(__name__)

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


class GuardedScorer:
    """Calls a scorer, and takes what it gives for what it is worth.

    Scores may be an array, a tensor on any device, or a list. What cannot be used becomes NaN, a
    score that is not known: all rows of a call that raised or whose answer does not fit, else the
    rows that are NaN. Each kind of fault is counted, and the first of its kind is logged.

    Args:
        scorer: of partial texts.

    Attributes:
        faults: how often each kind happened, in rows for "nan" and in calls for the others:
            "raised", "forget", "not numbers", "complex", "shape".
    """

    def __init__(self, scorer: Scorer) -> None:
        self.faults: dict[str, int] = {}
        self._scorer = scorer

    @property
    def wants_entropy(self) -> bool:
        """Whether the scorer looks at entropies."""
        return bool(getattr(self._scorer, "wants_entropy", False))

    @property
    def tells_beginnings(self) -> bool:
        """Whether the scorer has `beginnings`."""
        return callable(getattr(self._scorer, "beginnings", None))

    def __call__(self, partial: Partial) -> Floats:
        """Scores (n,), NaN where unknown."""
        return self._checked(lambda: self._scorer(partial), len(partial.candidate))

    def beginnings(self, partial: Partial, lengths: Sequence[Longs]) -> Floats:
        """Scores of beginnings of each text, one text after the other, NaN where unknown."""
        told: Any = self._scorer
        return self._checked(lambda: told.beginnings(partial, lengths), sum(map(len, lengths)))

    def _checked(self, ask: Callable[[], Any], count: int) -> Floats:
        unknown = np.full(count, np.nan)
        try:
            answer = ask()
        except Exception as error:
            self._count("raised", f"scores of {count} candidates", _told(error))
            return unknown
        scores = self._numbers(answer)
        if scores is None:
            return unknown
        if scores.shape != unknown.shape:
            self._count("shape", f"scores of shape {unknown.shape}", f"shape {scores.shape}")
            return unknown
        num_nan = int(np.isnan(scores).sum())
        if num_nan:
            self._count("nan", f"{len(scores)} numbers", f"{num_nan} NaN", num_nan)
        return scores

    def forget(self, candidates: Longs) -> None:
        """Tell the scorer that candidates (m,) are gone."""
        try:
            forget(self._scorer, candidates)
        except Exception as error:
            self._count("forget", f"{len(candidates)} candidates to be forgotten", _told(error))

    def _numbers(self, answer: Any) -> Floats | None:
        """The answer as numbers of its own shape; None where it has none."""
        try:
            if isinstance(answer, torch.Tensor):
                answer = answer.detach().cpu()
                answer = answer if answer.is_complex() else answer.double()
            array = np.asarray(answer)
            if array.dtype.kind == "c":
                self._count("complex", "real numbers", f"{array.dtype}")
                return None
            if answer is None or array.dtype.kind not in "biufO":
                raise TypeError("no numbers")
            return np.array(array, np.float64)
        except Exception as error:
            self._count("not numbers", "numbers", f"{type(answer).__name__} ({_told(error)})")
            return None

    def _count(self, kind: str, expected: str, came: str, number: int = 1) -> None:
        if kind not in self.faults:
            follows = "nothing is freed" if kind == "forget" else "these scores are unknown"
            logger.warning(
                "expected %s from the scorer, but got %s; %s, and the search goes on",
                expected,
                came,
                follows,
            )
        self.faults[kind] = self.faults.get(kind, 0) + number


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")
