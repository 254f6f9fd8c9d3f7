"""An engine core of vLLM over fabricated workers, which keeps its own books.

Everything that schedules, queues outputs, aborts and compiles grammars is vLLM's own. What the
workers verified and the scheduler took is compared with what the engine and the pilot counted,
and with what the governor was told.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import RequestStatus
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm_fake import Clock, FakeExecutor, FakeWorker, allowed_tokens, next_token

from flyball.controller.contract import Cost, Outcomes
from flyball.controller.policy_file import load_policy
from flyball.integrations.vllm.pilot import Pilot

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
) -> VllmConfig:
    """Configuration of an engine; CPUs force synchronous scheduling, which is undone here."""
    model = ModelConfig(model=MODEL, max_model_len=max_len, dtype="float32", enforce_eager=True)
    parallel = ParallelConfig()
    method = method or ("draft_model" if delay else "ngram")
    way: dict[str, Any] = {"model": MODEL}
    if method == "ngram":
        way = {"prompt_lookup_max": 3, "prompt_lookup_min": 1}
    own = {"policy": policy} if isinstance(policy, str) else policy
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
        additional_config={"flyball": {"policy": {"version": 1, "length": own}}},
    )
    config.scheduler_config.async_scheduling = delay > 0
    return config


class Round(NamedTuple):
    """What the workers verified of a draft of their own, and the scheduler took."""

    plan_id: int
    proposed: int
    accepted: int
    exhausted: bool


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
        scheduled: by step, tokens of each request.
        rounds: by request, what the governor may be told.
        num_proposed: drafted tokens that were verified, as vLLM's statistics have it.
        num_accepted: of them accepted, likewise.
        known: the same two counts as the workers know them.
        num_preempted: requests that lost their place.
        num_stale: of them with output on its way.
        num_invalid: drafted tokens that a grammar refused after they were scheduled.
        faulty: whether faults are about to happen.
        num_dropped: outputs of requests that the scheduler did not take.
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
        self.rounds: dict[str, list[Round]] = defaultdict(list)
        self._num_learned = 0
        self._told: list[tuple[Outcomes, dict[int, str]]] = []
        self.scheduled: list[dict[str, int]] = []
        self.num_proposed = self.num_accepted = self.num_preempted = self.num_stale = 0
        self.num_invalid = self.num_dropped = 0
        self.known = [0, 0]
        self.faulty = False
        self._max_len = config.model_config.max_model_len
        self._eos: dict[str, int | None] = {}
        self._steps: dict[int, tuple[int, SchedulerOutput]] = {}
        self._courses: list[tuple[int | None, dict[str, int]] | None] = []
        self._watch()

    def _watch(self) -> None:
        pilot = self.scheduler.pilot
        pilot.close()
        policy = load_policy(self.core.vllm_config.additional_config["flyball"]["policy"])
        self.pilot = Pilot(pilot.traits, policy, pilot.governing, self.clock)
        self.scheduler.pilot = self.pilot
        self._schedule, self.scheduler.schedule = self.scheduler.schedule, self._on_schedule
        self._update, self.scheduler.update_from_output = (
            self.scheduler.update_from_output,
            self._on_update,
        )
        governor = self.pilot.governor
        self._observe, governor.observe_many = governor.observe_many, self._on_observe
        self._learn, governor._learn = governor._learn, self._on_learn

    # What clients do.

    def add(
        self,
        name: str,
        prompt: Sequence[int],
        max_tokens: int,
        regex: str | None = None,
        eos: int | None = EOS,
    ) -> None:
        """A request comes in."""
        shape = None
        if regex is not None:
            shape = StructuredOutputsParams(regex=regex)
            shape._backend = "xgrammar"
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, structured_outputs=shape)
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
                self.reasons[one.request_id] = (
                    "" if one.finish_reason is None else str(one.finish_reason)
                )
            stats = answer.scheduler_stats and answer.scheduler_stats.spec_decoding_stats
            if stats:
                self.num_proposed += stats.num_draft_tokens
                self.num_accepted += stats.num_accepted_tokens

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

    # What is watched.

    def _on_schedule(self, *args: Any) -> SchedulerOutput:
        output: SchedulerOutput = self._schedule(*args)
        self.num_preempted += len(output.preempted_req_ids or ())
        self.num_stale += sum(
            self.scheduler.requests[name].num_stale_output_tokens > 0
            for name in output.preempted_req_ids or ()
            if name in self.scheduler.requests
        )
        if output.num_scheduled_tokens:
            self._steps[id(output)] = (len(self._courses), output)
            self.scheduled.append(output.num_scheduled_tokens)
            course = self.pilot._course
            sound = course and all(type(length) is int for length in course.lengths.values())
            self._courses.append((course.plan_id, dict(course.lengths)) if sound else None)
        return output

    def _on_update(self, output: SchedulerOutput, result: Any) -> Any:
        requests = self.scheduler.requests
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
        verified = self.worker.verified[step].get(name)
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
            found = self.worker.found[verified.made_in][name]
            exhausted = found < lengths[name] and proposed == found
            accepted = min(verified.accepted, proposed)  # past the end of a grammar
            self.rounds[name].append(Round(plan_id, proposed, accepted, exhausted))

    def _on_observe(self, rounds: Sequence[Outcomes], costs: Sequence[Cost]) -> None:
        names = {slot: name for name, slot in self.pilot._ledger._slots.items()}
        self._told.extend((rows, names) for rows in rounds)
        self._observe(rounds, costs)

    def _on_learn(self, rounds: Sequence[Outcomes]) -> None:
        self._num_learned += sum(len(rows.slots) for rows in rounds)
        self._learn(rounds)

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

    # What has to hold.

    def check(self) -> None:
        """Answers, counts and what the governor was told, when all is done."""
        self.check_texts()
        self.check_counts()
        assert self.rows == self.rounds  # every round once and in order, nothing else
        assert self._num_learned == sum(map(len, self.rows.values()))
        assert self.pilot.fallbacks == {}
        assert len(self.pilot.governor._pool.taken) == 0

    def check_told(self) -> None:
        """The governor was told of no round twice, in no other order, and of nothing else."""
        for name, rows in self.rows.items():
            rounds = iter(self.rounds[name])
            assert all(row in rounds for row in rows)

    def check_texts(self) -> None:
        """Every answer is the target's: whole, or up to where the client went away."""
        for name, text in self.texts.items():
            expected, reason = self.expected[name], self.reasons[name]
            assert text == (expected[: len(text)] if reason == "abort" else expected)
            assert reason in ("abort", "stop" if expected[-1] == self._eos[name] else "length")

    def check_counts(self) -> None:
        """The pilot, the engine and the workers have counted the same."""
        counted = [self.num_proposed, self.num_accepted]
        assert [self.pilot.num_proposed, self.pilot.num_accepted] == counted == self.known
