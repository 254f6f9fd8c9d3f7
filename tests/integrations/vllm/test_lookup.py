"""The drafter that looks up proposes what stood behind the same tokens, here or elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from flyball.integrations.outputs import EndedTexts
from flyball.integrations.vllm.lookup import LookupDrafter

ROWS, WIDTH, MOST = 6, 256, 4


class Engine:
    """As much of vLLM's batch as the drafter sees."""

    def __init__(self) -> None:
        scheduler = SimpleNamespace(max_num_seqs=ROWS)
        speculative = SimpleNamespace(num_speculative_tokens=MOST)
        self.drafter = LookupDrafter(
            SimpleNamespace(scheduler_config=scheduler, speculative_config=speculative)
        )
        self.host = np.zeros((ROWS, WIDTH), np.int32)

    def propose(self, *texts: list[int], new: int = 1) -> list[list[int]]:
        """Drafts for these texts, in the first rows."""
        for row, text in enumerate(texts):
            self.host[row, : len(text)] = text
        sizes = np.array([len(text) for text in texts], np.int32)
        return self.drafter.propose([[0] * new for _ in texts], sizes, self.host)


def test_a_texts_own_words_go_on_as_before() -> None:
    engine = Engine()
    assert engine.propose([1, 2, 3, 4, 5, 6, 1, 2, 3], [7, 8, 9]) == [[4, 5, 6, 1], []]
    assert engine.propose([1, 2, 3, 4, 5, 6, 1, 2, 3, 4], [7, 8, 9, 8]) == [
        [5, 6, 1, 2],
        [9, 8, 9, 8],
    ]


def test_a_row_that_reads_its_prompt_gets_nothing() -> None:
    engine = Engine()
    assert engine.propose([1, 2, 3, 1, 2], new=0) == [[]]
    assert engine.drafter.propose([], np.zeros(0, np.int32), engine.host) == []


@pytest.mark.parametrize("leaves", ["its row is taken", "its row is empty"])
def test_texts_that_ended_are_repeated(leaves: str) -> None:
    engine, story = Engine(), list(range(20, 60))
    engine.propose([1, 2], story)
    if leaves == "its row is empty":
        engine.propose([1, 2, 3])
    engine.propose([1, 2, 3, 4], [5, 6, 7])
    assert engine.propose([1, 2, 3, 4, 5], [5, 6, 7, 30, 31, 32]) == [[], [33, 34, 35, 36]]


def test_rows_that_change_places_are_seen() -> None:
    engine = Engine()
    one, other = [1, 2, 3, 4, 1, 2], [11, 12, 13, 14, 11, 12]
    engine.propose(one, other)
    assert engine.propose([*other, 13], [*one, 3]) == [[14, 11, 12, 13], [4, 1, 2, 3]]
    assert engine.propose([*one, 3, 4]) == [[1, 2, 3, 4]]


def test_a_text_that_moved_has_not_ended() -> None:
    engine = Engine()
    story, short = list(range(100, 140)), [1, 2, 3]
    engine.propose(short, story)
    engine.propose([*story, 140])  # it moved into the row of the short one, which ended
    assert engine.propose([*story, 140, 141], [7, 110, 111]) == [[], []]
    assert engine.propose([*story, 140, 141, 142], [7, 110, 111, 1, 2]) == [[], [3]]
    assert not engine.drafter._guard.faults


def test_the_source_that_is_right_is_taken() -> None:
    """Both have an offer each time, of equal n-grams: the text's own is wrong, the other right."""
    engine, rng = Engine(), np.random.default_rng(0)
    script = rng.permutation(2000)[:200].tolist()
    engine.propose([1], script)
    text = [3]
    engine.propose(text)
    right = 0
    for step in range(60):
        word = script[2 * step]
        text += [word, 5000 + step, word]  # what stands behind the word here is never true
        (draft,) = engine.propose(text)
        right += draft[:1] == [script[2 * step + 1]]
        text.append(script[2 * step + 1])
        engine.propose(text)
    assert right >= 50


def test_a_fault_costs_drafts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, text = Engine(), [1, 2, 3, 1, 2]
    with monkeypatch.context() as broken:
        broken.setattr(EndedTexts, "propose", None)
        assert engine.propose(text) == [[]]
    drafts = [engine.propose([*text, 3])[0] for _ in range(200)]
    first = next(step for step, draft in enumerate(drafts) if draft)
    assert drafts[:first] == [[]] * first and drafts[first:] == [[1, 2, 3, 1]] * (200 - first)


def test_whatever_the_batch_does_drafts_are_tokens() -> None:
    engine, rng = Engine(), np.random.default_rng(1)
    texts: list[list[int]] = []
    for _ in range(600):
        texts = [text for text in texts if len(text) < 200 and rng.random() > 0.05]
        if rng.random() < 0.1:
            rng.shuffle(texts)
        while len(texts) < ROWS and rng.random() < 0.5:
            texts.append(rng.integers(0, 5, rng.integers(1, 40)).tolist())
        drafts = engine.propose(*texts)
        assert len(drafts) == len(texts)
        for text, draft in zip(texts, drafts, strict=True):
            assert len(draft) <= MOST and all(0 <= token < 5 for token in draft)
            text += [*draft[: rng.integers(0, MOST + 1)], int(rng.integers(0, 5))]
    assert not engine.drafter._guard.faults
