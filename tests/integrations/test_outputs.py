"""Texts that ended are found again, as long as the ring holds them."""

from __future__ import annotations

import numpy as np

from flyball.integrations.ngrams import LONGEST
from flyball.integrations.outputs import EndedTexts


def windows(*texts: list[int]) -> np.ndarray:
    """The last tokens of texts, latest first."""
    padded = [[-2] * LONGEST + text for text in texts]
    return np.array([text[: -LONGEST - 1 : -1] for text in padded])


def propose(ended: EndedTexts, *texts: list[int]) -> list[list[int]]:
    tokens, count, _ = ended.propose(windows(*texts))
    return [row[:num].tolist() for row, num in zip(tokens, count, strict=True)]


def test_what_followed_is_proposed_up_to_the_texts_end() -> None:
    ended = EndedTexts(8, 4)
    ended.add(np.arange(10, 30))
    ended.add(np.arange(50, 60))
    assert propose(ended, [7, 12, 13], [58], [1, 2]) == [[14, 15, 16, 17], [59], []]


def test_the_longest_n_gram_counts_and_of_equals_the_latest() -> None:
    ended = EndedTexts(8, 2)
    ended.add(np.array([1, 2, 3, 4, 5]))
    ended.add(np.array([9, 2, 3, 7, 8]))
    assert propose(ended, [1, 2, 3], [2, 3], [6, 3]) == [[4, 5], [7, 8], [7, 8]]
    _, _, strength = ended.propose(windows([1, 2, 3], [2, 3], [6, 3]))
    assert strength.tolist() == [2, 1, 0]


def test_an_end_has_nothing_behind_it() -> None:
    ended = EndedTexts(8, 3)
    ended.add(np.array([5]))
    ended.add(np.array([6, 5]))
    ended.add(np.array([], np.int64))
    assert propose(ended, [6, 5], [5], [5, 6]) == [[], [], [5]]


def test_old_texts_give_way() -> None:
    ended, rng = EndedTexts(7, 4), np.random.default_rng(0)
    texts = [rng.integers(0, 10_000, rng.integers(1, 90)) for _ in range(200)]
    for number, text in enumerate(texts):
        ended.add(text)
        tail = text[-64:].tolist()
        if len(tail) > 3:
            assert propose(ended, tail[:-3]) == [tail[-3:]]
        if number > 30:  # a ring of 128 tokens cannot hold as many
            assert propose(ended, texts[number - 30][:5].tolist()) == [[]]
