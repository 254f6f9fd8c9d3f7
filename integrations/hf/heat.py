"""Candidates of one question that compete, and what they go on from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contests import NO_ANSWER
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.saved import SavedRow
from flyball.integrations.hf.text import Texts

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]
Answer = Callable[[Longs], Hashable | None]

NEVER = 2**62  # tokens
_BITS = 2**64 - 1


class State(Enum):
    """What has become of a candidate."""

    WAITING = "waiting"  # for its first row
    RUNNING = "running"
    PARKED = "parked"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(eq=False)
class Origin:
    """A text from which candidates go on.

    Attributes:
        tokens: (length,) prompt and what was generated.
        log_prob: of the generated tokens.
        entropy: at them; empty where nobody asks.
        saved: what was read of it; None before it was read.
        being_read: whether one of the candidates reads it now.
    """

    tokens: Longs
    log_prob: Floats
    entropy: Floats
    saved: SavedRow | None = None
    being_read: bool = False


@dataclass(eq=False)
class Member:
    """One candidate.

    Attributes:
        number: among all candidates of the search.
        parent: number of the one whose text it goes on from; -1 for none.
        seed: of its tokens.
        origin: what its next row begins from; None while it runs and once it has ended.
        max_length: tokens with which its text is full.
        start: tokens that it began with.
        tokens: (length,) its text, as it was when last looked at.
        log_prob: of the generated tokens.
        entropy: at them; empty where nobody asks.
        num_passed: checkpoints.
        score: the latest; NaN where none is known.
        answer: that it gave.
        saved: what was read of its text, where others may go on from it.
    """

    number: int
    parent: int
    seed: int
    origin: Origin | None
    max_length: int
    start: int
    tokens: Longs
    log_prob: Floats
    entropy: Floats
    state: State = State.WAITING
    num_passed: int = 0
    score: float = float("nan")
    answer: Hashable | None = None
    saved: SavedRow | None = None

    @classmethod
    def begin(cls, number: int, parent: int, seed: int, origin: Origin, max_length: int) -> Member:
        """A candidate that has not begun."""
        return cls(
            number,
            parent,
            seed,
            origin,
            max_length,
            len(origin.tokens),
            origin.tokens,
            origin.log_prob,
            origin.entropy,
        )

    @property
    def is_ready(self) -> bool:
        """Whether it may take a row: the first candidate of an origin reads it for all."""
        origin = self.origin
        return origin is not None and (origin.saved is not None or not origin.being_read)

    @property
    def is_alive(self) -> bool:
        """Whether it goes on, or waits for its turn."""
        return self.state not in (State.FINISHED, State.STOPPED)

    @property
    def num_tokens(self) -> int:
        """Tokens that it has generated."""
        return len(self.tokens) - self.start

    def next_check(self, checks: Longs) -> int:
        """Tokens of its text at its next checkpoint (C,), far off behind the last."""
        if self.num_passed == len(checks):
            return NEVER
        return self.start + int(checks[self.num_passed])

    def here(self, saved: SavedRow | None) -> Origin:
        """Its text, for candidates that go on from it."""
        return Origin(self.tokens, self.log_prob, self.entropy, saved)

    def note(self, texts: Texts, row: int, entropy: bool) -> None:
        """Take in what its row has generated, with entropies where wanted."""
        before, end = texts.prompt_len[row], texts.num_tokens[row]
        new = np.log(texts.probs[row, before:end].astype(np.float64))
        self.tokens = texts.host[row, :end].copy()
        known = texts.num_before[row]
        self.log_prob = np.concatenate([self.log_prob[:known], new])
        if entropy:
            new = texts.entropy[row, before:end].astype(np.float64)
            self.entropy = np.concatenate([self.entropy[:known], new])


@dataclass(eq=False)
class Heat:
    """A group of candidates.

    Attributes:
        prompts: of the question, with what ends a candidate.
        members: its candidates.
        keep: how many of them win.
        branches: whether others may go on from where they end.
        has_ended: whether a finished text (length,) ends there for good.
        answer_of: what a finished candidate's generated tokens answer; None where nobody asks.
        group: number among the contests; -1 before it opens.
        audited: whether nobody is stopped.
        waiting: members that have not begun.
    """

    prompts: Prompts
    members: Sequence[Member]
    keep: int
    branches: bool = False
    has_ended: Callable[[Member], bool] = lambda _: True
    answer_of: Answer | None = None
    group: int = -1
    audited: bool = False
    waiting: deque[int] = field(default_factory=deque)
    _answers: dict[Hashable, int] = field(default_factory=dict)

    @property
    def prompt_len(self) -> int:
        """Tokens of the question."""
        return len(self.prompts.tokens[0])

    @property
    def next(self) -> Member | None:
        """Who begins next of those that wait."""
        return self.members[self.waiting[0]] if self.waiting else None

    @property
    def has_run(self) -> bool:
        """Whether none of its members goes on."""
        return not any(member.is_alive for member in self.members)

    @property
    def least_passed(self) -> int:
        """Checkpoints that all of its members which go on have passed."""
        return min((m.num_passed for m in self.members if m.is_alive), default=0)

    def begin(self, member: Member) -> Prompts:
        """What its next row begins with."""
        assert member.origin is not None
        tokens = member.origin.tokens
        return replace(
            self.prompts,
            tokens=tokens[None],
            ending=replace(self.prompts.ending, max_length=member.max_length),
            seeds=np.array([member.seed], np.uint64),
            num_before=len(tokens) - self.prompt_len,
            saved=member.origin.saved,
        )

    def number_answer(self, member: Member) -> int:
        """Number of what a finished member answers among the different answers; -1 for none."""
        if self.answer_of is None:
            return NO_ANSWER
        member.answer = self.answer_of(member.tokens[self.prompt_len :])
        if member.answer is None:
            return NO_ANSWER
        return self._answers.setdefault(member.answer, len(self._answers))


def derive_seed(seed: int, *numbers: int) -> int:
    """A seed of its own for each tuple of numbers below another seed.

    Folds them in with the finalizer of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators"), which maps 64 bits to 64 bits one to one.
    """
    for number in numbers:
        seed = (seed + (number + 1) * 0x9E3779B97F4A7C15) & _BITS
        seed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
        seed = ((seed ^ (seed >> 27)) * 0x94D049BB133111EB) & _BITS
        seed ^= seed >> 31
    return seed
