"""Runs the candidates of many questions as rows of one batch, and lets the governor stop some."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contests import Contests, Stops
from flyball.estimators.slots import SlotArray
from flyball.integrations.hf.heat import NEVER, Heat, Member, Origin, State
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.reviewer import Reviewer
from flyball.integrations.hf.room import Room
from flyball.integrations.hf.saved import SavedRow
from flyball.integrations.hf.schedule import Entry, Schedule
from flyball.integrations.hf.scoring import GuardedScorer
from flyball.integrations.hf.text import Texts

Bools = NDArray[np.bool_]
Save = Callable[[int], SavedRow]
Result = TypeVar("Result")


class Heats(Generic[Result]):
    """The loop's queue and watch during a search.

    A question is a generator: it yields heats, goes on when the last one has ended, and returns
    its result. Members that ended or passed a checkpoint are scored and reviewed together, see
    `Reviewer`. Where the policy compares only members that have come equally far, those
    ahead are parked: they leave with a copy of their cache and come back when the others are
    there. So do those for which memory is short.

    Args:
        contests: the governor's.
        scorer: of candidates; None where nobody needs scores.
        questions: not yet begun.
        num_rows: of the batch.
        memory_tokens: see `Room`.
        overshoot: tokens by which a round may pass a checkpoint.
    """

    def __init__(
        self,
        contests: Contests,
        scorer: GuardedScorer | None,
        questions: Iterable[Generator[Heat, None, Result]],
        num_rows: int,
        memory_tokens: int | None,
        overshoot: int,
    ) -> None:
        self._contests = contests
        self._scorer = scorer
        self._reviewer = Reviewer(contests, scorer)
        self._schedule = Schedule(contests, questions)
        self._checks = contests.checks
        self._num_rows = num_rows
        self._room = Room(memory_tokens, self._checks, overshoot)
        self._running: dict[int, tuple[Heat, Member]] = {}  # by request
        self._parked: dict[Member, Heat] = {}
        self._num_requests = 0
        self._due = SlotArray(NEVER, np.int64)  # tokens at each request's next checkpoint
        self._readers: dict[int, Origin] = {}  # requests that read for others, too
        self._parents: dict[int, set[int]] = {}  # of each question's heat, by their numbers
        self._picked: tuple[Heat, Member] | None = None  # who begins next, where it is known
        self._is_picked = False

    @property
    def results(self) -> dict[int, Result]:
        """Of the questions that have ended, by their numbers."""
        return self._schedule.results

    def close(self) -> None:
        """Give up whatever is open, after an error."""
        members = [m.number for entry in self._schedule.open.values() for m in entry.heat.members]
        self._forget(members)
        self._schedule.drop()

    @property
    def wants_entropy(self) -> bool:
        """Whether the scorer looks at entropies."""
        return self._scorer is not None and self._scorer.wants_entropy

    def __len__(self) -> int:
        """Candidates that wait in heats that are open, 0 where none may begin or go on now."""
        if not self._is_picked:
            self._picked, self._is_picked = self._pick(), True
        if self._picked is None:
            return 0
        return self._schedule.num_waiting + len(self._parked)

    def popleft(self) -> Callable[[], Prompts]:
        """Makes the prompt with which the next candidate begins."""
        assert self._picked is not None
        heat, member = self._picked
        self._is_picked = False
        if member.state is State.PARKED:
            del self._parked[member]
        else:
            self._schedule.begin(heat)
        request, self._num_requests = self._num_requests, self._num_requests + 1
        prompts, origin = heat.begin(member), member.origin
        if origin is not None and origin.saved is None and len(origin.tokens) > 1:
            origin.being_read = True
            self._readers[request] = origin
        member.state, member.origin = State.RUNNING, None
        self._running[request] = (heat, member)
        self._due.reset(np.array([request], np.int32))
        self._due.values[request] = member.next_check(self._checks)
        return functools.partial(lambda made: made, prompts)

    def _pick(self) -> tuple[Heat, Member] | None:
        """Who begins next, or goes on: first those that have come furthest."""
        blocked = False
        for heat, member in self._released():
            if self._fits(member):
                return heat, member
            blocked = True
        while True:
            for heat, member in self._schedule.next_members():
                if self._fits(member):
                    return heat, member
                blocked = True
            # A heat more would take the room from those that wait to go on, or to begin once
            # their prompt is read.
            if blocked or self._num_free <= self._schedule.num_waiting:
                return None
            if not self._schedule.open_next():
                return None

    @property
    def _num_free(self) -> int:
        return self._num_rows - len(self._running)

    def _released(self) -> list[tuple[Heat, Member]]:
        """Parked members that need not wait for others."""
        return [(heat, m) for m, heat in self._parked.items() if not self._is_held(heat, m)]

    def _is_held(self, heat: Heat, member: Member) -> bool:
        """Whether a member waits at a checkpoint that others have still to reach."""
        policy = self._contests.policy
        if policy is None or not policy.waits or heat.audited:
            return False
        return member.num_passed > heat.least_passed

    def _fits(self, member: Member) -> bool:
        return self._room.fits(member, (m for _, m in self._running.values()), self._parked)

    @property
    def _is_short(self) -> bool:
        """Whether candidates wait because memory is full."""
        ready = [*self._released(), *self._schedule.next_members()]
        return any(not self._fits(member) for _, member in ready)

    def look(self, texts: Texts, save: Save) -> Bools:
        """Note who ended or passed a checkpoint, review them; says which rows are to end."""
        self._share(texts, save)
        due = texts.finished | (texts.num_tokens >= self._due.values[texts.request])
        rows = np.flatnonzero(due).tolist()
        seen = [self._running[request] for request in texts.request[rows].tolist()]
        for row, (heat, member) in zip(rows, seen, strict=True):
            self._note(texts, row, heat, member, save)
            self._reviewer.note(heat, member)
        is_time = self._reviewer.is_time(not self._running)
        over = np.zeros(texts.num_rows, np.bool_)
        if not (seen or is_time):
            return over
        self._is_picked = False
        ended: list[Entry[Result]] = []
        if is_time:
            load = self._contests.load(texts.num_rows, self._is_short)
            for stops in self._reviewer.review(load):
                over |= self._stop(texts, stops)
                ended += [self._schedule.open.pop(group) for group in stops.ended.tolist()]
        over |= self._park(texts, seen, save)
        for entry in ended:
            self._close(entry)
        self._schedule.sort()
        return over

    def _share(self, texts: Texts, save: Save) -> None:
        """Keep what was read of the texts that others begin with, too."""
        if not self._readers:
            return
        self._is_picked = False
        for request, origin in self._readers.items():
            heat, _ = self._running[request]
            if any(heat.members[place].origin is origin for place in heat.waiting):
                origin.saved = save(int(np.flatnonzero(texts.request == request)[0]))
        self._readers = {}

    def _note(self, texts: Texts, row: int, heat: Heat, member: Member, save: Save) -> None:
        member.note(texts, row, self.wants_entropy)
        request = int(texts.request[row])
        member.num_passed = int(np.searchsorted(self._checks, member.num_tokens, side="right"))
        self._due.values[request] = member.next_check(self._checks)
        if texts.finished[row]:
            member.state = State.FINISHED
            del self._running[request]
            if heat.branches and not heat.has_ended(member):
                member.saved = save(row)

    def _stop(self, texts: Texts, stops: Stops) -> Bools:
        """Stop members; returns the rows (rows,) that they leave."""
        gone, running = [], []
        for group, place in zip(stops.group.tolist(), stops.member.tolist(), strict=True):
            heat = self._schedule.open[group].heat
            member = heat.members[place]
            if member.state is State.RUNNING:
                running.append(member)
            elif member.state is State.WAITING:
                heat.waiting.remove(place)
            elif member.state is State.PARKED:
                del self._parked[member]
            member.state, member.origin = State.STOPPED, None
            gone.append(member.number)
        self._forget(gone)
        return self._leave(texts, running, lambda *_: None)

    def _park(self, texts: Texts, seen: Sequence[tuple[Heat, Member]], save: Save) -> Bools:
        """Park members that are ahead of others or lack memory; returns the rows they leave."""

        def park(heat: Heat, member: Member, row: int) -> None:
            member.state = State.PARKED
            member.origin = member.here(save(row))
            self._parked[member] = heat

        held = [m for heat, m in seen if m.state is State.RUNNING and self._is_held(heat, m)]
        left = [member for _, member in self._running.values() if member not in held]
        surplus = self._room.surplus(left, [*self._parked, *held])
        return self._leave(texts, [*held, *surplus], park)

    def _leave(
        self, texts: Texts, members: Sequence[Member], then: Callable[[Heat, Member, int], None]
    ) -> Bools:
        """Take members out of the batch; returns their rows (rows,)."""
        over = np.zeros(texts.num_rows, np.bool_)
        if not members:
            return over
        for row, request in enumerate(texts.request.tolist()):
            # Who has finished leaves anyway.
            if request not in self._running:
                continue
            heat, member = self._running[request]
            if member in members:
                del self._running[request]
                member.note(texts, row, self.wants_entropy)
                over[row] = True
                then(heat, member, row)
        return over

    def _close(self, entry: Entry[Result]) -> None:
        """A heat has ended: its question goes on."""
        gone = self._parents.pop(entry.number, set())
        gone |= {m.number for m in entry.heat.members if m.state is not State.STOPPED}
        following = self._schedule.advance(entry.number, entry.question)
        if following is not None:
            self._parents[entry.number] = {member.parent for member in following.members}
            gone -= self._parents[entry.number]
        self._forget(sorted(gone))

    def _forget(self, numbers: Sequence[int]) -> None:
        if self._scorer is not None and len(numbers):
            self._scorer.forget(np.array(numbers))
