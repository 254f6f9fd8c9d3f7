"""Best of n and self-consistency: rejection changes who finishes, never what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hf_texts import random_models, random_rows
from search_texts import (
    NUM_TOKENS,
    SAMPLED,
    Recorder,
    assert_nothing_open,
    mean_token,
    rejection,
    texts,
    watch_rows,
)

from flyball.integrations.hf import govern, search
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.heat import derive_seed
from flyball.integrations.hf.scorers import Partial

SEEDS = [7, 11, 13, 2**64 - 1, 5, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def complete() -> list[list[list[int]]]:
    """What five candidates of each prompt say when nobody is stopped."""
    target, _ = random_models("qwen2")
    found = search(
        govern(target), random_rows(9), num_candidates=5, scorer=mean_token, seeds=SEEDS, **SAMPLED
    )
    assert all(candidate.finished for result in found for candidate in result.candidates)
    return texts(found)


def test_candidates_are_texts_of_their_seeds(complete: list[list[list[int]]]) -> None:
    target, _ = random_models("qwen2")
    rows = random_rows(9)
    out = govern(target).generate_many(
        [row for row in rows for _ in range(5)],
        seeds=[derive_seed(seed, member) for seed in SEEDS for member in range(5)],
        **SAMPLED,
    )
    lengths = [len(row) for row in rows for _ in range(5)]
    got = [text[length:].tolist() for text, length in zip(out, lengths, strict=True)]
    assert got == [candidate for question in complete for candidate in question]
    assert len({tuple(candidate) for candidate in got}) == 45


def test_the_highest_score_wins(complete: list[list[list[int]]]) -> None:
    target, _ = random_models("qwen2")
    found = search(
        govern(target), random_rows(9), num_candidates=5, scorer=mean_token, seeds=SEEDS, **SAMPLED
    )
    for result, candidates in zip(found, complete, strict=True):
        scores = [np.mean(tokens) for tokens in candidates]
        assert result.best == int(np.argmax(scores))
        assert [candidate.score for candidate in result.candidates] == pytest.approx(scores)
        assert result.tokens.tolist() == candidates[result.best]
        assert result.num_tokens == sum(map(len, candidates))


@pytest.mark.parametrize("batch_size", [2, 30])
def test_prompts_are_read_once(batch_size: int) -> None:
    target, draft = random_models("qwen2")
    rows = random_rows(4)
    length = {"policy": "static", "draft_len": 3, "max_draft_len": 3}
    gov = govern(target, [draft], policy={"version": 1, "length": length})
    drafts = list[int]()
    read_prompts = CachedModel.read_prompts

    def noted(self: CachedModel, tokens: Any, lengths: Any, *rest: Any) -> Any:
        if self.model is draft:
            drafts.extend(lengths.tolist())
        return read_prompts(self, tokens, lengths, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachedModel, "read_prompts", noted)
        search(gov, rows, num_candidates=5, scorer=mean_token, batch_size=batch_size, **SAMPLED)
    assert gov.stats.num_prompt_tokens == sum(map(len, rows))
    assert gov.stats.num_verified >= gov.stats.num_tokens - len(rows)
    # A draft reads a prompt again where no row of it is left.
    assert len(drafts) == len(rows) if batch_size == 30 else len(drafts) <= 2 * len(rows)
    assert gov.stats.target_flops > 0 and gov.stats.draft_flops > 0


def test_rows_that_begin_from_a_snapshot_go_on_like_those_that_read_it() -> None:
    target, _ = random_models("qwen2")
    row = random_rows(3)[2]
    with torch.inference_mode():
        model = CachedModel(target, 3, 4)
        model.read_prompts(row[None], np.array([len(row)]), np.array([0]))
        model.begin_from(np.array([1, 2]), model.snapshot(0, len(row) - 1))
        again = model.forward(row[-1:].expand(3, 1), np.full(3, len(row) - 1))
        expected = target(row[None]).logits[0, -1]
    assert torch.allclose(again[:, 0], expected.expand(3, -1), rtol=0, atol=1e-12)


def test_who_stops_leaves_at_once_and_others_take_the_rows() -> None:
    target, draft = random_models("qwen2")
    gov = govern(target, [draft], policy=rejection("top_fraction", tau=4))
    rounds = watch_rows(gov)
    found = search(
        gov, random_rows(4), num_candidates=8, scorer=mean_token, batch_size=4, **SAMPLED
    )
    sizes = [number for number, _ in rounds]
    assert max(sizes) == 4
    assert sizes.count(4) > len(sizes) / 2
    for result in found:
        jump = 4 + gov.max_draft_len
        early = sum(len(c.tokens) <= jump and c.finished for c in result.candidates)
        assert 2 <= sum(c.finished for c in result.candidates) <= 2 + early
        stopped = [len(c.tokens) for c in result.candidates if c.stopped]
        assert max(stopped) <= 4 + gov.governor.max_draft_len


def test_questions_begin_as_rows_are_free_for_all_their_candidates() -> None:
    target, _ = random_models("qwen2")
    gov = govern(target, policy=rejection("top_fraction", tau=4))
    opened = list[int]()

    def scorer(partial: Partial) -> Any:
        opened.append(gov.governor.contests.num_groups)
        return mean_token(partial)

    search(gov, random_rows(6), num_candidates=4, scorer=scorer, batch_size=8, **SAMPLED)
    assert opened[0] == 2
    assert opened[-1] == 6


def test_a_group_is_judged_once_all_have_come_as_far() -> None:
    target, _ = random_models("qwen2")
    asked = Recorder()
    gov = govern(target, policy=rejection("top_fraction", tau=4))
    found = search(
        gov, random_rows(2), num_candidates=8, scorer=asked, seeds=[1, 2], batch_size=3, **SAMPLED
    )
    for result, first in zip(found, (0, 8), strict=True):
        at_tau = {
            int(number): score
            for partial in asked.asked
            for row, (number, score) in enumerate(
                zip(partial.candidate, mean_token(partial), strict=True)
            )
            if first <= number < first + 8 and len(partial.generated(row)) == 4
        }
        ended = [k for k, c in enumerate(result.candidates) if len(c.tokens) < 4]
        kept = [k for k, c in enumerate(result.candidates) if c.finished and k not in ended]
        best = sorted(at_tau, key=lambda number: -at_tau[number])[: 2 - len(ended)]
        assert ended or sorted(number - first for number in best) == kept
    assert sorted(asked.forgotten) == list(range(16))


def test_few_rows_go_on_where_memory_is_short() -> None:
    target, _ = random_models("qwen2")
    row = random_rows(1)[0]
    gov = govern(target, policy=rejection("speculative_rejection"))
    rounds = watch_rows(gov)
    whole = len(row) + NUM_TOKENS
    found = search(
        gov, [row] * 3, num_candidates=16, scorer=mean_token, batch_size=16,
        memory_tokens=3 * whole, **SAMPLED,
    )  # fmt: skip
    assert max(number for number, _ in rounds) > 3
    assert all(number * length <= 3 * whole for number, length in rounds)
    assert all(result.num_stopped > 0 for result in found)


def test_the_most_frequent_answer_wins(complete: list[list[list[int]]]) -> None:
    target, _ = random_models("qwen2")
    gov = govern(target)
    found = search(
        gov,
        random_rows(9),
        method="self_consistency",
        num_candidates=5,
        answer=lambda tokens: "odd" if tokens[0] % 2 else None if tokens[0] % 4 else "four",
        seeds=SEEDS,
        **SAMPLED,
    )
    for result, candidates in zip(found, complete, strict=True):
        said = [t[0] % 2 and "odd" or (None if t[0] % 4 else "four") for t in candidates]
        counts = {answer: said.count(answer) for answer in said if answer is not None}
        assert result.counts == counts
        if counts:
            assert result.counts[result.answer] == max(counts.values())
            assert result.best == said.index(result.answer)


@pytest.mark.parametrize("kind", ["raises", "nan", "shape"])
def test_a_scorer_at_fault_stops_nobody(
    kind: str, complete: list[list[list[int]]], caplog: pytest.LogCaptureFixture
) -> None:
    def scorer(partial: Partial) -> Any:
        if kind == "raises":
            raise RuntimeError("no reward today")
        number = len(partial.candidate)
        return np.full(number, np.nan) if kind == "nan" else np.zeros(number + 1)

    target, _ = random_models("qwen2")
    gov = govern(target, policy=rejection("top_fraction", tau=4))
    found = search(gov, random_rows(9), num_candidates=5, scorer=scorer, seeds=SEEDS, **SAMPLED)
    assert texts(found) == complete
    assert sum("from the scorer" in record.message for record in caplog.records) == 1
    assert [result.best for result in found] == [0] * 9


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("answer", RuntimeError),
        ("answer", KeyboardInterrupt),
        ("on_round", RuntimeError),
        ("on_round", KeyboardInterrupt),
        ("scorer", KeyboardInterrupt),  # its errors are no errors of the search
    ],
)
def test_nothing_is_left_open_after_an_error(place: str, error: type[BaseException]) -> None:
    calls = 0

    def fail(*_: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise error("stop here")
        return np.zeros(len(_[0].candidate)) if place == "scorer" else 1

    target, draft = random_models("qwen2")
    on_round = fail if place == "on_round" else None
    gov = govern(target, [draft], policy=rejection("conformal"), on_round=on_round)
    asked: dict[str, Any] = {"method": "self_consistency", "answer": lambda _: 1}
    if place == "answer":
        asked["answer"] = fail
    if place == "scorer":
        asked["scorer"] = fail
    with pytest.raises(error, match="stop here"):
        search(gov, random_rows(9), num_candidates=4, batch_size=6, **asked, **SAMPLED)
    assert_nothing_open(gov)
    found = search(
        gov, random_rows(2), num_candidates=3, scorer=mean_token, seeds=[1, 2], **SAMPLED
    )
    assert [len(result.candidates) for result in found] == [3, 3]


def test_scorers_are_told_what_the_target_thought_of_its_tokens() -> None:
    class Asks(Recorder):
        wants_entropy = True

    target, draft = random_models("qwen2")
    asked = Asks()
    gov = govern(target, [draft], policy=rejection("top_fraction", tau=4))
    settings = {**SAMPLED, "top_k": 0}
    search(gov, random_rows(2), num_candidates=6, scorer=asked, batch_size=4, **settings)
    for partial in asked.asked:
        for row, tokens in enumerate(partial.tokens):
            first = partial.prompt_len[row]
            with torch.inference_mode():
                scores = target(torch.from_numpy(tokens)[None]).logits[0, first - 1 : -1]
            logs = scores.log_softmax(dim=-1)
            new = logs[torch.arange(len(logs)), torch.from_numpy(tokens[first:])]
            entropy = -(logs.exp() * logs).sum(dim=-1)
            assert partial.log_prob[row] == pytest.approx(new.numpy(), abs=1e-4)
            assert partial.entropy[row] == pytest.approx(entropy.numpy(), abs=1e-4)


def test_prompts_of_one_token_and_candidates_of_one_token() -> None:
    target, draft = random_models("qwen2")
    settings = {"num_candidates": 4, "scorer": mean_token, "seeds": [1, 2], "do_sample": True}
    found = [
        texts(search(govern(target, drafts), [[5], [9]], max_new_tokens=limit, **settings))
        for drafts in ([], [draft, "prompt_lookup"])
        for limit in (1, 12)
    ]
    assert found[:2] == found[2:]
    assert [[len(tokens) for tokens in question] for question in found[0]] == [[1] * 4] * 2


def test_unseeded_searches_follow_torchs_seed() -> None:
    target, _ = random_models("qwen2")
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        results = search(
            govern(target), random_rows(2), num_candidates=3, scorer=mean_token, **SAMPLED
        )
        found.append(texts(results))
    assert found[0] == found[1]
    assert search(govern(target), [], scorer=mean_token) == []
