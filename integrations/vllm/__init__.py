"""vLLM: a scheduler that lets a governor choose draft lengths, step by step.

FLYBALL_POLICY=policy.yaml vllm serve MODEL $(flyball vllm-args policy.yaml --method ngram)
"""

from __future__ import annotations

from typing import Any


class GovernedScheduler:
    """The value of `--scheduler-cls`; makes the engine's own scheduler, governed."""

    def __new__(cls, *args: Any, vllm_config: Any, **kwargs: Any) -> Any:
        """A governed `Scheduler` or `AsyncScheduler`, whichever the engine runs.

        Raises:
            PolicyFileError: the policy file is missing or broken.
        """
        from flyball.integrations.vllm.scheduler import make_scheduler

        return make_scheduler(*args, vllm_config=vllm_config, **kwargs)
