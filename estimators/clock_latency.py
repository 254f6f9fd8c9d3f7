"""How latency follows one clock and the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]

_MEMORY = 40.0  # windows that count
_TRUST = 0.5  # windows that the belief in the physical bound is worth


class ClockLatency:
    """Latency as a sum of parts that do and do not follow the clock and the batch.

    Assumption: with r >= 1 how much slower than at the top the clock runs and b the batch size,

        T(r, b) = a0 + a1 r + a2 b + a3 r b,   all a >= 0,

    which is what tables of iteration times look like (VoltanaLLM, arXiv 2509.04827; throttLL'eM,
    arXiv 2408.05235, fits boosted trees to them). Fitted by non-negative least squares of relative
    errors, older windows fading. As long as nothing else is known all seconds follow the clock,
    T = a1 r: no work can take longer than in inverse proportion.
    """

    def __init__(self) -> None:
        self._gram = np.zeros((4, 4))  # of features over the latency
        self._sum = np.zeros(4)
        self._latest = np.nan  # a1 where all seconds follow the clock

    def learn(self, slowdown: float, batch_size: float, latency_s: float) -> None:
        """Take in a window's latency; one that was not measured is left out."""
        if not latency_s > 0.0:
            return
        row = self._features(np.array([slowdown]), batch_size)[0] / latency_s
        self._gram *= 1.0 - 1.0 / _MEMORY
        self._sum *= 1.0 - 1.0 / _MEMORY
        self._gram += np.outer(row, row)
        self._sum += row
        self._latest = latency_s / slowdown

    @property
    def coefficients(self) -> Floats:
        """(4,): a0 to a3; NaN as long as nothing was measured."""
        if np.isnan(self._latest):
            return np.full(4, np.nan)
        # The bound, as windows at the top and at half the clock that would have shown it.
        believed = self._features(np.array([1.0, 2.0]), 0.0) / np.array([[1.0], [2.0]])
        believed /= self._latest
        weight = _TRUST / len(believed)
        gram = self._gram + weight * believed.T @ believed
        right = self._sum + weight * believed.sum(axis=0)
        scale = 1.0 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
        gram = gram * scale * scale[:, None]
        root = np.linalg.cholesky(gram + 1e-9 * np.eye(4)).T
        found: Floats = nnls(root, np.linalg.solve(root.T, right * scale))[0] * scale
        return found

    def predict(self, slowdown: Floats, batch_size: float) -> Floats:
        """Seconds (...,) at such clocks (...,); NaN as long as nothing was measured."""
        found: Floats = self._features(slowdown, batch_size) @ self.coefficients
        return found

    @property
    def clock_share(self) -> float:
        """Share of a lone request's seconds at the top clock that follow the clock."""
        a = self.coefficients
        return float((a[1] + a[3]) / a.sum())

    @staticmethod
    def _features(slowdown: Floats, batch_size: float) -> Floats:
        one = np.ones_like(slowdown)
        return np.stack([one, slowdown, batch_size * one, batch_size * slowdown], axis=-1)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The sums."""
        return {"gram": self._gram, "sum": self._sum, "latest": np.array(self._latest)}

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        self._gram, self._sum = state["gram"].copy(), state["sum"].copy()
        self._latest = float(state["latest"])
