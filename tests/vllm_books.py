"""Books on an engine with fabricated workers, to compare with those of vLLM and of the pilot."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any, NamedTuple

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import RequestStatus
from vllm.v1.spec_decode.metrics import SpecDecodingStats
from vllm_fake import FakeWorker

from flyball.controller.contract import Outcomes
from flyball.controller.history import History
from flyball.integrations.vllm.pilot import Pilot


class Round(NamedTuple):
    """What the workers verified of a draft of their own, and the scheduler took."""

    plan_id: int
    proposed: int
    accepted: int
    exhausted: bool


class Books:
    """Watches what a scheduler takes of what its workers verified, and what a governor is told.

    Args:
        scheduler: of the engine.
        pilot: of the scheduler.
        worker: that verifies.

    Attributes:
        scheduled: by step, tokens of each request.
        rounds: by request, what the governor may be told: drafts of the workers' own that were
            made under a plan and verified in the step after, of which the scheduler took the
            tokens. What the engine counts besides are placeholders: of drafts that had to wait
            for room, and near the length limit.
        num_proposed: drafted tokens that were verified, as vLLM's statistics have it.
        num_accepted: of them accepted, likewise.
        known: the same two counts as the workers know them.
        num_preempted: requests that lost their place.
        num_stale: of them with output on its way.
        num_invalid: drafted tokens that a grammar refused after they were scheduled.
        num_dropped: outputs of requests that the scheduler did not take.
        faulty: whether faults are about to happen.
    """

    def __init__(self, scheduler: Any, pilot: Pilot, worker: FakeWorker) -> None:
        self.scheduled: list[dict[str, int]] = []
        self.rounds: dict[str, list[Round]] = defaultdict(list)
        self.num_proposed = self.num_accepted = self.num_preempted = self.num_stale = 0
        self.num_invalid = self.num_dropped = 0
        self.known = [0, 0]
        self.faulty = False
        self._requests, self._pilot, self._worker = scheduler.requests, pilot, worker
        self._steps: dict[int, tuple[int, SchedulerOutput]] = {}  # those on their way
        self._courses: list[tuple[int | None, dict[str, int]] | None] = []
        self._told: list[tuple[Outcomes, dict[int, str]]] = []
        self._num_learned = 0
        self._schedule, scheduler.schedule = scheduler.schedule, self._on_schedule
        self._update = scheduler.update_from_output
        scheduler.update_from_output = self._on_update
        governor = pilot.governor
        self._observe, governor.observe_many = governor.observe_many, self._on_observe
        self._note_rows, governor._beliefs.note = governor._beliefs.note, self._on_note

    def count(self, stats: SpecDecodingStats | None) -> None:
        """Take in what the engine says of a step."""
        if stats is not None:
            self.num_proposed += stats.num_draft_tokens
            self.num_accepted += stats.num_accepted_tokens

    def _on_schedule(self, *args: Any) -> SchedulerOutput:
        output: SchedulerOutput = self._schedule(*args)
        self.num_preempted += len(output.preempted_req_ids or ())
        self.num_stale += sum(
            self._requests[name].num_stale_output_tokens > 0
            for name in output.preempted_req_ids or ()
            if name in self._requests
        )
        if output.num_scheduled_tokens:
            self._steps[id(output)] = (len(self._courses), output)
            self.scheduled.append(output.num_scheduled_tokens)
            course = self._pilot._course
            sound = course and all(type(length) is int for length in course.lengths.values())
            self._courses.append((course.plan_id, dict(course.lengths)) if sound else None)
        return output

    def _on_update(self, output: SchedulerOutput, result: Any) -> Any:
        requests = self._requests
        taken = [
            name
            for name in output.num_scheduled_tokens
            if name in requests
            and not RequestStatus.is_finished(requests[name].status)
            and not (requests[name].num_stale_output_tokens and requests[name].drop_stale_output)
        ]
        answer = self._update(output, result)
        if output.num_scheduled_tokens:
            step, _ = self._steps.pop(id(output))
            invalid = output.num_invalid_spec_tokens or {}
            self.num_invalid += sum(invalid.values())
            self.num_dropped += len(output.num_scheduled_tokens) - len(taken)
            for name in taken:
                self._note(name, step, invalid.get(name, 0))
        return answer

    def _note(self, name: str, step: int, num_invalid: int) -> None:
        verified = self._worker.verified[step].get(name)
        if verified is None:
            return
        proposed = verified.proposed - num_invalid
        if verified.proposed:
            self.known[0] += proposed
            self.known[1] += verified.accepted
        course = self._courses[verified.made_in] if verified.made_in >= 0 else None
        if course is None:
            return
        plan_id, lengths = course
        if not self.faulty:  # a plan that is given up in the meantime binds nobody
            assert verified.proposed <= lengths[name], "more was verified than planned"
        if plan_id is not None:
            found = self._worker.found[verified.made_in][name]
            exhausted = found < lengths[name] and proposed == found
            accepted = min(verified.accepted, proposed)  # past the end of a grammar
            self.rounds[name].append(Round(plan_id, proposed, accepted, exhausted))

    def _on_observe(self, history: History) -> None:
        names = {slot: name for name, slot in self._pilot._log.ledger._slots.items()}
        self._told.extend((rows, names) for rows, _ in history)
        self._observe(history)

    def _on_note(self, rows: Outcomes, num_rounds: int) -> None:
        self._num_learned += len(rows.slots)
        self._note_rows(rows, num_rounds)

    @property
    def rows(self) -> dict[str, list[Round]]:
        """By request, what the governor was told."""
        told: dict[str, list[Round]] = defaultdict(list)
        for rows, names in self._told:
            exhausted = itertools.repeat(False) if rows.exhausted is None else rows.exhausted
            columns = (rows.slots, rows.proposed, rows.accepted, rows.observed, exhausted)
            for slot, proposed, accepted, observed, out in zip(*columns, strict=False):
                assert observed == min(accepted + 1, proposed)
                row = Round(rows.step_id, int(proposed), int(accepted), bool(out))
                told[names[int(slot)]].append(row)
        return told

    def check(self) -> None:
        """All was told and learned: every round once and in order, nothing else."""
        self.check_counts()
        assert self.rows == self.rounds
        told = [row for rows in self.rows.values() for row in rows]
        assert self._num_learned == len(told)
        assert sum(row.proposed for row in told) <= self.num_proposed

    def check_told(self) -> None:
        """No round was told twice, none out of order, and nothing else."""
        for name, rows in self.rows.items():
            rounds = iter(self.rounds[name])
            assert all(row in rounds for row in rows)

    def check_counts(self) -> None:
        """The pilot, the engine and the workers have counted the same."""
        counted = [self.num_proposed, self.num_accepted]
        assert [self._pilot.num_proposed, self._pilot.num_accepted] == counted == self.known
