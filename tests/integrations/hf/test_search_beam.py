"""Beams: the search is that of a plain reference, and rejection replaces only whom it stops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hf_texts import random_models, random_rows, shuffle_drafts
from numpy.typing import NDArray
from search_texts import Recorder, assert_nothing_open, rejection, texts, watch_rows

from flyball.integrations.hf import SearchResult, govern, search
from flyball.integrations.hf.heat import derive_seed
from flyball.integrations.hf.scorers import Partial
from flyball.kernels.philox import token_noise

EOS = 2
SAMPLED: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": 26}


def worth(tokens: Any) -> float:
    """Generated tokens that have an end are worth more."""
    return float(np.mean(tokens)) + 12.0 * (tokens[-1] == EOS)


def judge(partial: Partial) -> NDArray[np.float64]:
    return np.array([worth(partial.generated(row)) for row in range(len(partial.tokens))])


BEAM: dict[str, Any] = {
    "method": "beam", "num_candidates": 8, "width": 4, "step_token_id": 7, "max_step_tokens": 6,
    "max_steps": 5, "scorer": judge, "seeds": [1, 2, 3, 4, 9], **SAMPLED,
}  # fmt: skip
ROWS = random_rows(5)


def grown(target: Any, text: list[int], prompt_len: int, seed: int) -> list[int]:
    """One step of a text, by plain forwards."""
    start = len(text)
    text = list(text)
    while len(text) < min(start + 6, prompt_len + 26):
        scores = target(torch.tensor([text])).logits[0, -1].float()
        index = torch.tensor([[len(text) - prompt_len]])
        key = torch.tensor(np.array([seed], np.uint64).view(np.int64))
        text.append(int((scores + token_noise(key, index, 64)[0, 0]).argmax()))
        if text[-1] in (7, EOS):
            break
    return text


def reference(target: Any, prompt: list[int], seed: int) -> tuple[list[list[int]], int]:
    """Beams left at the end, and which of them is best."""
    live, ended = [(prompt, seed)], list[list[int]]()
    for step in range(5):
        grow = 8 if step == 0 else 4
        expanded = []
        for text, own in live:
            for child in range(grow):
                child_seed = derive_seed(own, step, child)
                expanded.append((grown(target, text, len(prompt), child_seed), child_seed))
        expanded.sort(key=lambda pair: -worth(pair[0][len(prompt) :]))
        kept = expanded[: 2 - len(ended)]
        over = [text[-1] == EOS or len(text) == len(prompt) + 26 for text, _ in kept]
        ended += [text for (text, _), is_over in zip(kept, over, strict=True) if is_over]
        live = [pair for pair, is_over in zip(kept, over, strict=True) if not is_over]
        if not live:
            break
    beams = [text[len(prompt) :] for text in ended + [text for text, _ in live]]
    return beams, int(np.argmax([worth(beam) for beam in beams]))


@pytest.fixture(scope="module")
def plain() -> list[SearchResult]:
    target, _ = random_models("qwen2")
    return search(govern(target), ROWS, **BEAM)


def test_beams_are_those_of_a_plain_search(plain: list[SearchResult]) -> None:
    target, _ = random_models("qwen2")
    with torch.inference_mode():
        for row, seed, result in zip(ROWS, BEAM["seeds"], plain, strict=True):
            beams, best = reference(target, row.tolist(), seed)
            assert [candidate.tokens.tolist() for candidate in result.candidates] == beams
            assert result.best == best
    assert any(candidate.tokens[-1] == EOS for result in plain for candidate in result.candidates)
    assert max(len(candidate.tokens) for result in plain for candidate in result.candidates) > 12


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_neither_drafts_nor_batches_nor_memory_change_a_beam(
    batch_size: int, plain: list[SearchResult]
) -> None:
    target, draft = random_models("qwen2")
    gov = govern(target, [draft, "prompt_lookup"])
    shuffle_drafts(gov, 5)
    rounds = watch_rows(gov)
    memory = 170 if batch_size == 40 else None
    found = search(gov, ROWS, batch_size=batch_size, memory_tokens=memory, **BEAM)
    assert texts(found) == texts(plain)
    assert max(number for number, _ in rounds) <= batch_size
    assert memory is None or all(number * length <= memory for number, length in rounds)
    assert_nothing_open(gov)


def test_forks_read_nothing_again(plain: list[SearchResult]) -> None:
    target, draft = random_models("qwen2")
    policy = {"version": 1, "length": {"policy": "static", "draft_len": 2, "max_draft_len": 2}}
    gov = govern(target, [draft], policy=policy)
    found = search(gov, ROWS, batch_size=8, **BEAM)
    assert texts(found) == texts(plain)
    stats = gov.stats
    assert stats.num_tokens == sum(result.num_tokens for result in found)
    assert stats.num_prompt_tokens == sum(map(len, ROWS))
    # Beyond the prompts, a draft reads what it proposes, and what it did not of the text.
    assert stats.num_draft_reads <= 3 * stats.num_prompt_tokens + 2 * stats.num_verified


@pytest.mark.parametrize("name", ["top_fraction", "conformal"])
def test_rejection_replaces_only_whom_it_stops(name: str, plain: list[SearchResult]) -> None:
    settings: dict[str, Any] = {"risk": 0.5} if name == "conformal" else {"tau": 3}
    target, draft = random_models("qwen2")
    found = []
    for batch_size in (3, 24):
        gov = govern(target, [draft], policy=rejection(name, **settings))
        results = search(gov, ROWS, batch_size=batch_size, **BEAM)
        found.append(results)
        assert gov.governor.faults == {}
        assert_nothing_open(gov)
        assert sum(result.num_stopped for result in results) > 0
        for result in results:
            # Conformal keeps a step's best; how many of the others go on is not promised.
            assert len(result.candidates) == 2 or name == "conformal"
            assert all(candidate.finished for candidate in result.candidates)
    if name == "top_fraction":
        # Drafts may jump over a checkpoint, where who is judged sees more.
        gov = govern(target, policy=rejection(name, **settings))
        again = [search(gov, ROWS, batch_size=size, **BEAM) for size in (3, 24)]
        assert texts(again[0]) == texts(again[1])


def test_scorers_hear_of_parents_and_of_who_is_gone() -> None:
    target, _ = random_models("qwen2")
    asked = Recorder()
    search(govern(target), ROWS[:2], **{**BEAM, "scorer": asked, "seeds": [1, 2]})
    known: dict[int, list[int]] = {}
    for partial in asked.asked:
        for row, (number, parent) in enumerate(
            zip(partial.candidate.tolist(), partial.parent.tolist(), strict=True)
        ):
            text = partial.tokens[row].tolist()
            before = known[parent] if parent >= 0 else text[: partial.prompt_len[row]]
            assert text[: len(before)] == before
            assert len(partial.log_prob[row]) == len(partial.generated(row))
            known[number] = text
    assert sorted(asked.forgotten) == sorted(known)


def test_steps_end_where_they_are_full() -> None:
    target, _ = random_models("qwen2")
    settings = {**BEAM, "step_token_id": None, "max_step_tokens": 4, "max_steps": 2}
    for result in search(govern(target), ROWS, **settings):
        for candidate in result.candidates:
            assert len(candidate.tokens) == 8 or candidate.tokens[-1] == EOS
