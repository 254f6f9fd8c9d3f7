"""Workers for vLLM's real engine core that run no model.

The next token of a text is a fixed function of the text, so every answer is known beforehand
whatever is drafted, preempted or aborted. The worker does what vLLM's own model runner does with
the scheduler's orders, and writes down what it verified.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import (
    EMPTY_MODEL_RUNNER_OUTPUT,
    DraftTokenIds,
    LogprobsLists,
    ModelRunnerOutput,
)

NUM_TOKENS = 97  # that the target says when it is free to; the first of them ends a text


def next_token(text: Sequence[int], allowed: np.ndarray | None = None) -> int:
    """What the target says after this text."""
    place = zlib.crc32(np.array(text, np.int32).tobytes())
    return place % NUM_TOKENS if allowed is None else int(allowed[place % len(allowed)])


def allowed_tokens(row: np.ndarray) -> np.ndarray | None:
    """Tokens in a row of a grammar's bitmask; None where all are."""
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    return None if bits.all() else np.flatnonzero(bits)


class Clock:
    """Seconds that pass only while the worker works."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _Result(Future):
    """A step's output; the clock shows its end once somebody has waited for it."""

    def __init__(self, output: Any, clock: Clock, step_s: float) -> None:
        super().__init__()
        self._clock, self._step_s = clock, step_s
        self.set_result(output)

    def result(self, timeout: float | None = None) -> Any:
        self._clock.now_s += self._step_s
        self._step_s = 0.0
        return super().result(timeout)


class Verified(NamedTuple):
    """What a step did for a request whose text went on."""

    proposed: int  # placeholders included
    accepted: int
    made_in: int  # step that drafted; -1 where the drafts are none of its own


@dataclass
class _Text:
    tokens: list[int]
    num_computed: int
    drafts: tuple[int, ...] = ()
    made_in: int = -1
    real: bool = False


class FakeWorker:
    """Stands for the workers: verifies and drafts as vLLM's V1 model runner does.

    Args:
        config: of the engine.
        clock: that its steps move.
        skill: probability that a drafted token is right.
        seed: of its luck.

    Attributes:
        verified: by step, what was verified for each request.
        found: by step, how many tokens the drafter found for each request.
        answers: texts that a grammar shapes, to be drafted from.
        surprise: by request, what each of its tokens is less probable by, in nats.
    """

    def __init__(self, config: VllmConfig, clock: Clock, skill: float, seed: int) -> None:
        self.verified: list[dict[str, Verified]] = []
        self.found: list[dict[str, int]] = []
        self.answers: dict[str, list[int]] = {}
        self.surprise: dict[str, float] = {}
        self._config, self._clock, self._skill = config, clock, skill
        self._rng = np.random.default_rng(seed)
        self._texts: dict[str, _Text] = {}
        self._late = bool(config.scheduler_config.async_scheduling)
        self._taken: DraftTokenIds | None = None
        self._specs: dict[str, list[int]] = {}

    def execute_model(self, output: SchedulerOutput) -> ModelRunnerOutput | None:
        """Take in the scheduler's orders."""
        for name in output.finished_req_ids:
            self._texts.pop(name, None)
        self._longest = 0
        for new in output.scheduled_new_reqs:
            tokens = new.prefill_token_ids or new.prompt_token_ids
            self._texts[new.req_id] = _Text(list(tokens), new.num_computed_tokens)
            self._reach(output, new.req_id, new.num_computed_tokens)
        cached = output.scheduled_cached_reqs
        for name, num_computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            if name in cached.resumed_req_ids:
                self._texts[name] = _Text(list(cached.all_token_ids[name]), num_computed)
            self._reach(output, name, num_computed)
        if not output.num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        self._output = output
        self._specs = {
            name: list(draft) for name, draft in output.scheduled_spec_decode_tokens.items()
        }
        return None

    def _reach(self, output: SchedulerOutput, name: str, num_computed: int) -> None:
        self._longest = max(self._longest, num_computed + output.num_scheduled_tokens[name])

    def sample_tokens(self, grammar: GrammarOutput | None) -> ModelRunnerOutput:
        """Verify, then draft."""
        masks = self._masks(grammar)
        step, names = len(self.verified), list(self._output.num_scheduled_tokens)
        self.verified.append({})
        sampled = [self._verify(name, step, masks.get(name)) for name in names]
        self._draft(step, [name for name, row in zip(names, sampled, strict=True) if row], names)
        index = {name: row for row, name in enumerate(names)}
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index=index,
            sampled_token_ids=sampled,
            logprobs=self._log_probs(names, sampled),
        )

    def _log_probs(self, names: list[str], sampled: list[list[int]]) -> LogprobsLists:
        """As the runner tells them: of all tokens of the step, one row each."""
        counts = list(map(len, sampled))
        surprise = [self.surprise.get(name, 0.0) for name in names]
        tokens = np.fromiter(itertools.chain(*sampled), np.int32).reshape(-1, 1)
        values = -np.repeat(np.array(surprise, np.float32), counts)[:, None] - tokens % 7 / 7
        starts = [0, *itertools.accumulate(counts)]
        return LogprobsLists(tokens, values.astype(np.float32), np.ones(len(tokens)), starts)

    def _masks(self, grammar: GrammarOutput | None) -> dict[str, np.ndarray]:
        masks, row = {}, 0
        for name in [] if grammar is None else grammar.structured_output_request_ids:
            end = row + 1 + len(self._specs.get(name, ()))
            masks[name] = grammar.grammar_bitmask[row:end].copy()
            row = end
        return masks

    def _verify(self, name: str, step: int, masks: np.ndarray | None) -> list[int]:
        text, spec = self._texts[name], self._specs.get(name, [])
        end = text.num_computed + self._output.num_scheduled_tokens[name] - len(spec)
        if end < len(text.tokens):  # more of the prompt is to come
            assert not spec
            text.num_computed = end
            return []
        assert end == len(text.tokens), "the scheduler has lost count"
        own = text.made_in == step - 1 >= 0
        drafts = spec
        if self._late:
            # Drafts stay here for one step only; the runner's index must not leave their row.
            assert not own or len(spec) <= len(text.drafts)
            drafts = list(text.drafts[: len(spec)]) if own else [-1] * len(spec)
        elif own and -1 not in spec:
            assert tuple(spec) == text.drafts[: len(spec)]
        tokens: list[int] = []
        for place in range(len(drafts) + 1):
            allowed = None if masks is None else allowed_tokens(masks[place])
            tokens.append(next_token(text.tokens + tokens, allowed))
            if place == len(drafts) or tokens[-1] != drafts[place]:
                break
        text.num_computed = end + len(tokens) - 1
        text.tokens += tokens
        assert len(text.tokens) <= self._config.model_config.max_model_len
        made_in = text.made_in if own and text.real and -1 not in drafts else -1
        self.verified[step][name] = Verified(len(spec), len(tokens) - 1, made_in)
        return tokens.copy()  # the scheduler cuts its own

    def _draft(self, step: int, live: list[str], names: list[str]) -> None:
        speculative = self._config.speculative_config
        most = speculative.num_speculative_tokens
        fits = self._longest + most <= self._config.model_config.max_model_len
        wanted = self._output.num_spec_tokens_to_schedule if fits else most
        self.found.append({})
        for name in live:
            text = self._texts[name]
            found = wanted
            if fits and speculative.method == "ngram":
                found = int(self._rng.integers(0, wanted + 1))
            drafts: list[int] = []
            for right in self._rng.random(found) < self._skill:
                token = self._right(name, text.tokens + drafts)
                drafts.append(token if right else int(self._rng.integers(1, NUM_TOKENS)))
            text.drafts = tuple(drafts if fits else [0] * most)
            text.made_in, text.real = step, fits
            self.found[step][name] = found if fits else 0
        self._taken = None
        if not self._late or self._output.has_structured_output_requests:
            rows = [self._texts[name].drafts if name in live else [0] * wanted for name in names]
            self._taken = DraftTokenIds(names, [list(row) for row in rows])

    def _right(self, name: str, text: list[int]) -> int:
        answer = self.answers.get(name, ())
        return answer[len(text)] if len(text) < len(answer) else next_token(text)

    def take_draft_token_ids(self) -> DraftTokenIds | None:
        """The drafts, where the scheduler has to know them."""
        return self._taken

    def step_s(self) -> float:
        """Seconds of the step at hand."""
        num_drafted = self._output.num_spec_tokens_to_schedule
        return 1e-2 + 2e-4 * self._output.total_num_scheduled_tokens + 1e-3 * num_drafted

    # What the engine core asks of its workers besides.

    def get_kv_cache_spec(self) -> dict[str, FullAttentionSpec]:
        """One layer of attention."""
        size = self._config.cache_config.block_size
        spec = FullAttentionSpec(block_size=size, num_kv_heads=1, head_size=8, dtype=torch.float32)
        return {"layer": spec}

    def get_supported_kv_cache_layouts(self) -> list[str]:
        """The one there always is."""
        return ["NHD"]

    def determine_available_memory(self) -> int:
        """Enough; the number of blocks is set by hand."""
        return 1 << 30


class FakeExecutor(Executor):
    """Calls the worker in the engine core's own process; outputs are there at once, but late."""

    def __init__(self, config: VllmConfig, worker: FakeWorker, clock: Clock) -> None:
        self.worker, self._clock = worker, clock
        super().__init__(config)

    def _init_executor(self) -> None:
        pass

    def check_health(self) -> None:
        """It is well."""

    def compile_or_warm_up_model(self) -> None:
        """Nothing to compile."""

    def collective_rpc(
        self, method: Any, timeout: Any = None, args: Any = (), kwargs: Any = None, **_: Any
    ) -> list[Any]:
        """What the worker answers; nothing where it has no such method."""
        return [getattr(self.worker, method, lambda *args: None)(*args)]

    def execute_model(self, output: SchedulerOutput, non_block: bool = False) -> Any:
        """As the executors of vLLM."""
        return _Result(self.worker.execute_model(output), self._clock, 0.0)

    def sample_tokens(self, grammar: GrammarOutput | None, non_block: bool = False) -> Any:
        """As the executors of vLLM."""
        result = _Result(self.worker.sample_tokens(grammar), self._clock, self.worker.step_s())
        return result if non_block else result.result()
