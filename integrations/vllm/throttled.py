"""Schedulers whose limits, and the hardware under them, a throttle sets while they serve."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from flyball.controller.errors import HardwareError
from flyball.controller.policy_file import PolicyFile
from flyball.controller.throttle import Throttle
from flyball.integrations.hardware.base import LeverActuator
from flyball.integrations.hardware.combined import Combined
from flyball.integrations.hardware.devices import best_meter, open_device
from flyball.integrations.hardware.engine import EngineActuator, draft_lever
from flyball.integrations.vllm.compat import untested, vllm_version, why_not_throttle
from flyball.integrations.vllm.limits import scheduler_levers
from flyball.integrations.vllm.pilot import Pilot
from flyball.integrations.vllm.settings import Settings
from flyball.integrations.vllm.throttling import Throttling

logger = logging.getLogger("vllm.flyball")


class Throttled:
    """Mixed into a scheduler, right before it: a throttle sees its steps, and sets its limits.

    Attributes:
        throttling: None where it could not be opened.
    """

    throttling: Throttling | None = None

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """As the scheduler's own."""
        if self.throttling is not None:
            self.throttling.begin()
        return super().schedule(*args, **kwargs)

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
        if self.throttling is not None:
            num_invalid = (num_invalid_spec_tokens or {}).get(request_id, 0)
            self.throttling.count(num_draft_tokens - num_invalid, num_accepted_tokens)
        return super().make_spec_decoding_stats(
            spec_decoding_stats,
            num_draft_tokens,
            num_accepted_tokens,
            num_invalid_spec_tokens,
            request_id,
            *args,
            **kwargs,
        )

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """As the scheduler's own."""
        answers = super().update_from_output(*args, **kwargs)
        if self.throttling is not None:
            self.throttling.end(self, answers)
        return answers

    def shutdown(self) -> None:
        """As the scheduler's own."""
        try:
            super().shutdown()
        finally:
            if self.throttling is not None:
                self.throttling.close()


def wants_throttle(base: type, vllm_config: Any, settings: Settings) -> bool:
    """Whether a scheduler of this class is to be throttled.

    Args:
        base: class of the scheduler.
        vllm_config: of the engine.
        settings: what the user said.
    """
    if settings.policy.throttle is None:
        return False
    parallel, reason = vllm_config.parallel_config, why_not_throttle(base)
    if parallel.data_parallel_size > 1:
        reason = "data-parallel ranks would each set what they share"
    if parallel.distributed_executor_backend == "external_launcher":
        reason = "an external launcher needs every rank to schedule alike"
    if not reason and not settings.allow_untested:
        reason = untested(vllm_version())
    if reason:
        logger.warning("flyball sets no limits and no hardware: %s", reason)
    return not reason


def board(
    scheduler: Any, vllm_config: Any, policy: PolicyFile, pilot: Pilot | None, **options: Any
) -> None:
    """Open the throttle of a scheduler with `Throttled` mixed in, if that is possible.

    Args:
        scheduler: of the engine.
        vllm_config: of the engine.
        policy: whose throttle section says what is set, and how.
        pilot: of the scheduler, if it has one; it shows what the throttle does.
        options: of `Throttle`.
    """
    try:
        throttle = open_throttle(scheduler, vllm_config, policy, pilot, **options)
    except Exception as error:
        reason = error if isinstance(error, (HardwareError, ValueError)) else repr(error)
        logger.warning("flyball sets no limits and no hardware: %s", reason)
        return
    clock = options.get("clock", time.perf_counter)
    scheduler.throttling = Throttling(throttle, clock)
    if pilot is not None:
        pilot.throttling = scheduler.throttling
    knobs = ", ".join(knob.name for knob in throttle.space.knobs)
    dry = policy.throttle is not None and policy.throttle.dry_run
    logger.info("flyball sets %s%s", knobs, ": dry run, nothing is changed" if dry else "")


def open_throttle(
    scheduler: Any, vllm_config: Any, policy: PolicyFile, pilot: Pilot | None, **options: Any
) -> Throttle:
    """What sets limits and hardware; arguments as of `board`.

    Raises:
        HardwareError: the device is not here, or another process governs it; in one line.
        ValueError: the policy cannot use these knobs; in one line.
    """
    settings = policy.throttle
    assert settings is not None
    speculative, parallel = vllm_config.speculative_config, vllm_config.parallel_config
    most = int(speculative.num_speculative_tokens or 0) if speculative else 0
    levers = scheduler_levers(scheduler, most)
    if pilot is not None and pilot.governing:
        levers.append(draft_lever(pilot.governor))
    name = f"vllm-{int(parallel.data_parallel_index)} {id(scheduler)}"
    parts: list[LeverActuator] = [EngineActuator(name, levers, settings.dry_run)]
    gpu = gpu_of(parallel)
    if settings.actuator == "nvml" and gpu is None:
        raise HardwareError("expected an engine on a GPU for actuator nvml; it decodes on a CPU")
    if settings.actuator != "engine":
        # Threads are bound when a worker starts, and vLLM lets nobody set their number since.
        own = ("num_cpus",) if parallel.distributed_executor_backend == "uni" else ()
        hardware, _ = open_device(settings.actuator, gpu or 0, settings.dry_run, own)
        parts.insert(0, hardware)
    actuator = Combined(parts)
    rng = np.random.default_rng(0)
    decides = policy.make_throttle_policy(actuator.capabilities(), policy.goal, rng)
    assert decides is not None
    return Throttle(decides, actuator, best_meter(gpu), settings.window_s, **options)


def gpu_of(parallel_config: Any) -> int | None:
    """The GPU that decodes, as NVML counts; None for a CPU.

    Raises:
        HardwareError: there are several.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return None
    if parallel_config.world_size > 1:
        raise HardwareError(
            f"expected an engine on one GPU, but got {parallel_config.world_size}; several are "
            "not set together yet"
        )
    return int(current_platform.device_id_to_physical_device_id(0))
