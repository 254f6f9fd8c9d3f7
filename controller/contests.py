"""Groups of candidates that compete: what is known of each, and who is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from flyball.controller.errors import HostError
from flyball.controller.guard import BadAnswerError, Guard
from flyball.controller.policy_file import PolicyFile
from flyball.estimators.slots import SlotArray, SlotPool
from flyball.policies.rejection.base import Groups, Load, RejectionPolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

NO_ANSWER = -1

T = TypeVar("T")


@dataclass(frozen=True)
class Candidates:
    """Candidates that passed a checkpoint or ended since they were last reviewed.

    One may come several times, in the order in which it did so.

    Attributes:
        group: (n,) as `Contests.open` handed it out.
        member: (n,) number within the group.
        num_tokens: (n,) generated so far.
        score: (n,) partial score, or the final one where it has finished; unknown where it is no
            finite number.
        finished: (n,) whether its text has ended by itself.
        answer: (n,) number of its answer among the different ones of the group, -1 for none.
    """

    group: Ints
    member: Ints
    num_tokens: Ints
    score: Floats
    finished: Bools
    answer: Ints

    def only(self, rows: Bools) -> Candidates:
        """Some of the rows."""
        return Candidates(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )


@dataclass(frozen=True)
class Stops:
    """Who is to stop.

    Attributes:
        group: (m,) groups.
        member: (m,) members of them; some may not have begun.
        ended: groups (e,) that nobody goes on in any more; their numbers are free again.
    """

    group: Ints
    member: Ints
    ended: Ints


class Contests:
    """Keeps the groups' scores and asks the policy; nothing that it does raises here.

    A policy that fails is made anew, with nothing learned; whoever it was asked about goes on.

    Args:
        file: says which policy; without a section nobody is ever stopped.
        guard: counts faults, as "rejection".
        token_price: of one more row in a batch of so many, in tokens (`Load`); None where nobody
            knows.

    Attributes:
        num_groups: groups that were opened.
        num_audited: of them to run to completion.
        num_stopped: candidates that the policy stopped.
    """

    def __init__(
        self, file: PolicyFile, guard: Guard, token_price: Callable[[int], float] | None = None
    ) -> None:
        self._file = file
        self._guard = guard
        self._token_price = token_price
        self._pool = SlotPool()
        self._policy = self._make()
        self._book = _Book(len(self.checks))
        self.num_groups = self.num_audited = self.num_stopped = 0

    def _make(self) -> RejectionPolicy | None:
        return self._file.make_rejection_policy(np.random.default_rng(0))

    @property
    def policy(self) -> RejectionPolicy | None:
        """In force; None where nobody is ever stopped."""
        return self._policy

    @property
    def checks(self) -> NDArray[np.int64]:
        """Generated tokens (C,) after which the policy wants candidates reviewed."""
        return np.zeros(0, np.int64) if self._policy is None else self._policy.checks

    def open(self, sizes: Ints, keep: Ints) -> Ints:
        """Numbers (G,) for new groups with so many members (G,), of which `keep` (G,) win.

        Raises:
            HostError: a group without members, or without a winner.
        """
        if (sizes < 1).any() or (keep < 1).any():
            raise HostError(
                f"expected groups of at least 1 member and 1 winner, but got {sizes} and {keep}"
            )
        group = self._pool.take(len(sizes), 0)
        self._book.open(group, sizes, keep)
        audited = self._ask(lambda policy: _booleans(policy.audits(keep), (len(group),)))
        if audited is not None:
            self._book.draw(group, audited)
            self.num_audited += int(audited.sum())
        self.num_groups += len(group)
        return group

    def audited(self, group: Ints) -> Bools:
        """Which of these open groups (G,) run to completion."""
        return self._book.groups(group).audited

    def begin(self, group: Ints, member: Ints) -> None:
        """These members (n,) are on their way; of others only what is reviewed is known."""
        self._book.begin(group, member)

    def load(self, num_rows: int, memory_short: bool) -> Load:
        """What seconds and memory allow where so many rows decode at a time."""
        if self._token_price is None:
            return Load(memory_short=memory_short)
        return Load(self._token_price(num_rows), memory_short)

    def review(self, candidates: Candidates, load: Load) -> Stops:
        """Who is to stop in the groups of these candidates, after what the host says of them.

        What is said of groups that have ended, of members that were stopped or that do not exist
        is left aside.
        """
        candidates = candidates.only(self._book.knows(candidates.group, candidates.member))
        self._book.note(candidates, self.checks)
        group = np.unique(candidates.group)
        groups = self._book.groups(group)
        shape = groups.present.shape
        stop = self._ask(lambda policy: _booleans(policy.decide(groups, load), shape))
        row, member = np.nonzero(
            np.zeros(shape, np.bool_)
            if stop is None
            else stop & groups.alive & ~groups.audited[:, None]
        )
        self.num_stopped += len(row)
        self._book.stop(group[row], member)
        return Stops(group[row], member.astype(np.int32), self._close(group))

    def drop(self, group: Ints, member: Ints) -> Ints:
        """The host gave up these members (n,) itself; returns the groups that ended so.

        Their groups are no longer audits: what these members would have become stays unknown.
        """
        known = self._book.knows(group, member)
        group, member = group[known], member[known]
        self._book.stop(group, member)
        self._book.spoil(group)
        return self._close(np.unique(group))

    def _close(self, group: Ints) -> Ints:
        """Those of the groups that have ended; the policy learns of them."""
        groups = self._book.groups(group)
        over = np.flatnonzero(~groups.alive.any(axis=1))
        if len(over):
            self._ask(lambda policy: policy.learn(groups.only(over)))
            self._book.close(group[over])
            self._pool.give_back(group[over])
        return group[over]

    def priority(self, group: Ints) -> Floats:
        """How much these groups' (G,) next members should begin before others'."""
        groups = self._book.groups(group)
        found = self._ask(lambda policy: np.asarray(policy.priority(groups), np.float64))
        return np.zeros(len(group)) if found is None else found

    def _ask(self, question: Callable[[RejectionPolicy], T]) -> T | None:
        """The policy's answer; None without a policy and where it failed."""
        if self._policy is None:
            return None
        try:
            return question(self._policy)
        except Exception as error:
            self._guard.count("rejection", repr(error))
            self._policy = self._make()
            return None


def _booleans(answer: object, shape: tuple[int, ...]) -> Bools:
    """A policy's answer.

    Raises:
        BadAnswerError: it is not an array of booleans of this shape.
    """
    if isinstance(answer, np.ndarray) and answer.dtype == np.bool_ and answer.shape == shape:
        return answer
    raise BadAnswerError(f"expected booleans of shape {shape}, but got {answer!r:.80}")


class _Book:
    """What is known of every member of every open group."""

    def __init__(self, num_checks: int) -> None:
        self._num_checks = num_checks
        self._width = 1
        self._arrays: dict[str, SlotArray] = {}
        self._make(1)

    def _make(self, width: int) -> None:
        """Arrays for groups of so many members, with what the ones before held."""
        before = self._arrays
        members: dict[str, tuple[float, type, tuple[int, ...]]] = {
            "present": (False, np.bool_, (width,)),
            "score": (np.nan, np.float64, (width, self._num_checks)),
            "final": (np.nan, np.float64, (width,)),
            "num_tokens": (0, np.int32, (width,)),
            "num_passed": (0, np.int32, (width,)),
            "finished": (False, np.bool_, (width,)),
            "stopped": (False, np.bool_, (width,)),
            "answer": (NO_ANSWER, np.int32, (width,)),
            "keep": (1, np.int32, ()),
            "drawn": (False, np.bool_, ()),
            "audited": (False, np.bool_, ()),
        }
        self._arrays = {name: SlotArray(*spec) for name, spec in members.items()}
        for name, old in before.items():
            array = self._arrays[name]
            array.reset(np.arange(len(old.values), dtype=np.int32))
            if old.values.ndim == 1:
                array.values[: len(old.values)] = old.values
            else:
                array.values[: len(old.values), : old.values.shape[1]] = old.values
        self._width = width

    def open(self, group: Ints, sizes: Ints, keep: Ints) -> None:
        if len(group) == 0:
            return
        if int(sizes.max()) > self._width:
            self._make(int(sizes.max()))
        for array in self._arrays.values():
            array.reset(group)
        self._arrays["present"].values[group] = np.arange(self._width) < sizes[:, None]
        self._arrays["keep"].values[group] = keep

    def begin(self, group: Ints, member: Ints) -> None:
        num_tokens = self._arrays["num_tokens"].values
        num_tokens[group, member] = np.maximum(num_tokens[group, member], 1)

    def close(self, group: Ints) -> None:
        self._arrays["present"].values[group] = False

    def knows(self, group: Ints, member: Ints) -> Bools:
        """Which of these (n,) are members of open groups that were not stopped."""
        present = self._arrays["present"].values
        there = (group >= 0) & (group < len(present)) & (member >= 0) & (member < self._width)
        at = (np.where(there, group, 0), np.where(there, member, 0))
        known: Bools = there & present[at] & ~self._arrays["stopped"].values[at]
        return known

    def draw(self, group: Ints, audited: Bools) -> None:
        for name in ("drawn", "audited"):
            self._arrays[name].values[group] = audited

    def spoil(self, group: Ints) -> None:
        self._arrays["audited"].values[group] = False

    def note(self, candidates: Candidates, checks: NDArray[np.int64]) -> None:
        at = (candidates.group, candidates.member)
        values = {name: array.values for name, array in self._arrays.items()}
        values["num_tokens"][at] = candidates.num_tokens
        values["answer"][at] = candidates.answer
        # A text that ends at a checkpoint's very token was never judged there.
        last = candidates.num_tokens - candidates.finished
        passed = np.searchsorted(checks, last, side="right").astype(np.int32)
        values["num_passed"][at] = passed
        ends = candidates.finished
        score = np.where(np.isfinite(candidates.score), candidates.score, np.nan)
        values["finished"][at] |= ends
        values["final"][at] = np.where(ends, score, values["final"][at])
        goes_on = ~ends & (passed > 0)
        place = (candidates.group[goes_on], candidates.member[goes_on], passed[goes_on] - 1)
        values["score"][place] = score[goes_on]

    def stop(self, group: Ints, member: NDArray[np.integer]) -> None:
        stopped = self._arrays["stopped"].values
        stopped[group, member] |= ~self._arrays["finished"].values[group, member]

    def groups(self, group: Ints) -> Groups:
        # As wide as the widest of these: others may have many more members.
        width = int(self._arrays["present"].values[group].sum(axis=1).max(initial=1))
        return Groups(
            **{
                name: values[:, :width] if values.ndim > 1 else values
                for name, array in self._arrays.items()
                for values in [array.values[group]]
            }
        )
