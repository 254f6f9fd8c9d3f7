"""What contests know of every member, and that faults of a policy stop nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.controller.contests import NO_ANSWER, Candidates, Contests, Stops
from flyball.controller.errors import HostError
from flyball.controller.guard import Guard
from flyball.controller.policy_file import PolicyFile
from flyball.policies.rejection.base import (
    Bools,
    Groups,
    Ints,
    Load,
    RejectionPolicy,
    RejectionSettings,
)

CHECKS = [4, 8, 16]
SETTINGS = RejectionSettings(policy="scripted", check_at_tokens=CHECKS)


class Scripted(RejectionPolicy):
    """Stops whom it is told, and remembers what it saw; every fault makes a new one of it."""

    audited = False
    victims: Callable[[Groups], Any] = staticmethod(lambda groups: np.zeros_like(groups.present))
    made: list[Scripted] = []

    def __init__(self, settings: Any, rng: np.random.Generator) -> None:
        super().__init__(settings, rng)
        self.seen: list[Groups] = []
        self.learned: list[Groups] = []
        Scripted.made.append(self)

    def audits(self, keep: Ints) -> Bools:
        return np.full(len(keep), self.audited)

    def decide(self, groups: Groups, load: Load) -> Any:
        self.seen.append(groups)
        return type(self).victims(groups)

    def learn(self, groups: Groups) -> None:
        self.learned.append(groups)


class ScriptedFile(PolicyFile):
    def make_rejection_policy(self, rng: np.random.Generator) -> RejectionPolicy:
        return Scripted(SETTINGS, rng)


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted.made = []
    monkeypatch.setattr(Scripted, "audited", False)
    monkeypatch.setattr(Scripted, "victims", staticmethod(lambda g: np.zeros_like(g.present)))


def stop_whom(monkeypatch: pytest.MonkeyPatch, victims: Callable[[Groups], Any]) -> None:
    monkeypatch.setattr(Scripted, "victims", staticmethod(victims))


def opened(*sizes: int, keep: int = 1) -> tuple[Contests, np.ndarray]:
    contests = Contests(ScriptedFile(version=1), Guard())
    return contests, open_more(contests, *sizes, keep=keep)


def open_more(contests: Contests, *sizes: int, keep: int = 1) -> np.ndarray:
    return contests.open(np.array(sizes, np.int32), np.full(len(sizes), keep, np.int32))


def tell(contests: Contests, *rows: tuple[Any, ...]) -> Stops:
    """Review of (group, member, num_tokens, score, finished, answer); the last two may lack."""
    full = [(*row, *(False, NO_ANSWER)[len(row) - 4 :]) for row in rows]
    group, member, tokens, score, finished, answer = zip(*full, strict=True)
    return contests.review(
        Candidates(
            np.array(group, np.int32),
            np.array(member, np.int32),
            np.array(tokens, np.int32),
            np.array(score, np.float64),
            np.array(finished, np.bool_),
            np.array(answer, np.int32),
        ),
        Load(),
    )


def last_seen() -> Groups:
    return Scripted.made[-1].seen[-1]


def test_scores_stand_at_the_checkpoints_that_were_passed() -> None:
    contests, group = opened(2)
    tell(contests, (group[0], 0, 4, 0.5))
    tell(contests, (group[0], 0, 9, 0.7), (group[0], 1, 3, 0.1))
    tell(contests, (group[0], 0, 15, 0.9))
    seen = last_seen()
    # 15 tokens have passed 8 and not 16: the later score takes the place of the one before
    np.testing.assert_array_equal(seen.score[0, 0], [0.5, 0.9, np.nan])
    assert np.isnan(seen.score[0, 1]).all()
    assert seen.num_passed[0].tolist() == [2, 0]
    assert seen.num_tokens[0].tolist() == [15, 3]
    assert seen.latest()[0, 0] == 0.9


def test_all_that_a_member_scored_may_be_told_at_its_end() -> None:
    contests, group = opened(2)
    rows = [(4, 0.5, False), (8, 0.7, False), (11, 0.9, True)]
    tell(contests, *[(group[0], member, *row) for row in rows for member in (0, 1)])
    (seen,) = Scripted.made[-1].learned
    np.testing.assert_array_equal(seen.score[0], [[0.5, 0.7, np.nan]] * 2)
    assert seen.final[0].tolist() == [0.9, 0.9]
    assert seen.num_tokens[0].tolist() == [11, 11]
    assert seen.finished.all()


def test_a_checkpoint_that_was_jumped_has_no_score() -> None:
    contests, group = opened(1)
    tell(contests, (group[0], 0, 20, 0.5))
    np.testing.assert_array_equal(last_seen().score[0, 0], [np.nan, np.nan, 0.5])
    assert last_seen().num_passed[0, 0] == 3


@pytest.mark.parametrize(("num_tokens", "num_passed"), [(7, 1), (8, 1), (9, 2)])
def test_whoever_ends_at_a_checkpoint_was_not_judged_there(
    num_tokens: int, num_passed: int
) -> None:
    contests, group = opened(2)
    tell(contests, (group[0], 0, 4, 0.2))
    tell(contests, (group[0], 0, num_tokens, 0.9, True))
    seen = last_seen()
    np.testing.assert_array_equal(seen.score[0, 0], [0.2, np.nan, np.nan])
    assert seen.final[0, 0] == 0.9
    assert seen.finished[0].tolist() == [True, False]
    assert seen.num_passed[0, 0] == num_passed
    assert seen.latest()[0, 0] == 0.9


def test_answers_are_kept() -> None:
    contests, group = opened(3)
    tell(contests, (group[0], 0, 5, np.nan, True, 0), (group[0], 2, 5, np.nan, True, 1))
    assert last_seen().answer[0].tolist() == [0, NO_ANSWER, 1]


def test_wider_groups_leave_the_others_as_they_were() -> None:
    contests, first = opened(2)
    tell(contests, (first[0], 1, 8, 0.5))
    second = open_more(contests, 5, 3, keep=2)
    tell(contests, (first[0], 0, 4, 0.1), (second[0], 4, 4, 0.2))
    seen = last_seen()
    assert seen.present.sum(axis=1).tolist() == [2, 5]
    assert seen.keep.tolist() == [1, 2]
    assert seen.score[0, 1, 1] == 0.5
    assert seen.score[1, 4, 0] == 0.2
    assert np.isnan(seen.score[0, 2:]).all()


def test_a_number_that_is_used_again_owes_nothing_to_the_group_before() -> None:
    contests, group = opened(3)
    tell(contests, *[(group[0], member, 8, 0.5, True, 1) for member in range(3)])
    again = open_more(contests, 2, keep=2)
    assert again.tolist() == group.tolist()
    tell(contests, (again[0], 0, 4, 0.3))
    seen = last_seen()
    assert seen.present[0].tolist() == [True, True]
    assert seen.keep.tolist() == [2]
    assert seen.answer[0].tolist() == [NO_ANSWER] * 2
    assert not seen.finished.any()
    assert np.isnan(seen.final).all()
    assert seen.num_tokens[0].tolist() == [4, 0]


def test_a_group_ends_once_and_is_learned_from() -> None:
    contests, group = opened(2, 1)
    assert tell(contests, (group[0], 0, 5, 0.5, True)).ended.tolist() == []
    stops = tell(contests, (group[0], 1, 6, 0.6, True), (group[1], 0, 2, 0.1))
    assert stops.ended.tolist() == [group[0]]
    learned = Scripted.made[-1].learned
    assert len(learned) == 1
    np.testing.assert_array_equal(learned[0].final, [[0.5, 0.6]])
    assert contests.drop(group[1:], np.zeros(1, np.int32)).tolist() == [group[1]]
    assert len(learned) == 2
    assert learned[1].stopped[0].tolist() == [True]  # as wide as the widest that ended


def test_whoever_the_host_drops_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    contests, group = opened(3)
    assert contests.drop(np.repeat(group, 1), np.array([1], np.int32)).tolist() == []
    stop_whom(monkeypatch, lambda groups: groups.present)
    stops = tell(contests, (group[0], 0, 5, 0.5, True))
    assert stops.member.tolist() == [2]
    assert stops.ended.tolist() == [group[0]]
    assert contests.num_stopped == 1


def test_only_who_goes_on_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    contests, group = opened(4, 2)
    tell(contests, (group[0], 0, 5, 0.5, True))
    stop_whom(monkeypatch, lambda groups: np.ones(groups.present.shape, np.bool_))
    stops = tell(contests, (group[0], 1, 4, 0.1), (group[1], 0, 4, 0.1))
    found = list(zip(stops.group.tolist(), stops.member.tolist(), strict=True))
    assert found == [(group[0], 1), (group[0], 2), (group[0], 3), (group[1], 0), (group[1], 1)]
    assert sorted(stops.ended.tolist()) == sorted(group.tolist())
    assert contests.num_stopped == 5


def test_nobody_of_an_audited_group_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "audited", True)
    stop_whom(monkeypatch, lambda groups: np.ones(groups.present.shape, np.bool_))
    contests, group = opened(3)
    assert contests.num_audited == contests.num_groups == 1
    assert len(tell(contests, (group[0], 0, 4, 0.1)).member) == 0
    assert last_seen().audited.tolist() == [True]
    assert contests.num_stopped == 0


@pytest.mark.parametrize(("sizes", "keep"), [([0], [1]), ([2, -1], [1, 1]), ([2], [0])])
def test_groups_without_members_or_winners_are_refused(sizes: list[int], keep: list[int]) -> None:
    contests, _ = opened(2)
    with pytest.raises(HostError, match="at least 1 member and 1 winner"):
        contests.open(np.array(sizes, np.int32), np.array(keep, np.int32))


def test_no_groups_and_no_candidates_are_fine() -> None:
    contests, _ = opened(2)
    assert len(open_more(contests)) == 0
    nothing = np.zeros(0, np.int32)
    empty = Candidates(nothing, nothing, nothing, nothing * 0.5, nothing > 0, nothing)
    stops = contests.review(empty, Load())
    assert [len(values) for values in (stops.group, stops.member, stops.ended)] == [0, 0, 0]
    assert contests._guard.faults == {}


def test_without_a_section_nobody_is_stopped() -> None:
    contests = Contests(PolicyFile(version=1), Guard())
    assert contests.policy is None
    assert contests.checks.tolist() == []
    group = open_more(contests, 3)
    assert len(tell(contests, (group[0], 0, 4, -9.0)).member) == 0
    ends = tell(contests, *[(group[0], member, 5, 0.5, True) for member in range(3)])
    assert ends.ended.tolist() == group.tolist()
    assert contests.priority(open_more(contests, 2, 2)).tolist() == [0.0, 0.0]
    assert contests.num_audited == contests.num_stopped == 0


def boom(*_: Any) -> Any:
    raise RuntimeError("injected")


BAD_ANSWERS: dict[str, Callable[[Groups], Any]] = {
    "raises": boom,
    "nothing": lambda groups: None,
    "list": lambda groups: groups.present.tolist(),
    "one for each group": lambda groups: groups.present.any(axis=1),
    "too wide": lambda groups: np.ones((len(groups.keep), groups.present.shape[1] + 1), np.bool_),
    "floats": lambda groups: groups.present.astype(float),
    "nan": lambda groups: np.full(groups.present.shape, np.nan),
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
def test_a_decision_that_makes_no_sense_stops_nobody(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contests, group = opened(3)
    first = contests.policy
    stop_whom(monkeypatch, BAD_ANSWERS[bad])
    stops = tell(contests, (group[0], 0, 4, 0.1))
    assert len(stops.member) == len(stops.ended) == 0
    assert contests._guard.faults == {"rejection": 1}
    assert contests.policy is not first
    stop_whom(monkeypatch, lambda groups: groups.present)
    assert tell(contests, (group[0], 0, 8, 0.1)).member.tolist() == [0, 1, 2]
    assert contests._guard.faults == {"rejection": 1}


@pytest.mark.parametrize("answer", [boom, lambda *_: None, lambda *_: np.ones(7, np.bool_)])
def test_a_faulty_audit_audits_nobody(
    answer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "audits", answer)
    contests, _ = opened(3)
    assert contests._guard.faults == {"rejection": 1}
    assert (contests.num_groups, contests.num_audited) == (1, 0)
    assert len(Scripted.made) == 2


def test_a_policy_that_cannot_learn_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "learn", boom)
    contests, group = opened(1)
    assert tell(contests, (group[0], 0, 5, 0.5, True)).ended.tolist() == group.tolist()
    assert contests._guard.faults == {"rejection": 1}
    assert len(Scripted.made) == 2
    assert open_more(contests, 1).tolist() == group.tolist()  # its number is free again


def test_a_faulty_priority_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "priority", boom)
    contests, group = opened(2, 2)
    assert contests.priority(group).tolist() == [0.0, 0.0]
    assert contests._guard.faults == {"rejection": 1}


class Plain:
    """What contests should know, member by member."""

    def __init__(self, num_members: int) -> None:
        self.tokens = [0] * num_members
        self.alive = [True] * num_members
        self.score: list[dict[int, float]] = [{} for _ in range(num_members)]
        self.final: list[float | None] = [None] * num_members

    def agrees(self, groups: Groups, row: int) -> None:
        n = len(self.tokens)
        assert groups.present[row].sum() == n
        assert groups.num_tokens[row, :n].tolist() == self.tokens
        assert groups.alive[row, :n].tolist() == self.alive
        for member in range(n):
            expected = [self.score[member].get(c, np.nan) for c in range(len(CHECKS))]
            np.testing.assert_array_equal(groups.score[row, member], expected)
            final = self.final[member]
            assert groups.final[row, member] == final or final is None


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_books_agree_with_plain_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contests = Contests(ScriptedFile(version=1), Guard())
    books: dict[int, Plain] = {}
    for _ in range(25):
        if rng.random() < 0.3 or not books:
            size = int(rng.integers(1, 7))
            number = int(open_more(contests, size)[0])
            assert number not in books
            books[number] = Plain(size)
        rows: list[tuple[Any, ...]] = []
        for number, book in books.items():
            for member in np.flatnonzero(book.alive).tolist():
                if rng.random() < 0.5:
                    continue
                book.tokens[member] += int(rng.integers(1, 9))
                ends, score = bool(rng.random() < 0.3), float(rng.normal())
                rows.append((number, member, book.tokens[member], score, ends))
                passed = sum(book.tokens[member] >= check for check in CHECKS)
                if ends:
                    book.alive[member], book.final[member] = False, score
                elif passed:
                    book.score[member][passed - 1] = score
        if not rows:
            continue
        ended = tell(contests, *rows).ended.tolist()
        seen, reviewed = last_seen(), sorted({row[0] for row in rows})
        for row, number in enumerate(reviewed):
            books[number].agrees(seen, row)
        over = [number for number in reviewed if not any(books[number].alive)]
        assert sorted(ended) == over
        for number in over:
            del books[number]
    assert contests._guard.faults == {}
