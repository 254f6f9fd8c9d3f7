"""Candidates for the same prize among an engine's requests, and who of them is to stop.

A request for n answers becomes n requests in the engine core, which vLLM names `0_PARENT`,
`1_PARENT` and so on. Nothing else there says that they belong together, or how many they are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contests import NO_ANSWER, Candidates, Contests
from flyball.controller.guard import Guard
from flyball.integrations.vllm.bouts import Bout, Rival

Ints = NDArray[np.int32]

logger = logging.getLogger("vllm.flyball")

_CHILD = re.compile(r"([0-9]+)_(.+)", re.DOTALL)


class Loser(NamedTuple):
    """A request that is to stop.

    Attributes:
        name: of the request.
        reason: for the log.
    """

    name: str
    reason: str


class Rivals:
    """Follows candidates through the engine's outputs and asks who is to stop; never raises.

    A group opens when its first member passes a checkpoint or ends, with those that have come by
    then; one that comes later runs to its end. A candidate's score is the mean log-probability of
    its tokens, where its request asked for log-probabilities. A fault here forgets all groups:
    their candidates run to their ends.

    Args:
        contests: that decide.
        guard: counts faults here, as "candidates".
    """

    def __init__(self, contests: Contests, guard: Guard) -> None:
        self._guard = guard
        self._contests = contests
        self._checks: list[int] = contests.checks.tolist()
        self._start_anew()
        self._warned = False

    def _start_anew(self) -> None:
        self._rivals: dict[str, Rival] = {}  # that go on
        self._bouts: dict[str, Bout] = {}  # by their parents
        self._open: dict[int, Bout] = {}  # of them by their numbers
        self._late: list[Rival] = []  # ended, as the frontend said between two steps

    @property
    def num_stopped(self) -> int:
        """Candidates that the policy stopped."""
        return self._contests.num_stopped

    @property
    def policy_name(self) -> str:
        """The policy in force."""
        policy = self._contests.policy
        return "none" if policy is None else str(policy.settings.policy)

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind of fault happened."""
        return self._guard.faults

    def fail(self, error: Exception) -> None:
        """Count a fault; all who compete now run to their ends."""
        self._guard.count("candidates", repr(error))
        bouts = list(self._open.items())
        self._start_anew()
        try:
            for number, bout in bouts:
                members = np.arange(len(bout.rivals), dtype=np.int32)
                self._contests.drop(np.full(len(members), number, np.int32), members)
        except Exception as another:
            self._guard.count("candidates", repr(another))

    def add(self, request: Any) -> None:
        """A request has come in."""
        try:
            self._add(request)
        except Exception as error:
            self.fail(error)

    def _add(self, request: Any) -> None:
        found = _CHILD.fullmatch(request.request_id)
        params = request.sampling_params
        if found is None or params is None or request.request_id in self._rivals:
            return
        parent = found[2]
        bout = self._bouts.get(parent)
        if bout is None:
            bout = self._bouts[parent] = Bout(parent, request.prompt_token_ids)
        if bout.number is None and bout.prompt == request.prompt_token_ids:
            rival = Rival(bout, request.request_id, int(found[1]), bool(params.stop))
            bout.rivals.append(rival)
            self._rivals[rival.name] = rival

    def leave(self, names: Iterable[str]) -> None:
        """The frontend ends these requests: a stop string was found, or the client went away.

        It says not which. A client that goes away takes along all of a group that go on. Where one
        alone does, and has stop strings, that is taken for its end.
        """
        if not self._rivals:
            return
        try:
            self._leave([self._rivals.pop(name) for name in names if name in self._rivals])
        except Exception as error:
            self.fail(error)

    def _leave(self, gone: Sequence[Rival]) -> None:
        for rival in gone:
            bout = rival.bout
            others = any(other.name in self._rivals for other in bout.rivals)
            if rival.ends_on_text and (others or len(gone) == 1):
                rival.end()
                self._late.append(rival)
            elif bout.number is not None:
                group, member = np.array([[bout.number], [rival.member]], np.int32)
                self._close(self._contests.drop(group, member))
            else:
                bout.rivals.remove(rival)
                if not others:
                    self._bouts.pop(bout.parent, None)

    def review(self, outputs: Iterable[Any], num_running: int, memory_short: bool) -> list[Loser]:
        """Take in a step's outputs, and say who is to stop.

        Args:
            outputs: of the engine core, for all its clients.
            num_running: requests of the engine that run.
            memory_short: see `Load`.
        """
        if not self._rivals and not self._late:
            return []
        try:
            return self._review(outputs, num_running, memory_short)
        except Exception as error:
            self.fail(error)
            return []

    def _review(self, outputs: Iterable[Any], num_running: int, memory_short: bool) -> list[Loser]:
        reached, self._late = self._late, []
        failed = []
        for output in outputs:
            rival = self._rivals.get(output.request_id)
            if rival is None:
                continue
            passes = rival.take(output, self._checks)
            reason = None if output.finish_reason is None else str(output.finish_reason)
            if reason in ("abort", "error"):
                failed.append(rival)
            elif reason is not None:
                rival.end()
                reached.append(rival)
                del self._rivals[rival.name]
            elif passes:
                reached.append(rival)
        self.leave([rival.name for rival in failed])
        self._open_bouts(reached)
        known = [rival for rival in reached if rival.bout.number is not None]
        return self._judge(known, num_running, memory_short) if known else []

    def _open_bouts(self, reached: Sequence[Rival]) -> None:
        """Open the groups of these candidates that have not been; alone nobody competes."""
        bouts = {id(rival.bout): rival.bout for rival in reached if rival.bout.number is None}
        for bout in bouts.values():
            if len(bout.rivals) > 1:
                sizes = np.array([len(bout.rivals)], np.int32)
                bout.number = int(self._contests.open(sizes, np.ones(1, np.int32))[0])
                self._open[bout.number] = bout
                for member, rival in enumerate(bout.rivals):
                    rival.member = member
            else:
                self._forget(bout)

    def _judge(
        self, reached: Sequence[Rival], num_running: int, memory_short: bool
    ) -> list[Loser]:
        score = np.array([rival.score for rival in reached])
        score[~np.isfinite(score)] = np.nan
        policy = self._contests.policy
        if policy is not None and policy.scores and np.isnan(score).any():
            self._warn(reached[int(np.isnan(score).argmax())])
        stops = self._contests.review(
            Candidates(
                group=np.array([rival.bout.number for rival in reached], np.int32),
                member=np.array([rival.member for rival in reached], np.int32),
                num_tokens=np.array([rival.num_tokens for rival in reached], np.int32),
                score=score,
                finished=np.array([rival.finished for rival in reached], np.bool_),
                answer=np.full(len(reached), NO_ANSWER, np.int32),
            ),
            self._contests.load(num_running, memory_short),
        )
        places = zip(stops.group.tolist(), stops.member.tolist(), strict=True)
        losers = [self._open[group].rivals[member] for group, member in places]
        self._close(stops.ended)
        for rival in losers:
            self._rivals.pop(rival.name, None)
        why = self._why()
        return [
            Loser(
                rival.name,
                f"stopped candidate {rival.index} of request {rival.bout.parent} "
                f"after {rival.num_tokens} tokens: {why}",
            )
            for rival in losers
        ]

    def _close(self, ended: Ints) -> None:
        for number in ended.tolist():
            self._forget(self._open.pop(number))

    def _forget(self, bout: Bout) -> None:
        self._bouts.pop(bout.parent, None)
        for rival in bout.rivals:
            self._rivals.pop(rival.name, None)

    def _why(self) -> str:
        """The policy that decides, and what it was set to."""
        policy = self._contests.policy
        if policy is None:
            return "no policy"
        left_out = {"policy", "check_at_tokens"}
        settings = policy.settings.model_dump(exclude=left_out, exclude_none=True)
        told = [policy.settings.policy, *(f"{name} {value}" for name, value in settings.items())]
        return ", ".join(told)

    def _warn(self, rival: Rival) -> None:
        """Say once what a policy needs that judges by scores."""
        if not self._warned and rival.num_tokens:
            self._warned = True
            logger.warning(
                "candidates of request %s have no scores, so none of them is stopped: they are "
                "log-probabilities, which the request has to ask for; set SamplingParams("
                'logprobs=0), "logprobs": 0 for completions, "logprobs": true for chats',
                rival.bout.parent,
            )
