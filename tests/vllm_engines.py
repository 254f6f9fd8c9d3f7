"""Real vLLM engines on the CPU that the tests share, governed and plain.

Once vLLM is imported an engine starts in under a second. It runs in the test's own process, and
has to be kept: its end would take the process groups of the others along.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prometheus_client import REGISTRY, CollectorRegistry
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams
from vllm.platforms import current_platform
from vllm.utils import cpu_triton_utils

from flyball.integrations.vllm import hold as holds
from flyball.integrations.vllm.pilot import Pilot
from flyball.policies.length.base import Ints, LengthPolicy, LengthSettings, View

Settings = SamplingParams | Sequence[SamplingParams]


def expand_to_tokens(
    output: torch.Tensor, values: torch.Tensor, ends: torch.Tensor, old: int, new: int, _: int = 0
) -> None:
    """Repeats each request's value for each of its drafted tokens, which end at `ends`."""
    counts = torch.diff(ends, prepend=ends.new_zeros(1)).long()
    output.copy_(torch.where(values == old, new, values).repeat_interleave(counts))


# Without Triton, vLLM 0.32 writes the temperatures of drafted tokens to a copy that is lost, and
# samples with whatever was in memory, governed or not (vllm-project/vllm, issue 55005).
cpu_triton_utils._expand_kernel_impl = expand_to_tokens

# vLLM does this at every start, and trips over numba once an n-gram drafter has imported that.
current_platform.register_triton_kernel_overrides = functools.cache(
    current_platform.register_triton_kernel_overrides
)
current_platform.register_triton_kernel_overrides()


def tiny_llama(vocab_size: int) -> LlamaForCausalLM:
    """A random Llama of the smallest heads that vLLM's CPU attention takes."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=1,
        head_dim=32,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        initializer_range=0.4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def save_eagle(target: LlamaForCausalLM, folder: Path) -> None:
    """A random EAGLE head for a target, as vLLM takes it.

    One decoder layer without its first norm, over the target's hidden state beside the embedding
    of the next token; embeddings and the output layer are the target's own.
    """
    torch.manual_seed(2)
    config = LlamaConfig(**{**target.config.to_dict(), "num_hidden_layers": 1})
    layer = LlamaForCausalLM(config).model.layers[0].state_dict(prefix="layers.0.")
    del layer["layers.0.input_layernorm.weight"]
    width = config.hidden_size
    weights = {**layer, "fc.weight": torch.randn(width, 2 * width) / (2 * width) ** 0.5}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)


class SeededClock:
    """Seconds that pass only when they are read, so that decisions repeat exactly."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(11)
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += self._rng.uniform(0.0005, 0.005)
        return self._now_s


class RandomLengths(LengthPolicy):
    """Every request's length is drawn anew with every plan."""

    def __init__(self) -> None:
        super().__init__(LengthSettings(policy="random"))
        self._rng = np.random.default_rng(5)

    def decide(self, view: View) -> Ints:
        return self._rng.integers(0, view.max_draft_len + 1, len(view.slots)).astype(np.int32)


class Engine:
    """An engine, governed if it drafts, and what the tests look at.

    Args:
        model: folder of the target.
        speculative: vLLM's speculative configuration; None for none, and no governor either.
        options: of `LLM`.

    Attributes:
        llm: the engine.
        scheduler: its scheduler.
        num_ragged: steps that planned different lengths for requests of one batch.
        verified: how often a draft of each length was verified.
    """

    def __init__(
        self, model: Path, speculative: dict[str, Any] | None = None, **options: Any
    ) -> None:
        if speculative is not None:
            most = speculative["num_speculative_tokens"]
            table = {"num_speculative_tokens_per_batch_size": [(1, 4096, most)]}
            options["speculative_config"] = {**speculative, **table}
            options["scheduler_cls"] = "flyball.integrations.vllm.GovernedScheduler"
        sizes = {"max_num_seqs": 32, "block_size": 32, "kv_cache_memory_bytes": 2**26}
        self.llm = LLM(
            str(model),
            dtype="float32",
            enforce_eager=True,
            disable_log_stats=False,
            **{**sizes, **options},
        )
        # vLLM's own registry forgets an engine when the next one starts.
        self._metrics = CollectorRegistry()
        for collector in list(REGISTRY._collector_to_names):
            if getattr(collector, "_name", "").startswith("vllm:"):
                self._metrics.register(collector)
        self.scheduler = self.llm.llm_engine.engine_core.engine_core.scheduler
        self.num_ragged, self.verified = 0, Counter[int]()
        if self.governed:
            self.pilot._clock = self.pilot.governor._clock = SeededClock()
            self.pilot.plan = functools.partial(self._watch, self.pilot.plan)

    @property
    def governed(self) -> bool:
        """Whether a pilot is aboard."""
        return hasattr(self.scheduler, "pilot")

    @property
    def pilot(self) -> Pilot:
        """The pilot of a governed engine."""
        return self.scheduler.pilot

    def _watch(self, plan: Callable[[Any, Any], None], scheduler: Any, output: Any) -> None:
        plan(scheduler, output)
        self.verified.update(map(len, output.scheduled_spec_decode_tokens.values()))
        course = self.pilot._course
        if course is not None:
            planned = {course.lengths[name] for name in output.num_scheduled_tokens}
            self.num_ragged += len(planned) > 1

    def metric(self, name: str) -> int:
        """One of vLLM's counters."""
        return sum(
            int(sample.value)
            for metric in self._metrics.collect()
            for sample in metric.samples
            if sample.name == f"vllm:{name}_total"
        )

    def generate(self, prompts: Sequence[list[int]], settings: Settings) -> list[Any]:
        """Outputs of requests that are served together."""
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        return self.llm.generate(inputs, settings, use_tqdm=False)

    def texts(self, prompts: Sequence[list[int]], settings: Settings) -> list[list[int]]:
        """New tokens of requests that are served together."""
        return [list(out.outputs[0].token_ids) for out in self.generate(prompts, settings)]

    @contextmanager
    def seat(self, policy: LengthPolicy, hold: int = 1) -> Iterator[None]:
        """Another policy decides meanwhile, and its plans are held for fewer steps."""
        seat, usual = self.pilot.governor._seat, holds.hold_steps

        def hire() -> LengthPolicy:
            seat.policy = policy
            return policy

        seat.hire, seat.policy, holds.hold_steps = hire, None, lambda _: hold
        try:
            yield
        finally:
            del seat.hire
            seat.policy, holds.hold_steps = None, usual

    def check(self) -> None:
        """Our counts are the engine's, nothing went wrong, and no request left anything."""
        assert not self.scheduler.requests
        if self.governed:
            assert self.pilot.num_proposed == self.metric("spec_decode_num_draft_tokens")
            assert self.pilot.num_accepted == self.metric("spec_decode_num_accepted_tokens")
            assert self.pilot.fallbacks == {}
            self.pilot._log.hand_in()
            assert self.pilot.governor._pool.taken.tolist() == []
