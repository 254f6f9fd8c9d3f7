"""Schedulers whose requests may compete: losers are stopped as soon as they are known."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.v1.engine import (
    EngineCoreEventType,
    EngineCoreOutput,
    EngineCoreOutputs,
    FinishReason,
)
from vllm.v1.request import RequestStatus

from flyball.controller.contests import Contests
from flyball.controller.guard import Guard
from flyball.controller.metrics import Status
from flyball.integrations.vllm.compat import untested, vllm_version, why_not_reject
from flyball.integrations.vllm.metrics import Publisher
from flyball.integrations.vllm.pilot import Pilot
from flyball.integrations.vllm.rivals import Loser, Rivals
from flyball.integrations.vllm.settings import Settings

logger = logging.getLogger("vllm.flyball")

_SEARCH = "expected a policy that judges by likelihood, or flyball.integrations.hf.search"
_UNKNOWN = {  # what some policies go by and the engine cannot tell
    "consensus": f"consensus needs answers, but an engine knows tokens alone; {_SEARCH}",
    "self_eval": f"self_eval needs probabilities of success, but here are none; {_SEARCH}",
}


class Contested:
    """Mixed into a scheduler, before it: candidates are followed, and stopped.

    Attributes:
        rivals: that says who.
        running: the scheduler's own requests that run.
    """

    rivals: Rivals
    running: list[Any]

    def add_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """As the scheduler's own."""
        result = super().add_request(request, *args, **kwargs)
        self.rivals.add(request)
        return result

    def finish_requests(
        self, request_ids: Any, finished_status: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As the scheduler's own."""
        gone = super().finish_requests(request_ids, finished_status, *args, **kwargs)
        self.rivals.leave([request.request_id for request in gone])
        return gone

    def update_from_output(
        self, scheduler_output: Any, model_runner_output: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As the scheduler's own, with an end for everyone who is stopped."""
        answers = super().update_from_output(
            scheduler_output, model_runner_output, *args, **kwargs
        )
        try:
            outputs = (one for answer in answers.values() for one in answer.outputs)
            losers = self.rivals.review(outputs, len(self.running), _memory_short(self))
            if losers:
                stop(self, answers, losers)
        except Exception as error:
            self.rivals.fail(error)
        return answers


class ContestedAlone(Contested):
    """Mixed into the scheduler of an engine that never drafts: no pilot shows what happens.

    Attributes:
        publisher: that shows it.
    """

    publisher: Publisher

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """As the scheduler's own."""
        answers = super().update_from_output(*args, **kwargs)
        if self.publisher.wanted or not self.running:
            self.publisher.publish(_status(self.rivals))
        return answers

    def shutdown(self) -> None:
        """As the scheduler's own."""
        super().shutdown()
        self.publisher.publish(_status(self.rivals))
        self.publisher.close()


@dataclass(frozen=True)
class Contest:
    """What a scheduler needs for its requests to compete.

    Attributes:
        rivals: that says who is to stop.
        publisher: that shows what happens, where no pilot does.
    """

    rivals: Rivals
    publisher: Publisher | None

    @property
    def mixin(self) -> type[Contested]:
        """For the scheduler's class."""
        return Contested if self.publisher is None else ContestedAlone

    def board(self, scheduler: Any) -> None:
        """Go aboard a scheduler of such a class."""
        scheduler.rivals = self.rivals
        if self.publisher is not None:
            scheduler.publisher = self.publisher


def choose_contest(
    base: type, vllm_config: Any, settings: Settings, pilot: Pilot | None
) -> Contest | None:
    """For a scheduler of this class; None where nobody is ever stopped.

    Args:
        base: class of the scheduler.
        vllm_config: of the engine.
        settings: what the user said.
        pilot: of the scheduler; its governor decides, where there is one.
    """
    if settings.policy.rejection is None:
        return None
    name = settings.policy.rejection.policy
    parallel, reason = vllm_config.parallel_config, _UNKNOWN.get(name) or why_not_reject(base)
    if parallel.distributed_executor_backend == "external_launcher":
        reason = "an external launcher needs every rank to schedule alike"
    if not reason and not settings.allow_untested:
        reason = untested(vllm_version())
    if reason:
        logger.warning("flyball stops no candidates: %s", reason)
        return None
    logger.info(
        "flyball stops candidates of requests for several answers: policy %s",
        name,
    )
    if pilot is not None:
        return Contest(Rivals(pilot.governor.contests, pilot.guard), None)
    guard = Guard()
    publisher = Publisher(str(int(parallel.data_parallel_index)))
    return Contest(Rivals(Contests(settings.policy, guard), guard), publisher)


def _status(rivals: Rivals) -> Status:
    return Status(
        mode="observing",
        policy=rivals.policy_name,
        draft_len=0.0,
        price=math.nan,
        num_rounds=0,
        num_proposed=0,
        num_accepted=0,
        num_decisions=0,
        decision_s=0.0,
        fallbacks=rivals.faults,
        num_rejected=rivals.num_stopped,
    )


def _memory_short(scheduler: Any) -> bool:
    """Whether requests wait although more might run."""
    return bool(scheduler.waiting) and len(scheduler.running) < scheduler.max_num_running_reqs


def stop(scheduler: Any, answers: dict[int, EngineCoreOutputs], losers: Sequence[Loser]) -> None:
    """End requests, and tell their clients, who would wait for ever otherwise.

    Args:
        scheduler: of the engine.
        answers: of the step at hand, by client.
        losers: whom to end.
    """
    requests = [scheduler.requests[loser.name] for loser in losers]
    ends = [_end(request, scheduler.log_stats) for request in requests]
    scheduler.finish_requests([loser.name for loser in losers], RequestStatus.FINISHED_ABORTED)
    for request, end, loser in zip(requests, ends, losers, strict=True):
        answers.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(end)
        logger.info("%s", loser.reason)


def _end(request: Any, log_stats: bool) -> EngineCoreOutput:
    """What tells a request's client that it is over."""
    if log_stats and not request.num_output_tokens:
        scheduled = EngineCoreEventType.SCHEDULED
        if all(event.type is not scheduled for event in request.events):
            # It never ran and leaves the queue now; vLLM would reckon with a queue left at 0.
            request.record_event(scheduled)
    return EngineCoreOutput(
        request_id=request.request_id,
        new_token_ids=[],
        finish_reason=FinishReason.ABORT,
        events=request.take_events(),
        trace_headers=request.trace_headers,
    )
