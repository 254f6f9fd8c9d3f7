"""The fused verification gives the verdicts of the float64 reference for the same seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flyball.kernels.gpu.verify import verify
from flyball.kernels.reference.verify import verify as reference
from flyball.kernels.verify import Verified

METHODS = ("standard", "block")
# Requests, K, drafted positions whose q is given (None for none), vocabulary; blocks hold 4,096.
SHAPES = [
    (5, 3, 3, 7), (3, 1, 1, 4096), (3, 4, 2, 5001), (3, 3, None, 9001), (3, 0, 0, 4097),
    (2, 5, 5, 8193), (0, 3, 3, 50), (1, 0, None, 1),
]  # fmt: skip


def case(
    shape: tuple[int, int, int | None, int], device: str, seed: int = 0, dtype: Any = torch.float32
) -> tuple[torch.Tensor, ...]:
    """Target logits, draft, drafted tokens, lengths, seeds, places."""
    count, most, num_drawn, vocab = shape
    torch.manual_seed(seed)
    logits = (3.0 * torch.randn(count, most + 1, vocab)).to(dtype)
    tokens = logits[:, :most].float().argmax(-1)
    draft: torch.Tensor | None = None
    if num_drawn is not None:
        near = logits[:, :num_drawn].float() + 0.5 * torch.randn(count, num_drawn, vocab)
        draft = near.softmax(-1)
        if count * num_drawn:
            drawn = torch.multinomial(draft.view(-1, vocab), 1).view(count, num_drawn)
            tokens[:, :num_drawn] = drawn
    lengths = torch.randint(0, most + 1, (count,))
    lengths[:1] = most
    seeds, places = (torch.randint(0, 2**62, (count,)), torch.randint(0, 2**31, (count,)))
    given = (logits, draft, tokens, lengths, seeds, places)
    return tuple(x if x is None else x.to(device) for x in given)


def expected(given: tuple[torch.Tensor, ...], **settings: Any) -> Verified:
    given = tuple(x if x is None else x.cpu() for x in given)
    logits, draft, *others = given
    double = None if draft is None else draft.double()
    if settings.get("certain") is not None:
        settings["certain"] = settings["certain"].cpu()
    return reference(logits.double(), double, *others, **settings)


def assert_same(found: Verified, wanted: Verified) -> None:
    for name in ("num_accepted", "next_token", "bad"):
        assert torch.equal(getattr(found, name).cpu(), getattr(wanted, name)), name
    for name in ("ratio", "target_prob", "overlap"):
        value, other = getattr(found, name), getattr(wanted, name)
        assert (value is None) == (other is None)
        if value is not None:
            torch.testing.assert_close(
                value.cpu().double(), other, rtol=1e-5, atol=1e-30, equal_nan=True
            )


@pytest.mark.parametrize("wants_overlap", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_verdicts_are_the_references(
    shape: tuple[int, int, int | None, int], method: Any, wants_overlap: bool, device: str
) -> None:
    given = case(shape, device)
    settings = {"temperature": 0.8, "method": method, "wants_overlap": wants_overlap}
    assert_same(verify(*given, **settings), expected(given, **settings))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(method: Any, dtype: torch.dtype, device: str) -> None:
    given = case((4, 3, 3, 5000), device, seed=1, dtype=dtype)
    settings = {"method": method, "wants_overlap": True}
    assert_same(verify(*given, **settings), expected(given, **settings))


@pytest.mark.parametrize("method", METHODS)
def test_certain_rows_stand_beside_drawn_ones(method: Any, device: str) -> None:
    given = case((6, 3, 3, 5000), device, seed=2)
    certain = torch.tensor([False, True] * 3, device=device)
    given[1][certain] = torch.nan  # never looked at
    settings = {"method": method, "certain": certain, "wants_overlap": True}
    found = verify(*given, **settings)
    assert_same(found, expected(given, **settings))
    assert not found.bad.any()


@pytest.mark.parametrize("method", METHODS)
def test_masked_tokens_are_never_emitted(method: Any, device: str) -> None:
    given = case((6, 2, 2, 9001), device, seed=3)
    logits, tokens = given[0], given[2]
    logits[0, 0, 1:] = -torch.inf  # all but one
    logits[1, :, 5000:] = -torch.inf
    logits[2, 0, tokens[2, 0]] = -torch.inf
    logits[3, :, :8999] = -torch.inf
    found = verify(*given, method=method)
    assert_same(found, expected(given, method=method))
    rows = torch.arange(6, device=device)
    assert logits[rows, found.num_accepted, found.next_token].isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("method", METHODS)
def test_rows_without_a_distribution_are_reported(method: Any, device: str) -> None:
    given = case((8, 2, 2, 9001), device, seed=4)
    logits, draft, _, lengths = given[:4]
    lengths[:] = torch.tensor([2, 2, 2, 0, 1, 2, 2, 2])
    logits[0, 0, 7], logits[1, 0, 8000], logits[2, 0] = torch.nan, torch.inf, -torch.inf
    logits[3, 0, 0] = torch.nan
    logits[4, 2] = torch.nan  # beyond the draft's end
    draft[5, 0] = torch.nan
    logits[6, 2] = -torch.inf
    logits[6, 0, 0], draft[6, 0, 0], given[2][6, 0] = 90.0, 1e-30, 0  # accepted
    found = verify(*given, method=method)
    assert_same(found, expected(given, method=method))
    assert found.bad.tolist()[:6] == [True, True, True, True, False, True]
    assert not found.bad[7]
    assert (found.next_token[found.bad] == -1).all() and (found.num_accepted[found.bad] == 0).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_bonus_column_counts_where_it_is_drawn_from(method: Any, device: str) -> None:
    given = case((40, 2, 2, 30), device, seed=8)
    given[0][:, 2, 3] = torch.nan
    found = verify(*given, method=method)
    assert_same(found, expected(given, method=method))
    assert 0 < found.bad.sum() < 40


@pytest.mark.parametrize("method", METHODS)
def test_a_draft_that_is_the_target_is_accepted(method: Any, device: str) -> None:
    logits, draft, *others = case((4, 3, 3, 300), device, seed=5)
    draft = logits[:, :3].softmax(-1)
    found = verify(logits, draft, *others, method=method)
    assert torch.equal(found.num_accepted, others[1])
    assert not found.bad.any() and (found.next_token >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_verdict_does_not_depend_on_the_rows_beside_it(method: Any, device: str) -> None:
    given = case((5, 3, 3, 5000), device, seed=6)
    together = verify(*given, method=method, wants_overlap=True)
    order = torch.tensor([3, 0], device=device)
    apart = verify(*(x[order] for x in given), method=method, wants_overlap=True)
    for name in Verified.__slots__:
        torch.testing.assert_close(
            getattr(together, name)[order], getattr(apart, name), rtol=0, atol=0, equal_nan=True
        )


def test_rows_of_a_larger_buffer_are_read_where_they_lie(device: str) -> None:
    logits, draft, *others = case((3, 2, 2, 1000), device, seed=7)
    wide = torch.full((3, 5, 1024), torch.nan, device=device)
    wide[:, 1:4, :1000] = logits
    wide_draft = torch.full((3, 4, 1024), torch.nan, device=device)
    wide_draft[:, :2, :1000] = draft
    found = verify(wide[:, 1:4, :1000], wide_draft[:, :2, :1000], *others)
    assert_same(found, expected((logits, draft, *others)))
