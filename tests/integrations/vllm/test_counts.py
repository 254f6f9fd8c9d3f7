"""What the pilot counts and the governor learns is what the engine verified.

That both count alike, that nothing went wrong and that no slot is left taken is besides checked
after every test of this folder that runs an engine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM
from vllm import SamplingParams
from vllm_bench import Bench
from vllm_engines import Engine, RandomLengths, save_eagle, tiny_llama

from flyball.controller.contract import Outcomes
from flyball.controller.history import History
from flyball.integrations.vllm.traits import PROBED_WORKER

METHODS: dict[str, dict[str, Any]] = {
    "ngram": {"prompt_lookup_max": 2, "prompt_lookup_min": 1},
    "draft_model": {},
    "probed": {},
    "eagle": {},
}
PROMPTS = [[number // 5**digit % 5 for digit in range(8)] for number in range(7, 4000, 333)]


class Tally:
    """Stands before a governor and adds up what it is told."""

    def __init__(self, observe: Callable[..., None]) -> None:
        self._observe = observe
        self.rounds: list[Outcomes] = []

    def __call__(self, history: History) -> None:
        self.rounds.append(history.outcomes)
        self._observe(history)

    def total(self, name: str) -> int:
        return sum(int(getattr(outcomes, name).sum()) for outcomes in self.rounds)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    target = tiny_llama(5)
    target.save_pretrained(folder)
    save_eagle(target, folder / "eagle")
    return folder


@pytest.fixture(params=METHODS)
def engine(request: pytest.FixtureRequest, share: Callable[..., Any], model: Path) -> Engine:
    """The target drafts for itself, or the text does."""
    way = dict(METHODS[request.param])
    method = "draft_model" if request.param == "probed" else request.param
    if method != "ngram":
        way["model"] = str(model / "eagle" if method == "eagle" else model)
    make = functools.partial(
        Engine,
        model,
        {"method": method, "num_speculative_tokens": 6, **way},
        skip_tokenizer_init=True,
        max_model_len=64,
        worker_cls=PROBED_WORKER if request.param == "probed" else "auto",
    )
    return share(("counts", request.param), make)


@pytest.fixture
def tally(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Tally:
    tally = Tally(engine.pilot.governor.observe_many)
    monkeypatch.setattr(engine.pilot.governor, "observe_many", tally)
    return tally


def settings(temperature: float = 0.0, max_tokens: int = 40) -> SamplingParams:
    return SamplingParams(
        temperature=temperature, max_tokens=max_tokens, ignore_eos=True, detokenize=False
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_governor_learns_every_draft_that_was_verified(
    engine: Engine, tally: Tally, temperature: float
) -> None:
    pilot = engine.pilot
    before = pilot.num_proposed, pilot.num_accepted
    with engine.seat(RandomLengths()):
        engine.texts(PROMPTS, settings(temperature))
    pilot._log.hand_in()
    proposed, accepted = pilot.num_proposed - before[0], pilot.num_accepted - before[1]
    assert 0 < accepted <= proposed
    assert (tally.total("proposed"), tally.total("accepted")) == (proposed, accepted)
    for rows in tally.rounds:
        assert (rows.observed <= rows.accepted + 1).all()
        assert (rows.observed <= rows.proposed).all()


@pytest.mark.parametrize("engine", ["probed"], indirect=True)
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=len)
def test_the_probe_tells_how_sure_the_drafter_was_of_each_token(
    engine: Engine,
    tally: Tally,
    model: Path,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    governor, admitted = engine.pilot.governor, []
    admit = governor.admit
    monkeypatch.setattr(
        governor, "admit", lambda *new: admitted.extend(slots := admit(*new)) or slots
    )
    with engine.seat(RandomLengths()):
        # Short enough for the drafter to have room: rounds without go unplanned and untold.
        texts = engine.texts(prompts, settings(max_tokens=22))
    engine.pilot._log.hand_in()
    target = LlamaForCausalLM.from_pretrained(model, dtype=torch.float64)
    rows = torch.tensor([p + text for p, text in zip(prompts, texts, strict=True)])
    with torch.no_grad():
        probs = target(input_ids=rows).logits.softmax(-1).amax(-1).numpy()
    start = len(prompts[0])
    where = dict.fromkeys(range(len(prompts)), start)  # the place of the next drafted token
    rounds = [told for told in tally.rounds if len(told.slots)]
    text_of = {int(slot): text for text, slot in enumerate(admitted)}
    num_told = 0
    for told in rounds:
        assert told.confidence is not None or not told.proposed.any()
        for row, slot in enumerate(told.slots.tolist()):
            text, proposed = text_of[slot], int(told.proposed[row])
            if proposed:  # the last draft of a text may go on beyond it
                expected = probs[text, where[text] :][:proposed]
                sure = told.confidence[row, : len(expected)]
                np.testing.assert_allclose(sure, expected, atol=1e-4)
            where[text] += proposed + 1
            num_told += proposed
    assert num_told > 8 * len(prompts)


@pytest.mark.parametrize("engine", ["draft_model"], indirect=True)
def test_a_target_that_drafts_for_itself_is_always_right(engine: Engine, tally: Tally) -> None:
    with engine.seat(RandomLengths()):
        engine.texts(PROMPTS, settings())
    engine.pilot._log.hand_in()
    assert tally.total("accepted") == tally.total("proposed") > 200


@pytest.mark.parametrize("engine", ["eagle"], indirect=True)
@pytest.mark.parametrize("size", [1, 4, len(PROMPTS)])
def test_an_eagle_head_changes_no_token(
    engine: Engine, share: Callable[..., Any], model: Path, size: int
) -> None:
    options = {"skip_tokenizer_init": True, "max_model_len": 64}
    plain = share(("counts", "plain"), functools.partial(Engine, model, **options))
    target = functools.partial(LlamaForCausalLM.from_pretrained, model, dtype=torch.float64)
    bench = Bench(engine, plain, target)
    bench.compare(PROMPTS[:size], settings())
    with engine.seat(RandomLengths()):
        bench.compare(PROMPTS[:size], settings())


def test_both_count_alike_after_every_step(engine: Engine) -> None:
    pilot, llm = engine.pilot, engine.llm.llm_engine
    for number, prompt in enumerate(PROMPTS):
        llm.add_request(str(number), {"prompt_token_ids": prompt}, settings(number % 2))
    numbers = set()
    with engine.seat(RandomLengths()):
        while llm.has_unfinished_requests():
            llm.step()
            llm.abort_request([str(len(numbers))] if len(numbers) % 3 == 2 else [])
            assert pilot.num_proposed == engine.metric("spec_decode_num_draft_tokens")
            assert pilot.num_accepted == engine.metric("spec_decode_num_accepted_tokens")
            numbers.add(pilot.num_proposed)
    assert len(numbers) > 8
