"""vLLM's schedulers with a pilot aboard."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import DraftTokenIds

from flyball.integrations.vllm.compat import (
    untested,
    vllm_version,
    why_not_govern,
    why_not_observe,
)
from flyball.integrations.vllm.contested import choose_contest
from flyball.integrations.vllm.pilot import Pilot
from flyball.integrations.vllm.settings import Settings, read_settings
from flyball.integrations.vllm.throttled import Throttled, board, wants_throttle
from flyball.integrations.vllm.traits import read_traits

T = TypeVar("T")

logger = logging.getLogger("vllm.flyball")  # shown as vLLM shows its own


class _Observed:
    """Mixed into a scheduler, before it: the pilot sees what the engine counts."""

    pilot: Pilot

    def make_spec_decoding_stats(
        self,
        spec_decoding_stats: Any,
        num_draft_tokens: int,
        num_accepted_tokens: int,
        num_invalid_spec_tokens: dict[str, int] | None,
        request_id: str,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As the scheduler's own."""
        num_invalid = (num_invalid_spec_tokens or {}).get(request_id, 0)
        self.pilot.count(request_id, num_draft_tokens - num_invalid, num_accepted_tokens)
        return super().make_spec_decoding_stats(
            spec_decoding_stats,
            num_draft_tokens,
            num_accepted_tokens,
            num_invalid_spec_tokens,
            request_id,
            *args,
            **kwargs,
        )

    def update_from_output(
        self, scheduler_output: Any, model_runner_output: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As the scheduler's own."""
        answers = super().update_from_output(
            scheduler_output, model_runner_output, *args, **kwargs
        )
        self.pilot.observe(self, scheduler_output, answers)
        return answers

    def shutdown(self) -> None:
        """As the scheduler's own."""
        super().shutdown()
        self.pilot.close()


class _Governed(_Observed):
    """Mixed into a scheduler, before it: the pilot chooses draft lengths."""

    def _update_after_schedule(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> None:
        self.pilot.plan(self, scheduler_output)
        super()._update_after_schedule(scheduler_output, *args, **kwargs)
        if self.pilot.traits.asynchronous:
            self.pilot.hold(self, scheduler_output)

    def update_draft_token_ids(
        self, draft_token_ids: DraftTokenIds, *args: Any, **kwargs: Any
    ) -> None:
        """As the scheduler's own, with drafts cut to what was planned before they were made."""
        names = draft_token_ids.req_ids
        sure = getattr(draft_token_ids, "confidence", None)
        drafts = self.pilot.cut(names, draft_token_ids.draft_token_ids, sure)
        super().update_draft_token_ids(DraftTokenIds(names, drafts), *args, **kwargs)

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = super()._free_request(request, *args, **kwargs)
        self.pilot.free(request.request_id)
        return result


def make_scheduler(*args: Any, vllm_config: Any, **kwargs: Any) -> Scheduler:
    """The engine's own kind of scheduler, governed where that is possible.

    Raises:
        PolicyFileError: the policy file is missing or broken.
    """
    base = AsyncScheduler if vllm_config.scheduler_config.async_scheduling else Scheduler
    settings = read_settings(vllm_config)
    pilot = _tried(lambda: _choose_pilot(base, vllm_config, settings))
    contest = _tried(lambda: choose_contest(base, vllm_config, settings, pilot))
    mixins: list[type] = []
    if pilot is not None:
        mixins.append(_Governed if pilot.governing else _Observed)
    if contest is not None:
        mixins.append(contest.mixin)
    throttles = _tried(lambda: wants_throttle(base, vllm_config, settings))
    if throttles:
        mixins.append(Throttled)
    if not mixins:
        return base(*args, vllm_config=vllm_config, **kwargs)
    name = "".join(cls.__name__.lstrip("_") for cls in (*mixins, base))
    scheduler = type(name, (*mixins, base), {})(*args, vllm_config=vllm_config, **kwargs)
    if pilot is not None:
        scheduler.pilot = pilot
    if contest is not None:
        contest.board(scheduler)
    if throttles:
        board(scheduler, vllm_config, settings.policy, pilot)
    return scheduler


def _tried(choose: Callable[[], T | None]) -> T | None:
    try:
        return choose()
    except Exception as error:
        logger.warning("flyball is off, the engine schedules by itself: %r", error)
        return None


def _choose_pilot(base: type, vllm_config: Any, settings: Settings) -> Pilot | None:
    """The pilot that governs the scheduler, or observes it; None where there is no use for one."""
    problem = why_not_observe(base)
    traits = None if problem else read_traits(vllm_config)
    if traits is None:
        reason = problem or "the engine has no speculative configuration"
        others = (settings.policy.rejection, settings.policy.throttle)  # that do without a draft
        if problem or not any(others):
            logger.warning("flyball is off, the engine schedules by itself: %s", reason)
        return None
    reason = why_not_govern(base, SchedulerOutput, DraftTokenIds) or traits.observe_only
    if not reason and not settings.allow_untested:
        reason = untested(vllm_version())
    pilot = Pilot(traits, settings.policy, governing=not reason)
    if reason:
        logger.warning("flyball only observes, the engine keeps its draft lengths: %s", reason)
        return pilot
    cuts = traits.probed and pilot.governor.wants_confidence
    in_vain = traits.probes_in_vain
    if traits.probed and not cuts:
        in_vain = f"policy {settings.policy.length.policy} does not judge by them"
    if in_vain:
        logger.warning("flyball learns no confidences: %s", in_vain)
    alike = "each with its own length" if traits.ragged_ok else "alike"
    logger.info(
        "flyball governs: policy %s, %s, up to %d drafted tokens, requests of a step %s",
        settings.policy.length.policy,
        traits.method,
        traits.max_draft_len,
        f"{alike}, cut where the drafter is unsure" if cuts else alike,
    )
    return pilot
