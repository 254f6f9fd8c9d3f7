"""The process on what physics leaves over agrees with plain linear algebra."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flyball.estimators.residual_gp import ResidualProcess

SCALE = np.array([0.02, 0.05])
NOISE = np.array([1e-4, 4e-4])


def draw(rng: np.random.Generator, num: int) -> tuple[Any, Any]:
    """Features of two outputs in three constants, and places."""
    return 0.1 * rng.standard_normal((2, num, 3)), rng.uniform(0.0, 1.0, (num, 2))


def make(num: int, seed: int = 0) -> tuple[ResidualProcess, Any, Any, Any]:
    rng = np.random.default_rng(seed)
    features, places = draw(rng, num)
    values = 0.1 * rng.standard_normal((2, num))
    variances = np.repeat(NOISE[:, None], num, axis=1)
    return (
        ResidualProcess(features, places, values, variances, SCALE),
        features,
        places,
        values,
    )


def matern(one: Any, two: Any) -> Any:
    """Matern 5/2 with a length of 0.6."""
    r = np.sqrt(5.0) * np.linalg.norm(one[:, None] - two[None], axis=2) / 0.6
    return (1.0 + r + r**2 / 3.0) * np.exp(-r)


def test_marginals_are_those_of_the_covariance_written_out() -> None:
    process, features, places, values = make(4)
    asked, where = draw(np.random.default_rng(9), 3)
    mean, deviation = process.marginals(asked, where)

    def covariance(one: Any, at: Any, two: Any, there: Any) -> Any:
        linear = np.einsum("kip,ljp->kilj", one, two)
        smooth = matern(at, there)
        for k in range(2):
            linear[k, :, k] += SCALE[k] ** 2 * smooth
        return linear.reshape(2 * len(at), 2 * len(there))

    known = covariance(features, places, features, places) + np.diag(np.repeat(NOISE, 4))
    across = covariance(features, places, asked, where)
    prior = covariance(asked, where, asked, where)
    expected = across.T @ np.linalg.solve(known, values.ravel())
    variance = np.diag(prior - across.T @ np.linalg.solve(known, across))
    np.testing.assert_allclose(mean.ravel(), expected, atol=1e-3)
    np.testing.assert_allclose(deviation.ravel(), np.sqrt(variance), rtol=2e-3)


def test_what_was_not_shown_is_left_out() -> None:
    rng = np.random.default_rng(2)
    features, places = draw(rng, 3)
    shown = np.array([[0.1, 0.2, 0.3], [np.nan] * 3])
    process = ResidualProcess(features, places, shown, np.full((2, 3), 1e-6), SCALE)
    mean, deviation = process.marginals(features, places)
    np.testing.assert_allclose(mean[0], shown[0], atol=0.01)
    assert (deviation[1] > 0.04).all()


@pytest.mark.parametrize("seed", range(3))
def test_what_a_window_is_said_to_tell_is_what_it_tells(seed: int) -> None:
    process, features, places, values = make(5, seed)
    rng = np.random.default_rng(seed + 10)
    (asked, where), (aim, at) = draw(rng, 6), draw(rng, 1)
    told = process.told((asked, where), (aim, at), NOISE)
    before = process.marginals(aim, at)[1][:, 0] ** 2
    for k in range(6):
        more = ResidualProcess(
            np.concatenate([features, asked[:, k : k + 1]], axis=1),
            np.concatenate([places, where[k : k + 1]]),
            np.concatenate([values, np.zeros((2, 1))], axis=1),
            np.repeat(NOISE[:, None], 6, axis=1),
            SCALE,
        )
        after = more.marginals(aim, at)[1][:, 0] ** 2
        np.testing.assert_allclose(told[:, k], 1.0 - after / before, atol=1e-4)
