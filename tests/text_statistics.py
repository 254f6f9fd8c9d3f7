"""Whether texts of a tiny vocabulary are distributed as they should be, by chi-square."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2


class SteppedCost:
    """Costs that jump, so that lengths differ from round to round and from row to row."""

    def next_probe(self, *args: object) -> None:
        return None

    def measured(self, batch_size: int) -> bool:
        return True

    def round_s(self, batch_size: int) -> np.ndarray:
        drafting, looking_up = [1.0, 1.4, 1.45, 1.5, 1.9], [1.0, 1.3, 1.33, 1.37, 1.7]
        return np.array([drafting, looking_up])

    def update(self, *args: object) -> None:
        pass


def count_texts(texts: np.ndarray, vocab: int) -> np.ndarray:
    """How often each text came (vocab ** length,), of texts (n, length) in token ids."""
    length = texts.shape[1]
    return np.bincount(texts @ vocab ** np.arange(length)[::-1], minlength=vocab**length)


def p_value(counts: np.ndarray, probs: np.ndarray) -> float:
    """Chi-square of the joint distribution; rare texts are pooled into one cell."""
    assert counts[probs == 0].sum() == 0, "a text of probability zero was drawn"
    expected = probs * counts.sum()
    rare = expected < 10
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    used = expected > 0
    statistic = ((observed[used] - expected[used]) ** 2 / expected[used]).sum()
    return float(chi2.sf(statistic, used.sum() - 1))
