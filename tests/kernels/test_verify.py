"""Chain verification is what a row and a token at a time in float64 gives."""

from __future__ import annotations

from dataclasses import fields
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_chains import Call, plain_row, random_call, rows_of

from flyball.kernels.cpu import verify as cpu
from flyball.kernels.reference import verify as reference
from flyball.kernels.verify import verify, verify_greedy

METHODS = ("standard", "block")
WAYS = {"reference": reference, "cpu": cpu}
HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(params=WAYS, ids=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(cpu, "_MANY_ROWS", 10**9)
    return WAYS[request.param]


def test_greedy_accepts_up_to_the_first_difference_or_the_rows_length() -> None:
    target = np.array([[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8]])
    draft = np.array([[5, 6, 7], [5, 0, 7], [5, 6, 7], [0, 6, 7]])
    assert verify_greedy(target, draft, np.array([3, 3, 1, 0])).tolist() == [3, 1, 1, 0]


@pytest.mark.parametrize("method", METHODS)
@given(
    seed=st.integers(0, 2**20),
    requests=st.integers(0, 6),
    num_drafted=st.integers(0, 5),
    vocab=st.sampled_from([1, 2, 3, 17, 255, 256, 257, 1025, 1500]),
    noise=st.sampled_from([0.0, 0.3, 3.0]),
    masked=st.sampled_from([0.0, 0.5, 1.0]),
    temperature=st.sampled_from([1.0, 0.6]),
    certain=st.booleans(),
    step=st.sampled_from([1, 3000, 2**19]),
)
@settings(max_examples=150, deadline=None)
def test_verdicts_are_those_of_a_token_at_a_time(
    method: Any,
    seed: int,
    requests: int,
    num_drafted: int,
    vocab: int,
    noise: float,
    masked: float,
    temperature: float,
    certain: bool,
    step: int,
) -> None:
    call = random_call(seed, requests, num_drafted, vocab, noise=noise, masked=masked)
    call["draft"] = None if certain else call["draft"]
    expected = [plain_row(call, row, method, temperature) for row in range(requests)]
    for module in WAYS.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu, "_STEP", step)
            found = module.verify(**call, method=method, temperature=temperature)
        pairs = list(zip(found.num_accepted.tolist(), found.next_token.tolist(), strict=True))
        assert pairs == expected
        assert not found.bad.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_lower_precision_differs_by_rounding_alone(
    way: ModuleType, method: Any, dtype: torch.dtype
) -> None:
    """Inputs are the same numbers; what is compared is the computing, in float32."""
    call = random_call(3, 400, 4, 301, noise=0.5, masked=0.3, dtype=dtype)
    exact = {**call, "target_logits": call["target_logits"].double()}
    exact["draft"] = call["draft"].double()
    asked = {"method": method, "temperature": 0.7, "wants_overlap": True}
    found, expected = way.verify(**call, **asked), reference.verify(**exact, **asked)
    alike = found.num_accepted == expected.num_accepted
    # Two draws a row, each within 1e-5 of a boundary once in 10,000 rows at most.
    assert (alike & (found.next_token == expected.next_token)).float().mean() > 0.99
    for name in ("ratio", "overlap", "target_prob"):
        value = getattr(found, name)
        assert value.dtype == torch.float32
        same = alike & (found.next_token == expected.next_token)
        torch.testing.assert_close(
            value[same].double(), getattr(expected, name)[same], rtol=1e-5, atol=1e-9,
            equal_nan=True,
        )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_values_are_those_of_observed_columns(way: ModuleType, method: Any) -> None:
    call = random_call(5, 60, 4, 30)
    found = way.verify(**call, method=method, wants_overlap=True)
    p, q = call["target_logits"].softmax(-1), call["draft"]
    for row in range(60):
        count, length = int(found.num_accepted[row]), int(call["draft_len"][row])
        tokens = call["draft_tokens"][row]
        for column in range(4):
            seen = column <= count and column < length
            ratio = p[row, column, tokens[column]] / q[row, column, tokens[column]]
            shared = torch.minimum(p[row, column], q[row, column]).sum()
            for value, expected in ((found.ratio, ratio), (found.overlap, shared)):
                wanted = float(expected) if seen else float("nan")
                assert float(value[row, column]) == pytest.approx(wanted, rel=1e-12, nan_ok=True)
        emitted = [*tokens[:count].tolist(), int(found.next_token[row])]
        expected = p[row, torch.arange(count + 1), torch.tensor(emitted)]
        torch.testing.assert_close(found.target_prob[row, : count + 1], expected)
        assert found.target_prob[row, count + 1 :].isnan().all()
    assert way.verify(**call, method=method).overlap is None


@pytest.mark.parametrize("method", METHODS)
def test_a_rows_verdict_does_not_depend_on_the_rows_beside_it(
    way: ModuleType, method: Any
) -> None:
    call = random_call(6, 40, 5, 700, dtype=torch.float32)
    found = way.verify(**call, method=method)
    for order in (torch.randperm(40), torch.tensor([7]), torch.tensor([3, 3, 30])):
        again = way.verify(**rows_of(call, order), method=method)
        for name in ("num_accepted", "next_token", "bad"):
            assert torch.equal(getattr(again, name), getattr(found, name)[order])
        torch.testing.assert_close(
            again.target_prob, found.target_prob[order], rtol=1e-6, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("method", METHODS)
def test_columns_beyond_a_draft_are_never_looked_at(way: ModuleType, method: Any) -> None:
    call = random_call(7, 50, 4, 40)
    found = way.verify(**call, method=method)
    beyond = torch.arange(4) >= call["draft_len"][:, None]
    call["draft"] = call["draft"].masked_fill(beyond[..., None], torch.nan)
    call["draft_tokens"] = call["draft_tokens"].masked_fill(beyond, -100)
    call["target_logits"][:, 1:][beyond] = torch.nan
    again = way.verify(**call, method=method)
    assert torch.equal(again.num_accepted, found.num_accepted)
    assert torch.equal(again.next_token, found.next_token)
    assert not again.bad.any()


@pytest.mark.parametrize("method", METHODS)
def test_certain_rows_are_point_masses_whatever_stands_in_the_draft(
    way: ModuleType, method: Any
) -> None:
    call = random_call(8, 60, 4, 20)
    certain = torch.arange(60) % 2 == 0
    alone = way.verify(**{**call, "draft": None}, method=method)
    drawn = way.verify(**call, method=method)
    call["draft"] = call["draft"].masked_fill(certain[:, None, None], torch.nan)
    both = way.verify(**call, method=method, certain=certain)
    for name in ("num_accepted", "next_token"):
        expected = torch.where(certain, getattr(alone, name), getattr(drawn, name))
        assert torch.equal(getattr(both, name), expected)
    # A draft narrower than its tokens: nothing was drawn in the columns behind.
    call = random_call(8, 60, 4, 20)
    wide = call["draft"].clone()
    wide[:, 2:] = torch.nn.functional.one_hot(call["draft_tokens"][:, 2:], 20)
    expected = way.verify(**{**call, "draft": wide}, method=method)
    found = way.verify(**{**call, "draft": call["draft"][:, :2]}, method=method)
    assert torch.equal(found.num_accepted, expected.num_accepted)
    assert torch.equal(found.next_token, expected.next_token)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_rows_without_a_distribution_are_reported_and_never_sampled(
    way: ModuleType, method: Any, poison: float
) -> None:
    call = random_call(9, 300, 3, 12, noise=0.5)
    healthy = way.verify(**call, method=method)
    hit = torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(1))
    call["target_logits"][torch.arange(300), hit, 5] = poison
    found = way.verify(**call, method=method)
    # Standard verification rests on the columns up to the one that the next token comes from.
    if method == "standard":
        assert torch.equal(found.bad, hit <= healthy.num_accepted)
    assert 30 < found.bad.sum() < 270
    assert (found.num_accepted[found.bad] == 0).all()
    assert (found.next_token[found.bad] == -1).all()
    assert found.target_prob[found.bad].isnan().all() and found.ratio[found.bad].isnan().all()
    good = ~found.bad
    assert torch.equal(found.num_accepted[good], healthy.num_accepted[good])
    assert torch.equal(found.next_token[good], healthy.next_token[good])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
def test_rounds_without_drafts_are_those_of_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(9)
    scores = torch.randn(6, 1, 2000, dtype=torch.float64, generator=generator).to(dtype)
    scores[1, 0, 7], scores[2], scores[3, 0, 4] = torch.nan, -torch.inf, torch.inf
    scores[4, 0, 1:] = -torch.inf
    tokens, zeros = torch.zeros(6, 0, dtype=torch.long), torch.zeros(6, dtype=torch.long)
    given = (scores, None, tokens, zeros, torch.arange(6), zeros)
    found = cpu.verify(*given, temperature=0.7, wants_overlap=True)
    expected = reference.verify(*given, temperature=0.7, wants_overlap=True)
    assert found.bad.tolist() == [False, True, True, True, False, False]
    for field in fields(found):
        torch.testing.assert_close(
            getattr(found, field.name), getattr(expected, field.name), equal_nan=True
        )


@pytest.mark.parametrize("method", METHODS)
def test_rows_whose_tokens_are_all_masked_or_whose_draft_is_none_are_bad(
    way: ModuleType, method: Any
) -> None:
    call = random_call(10, 3, 1, 6)
    call["draft_len"] = torch.tensor([1, 1, 0])
    call["target_logits"][0] = -torch.inf
    call["draft"][1] = torch.nan
    found = way.verify(**call, method=method)
    assert found.bad.tolist() == [True, True, False]
    assert found.next_token.tolist()[:2] == [-1, -1]


@pytest.mark.parametrize("method", METHODS)
def test_a_draft_that_is_the_target_is_accepted_whole(way: ModuleType, method: Any) -> None:
    call = random_call(11, 2000, 4, 50, dtype=torch.float32)
    call["draft"] = call["target_logits"][:, :4].softmax(-1)
    found = way.verify(**call, method=method)
    assert torch.equal(found.num_accepted, call["draft_len"])
    assert ((found.next_token >= 0) & (found.next_token < 50)).all()


def test_one_allowed_token_is_all_that_comes(way: ModuleType) -> None:
    call = random_call(12, 500, 3, 300, masked=1.0)  # all but token 0
    for method in METHODS:
        found = way.verify(**call, method=method)
        assert (found.next_token == 0).all() and not found.bad.any()


def test_empty_batches_and_empty_drafts(way: ModuleType) -> None:
    for method in METHODS:
        found = way.verify(**random_call(1, 0, 3, 9), method=method)
        assert found.num_accepted.shape == (0,) and found.target_prob.shape == (0, 4)
        call = random_call(1, 5, 0, 9)
        found = way.verify(**call, method=method)
        again = way.verify(**{**call, "draft": None}, method=method)
        assert found.num_accepted.tolist() == [0] * 5
        assert torch.equal(found.next_token, again.next_token)


def test_many_small_rows_get_the_same_verdicts_together() -> None:
    call = random_call(13, 200, 3, 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_MANY_ROWS", 10**9)
        one_by_one = cpu.verify(**call)
    found = cpu.verify(**call)
    assert torch.equal(found.num_accepted, one_by_one.num_accepted)
    assert torch.equal(found.next_token, one_by_one.next_token)


def test_a_cpu_tensor_is_given_to_the_cpus_own_way() -> None:
    def names(call: Call) -> list[int]:
        return verify(**call).next_token.tolist()

    call = random_call(2, 5, 2, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "verify", lambda *_, **__: pytest.fail("was asked"))
        with pytest.raises(pytest.fail.Exception):
            names(call)
    assert names(call) == cpu.verify(**call).next_token.tolist()
