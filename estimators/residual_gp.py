"""A Gaussian process on what physics leaves over, linear in physics' uncertain constants."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Deviation that physics leaves of the logarithms.
SCALE = {"energy": 0.012, "latency": 0.03, "pace": 0.02, "power": 0.012, "load": 0.02, "work": 0.02}
_LENGTH = 0.6
_APART = 1e3  # between outputs, so that what is left of one says nothing of the other


def posterior(
    known: tuple[Floats, Floats, Floats, Floats],
    asked: tuple[Floats, Floats],
    scale: Floats,
) -> tuple[Floats, Floats]:
    """Means and deviations, (K, S) each, of K outputs less their prior mean.

    With phi how an output changes with the constants, in their deviations, and x where it was
    measured, the covariance of two readings is

        phi . phi' + [same output] scale^2 Matern_5/2(x, x'),

    a `SingleTaskGP` with known noise: its linear part is the (linearised) posterior of the
    constants, the Matern part what physics has no constant for.

    Args:
        known: features (K, n, P) of measurements, their places (n, C), values (K, n) less the
            prior mean, NaN where unknown, and variances (K, n).
        asked: features (K, S, P) and places (S, C).
        scale: (K,) deviation that physics leaves.
    """
    import torch
    from botorch.models import SingleTaskGP
    from botorch.settings import validate_input_scaling
    from gpytorch.kernels import LinearKernel, MaternKernel
    from gpytorch.means import ZeroMean

    features, places, values, variances = known
    there = ~np.isnan(values.ravel())
    width = features.shape[2]
    linear = LinearKernel(active_dims=tuple(range(width)))
    linear.variance = 1.0
    count = width + places.shape[1] + 1
    smooth = MaternKernel(nu=2.5, active_dims=tuple(range(width, count)))
    smooth.lengthscale = _LENGTH
    unit = scale[:, None]
    at = torch.from_numpy(_rows(features, places, scale)[there])
    shown = torch.from_numpy((values / unit).ravel()[there][:, None])
    noise = torch.from_numpy((variances / unit**2).ravel()[there][:, None])
    with validate_input_scaling(False):  # features come in their own units, on purpose
        model = SingleTaskGP(
            at,
            shown,
            noise,
            covar_module=linear + smooth,
            mean_module=ZeroMean(),
            outcome_transform=None,
        )
    asked_at = torch.from_numpy(_rows(*asked, scale))
    with torch.no_grad():
        # The model's own posterior holds the covariance of all rows with each other before it
        # gives their variances: 7 s for 24,000 rows, where this takes 0.05 s.
        covariance = model.covar_module(at).to_dense()
        covariance = covariance + torch.diag(model.likelihood.noise + 1e-6)
        root = torch.linalg.cholesky(covariance)
        across = torch.linalg.solve_triangular(
            root, model.covar_module(at, asked_at).to_dense(), upper=False
        )
        target = torch.linalg.solve_triangular(root, model.train_targets[:, None], upper=False)
        mean = (across.T @ target)[:, 0].numpy()
        prior = (asked_at[:, :width] ** 2).sum(dim=1) + 1.0
        variance = (prior - (across**2).sum(dim=0)).clamp_min(1e-8).numpy()
    return mean.reshape(len(scale), -1) * unit, np.sqrt(variance).reshape(len(scale), -1) * unit


def _rows(features: Floats, places: Floats, scale: Floats) -> Floats:
    """Inputs (K S, P + C + 1): features in units of the scale, places, and which output it is."""
    scaled = features / scale[:, None, None]
    parts = [
        np.column_stack([part, places, np.full(len(places), k * _APART)])
        for k, part in enumerate(scaled)
    ]
    return np.concatenate(parts)
