"""The fused tree verification gives the verdicts of the float64 reference for the same seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flyball.kernels.gpu.tree import verify_tree
from flyball.kernels.reference.tree import verify_tree as reference
from flyball.kernels.tree import VerifiedTree, draw_siblings

# Requests, K, width, vocabulary.
SHAPES = [
    (12, 3, 3, 6),
    (8, 2, 2, 9001),
    (6, 2, 4, 5),
    (3, 0, 2, 50),
    (5, 3, 1, 9001),
    (0, 2, 2, 9),
]


def case(
    shape: tuple[int, int, int, int], device: str, seed: int = 0, dtype: Any = torch.float32
) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    count, most, width, vocab = shape
    logits = (1.5 * torch.randn(count, 1 + most * width, vocab)).to(dtype)
    draft = (logits[:, :most].float() + 2.0 * torch.randn(count, most, vocab)).softmax(-1)
    candidates = torch.full((count, most, width), -1)
    if count * most:
        flat = draft.view(-1, vocab)
        spine = torch.multinomial(flat, 1)[:, 0]
        siblings = draw_siblings(flat, spine, width)
        candidates = torch.cat([spine[:, None], siblings], 1).view(count, most, width)
        candidates[1:3, :, 1:] = -1  # without siblings
    lengths = torch.randint(0, most + 1, (count,))
    lengths[: count // 2] = most
    seeds, places = torch.randint(0, 2**62, (count,)), torch.randint(0, 2**31, (count,))
    return [x.to(device) for x in (logits, draft, candidates, lengths, seeds, places)]


def assert_same(found: VerifiedTree, given: list[torch.Tensor], **settings: Any) -> VerifiedTree:
    logits, draft, *others = (x.cpu() for x in given)
    if "certain" in settings:
        settings["certain"] = settings["certain"].cpu()
    wanted = reference(logits.double(), draft.double(), *others, **settings)
    for name in ("num_accepted", "choice", "next_token", "bad"):
        assert torch.equal(getattr(found, name).cpu(), getattr(wanted, name)), name
    fine = ~wanted.bad
    assert torch.equal(found.path.cpu()[fine], wanted.path[fine])
    torch.testing.assert_close(
        found.target_prob.cpu().double(), wanted.target_prob, rtol=1e-5, atol=1e-30, equal_nan=True
    )
    return wanted


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
def test_verdicts_are_the_references(
    shape: tuple[int, int, int, int], seed: int, device: str
) -> None:
    given = case(shape, device, seed)
    assert_same(verify_tree(*given, temperature=0.8), given, temperature=0.8)


def test_siblings_are_taken_and_missed(device: str) -> None:
    given = case((60, 3, 3, 6), device, seed=9)
    wanted = assert_same(verify_tree(*given), given)
    assert {0, 1, 2} == set(wanted.choice.tolist())


def test_certain_rows_and_half_precision(device: str) -> None:
    given = case((6, 2, 2, 9001), device, seed=4, dtype=torch.bfloat16)
    certain = torch.tensor([False, True] * 3, device=device)
    given[1][certain], given[2][certain, :, 1:] = torch.nan, -1
    given[2][3, :, 0] = given[0][3, :2].argmax(-1)
    assert_same(verify_tree(*given, certain=certain), given, certain=certain)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
def test_rows_without_a_distribution_are_reported(device: str) -> None:
    given = case((6, 2, 2, 9001), device, seed=5)
    given[0][0, 0, 8999], given[0][1, 0], given[1][2, 0] = torch.nan, -torch.inf, torch.nan
    found = verify_tree(*given)
    assert_same(found, given)
    assert found.bad.tolist() == [True, True, bool(given[3][2] > 0), False, False, False]
