"""What an engine can do, read from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flyball.controller.contract import DraftInfo, HostInfo

PROBED_WORKER = "flyball.integrations.vllm.probe.ProbedWorker"  # value of --worker-cls

# Methods whose drafter takes another number of tokens each step; others always draft the most,
# and only verification follows the plan.
_PER_STEP = ("ngram", "draft_model", "eagle", "eagle3", "mtp")
# Methods that may find less than they are asked for.
_MAY_FIND_LESS = ("ngram", "suffix", "custom_class")


@dataclass(frozen=True)
class EngineTraits:
    """How an engine drafts and verifies.

    Attributes:
        method: vLLM's name of the way it drafts.
        max_draft_len: largest number of tokens it drafts.
        per_step: whether the drafter takes another number of tokens each step.
        may_find_less: whether a draft may be shorter than asked for.
        draft_lens: the numbers it may be asked for, ascending; 0 among them.
        ragged_ok: whether requests of one step may verify drafts of different lengths.
        drafter_max_len: longest text, drafted tokens included, that it drafts for.
        asynchronous: whether steps are scheduled before the outcome of the last is known.
        feedback_delay: see `HostInfo`.
        engine: number of the engine among those that serve together.
        probed: whether workers say how sure the drafter was, and drafts are cut by that.
        probes_in_vain: why they say it for nothing; empty where they do not.
        observe_only: why lengths have to be left alone; empty where they may be chosen.
    """

    method: str
    max_draft_len: int
    per_step: bool
    may_find_less: bool
    draft_lens: tuple[int, ...]
    ragged_ok: bool
    drafter_max_len: int
    asynchronous: bool
    feedback_delay: int
    engine: int
    probed: bool
    probes_in_vain: str
    observe_only: str

    def host_info(self) -> HostInfo:
        """What the governor is told."""
        return HostInfo(
            engine_id=f"vllm-{self.engine}",
            max_draft_len=self.max_draft_len,
            ragged_ok=self.ragged_ok,
            padded=not self.ragged_ok,
            mid_draft_stop=False,
            trims=self.probed,
            reads=False,
            feedback_delay=self.feedback_delay,
            rounds_overlap=True,
            drafts=(DraftInfo(self.method),),
        )


def read_traits(vllm_config: Any) -> EngineTraits | None:
    """Traits of the engine that this configuration makes; None where it never drafts."""
    speculative = vllm_config.speculative_config
    if speculative is None or not speculative.num_speculative_tokens:
        return None
    most = int(speculative.num_speculative_tokens)
    graphs = vllm_config.compilation_config.cudagraph_mode
    free = vllm_config.model_config.enforce_eager or graphs is None or not graphs.value
    table = speculative.num_speculative_tokens_per_batch_size
    # Graphs are captured for the lengths that the table names, and no others.
    named = {0, *(entry[2] for entry in table or [(1, 1, most)])}
    lengths = range(most + 1) if free else named
    draft_config = getattr(speculative, "draft_model_config", None)
    limits = [
        config.max_model_len for config in (vllm_config.model_config, draft_config) if config
    ]
    asynchronous = bool(vllm_config.scheduler_config.async_scheduling)
    ragged = free or not graphs.has_full_cudagraphs()
    probes = vllm_config.parallel_config.worker_cls == PROBED_WORKER
    in_vain = "" if ragged else "with full CUDA graphs all requests verify alike"
    if asynchronous:
        in_vain = "with async scheduling finished drafts do not pass the scheduler"
    return EngineTraits(
        method=str(speculative.method),
        max_draft_len=most,
        per_step=speculative.method in _PER_STEP,
        may_find_less=speculative.method in _MAY_FIND_LESS,
        draft_lens=tuple(sorted(min(length, most) for length in lengths)),
        ragged_ok=ragged,
        drafter_max_len=min(limits),
        asynchronous=asynchronous,
        feedback_delay=vllm_config.max_concurrent_batches + 1,
        engine=int(vllm_config.parallel_config.data_parallel_index),
        probed=probes and not in_vain,
        probes_in_vain=in_vain if probes else "",
        observe_only=_why_observe_only(vllm_config, table),
    )


def _why_observe_only(vllm_config: Any, table: Any) -> str:
    parallel = vllm_config.parallel_config
    if parallel.data_parallel_size > 1:
        return "data-parallel ranks that draft different numbers of tokens would deadlock"
    if parallel.pipeline_parallel_size > 1:
        return "pipeline stages verify drafts later than in the step after they were made"
    if parallel.distributed_executor_backend == "external_launcher":
        return "an external launcher needs every rank to schedule alike"
    if table is None:
        return (
            "speculative configuration has no num_speculative_tokens_per_batch_size; "
            "'flyball vllm-args' prints one"
        )
    return ""
