"""Mixtures and their evidence, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from text_statistics import p_value

from flyball.kernels import mix as kernels
from flyball.kernels.mix import (
    ascent,
    divergence,
    grid_hits,
    grid_kl,
    mix,
    mix_draw,
    overlap,
    share,
)
from flyball.kernels.philox import token_noise
from flyball.policies.ensemble.base import simplex_grid

ROWS, MEMBERS, VOCAB = 7, 3, 40


def distributions(seed: int, *shape: int, vocab: int = VOCAB) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(*shape, vocab, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)


def some_present(seed: int, rows: int = ROWS) -> torch.Tensor:
    present = torch.rand(rows, MEMBERS, generator=torch.Generator().manual_seed(seed)) < 0.6
    present[:, 0] |= ~present.any(1)
    return present


def plain_mixture(q: np.ndarray, w: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Of one row: q (m, vocab), w (m,)."""
    own = w * present
    own = own / own.sum() if own.sum() > 0 else present / present.sum()
    return sum(own[j] * q[j] for j in range(len(q)) if present[j])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mixture_is_the_weighted_sum_and_sums_to_1(dtype: torch.dtype) -> None:
    q = distributions(0, ROWS, MEMBERS, vocab=5000).to(dtype)
    weights = torch.rand(ROWS, MEMBERS, generator=torch.Generator().manual_seed(1)).double()
    found = mix(q, share(weights))
    assert found.dtype == (dtype if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-6)
    everyone = np.ones(MEMBERS)
    expected = np.array(
        [
            plain_mixture(*row, everyone)
            for row in zip(q.double().numpy(), weights.numpy(), strict=True)
        ]
    )
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-12 if dtype == torch.float64 else 1e-6)


def test_absent_members_have_no_part_in_a_mixture() -> None:
    q, present = distributions(0, ROWS, MEMBERS), some_present(1)
    weights = torch.tensor(simplex_grid(MEMBERS)[:: 66 // ROWS][:ROWS])
    expected = [
        plain_mixture(*row)
        for row in zip(q.numpy(), weights.numpy(), present.numpy(), strict=True)
    ]
    np.testing.assert_allclose(mix(q, share(weights, present)), np.array(expected), atol=1e-12)


def test_present_members_without_weight_weigh_alike() -> None:
    q = distributions(0, 1, MEMBERS)
    found = mix(q, share(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[True, True, False]])))
    np.testing.assert_allclose(found[0], (q[0, 0] + q[0, 1]) / 2, atol=1e-12)


def test_identical_members_mix_to_themselves() -> None:
    q = distributions(0, ROWS, 1).float()
    weights = torch.rand(ROWS, MEMBERS, generator=torch.Generator().manual_seed(1))
    found = mix(q.expand(-1, MEMBERS, -1), share(weights))
    np.testing.assert_allclose(found, q[:, 0], rtol=1e-5)


def test_overlap_is_1_minus_total_variation() -> None:
    p, q, present = distributions(0, ROWS), distributions(1, ROWS, MEMBERS), some_present(2)
    expected = 1.0 - 0.5 * (p[:, None] - q).abs().sum(-1)
    np.testing.assert_allclose(overlap(p, q), expected, atol=1e-12)
    found = overlap(p, q, present)
    assert torch.equal(found.isnan(), ~present)
    np.testing.assert_allclose(found[present], expected[present], atol=1e-12)


def test_greedy_overlap_is_agreement_of_the_argmax() -> None:
    p, q, present = distributions(0, ROWS), distributions(1, ROWS, MEMBERS), some_present(2)
    q[:, 0] = 0.9 * p + 0.1 / VOCAB
    found = overlap(p, q, present, greedy=True)
    for i, j in np.ndindex(ROWS, MEMBERS):
        if present[i, j]:
            assert found[i, j] == float(p[i].argmax() == q[i, j].argmax())
        else:
            assert found[i, j].isnan()


def acceptance(p: torch.Tensor, q: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """sum_x min(p, sum_j w_j q_j) (N,), also for w off the simplex."""
    return torch.minimum(p, w @ q).sum(-1)


def test_ascent_is_the_slope_of_the_acceptance() -> None:
    p, q = distributions(0, ROWS), distributions(1, ROWS, MEMBERS)
    w = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = ascent(p, q, mix(q, w.expand(ROWS, -1)))
    step = 1e-7  # crosses no kink with this seed
    for j in range(MEMBERS):
        moved = w.clone()
        moved[j] += step
        slope = (acceptance(p, q, moved) - acceptance(p, q, w)) / step
        np.testing.assert_allclose(found[:, j], slope, atol=1e-5)


def test_ascent_bounds_the_acceptance_of_all_mixtures_from_above() -> None:
    p, q = distributions(0, ROWS), distributions(1, ROWS, MEMBERS)
    q[:, 1] = p  # and the ties of a member that is the target
    grid = torch.tensor(simplex_grid(MEMBERS))
    for w in grid:
        slope = ascent(p, q, mix(q, w.expand(ROWS, -1)))
        for v in grid:
            bound = acceptance(p, q, w) + slope @ (v - w)
            assert (acceptance(p, q, v) <= bound + 1e-12).all()


def test_acceptance_is_concave_in_the_weights() -> None:
    p, q = distributions(0, ROWS), distributions(1, ROWS, MEMBERS)
    generator = torch.Generator().manual_seed(2)
    for _ in range(100):
        v, w = torch.rand(2, MEMBERS, generator=generator, dtype=torch.float64)
        v, w = v / v.sum(), w / w.sum()
        middle = acceptance(p, q, (v + w) / 2)
        assert (middle >= (acceptance(p, q, v) + acceptance(p, q, w)) / 2 - 1e-12).all()


def test_a_mixture_that_is_the_target_has_nowhere_to_climb() -> None:
    p, q = distributions(0, ROWS), distributions(1, ROWS, MEMBERS)
    assert (ascent(p, q, p) == 0).all()


def test_ascent_of_absent_members_is_unknown() -> None:
    p, q, present = distributions(0, ROWS), distributions(1, ROWS, MEMBERS), some_present(2)
    mixture = mix(q, share(torch.ones(ROWS, MEMBERS), present))
    expected = ascent(p, q, mixture)
    q[~present] = torch.nan
    found = ascent(p, q, mixture, present)
    assert torch.equal(found.isnan(), ~present)
    assert torch.equal(found[present], expected[present])


def test_divergence_is_kl_and_l1() -> None:
    p, q, present = distributions(0, ROWS), distributions(1, ROWS, MEMBERS), some_present(2)
    found = divergence(p, q, present)
    for i, j in np.ndindex(ROWS, MEMBERS):
        if present[i, j]:
            kl = (p[i] * (p[i] / q[i, j]).log()).sum()
            distance = (p[i] - q[i, j]).abs().sum()
            np.testing.assert_allclose(found[i, j], [kl, distance], atol=1e-12)
        else:
            assert found[i, j].isnan().all()


def test_divergence_from_a_certain_member_is_finite() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0]])
    q = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]])
    found = divergence(p, q)
    np.testing.assert_allclose(found[0, 0], [0.5 * np.log(0.5) + 0.5 * np.log(0.5e10), 1.0], 1e-5)
    np.testing.assert_allclose(found[0, 1], 0.0, atol=1e-6)


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("most_elements", [1, 2**24])
def test_the_grid_is_judged_as_one_mixture_at_a_time(
    absent: bool, most_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_MOST_ELEMENTS", most_elements)
    p, q = distributions(0, ROWS), distributions(1, ROWS, MEMBERS)
    q[:, 1] = 0.5 * q[:, 1] + 0.5 * p  # so that some hit
    present = some_present(2) if absent else torch.ones(ROWS, MEMBERS, dtype=torch.bool)
    grid = simplex_grid(MEMBERS)
    given = (p, q, torch.tensor(grid), present if absent else None)
    hits, kl = grid_hits(*given).numpy(), grid_kl(*given).numpy()
    assert 0.1 < hits.mean() < 0.9
    for i, g in np.ndindex(ROWS, len(grid)):
        mixture = plain_mixture(q[i].numpy(), grid[g], present[i].numpy())
        assert hits[i, g] == float(mixture.argmax() == p[i].argmax())
        expected = (p[i].numpy() * np.log(p[i].numpy() / mixture)).sum()
        np.testing.assert_allclose(kl[i, g], expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_hits_of_large_vocabularies_need_only_the_first_tokens(dtype: torch.dtype) -> None:
    p, q = distributions(0, 50, vocab=3000), distributions(1, 50, MEMBERS, vocab=3000)
    q[:, 1] = 0.7 * q[:, 1] + 0.3 * p
    p, q = p.to(dtype), q.to(dtype)
    grid = torch.tensor(simplex_grid(MEMBERS), dtype=torch.float32)
    mixtures = grid @ q.float()  # (N, G, vocab)
    expected = (mixtures.argmax(-1) == p.argmax(-1)[:, None]).float()
    found = grid_hits(p, q, grid)
    sure = mixtures.amax(-1) > 1 / 16
    assert (found[sure] == expected[sure]).all()
    assert (found >= expected).all()
    assert sure.float().mean() > 0.1


def test_no_positions_give_no_evidence() -> None:
    p, q = torch.zeros(0, VOCAB), torch.zeros(0, MEMBERS, VOCAB)
    grid = torch.tensor(simplex_grid(MEMBERS))
    assert mix(q, torch.zeros(0, MEMBERS)).shape == (0, VOCAB)
    assert overlap(p, q).shape == overlap(p, q, greedy=True).shape == (0, MEMBERS)
    assert ascent(p, q, p).shape == (0, MEMBERS)
    assert divergence(p, q).shape == (0, MEMBERS, 2)
    assert grid_hits(p, q, grid).shape == grid_kl(p, q, grid).shape == (0, 66)


def members_logits(rows: int, vocab: int = VOCAB) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (rows, m, vocab), some masked, and shares of which some are 0."""
    logits = distributions(3, rows, MEMBERS, vocab=vocab).log()
    logits[torch.rand(logits.shape, generator=torch.Generator().manual_seed(4)) < 0.3] = -torch.inf
    logits[..., 0] = 1.0
    weights = torch.rand(rows, MEMBERS, generator=torch.Generator().manual_seed(5)).double()
    return logits, share(weights, some_present(6, rows))


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_draw_is_the_largest_noisy_logarithm_of_the_mixture(
    greedy: bool, temperature: float
) -> None:
    logits, shares = members_logits(200)
    seeds, places = torch.arange(200) * 2**33, torch.arange(200) % 7
    asked = {"temperature": temperature, "greedy": greedy}
    found = mix_draw(logits, shares, seeds, places, **asked)
    for row in range(200):
        p = (logits[row] / temperature).softmax(-1)
        mixture = shares[row] @ p
        noise = token_noise(seeds[row, None], places[row, None, None], VOCAB)[0, 0]
        noisy = mixture if greedy else mixture.log() + noise
        assert int(found.token[row]) == int(noisy.argmax())
        assert float(found.prob[row]) == pytest.approx(float(mixture[found.token[row]]))
    heard = shares > 0
    expected = (logits / temperature).logsumexp(-1).masked_fill(~heard, torch.nan)
    torch.testing.assert_close(found.log_sum_exp, expected, equal_nan=True)
    single = mix_draw(logits.float(), shares.float(), seeds, places, **asked)
    assert (single.token == found.token).float().mean() > 0.98
    same = single.token == found.token
    torch.testing.assert_close(single.prob[same].double(), found.prob[same], rtol=1e-5, atol=0)
    order = torch.tensor([5, 180, 5])
    again = mix_draw(logits[order], shares[order], seeds[order], places[order], **asked)
    assert torch.equal(again.token, found.token[order])


def test_draws_are_distributed_as_the_mixture() -> None:
    """Chi-square, a million draws, false-alarm rate 1e-4."""
    logits, shares = members_logits(1, vocab=9)
    count, expected = np.zeros(9), (shares[0] @ logits[0].softmax(-1)).numpy()
    for part in range(4):
        seeds = torch.arange(250_000) + 250_000 * part
        rows = (logits.expand(250_000, -1, -1), shares.expand(250_000, -1))
        found = mix_draw(*rows, seeds, torch.full((250_000,), 2))
        count += np.bincount(found.token, minlength=9)
    assert p_value(count, expected) > 1e-4
    other = (shares[0].roll(1) @ logits[0].softmax(-1)).numpy()
    assert p_value(count, other) < 1e-4


def test_members_without_a_share_are_never_looked_at_and_others_reported() -> None:
    logits, shares = members_logits(60)
    seeds = torch.arange(60)
    expected = mix_draw(logits, shares, seeds, seeds)
    logits[shares == 0] = torch.nan
    found = mix_draw(logits, shares, seeds, seeds)
    assert torch.equal(found.token, expected.token)
    logits[0, int(shares[0].argmax()), 3] = torch.nan
    logits[1, int(shares[1].argmax())] = -torch.inf
    found = mix_draw(logits, shares, seeds, seeds)
    assert found.token[:2].tolist() == [-1, -1] and found.prob[:2].isnan().all()
    assert torch.equal(found.token[2:], expected.token[2:])
    nothing = mix_draw(logits[:0], shares[:0], seeds[:0], seeds[:0])
    assert nothing.token.shape == (0,)
