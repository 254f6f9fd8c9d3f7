"""How much a trial is expected to gain."""

from __future__ import annotations

import numpy as np

from flyball.policies.throttle.space import Floats


def log_gain(mean: Floats, deviation: Floats, best: float, limits: Floats) -> Floats:
    """Log expected improvement x probability of keeping the limits, (S,).

    BoTorch's `LogConstrainedExpectedImprovement` (Ament et al., arXiv 2310.20708; Gardner et al.,
    2014) on marginals that are known already.

    Args:
        mean: (K, S) of the objective, to be minimised, and of what is limited.
        deviation: (K, S).
        best: objective of the best that is known to keep the limits.
        limits: (K - 1,) not to be exceeded.
    """
    import torch
    from botorch.acquisition.analytic import (
        LogConstrainedExpectedImprovement,
        LogExpectedImprovement,
    )
    from botorch.models.model import Model
    from botorch.posteriors.gpytorch import GPyTorchPosterior
    from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
    from torch import Tensor

    class Marginals(Model):
        """Looks posteriors up, by row."""

        num_outputs = len(mean)

        def posterior(self, X: Tensor, *args: object, **kwargs: object) -> GPyTorchPosterior:  # noqa: N803 -- BoTorch's name
            rows = X[:, 0, 0].long().numpy()
            at = torch.from_numpy(mean.T[rows])
            spread = torch.diag_embed(torch.from_numpy(deviation.T[rows] ** 2))
            if len(mean) == 1:
                return GPyTorchPosterior(MultivariateNormal(at, spread))
            return GPyTorchPosterior(MultitaskMultivariateNormal(at[:, None], spread))

    model = Marginals()
    rows = torch.arange(mean.shape[1], dtype=torch.float64)[:, None, None]
    acquisition: LogExpectedImprovement | LogConstrainedExpectedImprovement
    if len(mean) == 1:
        acquisition = LogExpectedImprovement(model, best, maximize=False)
    else:
        bounds: dict[int, tuple[float | None, float | None]] = {
            k: (None, float(limit)) for k, limit in enumerate(limits, 1)
        }
        acquisition = LogConstrainedExpectedImprovement(model, best, 0, bounds, maximize=False)
    with torch.no_grad():
        found: Floats = acquisition(rows).numpy()
    return np.nan_to_num(found, nan=-np.inf)
