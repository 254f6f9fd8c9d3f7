"""One governed model: held for a call at a time, with what its calls have in common."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from flyball.controller.errors import HostError
from flyball.controller.governor import Governor
from flyball.controller.throttle import Throttle
from flyball.integrations.hf.assemble import Call, assemble
from flyball.integrations.hf.call_checks import check_call, check_prepared
from flyball.integrations.hf.loop import Decoding
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.stats import GenerateStats, RoundStats
from flyball.integrations.hf.throttled import open_throttle
from flyball.integrations.hf.views import DraftView
from flyball.integrations.hf.watch import Queue, Watch
from flyball.kernels.head import AcceptanceHead
from flyball.kernels.verify import Verification

_in_use: weakref.WeakKeyDictionary[PreTrainedModel, threading.Lock] = weakref.WeakKeyDictionary()


class Session:
    """A target with its drafts and its governor, from the first call to the last.

    Args:
        model: the target.
        drafts: views of models, and "prompt_lookup".
        governor: decides.
        head: predicts what is accepted of draft models; None without.
        verification: how sampled drafts are verified.
        tree_width: candidates at each drafted position.
        on_round: called after every round.

    Attributes:
        throttle: sets batch, draft length and hardware; None where the policy file has no such
            section, and before the first call.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        drafts: Sequence[DraftView | str],
        governor: Governor,
        head: AcceptanceHead | None,
        verification: Verification,
        tree_width: int,
        on_round: Callable[[RoundStats], None] | None,
    ) -> None:
        self.model = model
        self.drafts = tuple(drafts)
        self.governor = governor
        self._head = head
        self._verification: Verification = verification
        self._tree_width = tree_width
        self.on_round = on_round
        self._stats = GenerateStats()
        self.throttle: Throttle | None = None
        self._most_rows = 0  # that the throttle knows of
        self._closed = False

    @property
    def stats(self) -> GenerateStats:
        """Sums over all calls so far."""
        return replace(self._stats)

    def close(self) -> None:
        """Write out what is kept and put hardware back; further calls are refused."""
        self._closed = True
        if self.throttle is not None:
            self.throttle.close()
        self.governor.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the model for one call.

        Raises:
            HostError: another call holds it, or the governor is closed.
        """
        if self._closed:
            raise HostError("expected an open governor, but it is closed; make a new one: govern")
        lock = _in_use.setdefault(self.model, threading.Lock())
        if not lock.acquire(blocking=False):
            raise HostError(
                f"expected one call at a time, but this {type(self.model).__name__} is already "
                "generating; wait for that call, or batch the prompts with generate_many"
            )
        try:
            yield
        finally:
            lock.release()

    def prepare(
        self, prompt: Sequence[int] | torch.Tensor, limit: int | None, settings: dict[str, Any]
    ) -> tuple[Prompts, GenerationConfig]:
        """Let transformers prepare one prompt of a queue as for a call of its own.

        Args:
            prompt: token ids.
            limit: new tokens; None where `settings` say it.
            settings: of `generate`.

        Raises:
            HostError: settings that a queue cannot serve.
        """
        prepared: list[tuple[Prompts, GenerationConfig]] = []

        def note(
            model: PreTrainedModel,
            input_ids: torch.Tensor,
            logits_processor: LogitsProcessorList,
            stopping_criteria: StoppingCriteriaList,
            generation_config: GenerationConfig,
            **model_kwargs: Any,
        ) -> torch.Tensor:
            check_call(self.model, model, input_ids, generation_config, model_kwargs)
            check_prepared(input_ids, generation_config, model_kwargs)
            prompts = Prompts.prepared(
                input_ids, None, logits_processor, stopping_criteria, generation_config
            )
            prepared.append((prompts, generation_config))
            return input_ids

        ids = torch.as_tensor(prompt, dtype=torch.long, device=self.model.device)[None]
        own = {} if limit is None else {"max_new_tokens": limit}
        self.model.generate(
            ids, attention_mask=torch.ones_like(ids), custom_generate=note, **own, **settings
        )
        return prepared[0]

    def assemble(
        self,
        num_rows: int,
        config: GenerationConfig,
        queue: Queue,
        first: Prompts,
        on_token: Callable[[int], None] | None = None,
        *,
        together: bool = False,
        watch: Watch | None = None,
        max_tokens: int | None = None,
    ) -> Decoding:
        """The loop of one call; its caller holds the model.

        Args:
            num_rows: most texts at a time.
            config: prepared.
            queue: makes the prompts to come.
            first: the first of them, or one like them.
            on_token: called with every token of the first row.
            together: all rows go on until the last has ended.
            watch: sees the rows as they grow and may end them.
            max_tokens: of keys and values, as long as the watch keeps rows within them.
        """
        self._stats.num_calls += 1
        self._open_throttle(num_rows)
        return assemble(
            self.model,
            self.drafts,
            self.governor,
            Call(
                num_rows,
                config,
                queue,
                first,
                together,
                self._verification,
                self._tree_width,
                watch,
                max_tokens,
                self.throttle,
            ),
            self._stats,
            self.on_round,
            on_token,
            self._head,
        )

    def _open_throttle(self, num_rows: int) -> None:
        """Have what is set anew where the batch is another: its sizes are other settings."""
        if num_rows == self._most_rows:
            return
        self._most_rows = num_rows
        if self.throttle is not None:
            self.throttle.close()
        self.throttle = open_throttle(
            self.governor, self.model.device, num_rows, bool(self.drafts)
        )
