"""Runs the candidates of many questions as rows of one batch, and lets the governor stop some."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contests import NO_ANSWER, Candidates, Contests, Stops
from flyball.estimators.slots import SlotArray
from flyball.integrations.hf.heat import Heat, Member, Origin, State
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.saved import SavedRow
from flyball.integrations.hf.scorers import Partial
from flyball.integrations.hf.scoring import GuardedScorer
from flyball.integrations.hf.text import Texts
from flyball.policies.rejection.base import Load

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Result = TypeVar("Result")
Save = Callable[[int], SavedRow]

_NEVER = 2**62  # tokens


class Heats(Generic[Result]):
    """The loop's queue and watch during a search.

    A question is a generator: it yields heats, goes on when the last one has ended, and returns
    its result. Heats open one after the other, as rows are free for their members, so that a
    policy has learned from the ones before; all at once where a policy decides without scores,
    which has a say in whose next member begins.

    Members that ended or passed a checkpoint in a round are scored in one call and reviewed
    together. Where the policy compares only members that have come equally far, those ahead are
    parked: they leave with a copy of their cache and come back when the others are there.

    With `memory_tokens` rows times the longest text that any of them may reach before its next
    checkpoint, parked texts on top, stay within that: many short beginnings run together, fewer
    go on beyond a checkpoint, and the others are parked until there is room. One row always runs.

    Args:
        contests: the governor's.
        scorer: of candidates; None where nobody needs scores.
        questions: not yet begun.
        memory_tokens: tokens of keys and values; None without a bound.
        overshoot: tokens by which a round may pass a checkpoint.

    Attributes:
        results: of the questions that have ended, by their numbers.
    """

    def __init__(
        self,
        contests: Contests,
        scorer: GuardedScorer | None,
        questions: Iterable[Generator[Heat, None, Result]],
        memory_tokens: int | None,
        overshoot: int,
    ) -> None:
        self.results: dict[int, Result] = {}
        self._contests = contests
        self._scorer = scorer
        self._memory_tokens = memory_tokens
        self._overshoot = overshoot
        self._new = deque(enumerate(questions))
        self._made: deque[tuple[int, Generator[Heat, None, Result], Heat]] = deque()
        self._open: dict[int, tuple[int, Generator[Heat, None, Result], Heat]] = {}
        self._order: list[Heat] = []  # open ones with members that wait, the next one first
        self._parked: dict[Member, Heat] = {}
        self._rows: dict[int, tuple[Heat, Member]] = {}  # by request
        self._num_requests = 0
        self._due = SlotArray(_NEVER, np.int64)  # tokens at each request's next checkpoint
        self._parents: dict[int, set[int]] = {}  # of each question's heat, by their numbers
        self._readers: dict[int, Origin] = {}  # requests that read for others, too
        self._picked: tuple[Heat, Member] | None = None

    # The queue.

    def __len__(self) -> int:
        """Candidates that wait in heats that are open, 0 where none may begin or go on now."""
        if self._picked is None:
            self._picked = self._pick()
        if self._picked is None:
            return 0
        return sum(len(heat.waiting) for heat in self._order) + len(self._parked)

    def popleft(self) -> Callable[[], Prompts]:
        """Makes the prompt with which the next candidate begins."""
        assert self._picked is not None
        heat, member = self._picked
        self._picked = None
        if member.state is State.PARKED:
            del self._parked[member]
        else:
            heat.waiting.popleft()
        request, self._num_requests = self._num_requests, self._num_requests + 1
        prompts = heat.begin(member)
        assert member.origin is not None
        if member.origin.saved is None and len(member.origin.tokens) > 1:
            member.origin.being_read = True
            self._readers[request] = member.origin
        member.state, member.origin = State.RUNNING, None
        self._rows[request] = (heat, member)
        self._due.reset(np.array([request], np.int32))
        self._due.values[request] = self._next_check(member)
        return functools.partial(lambda made: made, prompts)

    def _pick(self) -> tuple[Heat, Member] | None:
        """Who begins next, or goes on: first those that have come furthest."""
        blocked = False
        for member, heat in self._parked.items():
            if not self._is_held(heat, member):
                if self._fits(member):
                    return heat, member
                blocked = True
        while True:
            for heat in self._order:
                following = heat.next
                if following is not None and following.is_ready:
                    if self._fits(following):
                        return heat, following
                    blocked = True
            if blocked or not self._open_next():
                return None

    def _open_next(self) -> bool:
        """Open the next heat, or all at once; returns whether there was one."""
        policy = self._contests.policy
        together = policy is not None and not policy.scores
        opened = False
        while (self._made or self._new) and not (opened and not together):
            if not self._made:
                self._advance(*self._new.popleft())
                continue
            number, question, heat = self._made.popleft()
            size = np.array([len(heat.members)], np.int32)
            before = self._contests.num_audited
            heat.group = int(self._contests.open(size, np.array([heat.keep], np.int32))[0])
            heat.audited = self._contests.num_audited > before
            heat.waiting.extend(range(len(heat.members)))
            self._open[heat.group] = (number, question, heat)
            opened = True
        self._sort()
        return opened

    def _advance(self, number: int, question: Generator[Heat, None, Result]) -> None:
        """Let a question make its next heat, or its result."""
        try:
            self._made.appendleft((number, question, next(question)))
        except StopIteration as end:
            self.results[number] = end.value

    def _sort(self) -> None:
        """Put the heats in the order in which their members begin."""
        heats = [heat for _, _, heat in self._open.values() if heat.waiting]
        if len(heats) > 1:
            group = np.array([heat.group for heat in heats], np.int32)
            first = np.argsort(-self._contests.priority(group), kind="stable")
            heats = [heats[place] for place in first.tolist()]
        self._order = heats

    def _is_held(self, heat: Heat, member: Member) -> bool:
        """Whether a member waits at a checkpoint that others have still to reach."""
        policy = self._contests.policy
        return policy is not None and policy.waits and member.num_passed > heat.least_passed

    # The watch.

    def look(self, texts: Texts, save: Save) -> Bools:
        """Score and review whoever ended or passed a checkpoint; says which rows are to end."""
        self._picked = None
        over = np.zeros(texts.num_rows, np.bool_)
        if self._readers:
            self._share(texts, save)
        due = np.flatnonzero(
            texts.finished | (texts.num_tokens >= self._due.values[texts.request])
        )
        if len(due):
            seen = [self._rows[request] for request in texts.request[due].tolist()]
            for row, (heat, member) in zip(due.tolist(), seen, strict=True):
                self._note(texts, row, heat, member, save)
            stops = self._review(seen)
            ended = [self._open.pop(group) for group in stops.ended.tolist()]
            over |= self._stop(texts, seen, stops)
            over |= self._park(texts, seen, save)
            for number, question, heat in ended:
                self._close(number, question, heat)
            self._sort()
        return over

    def _share(self, texts: Texts, save: Save) -> None:
        """Keep what was read of the texts that others begin with, too."""
        for request, origin in self._readers.items():
            row = int(np.flatnonzero(texts.request == request)[0])
            heat, _ = self._rows[request]
            if any(heat.members[place].origin is origin for place in heat.waiting):
                origin.saved = save(row)
        self._readers = {}

    def _note(self, texts: Texts, row: int, heat: Heat, member: Member, save: Save) -> None:
        member.note(texts, row)
        request = int(texts.request[row])
        member.num_passed = int(
            np.searchsorted(self._contests.checks, self._num_tokens(member), side="right")
        )
        self._due.values[request] = self._next_check(member)
        if texts.finished[row]:
            member.state = State.FINISHED
            del self._rows[request]
            if heat.branches and not heat.has_ended(member):
                member.saved = save(row)

    def _num_tokens(self, member: Member) -> int:
        return len(member.tokens) - member.start

    def _next_check(self, member: Member) -> int:
        """Tokens of its text at its next checkpoint."""
        checks = self._contests.checks
        if member.num_passed == len(checks):
            return _NEVER
        return member.start + int(checks[member.num_passed])

    def _review(self, seen: Sequence[tuple[Heat, Member]]) -> Stops:
        """Score these members and ask who is to stop."""
        scores = self._score(seen)
        answers = []
        for (heat, member), score in zip(seen, scores.tolist(), strict=True):
            finished = member.state is State.FINISHED
            if not np.isnan(score) or finished:
                member.score = score
            answers.append(heat.number_answer(member) if finished else NO_ANSWER)
        places = [heat.members.index(member) for heat, member in seen]
        candidates = Candidates(
            group=np.array([heat.group for heat, _ in seen], np.int32),
            member=np.array(places, np.int32),
            num_tokens=np.array([self._num_tokens(member) for _, member in seen], np.int32),
            score=scores,
            finished=np.array([member.state is State.FINISHED for _, member in seen]),
            answer=np.array(answers, np.int32),
        )
        return self._contests.review(candidates, Load(memory_short=self._is_short))

    def _score(self, seen: Sequence[tuple[Heat, Member]]) -> Floats:
        """Scores of those that need one."""
        scores = np.full(len(seen), np.nan)
        policy = self._contests.policy
        at_checks = policy is not None and policy.scores
        wanted = [
            place
            for place, (_, member) in enumerate(seen)
            if at_checks or member.state is State.FINISHED
        ]
        if self._scorer is None or not wanted:
            return scores
        pairs = [seen[place] for place in wanted]
        scores[wanted] = self._scorer(
            Partial(
                candidate=np.array([member.number for _, member in pairs]),
                parent=np.array([member.parent for _, member in pairs]),
                tokens=[member.tokens for _, member in pairs],
                prompt_len=np.array([heat.prompt_len for heat, _ in pairs]),
                finished=np.array([_is_over(heat, member) for heat, member in pairs]),
                log_prob=[member.log_prob for _, member in pairs],
                entropy=[np.zeros(0) for _ in pairs],
            )
        )
        return scores

    def _stop(self, texts: Texts, seen: Sequence[tuple[Heat, Member]], stops: Stops) -> Bools:
        """Stop members; returns the rows (rows,) that they leave."""
        heats = {heat.group: heat for heat, _ in seen}
        over = np.zeros(texts.num_rows, np.bool_)
        rows = self._rows_of(texts)
        numbers = []
        for group, place in zip(stops.group.tolist(), stops.member.tolist(), strict=True):
            heat = heats[group]
            member = heat.members[place]
            if member.state is State.RUNNING:
                row = rows[member]
                member.note(texts, row)
                over[row] = True
                del self._rows[int(texts.request[row])]
            elif member.state is State.WAITING:
                heat.waiting.remove(place)
            else:
                del self._parked[member]
            member.state, member.origin = State.STOPPED, None
            numbers.append(member.number)
        self._forget(numbers)
        return over

    def _rows_of(self, texts: Texts) -> dict[Member, int]:
        """Rows of the members that run."""
        return {
            self._rows[request][1]: row
            for row, request in enumerate(texts.request.tolist())
            if request in self._rows
        }

    def _park(self, texts: Texts, seen: Sequence[tuple[Heat, Member]], save: Save) -> Bools:
        """Park members that are ahead of others or lack memory; returns the rows they leave."""
        over = np.zeros(texts.num_rows, np.bool_)
        rows = self._rows_of(texts)
        held = [m for heat, m in seen if m.state is State.RUNNING and self._is_held(heat, m)]
        for member in [*held, *self._too_many(held)]:
            row = rows[member]
            member.note(texts, row)
            heat, _ = self._rows.pop(int(texts.request[row]))
            member.state = State.PARKED
            member.origin = Origin(member.tokens, member.log_prob, save(row))
            self._parked[member] = heat
            over[row] = True
        return over

    def _close(self, number: int, question: Generator[Heat, None, Result], heat: Heat) -> None:
        """A heat has ended: its question goes on."""
        gone = self._parents.pop(number, set())
        gone |= {m.number for m in heat.members if m.state is not State.STOPPED}
        self._advance(number, question)
        if number not in self.results:
            _, _, following = self._made[0]
            self._parents[number] = {member.parent for member in following.members}
            gone -= self._parents[number]
        self._forget(sorted(gone))

    def _forget(self, numbers: Sequence[int]) -> None:
        if self._scorer is not None and len(numbers):
            self._scorer.forget(np.array(numbers))

    # Memory.

    def _reach(self, member: Member) -> int:
        """Tokens that a member's text may have before it can be parked."""
        return min(self._next_check(member) + self._overshoot, member.max_length)

    def _fits(self, member: Member) -> bool:
        """Whether a member may take a row."""
        if self._memory_tokens is None or not self._rows:
            return True
        own = len(member.tokens) if member.state is State.PARKED else 0
        reaches = [self._reach(other) for _, other in self._rows.values()]
        longest = max(self._reach(member), *reaches)
        needed = (len(reaches) + 1) * longest + self._parked_tokens - own
        return needed <= self._memory_tokens

    @property
    def _parked_tokens(self) -> int:
        return sum(len(member.tokens) for member in self._parked)

    @property
    def _is_short(self) -> bool:
        """Whether candidates wait because memory is full."""
        if self._memory_tokens is None:
            return False
        ready = [m for m, heat in self._parked.items() if not self._is_held(heat, m)]
        ready += [member for heat in self._order if (member := heat.next) is not None]
        return any(not self._fits(member) for member in ready)

    def _too_many(self, held: Sequence[Member]) -> list[Member]:
        """Members that have to make way now, those that need most first."""
        if self._memory_tokens is None:
            return []
        left = [member for _, member in self._rows.values() if member not in held]
        left.sort(key=self._reach)
        parked = self._parked_tokens + sum(len(member.tokens) for member in held)
        gone = []
        while len(left) > 1 and len(left) * self._reach(left[-1]) + parked > self._memory_tokens:
            gone.append(left.pop())
            parked += len(gone[-1].tokens)
        return gone

    def close(self) -> None:
        """Give up whatever is open, after an error or at the end."""
        for group, (_, _, heat) in self._open.items():
            size = len(heat.members)
            self._contests.drop(np.full(size, group, np.int32), np.arange(size, dtype=np.int32))
        self._open = {}


def _is_over(heat: Heat, member: Member) -> bool:
    return member.state is State.FINISHED and heat.has_ended(member)
