"""Scores of predicted acceptance, and the regressions that a head is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_BINS = 15


def regress(
    columns: dict[str, Floats], names: list[str], accepted: Floats, weight: Floats | None = None
) -> Floats:
    """Probability of each position from a regression on the other half of the texts.

    Args:
        columns: (texts, n) by name.
        names: of the columns to read.
        accepted: (texts, n) what is to be predicted.
        weight: (texts, n) of each position.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.stack([columns[name] for name in names], axis=-1)
    weight = np.ones_like(accepted) if weight is None else weight
    result = np.empty_like(accepted)
    for half in (0, 1):
        model = make_pipeline(StandardScaler(), LogisticRegression())
        train = features[half::2].reshape(-1, len(names))
        weights = weight[half::2].ravel()
        model.fit(train, accepted[half::2].ravel(), logisticregression__sample_weight=weights)
        test = features[1 - half :: 2]
        predicted = model.predict_proba(test.reshape(-1, len(names)))[:, 1]
        result[1 - half :: 2] = predicted.reshape(test.shape[:2])
    return result


def calibration_error(probability: Floats, accepted: Floats) -> float:
    """Expected calibration error over bins of equal mass."""
    order = np.argsort(probability, axis=None, kind="stable")
    gap = (probability - accepted).ravel()[order]
    return sum(abs(float(part.sum())) for part in np.array_split(gap, NUM_BINS)) / len(gap)


def losses(probability: Floats, accepted: Floats) -> Floats:
    """Log-loss of each position, in nats."""
    sure = np.clip(probability, 1e-7, 1.0 - 1e-7)
    return -np.where(accepted > 0.5, np.log(sure), np.log1p(-sure))
