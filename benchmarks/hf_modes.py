"""Every way to decode that `benchmarks.hf` compares, and the one place that knows our interface.

Stock assisted generation drafts a constant K only with the confidence threshold at 0: None would
be filled with the default of 0.4 (`AssistedCandidateGenerator.__init__`). With scikit-learn
installed any other threshold is fitted anew in every round, so all modes but the dynamic one run
with that switched off; it costs them nothing then.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from unittest.mock import patch

import torch
from transformers import LlamaForCausalLM
from transformers.generation import candidate_generator

from flyball.demo.loader import DemoModels
from flyball.integrations.hf import govern

Inputs = Mapping[str, Any]
STATIC_LENS = tuple(range(9))
STOCK_LENS = (2, 4, 8, 20)
LOOKUP_LENS = (5, 10)
RANDOM_DRAFT_SEED = 20
PLAIN = "plain"
GOVERNED, GOVERNED_DRAFT, GOVERNED_RANDOM = (
    "governor",
    "governor, draft only",
    "governor, random draft",
)
STOCK, STATIC = "stock", "static"
DYNAMIC = f"{STOCK} dynamic threshold"


@dataclass(frozen=True)
class Counts:
    """Sums over rounds.

    Attributes:
        rounds: target steps.
        drafted: tokens proposed, all rows together.
        accepted: of them accepted.
        host_s: seconds of the rounds outside draft and target.
    """

    rounds: int
    drafted: int
    accepted: int
    host_s: float

    def __add__(self, other: Counts) -> Counts:
        """Sums of both."""
        return Counts(
            self.rounds + other.rounds,
            self.drafted + other.drafted,
            self.accepted + other.accepted,
            self.host_s + other.host_s,
        )

    def __sub__(self, other: Counts) -> Counts:
        """What came after `other`."""
        return self + Counts(-other.rounds, -other.drafted, -other.accepted, -other.host_s)


class Runner(Protocol):
    """One way to decode, with whatever it remembers."""

    def generate(self, inputs: Inputs) -> torch.Tensor:
        """Token ids (rows, length), as `generate` of the target returns them."""

    def counts(self) -> Counts | None:
        """Sums since the runner was made; None where the host does not count."""


class Stock:
    """What transformers has itself.

    Args:
        models: the demo's.
        assistant: settings for the draft's generation config, or None to go without the draft.
        refit: whether scikit-learn may fit the threshold.
        **arguments: for `generate`.
    """

    def __init__(
        self,
        models: DemoModels,
        assistant: Mapping[str, Any] | None = None,
        *,
        refit: bool = False,
        **arguments: Any,
    ) -> None:
        self._models = models
        self._refit = refit
        self._arguments = arguments
        # The heuristic schedule keeps its K here from call to call, so modes do not share one.
        self._config = None
        if assistant is not None:
            self._config = copy.deepcopy(models.draft.generation_config)
            self._config.update(**assistant)

    def generate(self, inputs: Inputs) -> torch.Tensor:
        """Decode with `generate`."""
        draft, arguments = self._models.draft, dict(self._arguments)
        if self._config is not None:
            arguments["assistant_model"] = draft
        is_there = candidate_generator.is_sklearn_available if self._refit else lambda: False
        with (
            patch.object(draft, "generation_config", self._config or draft.generation_config),
            patch.object(candidate_generator, "is_sklearn_available", is_there),
        ):
            out: torch.Tensor = self._models.target.generate(**inputs, **arguments)
        return out

    def counts(self) -> None:
        """Nothing; `benchmarks.hf_clock.probe` counts from outside."""
        return None


class Ours:
    """Flyball; the only code here that knows its interface.

    Args:
        models: the demo's.
        drafts: models or "prompt_lookup".
        length: section of the policy file, or None for the default policy.
    """

    def __init__(
        self, models: DemoModels, drafts: Sequence[Any], length: Mapping[str, Any] | None = None
    ) -> None:
        policy = None if length is None else {"version": 1, "length": dict(length)}
        self._gov = govern(models.target, drafts=list(drafts), policy=policy)

    def generate(self, inputs: Inputs) -> torch.Tensor:
        """Decode one batch until its slowest row has ended."""
        out: torch.Tensor = self._gov.generate(**inputs)
        return out

    def generate_many(
        self, prompts: Sequence[torch.Tensor], max_new_tokens: Sequence[int], batch_size: int
    ) -> list[torch.Tensor]:
        """Decode prompts (tokens,), each with its own limit; a row that ends makes room."""
        out: list[torch.Tensor] = self._gov.generate_many(
            prompts, batch_size=batch_size, max_new_tokens=max_new_tokens, do_sample=False
        )
        return out

    def counts(self) -> Counts:
        """Sums since the runner was made."""
        s = self._gov.stats
        return Counts(s.num_rounds, s.num_drafted, s.num_accepted, s.host_s)


@dataclass(frozen=True)
class Mode:
    """A row of the table.

    Attributes:
        name: of the mode.
        make: a fresh runner.
        learns: whether it keeps something from text to text.
        by_domain: whether it is measured on streams of one domain too.
    """

    name: str
    make: Callable[[], Runner]
    learns: bool = False
    by_domain: bool = True


def static(models: DemoModels, draft_len: int) -> Ours:
    """Our loop at one length."""
    return Ours(models, [models.draft], {"policy": "static", "draft_len": draft_len})


def governed(models: DemoModels) -> Ours:
    """The default governor with the draft model and prompt lookup."""
    return Ours(models, [models.draft, "prompt_lookup"])


def random_draft(models: DemoModels) -> Any:
    """An untrained model of the draft's shape: nothing it proposes is any use."""
    with torch.random.fork_rng():
        torch.manual_seed(RANDOM_DRAFT_SEED)
        return LlamaForCausalLM(models.draft.config).to(models.draft.device, torch.float32).eval()


def has_dynamic_threshold() -> bool:
    """Whether scikit-learn is there, without which the threshold is never fitted."""
    return bool(candidate_generator.is_sklearn_available())


def single_modes(models: DemoModels) -> list[Mode]:
    """Every mode at batch 1."""
    constant = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0}
    heuristic = {"num_assistant_tokens_schedule": "heuristic"}
    untrained = random_draft(models)

    def stock(name: str, learns: bool = False, **settings: Any) -> Mode:
        return Mode(f"{STOCK} {name}", lambda: Stock(models, **settings), learns)

    modes = [Mode(PLAIN, lambda: Stock(models))]
    for k in STOCK_LENS:
        modes.append(stock(f"K={k}", assistant={**constant, "num_assistant_tokens": k}))
    modes += [
        stock("heuristic", True, assistant=heuristic),
        stock(
            "heuristic, no threshold", True,
            assistant={**heuristic, "assistant_confidence_threshold": 0},
        ),
        stock("fixed threshold", assistant={}),
    ]  # fmt: skip
    if has_dynamic_threshold():
        modes.append(Mode(DYNAMIC, lambda: Stock(models, {}, refit=True)))
    for k in LOOKUP_LENS:
        modes.append(stock(f"prompt lookup {k}", prompt_lookup_num_tokens=k))
    for k in STATIC_LENS:
        modes.append(Mode(f"{STATIC} {k}", partial(static, models, k)))
    return [
        *modes,
        Mode(GOVERNED_RANDOM, lambda: Ours(models, [untrained]), learns=True, by_domain=False),
        Mode(GOVERNED_DRAFT, lambda: Ours(models, [models.draft]), learns=True),
        Mode(GOVERNED, lambda: governed(models), learns=True),
    ]
