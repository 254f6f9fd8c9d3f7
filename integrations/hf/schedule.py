"""Which heats are open, and whose members begin next."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contests import Contests
from flyball.integrations.hf.heat import Heat, Member

Ints = NDArray[np.int32]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry(Generic[Result]):
    """A heat and whose it is.

    Attributes:
        number: of the question.
        question: that made the heat.
        heat: of the question.
    """

    number: int
    question: Generator[Heat, None, Result]
    heat: Heat


class Schedule(Generic[Result]):
    """Opens heats one after the other, as rows are free for their members.

    A policy has then learned from the groups before. Where it decides without scores all open at
    once: it has nothing to learn them from, and a say in whose next member begins.

    Args:
        contests: the governor's.
        questions: not yet begun.

    Attributes:
        results: of the questions that have ended, by their numbers.
        open: heats by their groups.
    """

    def __init__(
        self, contests: Contests, questions: Iterable[Generator[Heat, None, Result]]
    ) -> None:
        self.results: dict[int, Result] = {}
        self.open: dict[int, Entry[Result]] = {}
        self._contests = contests
        self._new = deque(enumerate(questions))
        self._made: deque[Entry[Result]] = deque()
        self._order: list[Heat] = []  # open ones with members that wait, the next one first

    @property
    def num_waiting(self) -> int:
        """Members of open heats that have not begun."""
        return sum(len(heat.waiting) for heat in self._order)

    def next_members(self) -> Iterator[tuple[Heat, Member]]:
        """Of each heat who begins next, the first heat first; some have to wait for a prompt."""
        for heat in self._order:
            member = heat.next
            if member is not None and member.is_ready:
                yield heat, member

    def open_next(self) -> bool:
        """Open the next heat, or all; returns whether there was one."""
        opened = False
        while (self._made or self._new) and not (opened and not self._together):
            if not self._made:
                self.advance(*self._new.popleft())
                continue
            entry = self._made.popleft()
            self._open(entry)
            opened = True
        self.sort()
        return opened

    @property
    def _together(self) -> bool:
        policy = self._contests.policy
        return policy is not None and not policy.scores

    def _open(self, entry: Entry[Result]) -> None:
        heat = entry.heat
        sizes, keep = np.array([len(heat.members)], np.int32), np.array([heat.keep], np.int32)
        group = self._contests.open(sizes, keep)
        heat.group = int(group[0])
        heat.audited = bool(self._contests.audited(group)[0])
        heat.waiting.extend(range(len(heat.members)))
        self.open[heat.group] = entry

    def begin(self, heat: Heat) -> None:
        """A heat's next member begins."""
        place = heat.waiting.popleft()
        self._contests.begin(np.array([heat.group], np.int32), np.array([place], np.int32))
        if self._together:
            self.sort()

    def advance(self, number: int, question: Generator[Heat, None, Result]) -> Heat | None:
        """Let a question make its next heat, which is returned, or its result."""
        try:
            heat = next(question)
        except StopIteration as end:
            self.results[number] = end.value
            return None
        self._made.appendleft(Entry(number, question, heat))
        return heat

    def sort(self) -> None:
        """Put the heats in the order in which their members begin."""
        heats = [entry.heat for entry in self.open.values() if entry.heat.waiting]
        if len(heats) > 1:
            group = np.array([heat.group for heat in heats], np.int32)
            first = np.argsort(-self._contests.priority(group), kind="stable")
            heats = [heats[place] for place in first.tolist()]
        self._order = heats

    def drop(self) -> None:
        """Give up whatever is open."""
        for group, entry in self.open.items():
            size = len(entry.heat.members)
            self._contests.drop(np.full(size, group, np.int32), np.arange(size, dtype=np.int32))
        self.open = {}
