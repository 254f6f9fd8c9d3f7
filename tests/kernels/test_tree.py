"""Tree verification keeps the target's distribution, and more of the draft the wider it is.

Trees of depth DEPTH over VOCAB, every text a context with distributions of its own, some of which
have zeros; a draft goes on with a chance that is its confidence. Chi-square over all texts of
DEPTH + 1 tokens, false-alarm rate 1e-4, fixed seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from text_statistics import count_texts, p_value

from flyball.kernels.cpu import tree as cpu
from flyball.kernels.reference import tree
from flyball.kernels.reference.verify import verify
from flyball.kernels.tree import (
    TreeVerdict,
    best_siblings,
    draw_siblings,
    verify_tree,
    verify_tree_greedy,
)
from flyball.kernels.tree_block import TreeBlock

VOCAB, DEPTH, DRAWS = 5, 2, 300_000
FALSE_ALARM_RATE = 1e-4
# (q, spine, width, p) -> siblings; p is there for the ones that cheat.
Draw = Callable[[torch.Tensor, torch.Tensor, int, torch.Tensor], torch.Tensor]


def fair(q: torch.Tensor, spine: torch.Tensor, width: int, p: torch.Tensor) -> torch.Tensor:
    return draw_siblings(q, spine, width)


class Contexts:
    """Target and draft: a distribution for every text of up to DEPTH tokens."""

    def __init__(self, seed: int, noise: float, zeros: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.p, self.q = [], []
        for depth in range(DEPTH + 1):
            shape = (VOCAB**depth, VOCAB)
            logits = 1.5 * torch.randn(shape, generator=generator).double()
            other = noise * torch.randn(shape, generator=generator).double()
            for laws, scores in ((self.p, logits), (self.q, logits + other)):
                cut = torch.rand(shape, generator=generator) < zeros
                cut[:, depth] = False
                laws.append(scores.masked_fill(cut, -torch.inf).softmax(-1))

    def expected(self) -> np.ndarray:
        """Probability of every text of DEPTH + 1 tokens."""
        probs = torch.ones(1, dtype=torch.float64)
        for p in self.p:
            probs = (probs[:, None] * p).ravel()
        return probs.numpy()

    def draft(
        self, width: int, draw: Draw, leaky: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a round compares: p of every column, q, candidates and lengths.

        A leaky draft ends by the token drawn rather than by the distribution.
        """
        context = torch.zeros(DRAWS, dtype=torch.long)
        spine_p, leaf_p, qs, candidates = [self.p[0][context]], [], [], []
        draft_len, going = torch.zeros(DRAWS, dtype=torch.long), torch.ones(DRAWS).bool()
        for depth in range(DEPTH):
            q = self.q[depth][context]
            token = torch.multinomial(q, 1).squeeze(1)
            confident = q.gather(1, token[:, None])[:, 0] if leaky else q.amax(1)
            going = going & (confident > torch.rand(DRAWS))
            draft_len += going
            siblings = draw(q, token, width, spine_p[-1])
            candidates.append(torch.cat([token[:, None], siblings], 1))
            below = context[:, None] * VOCAB + candidates[-1].clamp(min=0)
            leaf_p.append(self.p[depth + 1][below[:, 1:]])
            context = below[:, 0]
            spine_p.append(self.p[depth + 1][context])
            qs.append(q)
        p = torch.cat([torch.stack(spine_p, 1), *leaf_p], 1)
        return p, torch.stack(qs, 1), torch.stack(candidates, 1), draft_len

    def texts(self, candidates: torch.Tensor, verdict: TreeVerdict[torch.Tensor]) -> np.ndarray:
        """Texts (draws, DEPTH + 1): what the round emitted, and then the target's own tokens."""
        block = TreeBlock(DEPTH, candidates.shape[2])
        fed = block.tokens(torch.zeros(DRAWS, dtype=torch.long), candidates)
        emitted = torch.cat([fed.gather(1, verdict.path[:, 1:]), verdict.next_token[:, None]], 1)
        emitted.scatter_(1, verdict.num_accepted[:, None], verdict.next_token[:, None])
        context = torch.zeros(DRAWS, dtype=torch.long)
        for depth in range(DEPTH + 1):
            own = torch.multinomial(self.p[depth][context], 1).squeeze(1)
            emitted[:, depth] = torch.where(depth > verdict.num_accepted, own, emitted[:, depth])
            context = context * VOCAB + emitted[:, depth]
        return emitted.numpy()


def seeds_and_places(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(count, dtype=torch.long).random_(), torch.full((count,), 3)


def rounds(
    contexts: Contexts, width: int, seed: int, draw: Draw = fair, leaky: bool = False
) -> tuple[float, float]:
    """The p-value of the texts, and the mean number of accepted tokens."""
    torch.manual_seed(seed)
    p, q, candidates, draft_len = contexts.draft(width, draw, leaky)
    verdict = verify_tree(p.log(), q, candidates, draft_len, *seeds_and_places(DRAWS))
    assert (verdict.num_accepted <= draft_len).all() and not verdict.bad.any()
    assert {1, 2} <= set(draft_len.tolist())
    found = p_value(count_texts(contexts.texts(candidates, verdict), VOCAB), contexts.expected())
    return found, float(verdict.num_accepted.double().mean())


@pytest.mark.parametrize("zeros", [0.0, 0.6])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_texts_are_the_targets_and_more_is_accepted_the_wider(noise: float, zeros: float) -> None:
    contexts = Contexts(7, noise, zeros)
    found = [rounds(contexts, width, seed=width) for width in (1, 2, 3, 4)]
    assert min(p for p, _ in found) > FALSE_ALARM_RATE
    accepted = [mean for _, mean in found]
    assert accepted == sorted(accepted)
    assert accepted[2] > accepted[1] > accepted[0]


def fewer_where_sure(
    q: torch.Tensor, spine: torch.Tensor, width: int, p: torch.Tensor
) -> torch.Tensor:
    wanted = (1 - q.amax(1)) * width
    left_out = torch.arange(1, width) >= wanted[:, None]
    return draw_siblings(q, spine, width).masked_fill(left_out, -1)


@pytest.mark.parametrize("seed", range(3))
def test_siblings_may_be_left_out_by_what_the_draft_says(seed: int) -> None:
    assert rounds(Contexts(seed, 1.0), 4, seed, fewer_where_sure)[0] > FALSE_ALARM_RATE


@pytest.mark.parametrize("width", [2, 3])
def test_a_draft_that_is_the_target_up_to_rounding_is_accepted_whole(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = Contexts(3, 0.0)
    torch.manual_seed(3)
    p, q, candidates, draft_len = contexts.draft(width, fair)
    noise = 1 + 1e-15 * torch.randn(q.shape, dtype=q.dtype)
    scores, given = p.log(), (candidates, draft_len, *seeds_and_places(DRAWS))
    verdict = verify_tree(scores, scores[:, :DEPTH].softmax(-1), *given)
    assert (verdict.num_accepted == draft_len).all() and not verdict.choice.any()
    largest = torch.full((DRAWS, DEPTH + 1, width), 1 - 2**-53, dtype=p.dtype)
    monkeypatch.setattr(tree, "uniforms", lambda *_: (largest, largest))
    verdict = verify_tree(scores, q * noise, *given)
    assert not verdict.bad.any()
    texts = contexts.texts(candidates, verdict)
    assert ((texts >= 0) & (texts < VOCAB)).all()


def test_width_1_is_chain_verification_draw_by_draw() -> None:
    torch.manual_seed(5)
    p, q, candidates, draft_len = Contexts(5, 1.0).draft(1, fair)
    rest = (draft_len, *seeds_and_places(DRAWS))
    verdict = verify_tree(p.log(), q, candidates, *rest)
    chain = verify(p.log(), q, candidates[..., 0], *rest)
    assert (verdict.num_accepted == chain.num_accepted).all()
    # The residual is the same up to its norm, which draws round by.
    same = verdict.next_token == chain.next_token
    assert same.double().mean() > 0.9999
    torch.testing.assert_close(verdict.target_prob[same], chain.target_prob[same], equal_nan=True)


def with_replacement(
    q: torch.Tensor, spine: torch.Tensor, width: int, p: torch.Tensor
) -> torch.Tensor:
    return torch.multinomial(q, width - 1, replacement=True)


def in_order_of_target(
    q: torch.Tensor, spine: torch.Tensor, width: int, p: torch.Tensor
) -> torch.Tensor:
    drawn = draw_siblings(q, spine, width)
    return drawn.gather(1, p.gather(1, drawn).argsort(dim=1, descending=True))


def knowing_the_target(
    q: torch.Tensor, spine: torch.Tensor, width: int, p: torch.Tensor
) -> torch.Tensor:
    return draw_siblings(p, spine, width)


def best_of_two(q: torch.Tensor, spine: torch.Tensor, width: int, p: torch.Tensor) -> torch.Tensor:
    return in_order_of_target(q, spine, width + 1, p)[:, : width - 1]


@pytest.mark.parametrize(
    "draw", [with_replacement, in_order_of_target, knowing_the_target, best_of_two]
)
def test_siblings_drawn_otherwise_are_found(draw: Draw) -> None:
    assert rounds(Contexts(7, 1.0), 3, seed=3, draw=draw)[0] < FALSE_ALARM_RATE


def test_a_draft_that_ends_by_the_token_drawn_is_found() -> None:
    assert rounds(Contexts(7, 1.0), 3, seed=3, leaky=True)[0] < FALSE_ALARM_RATE


def with_its_old_norm(q: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return q.scatter(1, token[:, None], 0.0)


def still_with_the_token(q: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return q


def without_a_norm(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p - q).clamp(min=0) + 1e-300


def of_the_target(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return p


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("_without", with_its_old_norm),
        ("_without", still_with_the_token),
        ("_residual", without_a_norm),
        ("_residual", of_the_target),
    ],
)
def test_a_wrong_law_of_what_is_left_is_found(
    name: str, mutant: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, name, mutant)
    assert rounds(Contexts(7, 1.0), 3, seed=3)[0] < FALSE_ALARM_RATE


def test_siblings_are_drawn_one_after_the_other_without_replacement() -> None:
    torch.manual_seed(1)
    law = torch.tensor([0.5, 0.2, 0.0, 0.2, 0.1], dtype=torch.float64)
    q = law.expand(DRAWS, VOCAB)
    spine = torch.multinomial(q, 1)
    drawn = torch.cat([spine, draw_siblings(q, spine[:, 0], 3)], 1)
    expected = np.zeros(VOCAB**3)
    for x, y, z in permutations(range(VOCAB), 3):
        left = 1 - law[x], 1 - law[x] - law[y]
        expected[(x * VOCAB + y) * VOCAB + z] = law[x] * law[y] / left[0] * law[z] / left[1]
    assert p_value(count_texts(drawn.numpy(), VOCAB), expected) > FALSE_ALARM_RATE


def test_siblings_that_the_draft_does_not_have_are_missing() -> None:
    q = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.3, 0.0, 0.0, 0.7], [0.1, 0.2, 0.3, 0.4]])
    spine = torch.tensor([1, 3, 2])
    for found in (draw_siblings(q, spine, 3), best_siblings(q, spine, 3)):
        assert found[:2].tolist() == [[-1, -1], [0, -1]]
        assert sorted(found[2].tolist() + [2]) == sorted({*found[2].tolist(), 2})
    assert best_siblings(q, spine, 3)[2].tolist() == [3, 1]
    assert draw_siblings(q, spine, 1).shape == (3, 0)


def test_greedy_turns_to_the_sibling_that_the_target_wants() -> None:
    # Columns: settled, spine 1 and 2, siblings of depth 1 (two), siblings of depth 2 (two).
    target = np.tile([5, 6, 7, 1, 2, 3, 4], (6, 1))
    candidates = np.array(
        [
            [[5, 8, 9], [6, 8, 9]],  # the spine all along
            [[5, 8, 9], [8, 9, 6]],  # a sibling at depth 2
            [[8, 5, 9], [6, 7, 9]],  # a sibling at depth 1; nothing is below it
            [[8, 9, -1], [6, 7, 9]],  # none
            [[5, 8, 9], [8, 9, 6]],  # depth 2 does not count
            [[8, 5, 9], [6, 8, 9]],  # nothing counts
        ]
    )
    verdict = verify_tree_greedy(target, candidates, np.array([2, 2, 2, 2, 1, 0]))
    assert verdict.num_accepted.tolist() == [2, 2, 1, 0, 1, 0]
    assert verdict.choice.tolist() == [0, 2, 1, 0, 0, 0]
    assert verdict.next_token.tolist() == [7, 4, 1, 5, 6, 5]
    kept = [
        row[: n + 1] for row, n in zip(verdict.path.tolist(), verdict.num_accepted, strict=True)
    ]
    assert kept == [[0, 1, 2], [0, 1, 6], [0, 3], [0], [0, 1], [0]]


def test_sampling_from_certain_laws_is_greedy() -> None:
    generator = torch.Generator().manual_seed(2)
    block, vocab = TreeBlock(3, 3), 6
    target = torch.randint(0, vocab, (500, len(block.depth)), generator=generator)
    q = torch.rand(500, 3, vocab, generator=generator, dtype=torch.float64)
    q = q * (q > 0.5) + 1e-9 * (torch.arange(vocab) == 0)
    q = q / q.sum(2, keepdim=True)
    spine = q.argmax(2)
    siblings = [best_siblings(q[:, depth], spine[:, depth], 3) for depth in range(3)]
    candidates = torch.cat([spine[..., None], torch.stack(siblings, 1)], 2)
    draft_len = torch.randint(0, 4, (500,), generator=generator)
    scores = torch.nn.functional.one_hot(target, vocab).double().log()
    sampled = verify_tree(scores, q, candidates, draft_len, *seeds_and_places(500))
    assert (sampled.target_prob.nan_to_num(1.0) == 1).all()
    greedy = verify_tree_greedy(target.numpy(), candidates.numpy(), draft_len.numpy())
    assert {0, 1, 2} == set(greedy.choice) and {0, 1, 2, 3} == set(greedy.num_accepted)
    for name in ("num_accepted", "choice", "path", "next_token"):
        assert (getattr(sampled, name).numpy() == getattr(greedy, name)).all()


def test_rows_without_a_draft_and_depths_beyond_one_are_left_alone() -> None:
    p = torch.softmax(torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)), -1)
    q = p[:, :2].clone()
    candidates = torch.tensor([[0, 1], [2, 3]]).repeat(3, 1, 1)
    q[0], q[1, 1] = torch.nan, torch.nan  # nothing was drawn there
    candidates[0], candidates[1, 1] = -1, -1
    draft_len = torch.tensor([0, 1, 2])
    given = seeds_and_places(3)
    verdict = verify_tree(p.log(), q, candidates, draft_len, *given)
    assert verdict.num_accepted.tolist() == [0, 1, 2]
    assert ((verdict.next_token >= 0) & (verdict.next_token < 7)).all()
    nothing = torch.zeros(3, 0, 2, dtype=torch.long)
    verdict = verify_tree(p[:, :1].log(), q[:, :0], nothing, draft_len * 0, *given)
    assert verdict.num_accepted.tolist() == [0, 0, 0] and verdict.path.tolist() == [[0]] * 3
    greedy = verify_tree_greedy(np.array([[4]] * 3), nothing.numpy(), np.zeros(3, np.int64))
    assert greedy.next_token.tolist() == [4, 4, 4]


def tree_call(seed: int, requests: int = 200, vocab: int = 30) -> tuple[torch.Tensor, ...]:
    """Arguments of `verify_tree`: depth 3, width 3, some siblings missing."""
    torch.manual_seed(seed)
    block = TreeBlock(3, 3)
    scores = 2 * torch.randn(requests, len(block.depth), vocab)
    q = (scores[:, :3] + torch.randn(requests, 3, vocab)).softmax(-1)
    spine = torch.multinomial(q.view(-1, vocab), 1).view(requests, 3)
    siblings = torch.stack([draw_siblings(q[:, d], spine[:, d], 3) for d in range(3)], 1)
    siblings[..., 1][q.amax(-1) > 0.5] = -1
    draft_len = torch.randint(0, 4, (requests,))
    candidates = torch.cat([spine[..., None], siblings], 2)
    return scores, q, candidates, draft_len, *seeds_and_places(requests)


def test_a_rows_verdict_does_not_depend_on_the_rows_beside_it() -> None:
    call = tree_call(1)
    found = verify_tree(*call)
    assert {0, 1, 2} == set(found.choice.tolist())
    for order in (torch.randperm(200), torch.tensor([7]), torch.tensor([3, 3, 30])):
        again = verify_tree(*(value[order] for value in call))
        for name in ("num_accepted", "choice", "path", "next_token", "bad"):
            assert torch.equal(getattr(again, name), getattr(found, name)[order])


def test_probabilities_are_the_targets_of_what_is_emitted() -> None:
    call = tree_call(2)
    found, p = verify_tree(*call), call[0].softmax(-1)
    block = TreeBlock(3, 3)
    fed = block.tokens(torch.zeros(200, dtype=torch.long), call[2])
    for row in range(200):
        count, path = int(found.num_accepted[row]), found.path[row].tolist()
        emitted = [int(fed[row, c]) for c in path[1 : count + 1]] + [int(found.next_token[row])]
        expected = p[row, path[: count + 1], emitted]
        torch.testing.assert_close(found.target_prob[row, : count + 1], expected)
        assert found.target_prob[row, count + 1 :].isnan().all()


def test_rows_that_were_not_drawn_are_point_masses() -> None:
    scores, q, candidates, *rest = tree_call(3)
    certain = torch.arange(200) % 2 == 0
    candidates[certain, :, 1:] = -1
    points = torch.nn.functional.one_hot(candidates[..., 0], 30).float()
    expected = verify_tree(
        scores, torch.where(certain[:, None, None], points, q), candidates, *rest
    )
    q[certain] = torch.nan
    found = verify_tree(scores, q, candidates, *rest, certain=certain)
    for name in ("num_accepted", "choice", "path", "next_token", "bad"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    chains = candidates.clone()
    chains[..., 1:] = -1
    alone = verify_tree(scores, None, chains, *rest)
    assert torch.equal(alone.next_token[certain], found.next_token[certain])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_rows_without_a_distribution_are_reported_and_never_sampled(poison: float) -> None:
    call = tree_call(4)
    healthy = verify_tree(*call)
    column = torch.randint(0, call[0].shape[1], (200,))
    call[0][torch.arange(200), column, 5] = poison
    found = verify_tree(*call)
    rests_on = (column[:, None] == healthy.path) & (
        torch.arange(4) <= healthy.num_accepted[:, None]
    )
    # An accepted sibling was tested against what followed the spine above it.
    assert torch.equal(found.bad, rests_on.any(1))
    assert 20 < found.bad.sum() < 180
    assert (found.next_token[found.bad] == -1).all() and (found.num_accepted[found.bad] == 0).all()
    assert torch.equal(found.next_token[~found.bad], healthy.next_token[~found.bad])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("most", "width", "vocab"), [(0, 1, 7), (1, 2, 5), (3, 3, 11), (4, 2, 40)]
)
def test_one_by_one_rows_get_the_same_verdicts_as_together(
    dtype: torch.dtype, most: int, width: int, vocab: int
) -> None:
    torch.manual_seed(most)
    count = 400
    logits = (2.0 * torch.randn(count, 1 + most * width, vocab)).to(dtype)
    logits[torch.rand(logits.shape) < 0.3] = -torch.inf  # some rows have nothing left
    logits[5, 0, 0], logits[9, -1, 1] = torch.nan, torch.inf
    drawn = max(most - 1, 0)  # what is proposed beyond was looked up
    q = (2.0 * torch.randn(count, drawn, vocab)).masked_fill(
        torch.rand(count, drawn, vocab) < 0.3, -torch.inf
    )
    q[..., 0] = 0.0
    q = q.softmax(-1).to(logits.dtype)
    candidates = torch.randint(vocab, (count, most, width))
    for depth in range(drawn):
        spine = torch.multinomial(q[:, depth].float(), 1)[:, 0]
        siblings = draw_siblings(q[:, depth].float(), spine, width)
        candidates[:, depth] = torch.cat([spine[:, None], siblings], 1)
    candidates[:, drawn:, 1:] = -1
    certain = torch.rand(count) < 0.2
    candidates[certain, :, 1:] = -1
    draft_len = torch.randint(most + 1, (count,))
    given = (logits, q, candidates, draft_len, *seeds_and_places(count))
    expected = tree.verify_tree(*given, temperature=0.7, certain=certain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_MANY_ROWS", 10**9)
        found = cpu.verify_tree(*given, temperature=0.7, certain=certain)
    for name in ("num_accepted", "choice", "path", "next_token", "bad"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(
        found.target_prob, expected.target_prob, rtol=1e-5, atol=1e-7, equal_nan=True
    )
    assert found.bad.any()
    if most > 1:
        assert (found.choice > 0).any()


def test_columns_see_the_spine_above_them_and_themselves() -> None:
    block = TreeBlock(2, 3)
    assert block.depth.tolist() == [0, 1, 2, 1, 1, 2, 2]
    seen = [np.flatnonzero(row).tolist() for row in block.visible]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 3], [0, 4], [0, 1, 5], [0, 1, 6]]
    depth, choice = np.array([0, 1, 2, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 2, 1, 2])
    assert block.column(depth, choice).tolist() == list(range(7))
    candidates = torch.tensor([[[11, 12, 13], [21, 22, -1]]])
    assert block.tokens(torch.tensor([9]), candidates).tolist() == [[9, 11, 21, 12, 13, 22, 0]]
