"""Engine steps on their way, and what the governor is told of them afterwards.

Between the engine's forwards every numpy call runs on cold caches and takes several microseconds,
so a step leaves no more behind than references to what the engine made anyway; they are read a
dozen steps at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Cost, Outcomes
from flyball.controller.history import History
from flyball.estimators.journal import NO_CONFIDENCE
from flyball.integrations.vllm.ledger import Ledger

Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]
Floats = NDArray[np.float64]

Counts = dict[str, tuple[int, int]]  # proposed and accepted, by request


@dataclass(slots=True)
class Course:
    """Draft lengths that are in force for some steps.

    Attributes:
        plan_id: of the governor's plan; None where there was nothing to decide.
        lengths: drafted tokens to verify for each request.
        draft_len: tokens that the drafter is asked for.
        mean_len: mean of `lengths` when they were planned.
    """

    plan_id: int | None
    lengths: dict[str, int]
    draft_len: int
    mean_len: float
    _rows: tuple[list[str], list[int]] = ([], [])  # the latest that were asked for
    _planned: tuple[list[str], Rows, Rows] | None = None  # likewise
    _num_joined: int = 0

    def join(self, names: Iterable[str]) -> None:
        """Requests that nothing was planned for draft like the average."""
        before = len(self.lengths)
        self.lengths.update(dict.fromkeys(names, round(self.mean_len)))
        self._num_joined += len(self.lengths) - before
        self._rows, self._planned = ([], []), None

    def rows(self, names: list[str]) -> list[int]:
        """Length of each of these requests; it is mostly asked for the same ones again."""
        if names != self._rows[0]:
            get = self.lengths.get
            self._rows = (names, [get(name, self.draft_len) for name in names])
        return self._rows[1]

    def planned(self, names: list[str]) -> tuple[Rows, Rows]:
        """Which of these requests the plan knows, in its order, and their rows in it."""
        if self._planned is None or names != self._planned[0]:
            known = itertools.islice(self.lengths, len(self.lengths) - self._num_joined)
            row_of = {name: row for row, name in enumerate(known)}
            rows = np.array([row_of.get(name, -1) for name in names], np.intp)
            which = rows.argsort(kind="stable")[np.count_nonzero(rows < 0) :]
            self._planned = (names, which, rows[which])
        return self._planned[1:]


@dataclass(frozen=True, slots=True)
class Sureness:
    """How sure the drafter was in a step, and what was made of it.

    Attributes:
        names: of the requests.
        confidence: (requests, tokens) largest probability of the drafter.
        length: (requests,) tokens left to verify.
        foreseen: (requests,) see `Outcomes`.
    """

    names: list[str]
    confidence: Floats
    length: Ints
    foreseen: Floats


@dataclass(slots=True)
class Flight:
    """One engine step.

    Attributes:
        output: the scheduler's, to know the step by; None once it has ended.
        previous: the step before, which drafted for this one; None if there was none.
        course: lengths under which it drafts for the next.
        total: tokens scheduled.
        num_tokens: of them for each request.
        num_drafted: of them drafted before, for requests that have any.
        found: requests, and how many tokens the drafter gave each, where the engine says.
        sure: how sure the drafter was, likewise.
        began: requests that it began to read, after a preemption perhaps.
        started_s: when it was scheduled.
        ended_s: when its output was taken in.
        idle_after: whether the engine then had nothing to do.
        counts: what the engine counted as proposed and accepted.
        answers: what the engine made of it for its clients.
    """

    output: Any
    previous: Flight | None
    course: Course
    total: int
    num_tokens: Mapping[str, int]
    num_drafted: dict[str, int]
    found: tuple[list[str], list[int]] | None
    sure: Sureness | None
    began: Set[str]
    started_s: float
    ended_s: float = 0.0
    idle_after: bool = False
    counts: Counts = field(default_factory=dict)
    answers: Mapping[int, Any] = field(default_factory=dict)
    _took: set[str] | None = None

    @property
    def before(self) -> Course | None:
        """Course under which its drafts were made; None if there was none."""
        return None if self.previous is None else self.previous.course

    @property
    def plan_id(self) -> int | None:
        """Of the plan under which its drafts were made; None if there was none."""
        return None if self.previous is None else self.previous.course.plan_id

    @property
    def only_decodes(self) -> bool:
        """Whether no request was still reading its prompt."""
        return self.total == len(self.num_tokens) + sum(self.num_drafted.values())

    def decoding(self) -> tuple[int, int]:
        """Requests that decoded in it, and tokens scheduled for them."""
        if self.only_decodes:
            return len(self.num_tokens), self.total
        drafted = self.num_drafted.get
        rows = [num for name, num in self.num_tokens.items() if num == 1 + drafted(name, 0)]
        return len(rows), sum(rows)

    def told(self) -> Counts:
        """What it showed of the drafts that were planned, as the engine counts it.

        A request counts where it decoded, was part of the step before, and the engine took its
        tokens: one that was preempted, aborted or still reading its prompt has shown nothing.
        What the engine cut for lack of room, or a grammar, was not proposed.
        """
        previous, counts = self.previous, self.counts
        if previous is None or self.plan_id is None:
            return {}
        if len(counts) < len(self.num_tokens) or not self.only_decodes:
            counts = self._counts_of_decodes(previous)
        if not counts.keys() <= previous.num_tokens.keys():
            counts = {name: counts[name] for name in counts if name in previous.num_tokens}
        return counts

    def offered(self, names: list[str]) -> tuple[list[int], list[int]]:
        """What the drafter had for each request, and what was planned; 0 where nobody says."""
        course, found = self.before, self.found
        if course is None or found is None:
            return [0] * len(names), [0] * len(names)
        known, given = found
        if names != known:
            own = dict(zip(known, given, strict=True))
            given = [own.get(name, 0) for name in names]
        return given, course.rows(names)

    def _counts_of_decodes(self, previous: Flight) -> Counts:
        """Counts of requests that decoded; the engine counts none for those without a draft.

        One that comes back for a single token, all others cached, looks like one without a draft.
        """
        decoding = (previous.took() & self.took()) - self.began
        if (
            self.only_decodes
            and len(self.counts) == len(self.num_drafted)
            and self.num_tokens.keys() <= decoding
        ):
            return dict.fromkeys(self.num_tokens, (0, 0)) | self.counts
        counts: Counts = {}
        for name, num in self.num_tokens.items():
            drafted = self.num_drafted.get(name, 0)
            if drafted == 0 and num == 1 and name in decoding:
                counts[name] = (0, 0)
            elif drafted > 0 and name in self.counts:
                counts[name] = self.counts[name]
        return counts

    def took(self) -> set[str]:
        """Requests of which the engine took tokens."""
        if self._took is None:
            answers = (one for answer in self.answers.values() for one in answer.outputs)
            self._took = {one.request_id for one in answers if one.new_token_ids}
        return self._took


def history_of(flights: Sequence[Flight], costs: Sequence[Cost | None], ledger: Ledger) -> History:
    """What several steps showed.

    Args:
        flights: the steps, oldest first.
        costs: of each, if known.
        ledger: that knows, or gives, the slots of their requests.
    """
    all_told = [flight.told() for flight in flights]
    plan_ids = [-1 if flight.plan_id is None else flight.plan_id for flight in flights]
    since: dict[str, int] = {}
    for told, plan_id in zip(all_told, plan_ids, strict=True):
        if not since.keys() >= told.keys():
            since = dict.fromkeys(told, plan_id) | since
    ledger.admit(since)
    names_of = [list(told) for told in all_told]
    num_rows = [len(names) for names in names_of]
    pairs = itertools.chain.from_iterable(told.values() for told in all_told)
    counts = np.fromiter(itertools.chain.from_iterable(pairs), np.int32, 2 * sum(num_rows))
    proposed, accepted = counts.reshape(-1, 2).T.copy()
    exhausted = _exhausted(flights, names_of, proposed)
    confidence, foreseen = _signs(flights, names_of, proposed)
    # Where a grammar ends nothing is refused: vLLM counts more accepted than proposed there.
    accepted = np.minimum(accepted, proposed)
    return History(
        Outcomes(
            step_id=plan_ids[0],
            slots=np.concatenate(_slots_of(names_of, ledger)),
            proposed=proposed,
            accepted=accepted,
            observed=np.minimum(accepted + 1, proposed),
            confidence=confidence,
            exhausted=exhausted,
            foreseen=foreseen,
        ),
        plan_ids,
        num_rows,
        costs,
    )


def _slots_of(names_of: Sequence[list[str]], ledger: Ledger) -> list[Ints]:
    """Slots of the requests of each step; mostly they are those of the step before."""
    slots: list[Ints] = []
    before: list[str] | None = None
    for names in names_of:
        slots.append(slots[-1] if names == before else ledger.slots(names))
        before = names
    return slots


def _exhausted(
    flights: Sequence[Flight], names_of: Sequence[list[str]], proposed: Ints
) -> Bools | None:
    """Whether more was planned than the drafter had, for every request in every step.

    None where the engine does not say.
    """
    if all(flight.found is None for flight in flights):
        return None
    pairs = [flight.offered(names) for flight, names in zip(flights, names_of, strict=True)]
    given, planned = (
        np.fromiter(itertools.chain.from_iterable(rows), np.int32, len(proposed))
        for rows in zip(*pairs, strict=True)
    )
    return np.asarray((given < planned) & (proposed == given), np.bool_)


def _signs(
    flights: Sequence[Flight], names_of: Sequence[list[str]], proposed: Ints
) -> tuple[Floats | None, Floats | None]:
    """How sure the drafter was of each token (rows, tokens), and what was foreseen (rows,).

    Of every request in every step; None where nobody says.
    """
    widths = [flight.sure.confidence.shape[1] for flight in flights if flight.sure is not None]
    if not widths:
        return None, None
    confidence = np.full((len(proposed), max(widths)), NO_CONFIDENCE)
    foreseen, start = np.full(len(proposed), np.nan), 0
    before: tuple[list[str], list[str]] = [], []
    place = np.zeros(0, np.intp)  # of each request among the drafter's, -1 for none
    for flight, names in zip(flights, names_of, strict=True):
        rows, sure = slice(start, start + len(names)), flight.sure
        start = rows.stop
        if sure is None:
            continue
        part, length, expected = sure.confidence, sure.length, sure.foreseen
        if names != sure.names:
            if (names, sure.names) != before:
                before, row_of = (names, sure.names), {n: row for row, n in enumerate(sure.names)}
                place = np.array([row_of.get(name, -1) for name in names], np.intp)
            known = place >= 0
            part = np.where(known[:, None], part[place], NO_CONFIDENCE)
            length, expected = length[place], np.where(known, expected[place], np.nan)
        confidence[rows, : part.shape[1]] = part
        # What the engine cut besides, for lack of room or a grammar, says nothing.
        foreseen[rows] = np.where(length == proposed[rows], expected, np.nan)
    return confidence, foreseen
