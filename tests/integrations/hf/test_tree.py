"""Forwards over token trees against chain forwards over each of their paths, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hf_texts import plain, random_models, random_rows

from flyball.integrations.hf.cached_model import CachedModel
from flyball.kernels.tree import best_siblings, verify_tree_greedy
from flyball.kernels.tree_block import TreeBlock

NUM_SPINE, WIDTH, VOCAB = 3, 3, 64
BLOCK = TreeBlock(NUM_SPINE, WIDTH)
ARCHITECTURES = ["gpt2", "qwen2", "qwen3"]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def plain_logits(model: Any, text: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([text])).logits[0]
    return logits


class Trees:
    """Texts of ragged lengths in a cache, each with a tree behind it.

    Attributes:
        lengths: (rows,) tokens in the cache, those before the last settled one.
        logits: (rows, T, vocab) of the tree forward.
    """

    def __init__(self, model: Any, lengths: list[int]) -> None:
        self.model, self.lengths = model, np.array(lengths)
        rows, generator = len(lengths), torch.Generator().manual_seed(1)
        settled = torch.randint(3, VOCAB, (rows, max(lengths) + 1), generator=generator)
        candidates = torch.randint(3, VOCAB, (rows, NUM_SPINE, WIDTH), generator=generator)
        self.texts = [settled[row, : n + 1].tolist() for row, n in enumerate(lengths)]
        last = settled[torch.arange(rows), torch.from_numpy(self.lengths)]
        self.tokens = BLOCK.tokens(last, candidates)
        self.cached = CachedModel(model, rows, capacity=4)
        self.cached.read_prompts(settled[:, :-1], self.lengths, np.arange(rows))
        self.logits = self.cached.forward_tree(
            self.tokens, self.lengths, BLOCK.depth, BLOCK.visible
        )

    def path(self, row: int, column: int) -> list[int]:
        """Tokens of a row's text and of the tree's path down to a column."""
        depth = int(BLOCK.depth[column])
        columns = [*range(1, depth), column] if depth else []
        return self.texts[row] + self.tokens[row, columns].tolist()


@pytest.mark.parametrize("lengths", [[6], [4, 9, 1, 7]])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_every_column_sees_its_own_path_alone(name: str, lengths: list[int]) -> None:
    model = random_models(name)[0]
    trees = Trees(model, lengths)
    for row in range(len(lengths)):
        for column in range(len(BLOCK.depth)):
            expected = plain_logits(model, trees.path(row, column))[-1]
            close(trees.logits[row, column], expected)


@pytest.mark.parametrize("lengths", [[6], [4, 9, 1, 7, 5]])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_the_text_goes_on_behind_what_was_accepted(name: str, lengths: list[int]) -> None:
    model = random_models(name)[0]
    trees = Trees(model, lengths)
    # Siblings at depths 2, 1 and 3 (where a column and its target coincide in other rows), the
    # whole spine, nothing.
    num_accepted = np.array([2, 1, 3, 3, 0])[: len(lengths)]
    choice = np.array([2, 1, 2, 0, 0])[: len(lengths)]
    column = BLOCK.column(num_accepted, choice)
    path = np.tile(np.arange(NUM_SPINE + 1), (len(lengths), 1))
    path[np.arange(len(lengths)), num_accepted] = column
    trees.cached.keep_path(trees.lengths, num_accepted, path)

    following = torch.randint(3, VOCAB, (len(lengths), 2))
    found = trees.cached.forward(following, trees.lengths + 1 + num_accepted)
    for row in range(len(lengths)):
        text = trees.path(row, int(column[row])) + following[row].tolist()
        close(found[row], plain_logits(model, text)[-2:])


@torch.no_grad()
def test_width_1_is_a_chain() -> None:
    model = random_models("qwen3")[0]
    trees, chain = Trees(model, [4, 9, 1]), Trees(model, [4, 9, 1])
    spine = TreeBlock(NUM_SPINE, 1)
    tokens = chain.tokens[:, : NUM_SPINE + 1]
    found = chain.cached.forward_tree(tokens, chain.lengths, spine.depth, spine.visible)
    close(found, trees.cached.forward(tokens, trees.lengths))


@torch.no_grad()
def test_a_tree_may_reach_beyond_the_last_position_of_the_model() -> None:
    model = random_models("gpt2")[0]
    model.transformer.wpe = torch.nn.Embedding.from_pretrained(model.transformer.wpe.weight[:6])
    cached = CachedModel(model, 1, capacity=4)
    cached.context = 6
    text = [3, 4, 5, 6, 7]
    cached.read_prompts(torch.tensor([text]), np.array([5]), np.array([0]))
    tokens = torch.full((1, len(BLOCK.depth)), 9)
    logits = cached.forward_tree(tokens, np.array([5]), BLOCK.depth, BLOCK.visible)
    close(logits[0, 0], plain_logits(model, [*text, 9])[-1])


def drafted(draft: Any, text: list[int]) -> torch.Tensor:
    """Greedy candidates (K, width) behind a text."""
    text, candidates = list(text), []
    for _ in range(NUM_SPINE):
        q = plain_logits(draft, text)[-1:].softmax(-1)
        token = q.argmax(-1)
        candidates.append(torch.cat([token, best_siblings(q, token, WIDTH)[0]]))
        text.append(int(token))
    return torch.stack(candidates)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_greedy_rounds_over_trees_write_the_targets_own_texts(name: str) -> None:
    target, draft = random_models(name)
    prompts, num_new = random_rows(4), 24
    rng, texts = np.random.default_rng(0), [row.tolist() for row in prompts]
    lengths = np.array([len(text) - 1 for text in texts])
    cached = CachedModel(target, len(texts), capacity=4)
    padded = torch.tensor([text + [0] * (64 - len(text)) for text in texts])
    cached.read_prompts(padded[:, : lengths.max()], lengths, np.arange(len(texts)))
    choices: list[int] = []
    for _ in range(num_new):
        candidates = torch.stack([drafted(draft, text) for text in texts])
        last = torch.tensor([text[-1] for text in texts])
        tokens = BLOCK.tokens(last, candidates)
        best = cached.forward_tree(tokens, lengths, BLOCK.depth, BLOCK.visible).argmax(-1).numpy()
        draft_len = rng.integers(0, NUM_SPINE + 1, len(texts))
        verdict = verify_tree_greedy(best, candidates.numpy(), draft_len)
        cached.keep_path(lengths, verdict.num_accepted, verdict.path)
        emitted = np.take_along_axis(best, verdict.path, axis=1)
        for row, count in enumerate(verdict.num_accepted + 1):
            texts[row] += emitted[row, :count].tolist()
        lengths = lengths + verdict.num_accepted + 1
        choices += verdict.choice.tolist()
    assert set(choices) == {0, 1, 2}
    for text, prompt in zip(texts, prompts, strict=True):
        expected, _ = plain(target, prompt, max_new_tokens=num_new, eos_token_id=None)
        assert text[len(prompt) :][:num_new] == expected
