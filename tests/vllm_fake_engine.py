"""An engine core of vLLM over fabricated workers.

Everything that schedules, queues outputs, aborts and compiles grammars is vLLM's own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vllm import envs
from vllm.config import (
    CacheConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm_books import Books
from vllm_fake import Clock, FakeExecutor, FakeWorker, allowed_tokens, next_token

from flyball.controller.policy_file import load_policy
from flyball.integrations.vllm.pilot import Pilot
from flyball.integrations.vllm.throttled import board

MODEL = str(Path(__file__).parents[1] / "demo" / "models" / "draft")  # for its tokenizer
EOS = 0
MAX_DRAFT_LEN = 5
TABLE = [(1, 2, 5), (3, 4, 3), (5, 64, 2)]  # the engine's own lengths


def make_config(
    policy: str | dict[str, Any] = "goodput",
    *,
    delay: int = 0,
    method: str | None = None,
    table: list[tuple[int, int, int]] | None = TABLE,
    num_blocks: int = 200,
    max_len: int = 96,
    max_seqs: int = 6,
    max_step_tokens: int = 64,
    caching: bool = True,
    rejection: dict[str, Any] | None = None,
    throttle: dict[str, Any] | None = None,
) -> VllmConfig:
    """Configuration of an engine; CPUs force synchronous scheduling, which is undone here."""
    model = ModelConfig(model=MODEL, max_model_len=max_len, dtype="float32", enforce_eager=True)
    parallel = ParallelConfig()
    method = method or ("draft_model" if delay else "ngram")
    way: dict[str, Any] = {"model": MODEL}
    if method == "ngram":
        way = {"prompt_lookup_max": 3, "prompt_lookup_min": 1}
    own = {"policy": policy} if isinstance(policy, str) else policy
    sections = {"version": 1, "length": own} | ({"rejection": rejection} if rejection else {})
    sections |= {"throttle": throttle} if throttle else {}
    config = VllmConfig(
        model_config=model,
        parallel_config=parallel,
        speculative_config=SpeculativeConfig(
            method=method,
            num_speculative_tokens=MAX_DRAFT_LEN,
            num_speculative_tokens_per_batch_size=table,
            target_model_config=model,
            target_parallel_config=parallel,
            **way,
        ),
        cache_config=CacheConfig(
            block_size=4, num_gpu_blocks_override=num_blocks, enable_prefix_caching=caching
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=max_seqs,
            max_num_batched_tokens=max_step_tokens,
            max_model_len=max_len,
            is_encoder_decoder=False,
            scheduler_cls="flyball.integrations.vllm.GovernedScheduler",
        ),
        additional_config={"flyball": {"policy": sections}},
    )
    config.scheduler_config.async_scheduling = delay > 0
    return config


class FakeEngine:
    """An engine core of vLLM over fabricated workers.

    Args:
        config: of the engine.
        delay: steps that an output comes late; 0 where steps are scheduled one by one.
        skill: probability that a drafted token is right.
        seed: of the drafter's luck.
        v2: whether resumed requests come as vLLM's second model runner wants them.

    Attributes:
        texts: tokens that each request was answered so far.
        lengths: tokens of its prompt.
        expected: what it has to be answered in the end.
        reasons: why each request ended.
        books: on its steps.
    """

    def __init__(
        self,
        config: VllmConfig,
        *,
        delay: int = 0,
        skill: float = 0.7,
        seed: int = 0,
        v2: bool = False,
    ) -> None:
        self.clock = Clock()
        self.worker = FakeWorker(config, self.clock, skill, seed)
        executor: Any = partial(FakeExecutor, worker=self.worker, clock=self.clock)
        self.core = EngineCore(config, executor, log_stats=True)
        self.scheduler: Any = self.core.scheduler
        self.scheduler.use_v2_model_runner = v2
        if delay:
            self.core.batch_queue_size = delay + 1
            self.core.batch_queue = deque(maxlen=delay + 1)
        self.texts: dict[str, list[int]] = defaultdict(list)
        self.lengths: dict[str, int] = {}
        self.expected: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}
        self._eos: dict[str, int | None] = {}
        self._max_len = config.model_config.max_model_len
        own = self.scheduler.pilot
        own.close()
        policy = load_policy(config.additional_config["flyball"]["policy"])
        # One like it, but with a clock that tells the same time in every run.
        self.pilot = self.scheduler.pilot = Pilot(own.traits, policy, own.governing, self.clock)
        if policy.throttle is not None:  # likewise
            self.scheduler.throttling.close()
            options = {"clock": self.clock, "wait": True}
            board(self.scheduler, config, policy, self.pilot, **options)
        self.books = Books(self.scheduler, self.pilot, self.worker)

    def add(
        self,
        name: str,
        prompt: Sequence[int],
        max_tokens: int,
        regex: str | None = None,
        eos: int | None = EOS,
        logprobs: int | None = None,
    ) -> None:
        """A request comes in."""
        shape = None
        if regex is not None:
            shape = StructuredOutputsParams(regex=regex)
            shape._backend = "xgrammar"
        params = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, structured_outputs=shape, logprobs=logprobs
        )
        params.update_from_generation_config({}, eos)
        request = EngineCoreRequest(
            name, list(prompt), None, params, None, len(self.expected), None, None, None
        )
        self.core.add_request(*self.core.preprocess_add_request(request))
        self.texts[name], self.reasons[name], self.lengths[name] = [], "", len(prompt)
        self.expected[name] = self._answer(prompt, max_tokens, regex, eos)
        self._eos[name] = eos
        if regex is not None:
            self.worker.answers[name] = [*prompt, *self.expected[name]]

    def _answer(
        self, prompt: Sequence[int], max_tokens: int, regex: str | None, eos: int | None
    ) -> list[int]:
        """What the target says, token by token and without an engine."""
        text, limit, grammar = list(prompt), min(len(prompt) + max_tokens, self._max_len), None
        if regex is not None:
            backend = self.core.structured_output_manager.backend
            grammar = backend.compile_grammar(StructuredOutputOptions.REGEX, regex, {EOS})
            mask = backend.allocate_token_bitmask(1)
        while len(text) < limit:
            allowed = None
            if grammar is not None:
                grammar.fill_bitmask(mask, 0)
                allowed = allowed_tokens(mask[0].numpy())
            text.append(next_token(text, allowed))
            if text[-1] == eos:
                break
            if grammar is not None:
                grammar.accept_tokens("", text[-1:])
        return text[len(prompt) :]

    def abort(self, names: Iterable[str], late: bool = False) -> None:
        """Clients go away: between two steps, or while the output is waited for."""
        names = [name for name in names if not self.reasons[name]]
        self.reasons.update(dict.fromkeys(names, "abort"))
        if late:
            self.core.aborts_queue.put(names)
        else:
            self.core.abort_requests(names)

    def step(self) -> None:
        """What the engine core's loop does."""
        outputs, executed = self.core.step_fn()
        self.core.post_step(executed)
        for answer in (outputs or {}).values():
            for one in answer.outputs:
                assert self.reasons[one.request_id] == "", "tokens for a request that is gone"
                self.texts[one.request_id] += one.new_token_ids
                if one.finish_reason is not None:
                    self.reasons[one.request_id] = str(one.finish_reason)
            if answer.scheduler_stats is not None:
                self.books.count(answer.scheduler_stats.spec_decoding_stats)

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return self.scheduler.has_requests() or bool(self.core.batch_queue)

    @property
    def waited_for(self) -> list[str]:
        """Requests that have no whole answer yet."""
        return [name for name, reason in self.reasons.items() if not reason]

    def ends_at_length_limit(self, name: str) -> bool:
        """Whether an answer goes on for as long as the model allows."""
        return self.lengths[name] + len(self.texts[name]) == self._max_len

    def run(self, most: int = 2000) -> None:
        """Step until nothing is left to do."""
        for _ in range(most):
            if not self.busy:
                return
            self.step()
        raise AssertionError(f"still busy after {most} steps")

    def close(self) -> None:
        """Stop the engine, without the garbage collections of its own shutdown."""
        self.core.structured_output_manager.clear_backend()
        self.scheduler.shutdown()
        envs.disable_envs_cache()

    def check(self) -> None:
        """All answers are right, all is told, nothing went wrong and nothing is left behind."""
        self.check_texts()
        self.books.check()
        assert self.pilot.fallbacks == {}
        assert len(self.pilot.governor._pool.taken) == 0

    def check_texts(self) -> None:
        """Every answer is the target's: whole, or up to where the client went away."""
        for name, text in self.texts.items():
            expected, reason = self.expected[name], self.reasons[name]
            assert text == (expected[: len(text)] if reason == "abort" else expected)
            assert reason in ("abort", "stop" if expected[-1] == self._eos[name] else "length")
