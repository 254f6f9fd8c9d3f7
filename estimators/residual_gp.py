"""A Gaussian process on what physics leaves over, linear in physics' uncertain constants."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Deviation that physics leaves of the logarithms.
SCALE = {
    "energy": 0.012, "latency": 0.03, "pace": 0.02, "power": 0.012, "load": 0.02, "work": 0.02,
}  # fmt: skip
_LENGTH = 0.6
_APART = 1e3  # between outputs, so that what is left of one says nothing of the other


class ResidualProcess:
    """K outputs less their prior mean, conditioned on measurements.

    With phi how an output changes with the constants, in their deviations, and x where it was
    measured, the covariance of two readings is

        phi . phi' + [same output] scale^2 Matern_5/2(x, x'),

    a `SingleTaskGP` with known noise: its linear part is the (linearised) posterior of the
    constants, the Matern part what physics has no constant for.

    Args:
        features: (K, n, P) of the measurements.
        places: (n, C) where they were made.
        values: (K, n) less the prior mean, NaN where unknown.
        variances: (K, n) of their errors.
        scale: (K,) deviation that physics leaves.
    """

    def __init__(
        self, features: Floats, places: Floats, values: Floats, variances: Floats, scale: Floats
    ) -> None:
        import torch
        from botorch.models import SingleTaskGP
        from botorch.settings import validate_input_scaling
        from gpytorch.kernels import LinearKernel, MaternKernel
        from gpytorch.means import ZeroMean

        self._scale, self._width = scale, features.shape[2]
        there = ~np.isnan(values.ravel())
        linear = LinearKernel(active_dims=tuple(range(self._width)))
        linear.variance = 1.0
        count = self._width + places.shape[1] + 1
        smooth = MaternKernel(nu=2.5, active_dims=tuple(range(self._width, count)))
        smooth.lengthscale = _LENGTH
        unit = scale[:, None]
        self._at = torch.from_numpy(self._rows(features, places)[there])
        shown = torch.from_numpy((values / unit).ravel()[there][:, None])
        noise = torch.from_numpy((variances / unit**2).ravel()[there][:, None])
        with validate_input_scaling(False):  # features come in their own units, on purpose
            self._model = SingleTaskGP(
                self._at,
                shown,
                noise,
                covar_module=linear + smooth,
                mean_module=ZeroMean(),
                outcome_transform=None,
            )
        with torch.no_grad():
            covariance = self._model.covar_module(self._at).to_dense()
            covariance = covariance + torch.diag(self._model.likelihood.noise + 1e-6)
            self._root = torch.linalg.cholesky(covariance)
            target = self._model.train_targets[:, None]
            self._target = torch.linalg.solve_triangular(self._root, target, upper=False)

    def marginals(self, features: Floats, places: Floats) -> tuple[Floats, Floats]:
        """Means and deviations (K, S) at features (K, S, P) and places (S, C).

        The model's own posterior holds the covariance of all rows with each other before it
        gives their variances: 7 s for 24,000 rows, where this takes 0.05 s.
        """
        rows = self._rows(features, places)
        across, unit = self._across(rows), self._scale[:, None]
        mean = (across.T @ self._target.numpy())[:, 0].reshape(len(self._scale), -1)
        prior = (rows[:, : self._width] ** 2).sum(axis=1) + 1.0
        variance = np.maximum(prior - (across**2).sum(axis=0), 1e-8)
        return mean * unit, np.sqrt(variance).reshape(mean.shape) * unit

    def told(
        self, asked: tuple[Floats, Floats], aim: tuple[Floats, Floats], noise: Floats
    ) -> Floats:
        """How much of the variance of outputs at an aim a window elsewhere would take away.

        With c the covariance of an output there with all K outputs y at x, and S theirs:

            c' (S + noise)^-1 c / variance.

        Args:
            asked: features (K, S, P) and places (S, C) of settings to be measured.
            aim: features (K, 1, P) and places (1, C).
            noise: (K,) variances of a window's errors.

        Returns:
            (K, S) shares of the variances.
        """
        import torch

        num = len(self._scale)
        rows, goal = self._rows(*asked), self._rows(*aim)
        across, across_goal = self._across(rows), self._across(goal)
        with torch.no_grad():
            module = self._model.covar_module
            prior = module(torch.from_numpy(goal), torch.from_numpy(rows)).to_dense().numpy()
        shared = (prior - across_goal.T @ across).reshape(num, num, -1)  # aim's, asked's outputs
        wide = rows[:, : self._width].reshape(num, -1, self._width)
        deep = across.reshape(len(across), num, -1)
        own = np.einsum("ksp,lsp->skl", wide, wide) - np.einsum("nks,nls->skl", deep, deep)
        own += np.diag(1.0 + 1e-6 + noise / self._scale**2)
        there = np.einsum("aks->ska", shared)
        taken = (there * np.linalg.solve(own, there)).sum(axis=1).T
        variance = (goal[:, : self._width] ** 2).sum(axis=1) + 1.0 - (across_goal**2).sum(axis=0)
        found: Floats = taken / np.maximum(variance, 1e-8)[:, None]
        return found

    def _across(self, rows: Floats) -> Floats:
        """Covariances with what was measured, whitened."""
        import torch

        with torch.no_grad():
            covariance = self._model.covar_module(self._at, torch.from_numpy(rows)).to_dense()
            found: Floats = torch.linalg.solve_triangular(
                self._root, covariance, upper=False
            ).numpy()
        return found

    def _rows(self, features: Floats, places: Floats) -> Floats:
        """Inputs (K S, P + C + 1): features in units of the scale, places, which output it is."""
        scaled = features / self._scale[:, None, None]
        parts = [
            np.column_stack([part, places, np.full(len(places), k * _APART)])
            for k, part in enumerate(scaled)
        ]
        return np.concatenate(parts)
