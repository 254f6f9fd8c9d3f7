"""Beam searches side by side, as `search` runs them where all their rows fit one batch.

Beams, contests and reviews are the search's own, and come in its order; what the models say is
looked up (`Prefixes`). Operations are counted as the search counts them: a prompt is read once,
every token by the solver at its context, and by the judge once where candidates share it, unless
they were told together.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from benchmarks.rejection_best import TIE
from benchmarks.rejection_pool import MAX_NEW_TOKENS
from benchmarks.rejection_prefixes import Prefixes, Steps
from flyball.controller.contests import NO_ANSWER, Candidates, Contests
from flyball.integrations.hf.flops import forward_flops
from flyball.integrations.hf.heat import Heat, State
from flyball.integrations.hf.processors import Processors
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.question import Question
from flyball.integrations.hf.search_beam import Beams, beam_search
from flyball.integrations.hf.search_result import SearchResult
from flyball.integrations.hf.text import Ending
from flyball.policies.rejection.base import Load

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_Told = tuple[Any, ...]  # the fields of `Candidates`
Search = Generator[Heat, None, SearchResult]


@dataclass
class Tally:
    """What searches took, and what became of their steps.

    Attributes:
        flops: of solver and judge.
        num_tokens: generated, by stopped candidates too.
        num_free: steps that were not audited.
        num_wrong: of them those whose best was stopped, and nobody as good went on.
    """

    flops: float = 0.0
    num_tokens: int = 0
    num_free: int = 0
    num_wrong: int = 0


@dataclass
class _Step:
    """A heat under way.

    Attributes:
        number: of the problem.
        search: that made the heat.
        heat: the step.
        texts: its members', to their ends.
        start: (n,) tokens with which they began.
        at: (n,) tokens that each has generated.
        going: (n,) whether it has neither ended nor been stopped.
        read: texts that the judge has read.
        contexts: of all tokens that it has read.
        told: what is to be said once it has ended, where nobody can be stopped.
    """

    number: int
    search: Search
    heat: Heat
    texts: Steps
    start: Ints
    at: Ints
    going: Bools
    read: set[int] = field(default_factory=set)
    contexts: list[int] = field(default_factory=list)
    told: list[_Told] = field(default_factory=list)

    @property
    def ended(self) -> Bools:
        """Members (n,) whose last token is the last of the step."""
        return self.at == self.texts.length

    def judge(self, members: Ints) -> None:
        """The judge reads these members (m,)."""
        new: set[int] = set()
        for place in members.tolist():
            path = self.texts.node[place, : self.at[place]].tolist()
            if path[-1] not in new:
                # Texts that are told together are read side by side, whatever they have in common.
                known = [text in self.read for text in path]
                first = len(path) if all(known) else known.index(False)
                before = int(self.start[place]) - 1
                self.contexts += range(before + first, before + len(path))
                new.update(path)
        self.read |= new


class Turn:
    """Searches for the answers to some problems.

    Args:
        contests: of a policy.
        prefixes: of all problems.
        beams: how they grow.
        models: solver and judge, for their sizes.
        eos: ends a text.
        tally: to add to.
    """

    def __init__(
        self,
        contests: Contests,
        prefixes: Prefixes,
        beams: Beams,
        models: tuple[PreTrainedModel, PreTrainedModel],
        eos: int,
        tally: Tally,
    ) -> None:
        self._contests = contests
        self._prefixes = prefixes
        self._beams = beams
        self._models = models
        self._eos = eos
        self._tally = tally
        self._made: deque[tuple[int, Search, Heat]] = deque()
        self._open: dict[int, _Step] = {}  # by groups
        self._node: dict[int, int] = {}  # texts of finished members, by their numbers
        self._numbers = itertools.count()
        self._results: dict[int, SearchResult] = {}

    def run(self, numbers: Sequence[int], seeds: Sequence[int]) -> list[SearchResult]:
        """Results for problems of these numbers, whose candidates come from these seeds."""
        for number, seed in zip(numbers, seeds, strict=True):
            question = Question(self._maker(number), seed, self._numbers.__next__)
            self._advance(number, beam_search(question, self._beams))
            self._count_prompt(number)
            self._begin()
        # Whoever reads a prompt settles its first token with it, a round before the others.
        self._round([(step, np.array([0])) for step in self._open.values()])
        while self._open or self._made:
            while self._made:
                self._begin()
            self._round([(step, self._running(step)) for step in self._open.values()])
        return [self._results[number] for number in numbers]

    def _maker(self, number: int) -> Callable[[], Prompts]:
        def make() -> Prompts:
            tokens = np.array([self._prefixes.prompts[number]])
            full = tokens.shape[1] + MAX_NEW_TOKENS
            ending = Ending(full, np.array([self._eos]), np.inf, StoppingCriteriaList())
            nothing = Processors(LogitsProcessorList())
            return Prompts(tokens, np.zeros(1, np.int64), ending, nothing)

        return make

    def _advance(self, number: int, search: Search) -> None:
        """The next step of a problem, or its result."""
        try:
            self._made.appendleft((number, search, next(search)))
        except StopIteration as end:
            self._results[number] = end.value

    def _begin(self) -> None:
        """Open the step that was made last."""
        number, search, heat = self._made.popleft()
        members, size = heat.members, len(heat.members)
        sizes, keep = np.array([size], np.int32), np.array([heat.keep], np.int32)
        group = self._contests.open(sizes, keep)
        heat.group, heat.audited = int(group[0]), bool(self._contests.audited(group)[0])
        self._contests.begin(group.repeat(size), np.arange(size, dtype=np.int32))
        node = np.array([number if m.parent < 0 else self._node[m.parent] for m in members])
        start = np.array([member.start for member in members])
        limit = np.array([member.max_length for member in members]) - start
        seeds = [member.seed for member in members]
        texts = self._prefixes.grow(node, seeds, start - heat.prompt_len, limit)
        for member in members:
            member.state, member.origin = State.RUNNING, None
        none = np.zeros(size, np.int64)
        self._open[heat.group] = _Step(number, search, heat, texts, start, none, none == 0)

    def _running(self, step: _Step) -> Ints:
        """Members that go on, but for those that are held until others have come as far."""
        policy = self._contests.policy
        if policy is None or not policy.waits or step.heat.audited:
            return np.flatnonzero(step.going)
        passed = np.searchsorted(self._contests.checks, step.at, side="right")
        return np.flatnonzero(step.going & (passed <= passed[step.going].min()))

    def _round(self, rows: list[tuple[_Step, Ints]]) -> None:
        """A token more for these members; those that are due are scored and reviewed."""
        policy = self._contests.policy
        every = policy is not None and policy.scores
        ended: list[_Told] = []
        seen: list[_Told] = []
        for step, members in rows:
            step.at[members] += 1
            due = step.ended | np.isin(step.at, self._contests.checks)
            due = members[due[members]]
            if not len(due):
                continue
            told = self._look(step, due, every)
            if not self._told_at_end(step):
                seen.append(told)
                continue
            step.told.append(told)
            if not step.going.any():
                ended += step.told
        for some in (ended, seen):
            if some:
                self._review(some)

    def _review(self, told: list[_Told]) -> None:
        """Ask the policy about members, and stop whom it stops."""
        candidates = Candidates(*map(np.concatenate, zip(*told, strict=True)))
        stops = self._contests.review(candidates, Load())
        for number, place in zip(stops.group.tolist(), stops.member.tolist(), strict=True):
            step = self._open[number]
            step.going[place] = False
            member, text = step.heat.members[place], step.texts.node[place, step.at[place] - 1]
            member.state, member.tokens = State.STOPPED, self._tokens(step.number, text)
        for number in stops.ended.tolist():
            step = self._open.pop(number)
            self._count(step)
            self._advance(step.number, step.search)

    def _look(self, step: _Step, due: Ints, every: bool) -> _Told:
        """What there is to say of members (m,)."""
        ended = step.ended[due]
        if not self._told_at_end(step):
            step.judge(due if every else due[ended])
        node = step.texts.node[due, step.at[due] - 1]
        score = np.where(every | ended, self._prefixes.score(node), np.nan)
        step.going[due[ended]] = False
        for place, text in zip(due[ended].tolist(), node[ended].tolist(), strict=True):
            member = step.heat.members[place]
            member.state, member.tokens = State.FINISHED, self._tokens(step.number, text)
            member.score = float(self._prefixes.score(np.array(text)))
            self._node[member.number] = text
        group = np.full(len(due), step.heat.group, np.int32)
        at, answer = step.at[due].astype(np.int32), np.full(len(due), NO_ANSWER, np.int32)
        return group, due.astype(np.int32), at, score, ended, answer

    def _told_at_end(self, step: _Step) -> bool:
        """Whether nobody can be stopped, so that the judge reads whole texts, together."""
        return step.heat.audited or self._contests.policy is None

    def _tokens(self, number: int, text: int) -> Ints:
        """Token ids of a problem's prompt and of a text."""
        return np.array([*self._prefixes.prompts[number], *self._prefixes.generated(text)])

    def _count_prompt(self, number: int) -> None:
        """The solver reads a prompt whole, with which a candidate has its first token."""
        length = len(self._prefixes.prompts[number])
        solver, judge = self._models
        self._tally.flops += forward_flops(solver, length, 0) - forward_flops(
            solver, 1, length - 1
        )
        self._tally.flops += forward_flops(judge, length - 1, 0)

    def _count(self, step: _Step) -> None:
        """A step has ended."""
        solver, judge = self._models
        tally = self._tally
        if self._told_at_end(step):
            step.judge(np.arange(len(step.at)))
        tally.flops += forward_flops(solver, step.at, step.start - 1)
        tally.flops += forward_flops(judge, 1, np.array(step.contexts))
        tally.num_tokens += int(step.at.sum())
        if not step.heat.audited:
            every = np.arange(len(step.at))
            final = self._prefixes.score(step.texts.node[every, step.texts.length - 1])
            left = np.where(step.ended, final, -np.inf).max()
            tally.num_free += 1
            tally.num_wrong += int(left < final.max() - TIE)
