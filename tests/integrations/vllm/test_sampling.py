"""Sampling from a governed engine is exact: chi-square against full enumeration.

All texts of LENGTH tokens over a vocabulary of VOCAB are enumerated in float64, and 50,000 are
drawn: half under goodput with costs that jump, half with each draft cut to a random part of that.
Each test has a false-alarm rate of 1e-4; seeds are fixed and time is made up, so it repeats.

Greedy drafts and n-grams follow from the text before them, whatever they are cut by. It takes
drafts that are sampled to show that a cut leaks, so that is what the mutants get.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_statistics import SteppedCost, count_texts, p_value
from transformers import LlamaForCausalLM
from vllm import SamplingParams
from vllm_engines import Engine, save_eagle, tiny_llama

from flyball.commands.vllm_args import LOOKUP
from flyball.integrations.vllm.traits import PROBED_WORKER
from flyball.policies.length.base import Ints, LengthPolicy, View
from flyball.policies.length.goodput import Goodput, GoodputSettings
from flyball.policies.length.static import Static, StaticSettings
from flyball.policies.length.threshold import Threshold, ThresholdSettings

VOCAB, LENGTH = 5, 4
FALSE_ALARM_RATE = 1e-4
PROMPT = [1, 3]
MAX_DRAFT_LEN = 4
METHODS: dict[str, dict[str, Any]] = {
    "sampled drafts": {"method": "draft_model", "draft_sample_method": "probabilistic"},
    "probed drafts": {"method": "draft_model", "draft_sample_method": "probabilistic"},
    "eagle": {"method": "eagle", "draft_sample_method": "probabilistic"},
    "greedy drafts": {"method": "draft_model"},
    "ngram": {"method": "ngram", "prompt_lookup_max": 2, "prompt_lookup_min": 1},
    "lookup": {"method": "custom_class", "model": LOOKUP},
}


UNSURE = Threshold(ThresholdSettings(min_confidence=0.45, max_draft_len=MAX_DRAFT_LEN))


class CutAtRandom(Goodput):
    """Goodput's lengths, of which every request verifies a random part."""

    def __init__(self, settings: GoodputSettings) -> None:
        super().__init__(settings)
        self._rng = np.random.default_rng(5)

    def decide(self, view: View) -> Ints:
        return self._rng.integers(0, super().decide(view) + 1).astype(np.int32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random target, and a draft that is the target with noise on its weights."""
    target = tiny_llama(VOCAB)
    draft = copy.deepcopy(target)
    with torch.no_grad():
        for weight in draft.parameters():
            weight += 0.2 * weight.std().nan_to_num() * torch.randn_like(weight)
    folder = tmp_path_factory.mktemp("tiny")
    target.save_pretrained(folder / "target")
    draft.save_pretrained(folder / "draft")
    save_eagle(target, folder / "target" / "eagle")
    return folder / "target", folder / "draft"


@pytest.fixture(scope="module")
def probs(models: tuple[Path, Path]) -> np.ndarray:
    """Probability of every text after the prompt (VOCAB ** LENGTH,)."""
    target = LlamaForCausalLM.from_pretrained(models[0], dtype=torch.float64)
    texts = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    ids = torch.cat([torch.tensor(PROMPT).expand(len(texts), -1), texts], dim=1)
    with torch.no_grad():
        logits = target(input_ids=ids).logits[:, len(PROMPT) - 1 : -1]
    return logits.softmax(-1).gather(2, texts[..., None]).squeeze(2).prod(dim=1).numpy()


@pytest.fixture
def start(share: Callable[..., Any], models: tuple[Path, Path]) -> Callable[[str], Engine]:
    def started(name: str) -> Engine:
        speculative = {"num_speculative_tokens": MAX_DRAFT_LEN, **METHODS[name]}
        if speculative["method"] == "draft_model":
            speculative["model"] = str(models[1])
        elif speculative["method"] == "eagle":
            speculative["model"] = str(models[0] / "eagle")
        make = functools.partial(
            Engine,
            models[0],
            speculative,
            skip_tokenizer_init=True,
            max_model_len=32,
            max_num_seqs=1000,
            worker_cls=PROBED_WORKER if name == "probed drafts" else "auto",
        )
        return share(name, make)

    return started


def draw_counts(
    engine: Engine, policy: LengthPolicy, num_texts: int, hold_steps: int = 1
) -> np.ndarray:
    """How often each text was drawn, after a plan that is held for so many steps."""
    settings = SamplingParams(
        temperature=1.0, max_tokens=LENGTH, ignore_eos=True, detokenize=False, n=500
    )
    with engine.seat(policy, hold_steps):
        outputs = engine.generate([PROMPT] * (num_texts // settings.n), settings)
    texts = [one.token_ids for output in outputs for one in output.outputs]
    return count_texts(np.array(texts), VOCAB)


@pytest.mark.parametrize("name", METHODS)
def test_texts_are_distributed_as_the_targets(
    start: Callable[[str], Engine], probs: np.ndarray, name: str
) -> None:
    torch.manual_seed(7)
    engine, settings = start(name), GoodputSettings(max_draft_len=MAX_DRAFT_LEN)
    engine.pilot.governor._beliefs._costs.estimator = SteppedCost()
    counts = draw_counts(engine, Goodput(settings), 25_000)
    counts += draw_counts(engine, CutAtRandom(settings), 25_000)
    assert counts.sum() == 50_000
    assert p_value(counts, probs) > FALSE_ALARM_RATE
    pilot = engine.pilot
    assert engine.num_ragged > 20
    assert len(engine.verified) >= 3
    assert 10_000 < pilot.num_accepted < pilot.num_proposed - 10_000


def test_texts_cut_by_confidence_are_distributed_as_the_targets(
    start: Callable[[str], Engine], probs: np.ndarray
) -> None:
    torch.manual_seed(7)
    engine = start("probed drafts")
    before = engine.verified.copy()
    counts = draw_counts(engine, UNSURE, 50_000, hold_steps=16)
    assert p_value(counts, probs) > FALSE_ALARM_RATE
    verified = engine.verified - before
    assert min(verified[length] for length in (1, 2, 3)) > 1_000


Cut = Callable[..., list[list[int]]]


def before_a_token(
    cut: Cut, names: list[str], drafts: list[list[int]], sure: Any
) -> list[list[int]]:
    """Mutant: a draft ends before its first token 3, which this looks at."""
    drafts = cut(names, drafts, sure)
    return [draft[: draft.index(3)] if 3 in draft else draft for draft in drafts]


def without_a_rare_end(
    cut: Cut, names: list[str], drafts: list[list[int]], sure: Any
) -> list[list[int]]:
    """Mutant: the last token is not verified where it is one that is seldom right."""
    drafts = cut(names, drafts, sure)
    return [draft[:-1] if draft and draft[-1] in (0, 4) else draft for draft in drafts]


def off_by_one(cut: Cut, names: list[str], drafts: list[list[int]], sure: Any) -> list[list[int]]:
    """Mutant: the first token is lost, and the others are judged by its probabilities."""
    return [draft[1:] for draft in cut(names, drafts, sure)]


@pytest.mark.parametrize("mutant", [before_a_token, without_a_rare_end, off_by_one])
def test_mutants_fail_the_same_test(
    start: Callable[[str], Engine],
    probs: np.ndarray,
    mutant: Callable[..., list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(7)
    engine = start("sampled drafts")
    monkeypatch.setattr(engine.pilot, "cut", functools.partial(mutant, engine.pilot.cut))
    policy = Static(StaticSettings(draft_len=3, max_draft_len=MAX_DRAFT_LEN))
    counts = draw_counts(engine, policy, 20_000, hold_steps=16)
    assert p_value(counts, probs) < FALSE_ALARM_RATE


def test_signs_of_later_tokens_fail_the_same_test(
    start: Callable[[str], Engine], probs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: how sure the drafter was two tokens on tells which tokens it drew in between."""
    torch.manual_seed(7)
    engine = start("probed drafts")
    cut = engine.pilot.cut

    def ahead(names: list[str], drafts: list[list[int]], sure: np.ndarray | None) -> Any:
        later = None if sure is None else np.roll(sure, -2, axis=1)
        return cut(names, drafts, later)

    monkeypatch.setattr(engine.pilot, "cut", ahead)
    counts = draw_counts(engine, UNSURE, 50_000, hold_steps=16)
    assert p_value(counts, probs) < FALSE_ALARM_RATE
