"""Workers that say how sure the drafter was of each token.

The value of `--worker-cls`, with `flyball vllm-args --probe`: without it the governor knows no
confidences, and decides by position and request alone. What it says of a token is the largest
probability that the drafter gave to any token there, at temperature 1; which one it took, or drew,
plays no part.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.platforms import current_platform
from vllm.v1.outputs import DraftTokenIds

logger = logging.getLogger("vllm.flyball")  # shown as vLLM shows its own


class DraftProbe:
    """Listens to a drafter that computes logits token by token.

    What goes wrong here ends the listening, never the draft.

    Args:
        drafter: of vLLM's model runner.

    Raises:
        ValueError: the drafter is none of these, in one line.
    """

    def __init__(self, drafter: Any) -> None:
        compute = getattr(getattr(drafter, "model", None), "compute_logits", None)
        propose = getattr(drafter, "propose", None)
        if not callable(compute) or not callable(propose):
            raise ValueError(f"{type(drafter).__name__} drafts without logits of its own")
        if getattr(drafter, "use_local_argmax_reduction", False):
            raise ValueError("the drafter's ranks each know a part of the logits")
        self._compute, self._propose = compute, propose
        self._heard: list[torch.Tensor] = []
        self._deaf = False
        drafter.model.compute_logits = self._listen
        drafter.propose = self._begin

    def _begin(self, *args: Any, **kwargs: Any) -> Any:
        self._heard.clear()
        return self._propose(*args, **kwargs)

    def _listen(self, *args: Any, **kwargs: Any) -> Any:
        logits = self._compute(*args, **kwargs)
        # Not every rank has logits.
        if isinstance(logits, torch.Tensor) and logits.ndim == 2 and not self._deaf:
            try:
                self._heard.append(logits.softmax(-1, dtype=torch.float32).amax(-1))
            except Exception as error:
                self._give_up(error)
        return logits

    def _give_up(self, error: Exception) -> None:
        self._deaf = True
        self._heard.clear()
        logger.warning("flyball listens to the drafter no longer: %r", error)

    def take(self, num_requests: int, num_tokens: int) -> NDArray[np.float32] | None:
        """What was heard of the draft (requests, tokens) made last, once; None if it was not."""
        heard = self._heard.copy()
        self._heard.clear()
        if (
            not heard
            or len(heard) != num_tokens
            or any(len(part) != num_requests for part in heard)
        ):
            return None
        try:
            return torch.stack(heard, dim=1).cpu().numpy()
        except Exception as error:
            self._give_up(error)
            return None


class _Probed:
    """Mixed into a worker, before it: finished drafts say how sure the drafter was.

    As an attribute `confidence` (requests, tokens), which goes with them from process to process.
    """

    model_runner: Any
    vllm_config: Any
    _probe: DraftProbe | None = None

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """As the worker's own."""
        super().load_model(*args, **kwargs)
        if self.vllm_config.scheduler_config.async_scheduling:
            return  # nobody would hear of it; the scheduler says so
        try:
            self._probe = DraftProbe(self.model_runner.drafter)
        except (AttributeError, ValueError) as error:
            logger.warning("flyball does not learn how sure the drafter is: %s", error)

    def take_draft_token_ids(self) -> DraftTokenIds | None:
        """As the worker's own."""
        drafts = super().take_draft_token_ids()
        if self._probe is None or drafts is None or not drafts.draft_token_ids:
            return drafts
        tokens = drafts.draft_token_ids
        drafts.confidence = self._probe.take(len(tokens), len(tokens[0]))
        return drafts


if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker

ProbedWorker = type("ProbedWorker", (_Probed, Worker), {})
